//! `weir profile`: asks a location with `weir_profile` for where a worker's time goes.

use std::{
    error::Error,
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Args;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{flamegraph, trust};

/// How often another connection is made until the worker that is meant has taken one.
const TRIES: usize = 2000;

/// How long it takes at the most to begin, and to give stacks their names.
const BESIDES: Duration = Duration::from_secs(30);

/// How long a worker that was not meant is left alone.
const PAUSE: Duration = Duration::from_millis(2);

/// What `weir profile` is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The location: `http://HOST:PORT/PATH`, or `https://…` with --ca.
    url: String,
    /// nginx's certificate, or that of the authority that has signed it, in PEM.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// How long the worker is looked at.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often in each second that it runs, at most 1000; the kernel may do so less often.
    #[arg(long, default_value_t = 99)]
    hz: u32,
    /// The worker's process id; without it the one that takes the connection is looked at.
    #[arg(long)]
    pid: Option<u32>,
    /// Where the result goes. FILE.svg is a picture, FILE.pb.gz for `go tool pprof` and other tools, FILE.folded a line
    /// for each stack. Without it the picture is printed.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What stands above the picture.
    #[arg(long, default_value = "a worker of nginx")]
    title: String,
}

/// What is made of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Svg,
    Folded,
    Pprof,
}

impl Form {
    fn of(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::Svg) };
        match path.extension().and_then(|end| end.to_str()) {
            Some("svg") => Ok(Self::Svg),
            Some("folded") => Ok(Self::Folded),
            Some("gz") => Ok(Self::Pprof),
            _ => Err(format!("{}: the name must end in .svg, .pb.gz or .folded", path.display())),
        }
    }
}

/// Asks, waits, and writes what has come.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let form = Form::of(arguments.out.as_deref())?;
    let format = if form == Form::Pprof { "pprof" } else { "folded" };
    let mut args = format!("seconds={}&hz={}&format={format}", arguments.seconds, arguments.hz);
    if let Some(pid) = arguments.pid {
        args.push_str(&format!("&pid={pid}"));
    }
    let place = Place::new(&arguments.url, arguments.ca.as_deref())?;
    let profile = ask(&place, &args, Duration::from_secs(arguments.seconds) + BESIDES)?;
    let written = match form {
        Form::Folded | Form::Pprof => profile,
        Form::Svg => {
            let folded = String::from_utf8(profile)?;
            let folded: Vec<_> = folded.lines().map(str::to_owned).collect();
            if folded.is_empty() {
                return Err("the worker had nothing to do: there are no samples".into());
            }
            let took = format!(
                "samples: {} each second of processor time, for {} s",
                arguments.hz, arguments.seconds
            );
            flamegraph::draw(&arguments.title, &[took], &folded, "µs")?.into_bytes()
        }
    };
    match &arguments.out {
        Some(path) => fs::write(path, written).map_err(|error| format!("{}: {error}", path.display()))?,
        None => io::stdout().lock().write_all(&written)?,
    }
    Ok(())
}

/// Where a profile is asked for.
struct Place<'a> {
    url: &'a str,
    /// What a `Host` header has.
    host: &'a str,
    /// Host and port.
    address: String,
    path: &'a str,
    /// How it is spoken to over TLS.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl<'a> Place<'a> {
    /// What `url` names; over TLS, with the certificates in the file `ca`.
    fn new(url: &'a str, ca: Option<&Path>) -> Result<Self, Box<dyn Error>> {
        let schemes = [("http://", 80, false), ("https://", 443, true)];
        let found =
            schemes.iter().find_map(|(scheme, port, tls)| Some((url.strip_prefix(scheme)?, port, *tls)));
        let (rest, port, tls) =
            found.ok_or_else(|| format!("{url}: it must begin with http:// or https://"))?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let has_port = !host.ends_with(']') && host.contains(':');
        let name = if has_port { host.rsplit_once(':').map_or(host, |(name, _)| name) } else { host };
        let tls = match (tls, ca) {
            (false, _) => None,
            (true, None) => {
                return Err(format!("{url}: --ca must name the certificates that it is verified with").into());
            }
            (true, Some(ca)) => {
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?;
                Some((Arc::new(trust::config(ca)?), name))
            }
        };
        let address = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self { url, host, address, path, tls })
    }

    /// A connection, which waits for `time` at the most when it is read.
    fn connect(&self, time: Duration) -> Result<Box<dyn Stream>, Box<dyn Error>> {
        let address = &self.address;
        let stream = TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
        stream.set_read_timeout(Some(time))?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((config, name)) => {
                let session = ClientConnection::new(Arc::clone(config), name.clone())?;
                Box::new(StreamOwned::new(session, stream))
            }
        })
    }
}

/// What a connection is.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// What the location at `place` answers to `args`.
fn ask(place: &Place<'_>, args: &str, time: Duration) -> Result<Vec<u8>, Box<dyn Error>> {
    let Place { url, host, path, .. } = place;
    for _ in 0..TRIES {
        let mut stream = place.connect(time)?;
        let failed = |error: io::Error| format!("{url} has not answered: {error}");
        // With this version the answer ends with the connection.
        let request = format!("GET {path}?{args} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        stream.flush().map_err(failed)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(failed)?;
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
        let head = end.map(|end| String::from_utf8_lossy(&answer[..end]).into_owned()).unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or_default();
        match (status, end) {
            ("200", Some(end)) => return Ok(answer.split_off(end + 4)),
            ("421", _) => thread::sleep(PAUSE),
            _ => return Err(refusal(url, status).into()),
        }
    }
    Err("the worker has taken no connection: is it one of this nginx's, and alive?".into())
}

/// What a status means.
fn refusal(url: &str, status: &str) -> String {
    let why = match status {
        "400" => {
            "the worker does not understand this: up to 300 seconds and 1000 samples a second can be asked for"
        }
        "403" => "it is not for everybody: see \"allow\" in its location",
        "404" => "there is nothing: is it a location with \"weir_profile\"?",
        "409" => "the worker is being looked at already, or something else in it uses the signal SIGPROF",
        _ => "nginx's error log may say more",
    };
    format!("{url} has answered with status {status:?}: {why}")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        path::Path,
        thread,
        time::Duration,
    };

    use super::{Form, Place, ask};

    /// Answers one connection after the other.
    fn server(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 1000];
                let length = stream.read(&mut request).expect("a request");
                assert!(request[..length].starts_with(b"GET /profile?seconds=1&pid=7 HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).expect("written");
            }
        });
        format!("http://{address}/profile")
    }

    fn asked(url: &str) -> Result<Vec<u8>, String> {
        let place = Place::new(url, None).map_err(|error| error.to_string())?;
        ask(&place, "seconds=1&pid=7", Duration::from_secs(20)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_worker_that_is_meant_is_looked_for() {
        let url = server(&[
            "HTTP/1.1 421 x\r\n\r\nno",
            "HTTP/1.1 421 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n\r\nmain 1\n",
        ]);
        assert_eq!(asked(&url), Ok(b"main 1\n".to_vec()));
    }

    #[test]
    fn refusals_are_explained() {
        let url = server(&["HTTP/1.1 409 Conflict\r\n\r\n", ""]);
        assert!(asked(&url).expect_err("busy").contains("looked at already"));
        assert!(asked(&url).expect_err("closed").contains("error log"));
        assert!(asked("ftp://a/").expect_err("another scheme").contains("http://"));
        assert!(asked("https://a/").expect_err("nothing to trust").contains("--ca"));
    }

    #[test]
    fn places_have_a_host_and_a_port() {
        for (url, host, address, path) in [
            ("http://a/b?c", "a", "a:80", "/b?c"),
            ("http://a:81", "a:81", "a:81", "/"),
            ("http://[::1]/b", "[::1]", "[::1]:80", "/b"),
            ("http://[::1]:81/b", "[::1]:81", "[::1]:81", "/b"),
        ] {
            let place = Place::new(url, None).expect("a place");
            assert_eq!((place.host, place.address.as_str(), place.path), (host, address, path));
        }
    }

    #[test]
    fn names_say_what_is_written() {
        let form = |name: &str| Form::of(Some(Path::new(name)));
        assert_eq!(form("a.svg"), Ok(Form::Svg));
        assert_eq!(form("a.pb.gz"), Ok(Form::Pprof));
        assert_eq!(form("a.folded"), Ok(Form::Folded));
        assert!(form("a").is_err());
        assert_eq!(Form::of(None), Ok(Form::Svg));
    }
}
