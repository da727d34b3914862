//! `weir profile`: asks a location with `weir_profile` for where a worker's time goes.

use std::{
    error::Error,
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;

use crate::flamegraph;

/// How often another connection is made until the worker that is meant has taken one.
const TRIES: usize = 2000;

/// How long it takes at the most to begin, and to give stacks their names.
const BESIDES: Duration = Duration::from_secs(30);

/// How long a worker that was not meant is left alone.
const PAUSE: Duration = Duration::from_millis(2);

/// What `weir profile` is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The location: `http://HOST:PORT/PATH`.
    url: String,
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
    let profile = ask(&arguments.url, &args, Duration::from_secs(arguments.seconds) + BESIDES)?;
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

/// What the location at `url` answers to `args`.
fn ask(url: &str, args: &str, time: Duration) -> Result<Vec<u8>, Box<dyn Error>> {
    let place = url.strip_prefix("http://").ok_or_else(|| format!("{url}: it must begin with http://"))?;
    let (host, path) = place.find('/').map_or((place, "/"), |at| place.split_at(at));
    let address =
        if host.ends_with(']') || !host.contains(':') { format!("{host}:80") } else { host.to_owned() };
    for _ in 0..TRIES {
        let mut stream = TcpStream::connect(&address).map_err(|error| format!("{address}: {error}"))?;
        stream.set_read_timeout(Some(time))?;
        // With this version the answer ends with the connection.
        stream.write_all(format!("GET {path}?{args} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(|error| format!("{url} has not answered: {error}"))?;
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

    use super::{Form, ask};

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
        ask(url, "seconds=1&pid=7", Duration::from_secs(20)).map_err(|error| error.to_string())
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
        assert!(asked("https://a/").expect_err("encrypted").contains("http://"));
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
