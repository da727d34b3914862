//! A running nginx: start, reload, stop, its log, its workers.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::ExitStatus,
    thread,
    time::Duration,
};

use crate::{
    client::{Connection, Protocol},
    conf::Conf,
    http::{Request, Response},
    ports,
    raw::Raw,
    wait,
};

mod change;
mod log;
mod master;
mod prefix;
mod process;

use log::tail;
use master::Master;
use prefix::Prefix;
use process::Signal;

/// How often nginx is started again with other ports, should somebody have taken one.
const ATTEMPTS: usize = 5;

/// How long a start may take: filters that are in no cache yet are compiled, perhaps by several tests at once.
const START: Duration = Duration::from_secs(120);

/// How long a graceful stop may take; a request that was never ended makes it longer.
const GRACE: Duration = Duration::from_secs(8);

/// A running nginx in a temporary prefix.
///
/// Dropping it stops it gracefully, and fails the test if a worker has crashed, an alert was logged, or it would not
/// stop; [`Nginx::tolerate`] makes exceptions.
#[derive(Debug)]
pub struct Nginx {
    prefix: Prefix,
    conf: Conf,
    ports: Vec<u16>,
    master: Option<Master>,
    tolerated: Vec<String>,
}

/// How nginx ended that was not to run on: a check of the configuration, or a start that failed.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// Its error log.
    pub log: String,
    /// The nginx.conf it read.
    pub conf: String,
}

impl Ended {
    /// The number of the first line of nginx.conf that contains `text`, as messages name it: `nginx.conf:LINE`.
    ///
    /// # Panics
    /// When no line does.
    #[must_use]
    pub fn place(&self, text: &str) -> String {
        let line = self.conf.lines().position(|line| line.contains(text));
        format!("nginx.conf:{}", line.unwrap_or_else(|| panic!("{text:?} is not in\n{}", self.conf)) + 1)
    }
}

impl Nginx {
    /// Starts nginx and waits until all its workers serve.
    ///
    /// # Panics
    /// When it does not start; the reason is shown.
    #[must_use]
    pub fn start(conf: Conf) -> Self {
        match Self::try_start(conf) {
            Ok(nginx) => nginx,
            Err(ended) => panic!(
                "nginx has not started: {}\n--- stderr\n{}--- error.log\n{}--- nginx.conf\n{}",
                ended.status, ended.stderr, ended.log, ended.conf
            ),
        }
    }

    /// Starts nginx and waits until all its workers serve.
    ///
    /// # Errors
    /// How it ended, when it did not start.
    ///
    /// # Panics
    /// When it neither ends nor serves in time.
    pub fn try_start(conf: Conf) -> Result<Self, Ended> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let ports: Vec<u16> = (0..conf.ports()).map(|_| ports::free()).collect();
            let prefix = Prefix::new(&conf, &ports);
            let mut nginx = Self { prefix, conf: conf.clone(), ports, master: None, tolerated: Vec::new() };
            let Err(status) = nginx.run() else { return Ok(nginx) };
            nginx.master = None;
            let ended = nginx.prefix.ended(status);
            let taken = ended.log.contains("(98: Address already in use)");
            if !taken || attempt == ATTEMPTS {
                return Err(ended);
            }
        }
    }

    /// Checks a configuration: `nginx -t`.
    ///
    /// # Panics
    /// When nginx cannot be run.
    #[must_use]
    pub fn check(conf: &Conf) -> Ended {
        let ports: Vec<u16> = (0..conf.ports()).map(|_| ports::free()).collect();
        let prefix = Prefix::new(conf, &ports);
        let status = prefix.run(&["-t"]).wait().expect("nginx -t ends");
        prefix.ended(status)
    }

    /// Runs nginx until it serves.
    fn run(&mut self) -> Result<(), ExitStatus> {
        self.master = Some(Master::start(&self.conf, &self.prefix)?);
        let ready = wait::poll_for(START, || {
            if let Some(status) = self.master_mut().ended() {
                return Some(Err(status));
            }
            let serving = self.worker_pids().len() == self.conf.worker_count()
                && (0..self.ports.len()).all(|index| TcpStream::connect(self.address_of(index)).is_ok());
            serving.then_some(Ok(()))
        });
        ready.unwrap_or_else(|| panic!("nginx does not serve:\n{}", self.log()))
    }

    fn master_mut(&mut self) -> &mut Master {
        self.master.as_mut().expect("nginx runs")
    }

    /// Process id of the master.
    ///
    /// # Panics
    /// When nginx has been stopped.
    #[must_use]
    pub fn master_pid(&self) -> u32 {
        self.master.as_ref().expect("nginx runs").pid()
    }

    /// Process ids of the workers that serve, in order; not of those that are shutting down.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        let mut pids = process::children(self.master_pid());
        pids.retain(|pid| process::is_serving(*pid));
        pids.sort_unstable();
        pids
    }

    /// The only worker's process id.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[must_use]
    pub fn worker_pid(&self) -> u32 {
        let pids = self.worker_pids();
        assert_eq!(pids.len(), 1, "one worker");
        pids[0]
    }

    /// Resident memory of all workers, in bytes, in the order of [`Nginx::worker_pids`].
    #[must_use]
    pub fn worker_rss(&self) -> Vec<u64> {
        self.worker_pids().into_iter().map(process::rss).collect()
    }

    /// Where the first server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// Where server `index` listens, counted from 0.
    #[must_use]
    pub fn address_of(&self, index: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[index]))
    }

    /// Opens a connection to the first server.
    #[must_use]
    pub fn connect(&self, protocol: Protocol) -> Connection {
        Connection::open(self.address(), protocol)
    }

    /// Opens a socket to the first server.
    #[must_use]
    pub fn raw(&self) -> Raw {
        Raw::open(self.address())
    }

    /// Sends one request over a new HTTP/1.1 connection to the first server.
    #[must_use]
    pub fn send(&self, request: Request) -> Response {
        self.connect(Protocol::Http1).send(request)
    }

    /// Sends a GET request over a new HTTP/1.1 connection to the first server.
    #[must_use]
    pub fn get(&self, target: &str) -> Response {
        self.send(Request::get(target))
    }

    /// The prefix: a temporary folder.
    #[must_use]
    pub fn prefix(&self) -> &std::path::Path {
        self.prefix.path()
    }

    /// Resident memory of the master, in bytes.
    #[must_use]
    pub fn master_rss(&self) -> u64 {
        process::rss(self.master_pid())
    }

    /// Address space of the master, in bytes.
    #[must_use]
    pub fn master_address_space(&self) -> u64 {
        process::address_space(self.master_pid())
    }

    /// Kills a worker, as the kernel or an operator may do: at any moment, without a word.
    pub fn kill(&self, worker: u32) {
        process::signal(worker, Signal::KILL);
    }

    /// Tells the master to stop gracefully, and goes on without waiting for that.
    pub fn begin_to_stop(&self) {
        process::signal(self.master_pid(), Signal::QUIT);
    }

    /// Waits until the master has ended, which something else has told it to do.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let master = self.master_mut();
        let ended = wait::poll(|| master.ended());
        self.master = None;
        ended.unwrap_or_else(|| panic!("nginx goes on:\n{}", tail(&self.log())))
    }

    /// Runs `nginx -s SIGNAL`, as an operator would, and gives how that process ended.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn send_signal(&self, signal: &str) -> Ended {
        let status = self.prefix.run(&["-s", signal]).wait().expect("nginx -s ends");
        self.prefix.ended(status)
    }

    /// Stops gracefully and gives the whole error log, which then has every line of every request.
    ///
    /// # Panics
    /// When something is wrong that [`Nginx::tolerate`] did not allow.
    #[must_use]
    pub fn stop(mut self) -> String {
        let faults = self.stop_and_look();
        assert!(faults.is_empty(), "nginx had faults: {faults:#?}\n{}", tail(&self.log()));
        self.log()
    }

    /// Allows lines of the log that contain `text`, where they would be a fault.
    pub fn tolerate(&mut self, text: &str) {
        self.tolerated.push(text.to_owned());
    }

    /// Stops, and lists what was wrong.
    fn stop_and_look(&mut self) -> Vec<String> {
        let Some(mut master) = self.master.take() else { return Vec::new() };
        let pid = master.pid();
        let mut faults = Vec::new();
        let mut gone = |limit| wait::poll_for(limit, || master.ended());
        let workers = process::children(pid);
        process::signal(pid, Signal::QUIT);
        if gone(GRACE).is_none() {
            faults.push(format!("it has not stopped gracefully within {GRACE:?}: a request was not ended"));
            process::signal(pid, Signal::TERM);
            if gone(GRACE).is_none() {
                // The last resort: exactly the processes that this test has started.
                for pid in workers.into_iter().chain([pid]) {
                    process::signal(pid, Signal::KILL);
                }
                // Killed processes do not refuse to end.
                let _ = gone(GRACE);
            }
        }
        let log = self.log();
        // A bug of Weir's own is an alert as well.
        let is_fault = |line: &&str| line.contains("[alert]");
        let allowed = |line: &str| self.tolerated.iter().any(|text| line.contains(text));
        faults.extend(log.lines().filter(is_fault).filter(|line| !allowed(line)).map(str::to_owned));
        faults
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let faults = self.stop_and_look();
        if thread::panicking() {
            let path = self.prefix.path().join("nginx.conf");
            let conf = fs::read_to_string(path).unwrap_or_default();
            eprintln!("--- nginx.conf\n{conf}--- error.log\n{}", tail(&self.log()));
        } else {
            assert!(faults.is_empty(), "nginx had faults: {faults:#?}\n{}", tail(&self.log()));
        }
    }
}
