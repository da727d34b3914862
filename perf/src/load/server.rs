//! The servers of a run: nginx with filters and without, an origin, and one that somebody puts beside them.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    conf::{self, Names},
    process,
    profile::Profile,
};

/// How long a server may take to listen: filters that are in no cache are compiled.
const START: Duration = Duration::from_secs(60);

/// How long it may take to end.
const STOP: Duration = Duration::from_secs(10);

/// How often a start is tried, should somebody have taken a port.
const TRIES: usize = 5;

/// The files of the origin and of static locations, with their sizes.
const FILES: [(&str, usize); 5] =
    [("1k", 1 << 10), ("16k", 16 << 10), ("64k", 64 << 10), ("256k", 256 << 10), ("1m", 1 << 20)];

/// Where what was built is.
#[derive(Debug, Clone)]
pub(super) struct Places {
    nginx: PathBuf,
    module: PathBuf,
    guests: PathBuf,
}

impl Places {
    /// What the command line names, or what is beside this program.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(super) fn find(edge: Option<PathBuf>, guests: Option<PathBuf>) -> Result<Self, String> {
        let program =
            env::current_exe().map_err(|error| format!("this program's path is not known: {error}"))?;
        let nearby = program
            .ancestors()
            .flat_map(|folder| [folder.to_owned(), folder.join("edge")])
            .find(|folder| folder.join("sbin/nginx").exists());
        let edge =
            edge.or(nearby).ok_or("there is no nginx beside this program: name its prefix with --edge")?;
        let edge = edge.canonicalize().map_err(|error| format!("{}: {error}", edge.display()))?;
        let guests = guests.unwrap_or_else(|| edge.join("../guests"));
        let guests = guests.canonicalize();
        let guests = guests
            .map_err(|error| format!("there are no built filters; name them with --guests ({error})"))?;
        let places = Self {
            nginx: edge.join("sbin/nginx"),
            module: edge.join("modules/ngx_http_weir_module.so"),
            guests,
        };
        for path in [&places.nginx, &places.module] {
            if !path.exists() {
                return Err(format!("{} is missing: run scripts/build first", path.display()));
            }
        }
        Ok(places)
    }
}

/// What the servers of a run share: files, a certificate, the origin.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    profile: &'a Profile,
    places: &'a Places,
    origin: Server,
    certificate: Vec<u8>,
    /// After the server that uses it.
    folder: TempDir,
}

impl<'a> Stage<'a> {
    /// Makes the files and starts the origin.
    ///
    /// # Errors
    /// What the system, or nginx, said.
    pub(super) fn new(profile: &'a Profile, places: &'a Places) -> Result<Self, Box<dyn std::error::Error>> {
        for name in &profile.modules {
            let guest = places.guests.join(name).with_extension("wasm");
            if !guest.exists() {
                return Err(format!("{} is missing: run scripts/build-guests first", guest.display()).into());
            }
        }
        let folder = open_folder()?;
        let files = folder.path().join("files");
        fs::create_dir(&files)?;
        for (name, size) in FILES {
            fs::write(files.join(name), vec![b'w'; size])?;
        }
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        fs::write(folder.path().join("certificate.pem"), made.cert.pem())?;
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let certificate = made.cert.der().to_vec();
        let origin = Server::start("origin", |ports, prefix| {
            let names = Names {
                module: &places.module,
                guests: &places.guests,
                shared: folder.path(),
                origin: ports[0],
                ports,
            };
            nginx(places, &conf::origin(&names), prefix)
        })?;
        Ok(Self { profile, places, origin, certificate, folder })
    }

    /// The certificate of all servers, DER.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// What nginx calls itself, and the version of this program, with which the module was built.
    pub(super) fn versions(&self) -> String {
        let said = Command::new(&self.places.nginx).arg("-v").output().map(|output| output.stderr);
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        let nginx = said.trim().rsplit_once(' ').map_or("nginx", |(_, version)| version);
        format!("{nginx}, weir {}", env!("CARGO_PKG_VERSION"))
    }

    /// Starts nginx, with filters or without.
    ///
    /// # Errors
    /// What the system, or nginx, said.
    pub(super) fn nginx(&self, name: &'static str, filters: bool) -> io::Result<Server> {
        Server::start(name, |ports, prefix| {
            let names = Names {
                module: &self.places.module,
                guests: &self.places.guests,
                shared: self.folder.path(),
                origin: self.origin.ports[0],
                ports,
            };
            nginx(self.places, &conf::measured(self.profile, &names, filters), prefix)
        })
    }

    /// Starts what `command` says.
    ///
    /// # Errors
    /// What the system said, or that it does not listen.
    pub(super) fn other(&self, command: &str) -> io::Result<Server> {
        let mut server = Server::start("other", |[plain, tls], prefix| {
            let shared = self.folder.path();
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).current_dir(prefix);
            shell.env("WEIR_LOAD_PORT", plain.to_string()).env("WEIR_LOAD_TLS_PORT", tls.to_string());
            shell.env("WEIR_LOAD_ORIGIN", format!("127.0.0.1:{}", self.origin.ports[0]));
            shell.env("WEIR_LOAD_FILES", shared.join("files"));
            shell.env("WEIR_LOAD_CERTIFICATE", shared.join("certificate.pem"));
            shell.env("WEIR_LOAD_KEY", shared.join("key.pem"));
            Ok(shell)
        })?;
        server.is_nginx = false;
        Ok(server)
    }
}

/// The host that clients ask for.
pub(super) const HOST: &str = "edge.example";

/// A temporary folder that workers, which run as another user, can reach.
fn open_folder() -> io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// The command for nginx with a configuration.
fn nginx(places: &Places, conf: &str, prefix: &Path) -> io::Result<Command> {
    fs::write(prefix.join("nginx.conf"), conf)?;
    let mut command = Command::new(&places.nginx);
    command.arg("-p").arg(prefix).args(["-c", "nginx.conf", "-e", "error.log"]);
    Ok(command)
}

/// A server that runs; ended when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    child: Child,
    ports: [u16; 2],
    prefix: TempDir,
    is_nginx: bool,
}

impl Server {
    /// Starts what `command` makes of two free ports and a folder, and waits until it listens on the first.
    fn start(
        name: &'static str,
        command: impl Fn([u16; 2], &Path) -> io::Result<Command>,
    ) -> io::Result<Self> {
        let mut last = io::Error::other("not started");
        for _ in 0..TRIES {
            let (prefix, ports) = (open_folder()?, [free_port()?, free_port()?]);
            let stderr = fs::File::create(prefix.path().join("stderr"))?;
            let mut command = command(ports, prefix.path())?;
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn()?;
            let mut server = Self { name, child, ports, prefix, is_nginx: true };
            match server.wait() {
                Ok(()) => return Ok(server),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn wait(&mut self) -> io::Result<()> {
        let began = Instant::now();
        while TcpStream::connect(self.addresses()[0]).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the server \"{}\" has ended ({status}): {}",
                    self.name,
                    self.said()
                )));
            }
            if began.elapsed() > START {
                return Err(io::Error::other(format!(
                    "the server \"{}\" does not listen: {}",
                    self.name,
                    self.said()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it has written of itself.
    fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.prefix.path().join(name)).unwrap_or_default();
        format!("{}{}", read("stderr"), read("error.log")).trim_end().to_owned()
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Where it listens: without TLS, and with it.
    pub(super) fn addresses(&self) -> [SocketAddr; 2] {
        self.ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// CPU time that it has used so far.
    pub(super) fn cpu(&self) -> Duration {
        process::cpu(self.child.id())
    }

    /// Bytes in memory of its workers.
    pub(super) fn memory(&self) -> u64 {
        process::memory(self.child.id())
    }

    /// Reads its configuration again.
    pub(super) fn reload(&self) {
        if self.is_nginx {
            signal(self.child.id(), Signal::HUP);
        }
    }

    /// Kills one of its workers.
    pub(super) fn kill_worker(&self) {
        if self.is_nginx
            && let Some(worker) = process::children(self.child.id()).first()
        {
            signal(*worker, Signal::KILL);
        }
    }

    /// Whether it is well: a worker that has crashed has left a line.
    ///
    /// # Errors
    /// The line.
    pub(super) fn check(&self) -> Result<(), String> {
        let log = fs::read_to_string(self.prefix.path().join("error.log")).unwrap_or_default();
        // Killed by us, with 9.
        let crash = log.lines().find(|line| line.contains("exited on signal") && !line.contains("signal 9"));
        crash.map_or(Ok(()), |line| {
            Err(format!("a worker of the server \"{}\" has crashed: {line}", self.name))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(self.child.id(), if self.is_nginx { Signal::QUIT } else { Signal::TERM });
        let began = Instant::now();
        while began.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // Workers of a master that is killed would live on.
            for worker in process::children(self.child.id()) {
                signal(worker, Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
