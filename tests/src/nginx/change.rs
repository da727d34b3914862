//! Another configuration, or another binary, for a running nginx.

use super::{
    Nginx,
    log::tail,
    master::Master,
    process::{self, Signal},
};
use crate::{conf::Conf, ports, wait};

impl Nginx {
    /// Writes another configuration into the prefix, without telling nginx.
    pub fn rewrite(&mut self, conf: Conf) {
        self.ports.extend((self.ports.len()..conf.ports()).map(|_| ports::free()));
        self.prefix.write(&conf, &self.ports);
        self.conf = conf;
    }

    /// Reloads with another configuration, and waits until new workers serve and the old ones accept no more.
    ///
    /// # Panics
    /// When it is refused.
    pub fn reload(&mut self, conf: Conf) {
        let (old, mark) = (self.worker_pids(), self.mark());
        self.rewrite(conf);
        process::signal(self.master_pid(), Signal::HUP);
        let done = wait::poll(|| {
            if self.log_since(mark).contains("[emerg]") {
                return Some(false);
            }
            let now = self.worker_pids();
            // The list of children may lack one while others come and go, so the old workers are asked themselves.
            let switched = now.len() == self.conf.worker_count()
                && now.iter().all(|pid| !old.contains(pid))
                && !old.iter().any(|pid| process::is_serving(*pid));
            switched.then_some(true)
        });
        assert_eq!(done, Some(true), "the reload failed:\n{}", self.log_since(mark));
    }

    /// Waits until the workers of earlier configurations are gone.
    ///
    /// # Panics
    /// When they do not end in time.
    pub fn wait_for_old_workers(&self) {
        let left = || process::children(self.master_pid()).len() - self.worker_pids().len();
        let gone = wait::poll(|| (left() == 0).then_some(()));
        assert!(gone.is_some(), "old workers are left:\n{}", tail(&self.log()));
    }

    /// Has a new binary take over, as an operator does it: a second master with workers of its own is started beside the
    /// one that runs (USR2), and then that one is stopped gracefully. The configuration is read anew.
    ///
    /// # Panics
    /// When nginx does not run [in the background](Conf::daemon), or the new master does not take over.
    pub fn upgrade(&mut self) {
        let old = self.master_pid();
        assert!(self.conf.is_daemon(), "a master that is to be replaced has to run in the background");
        process::signal(old, Signal::USR2);
        let new = wait::poll(|| {
            let pid: u32 = self.prefix.pid()?.parse().ok()?;
            (pid != old && self.serving(pid)).then_some(pid)
        });
        let new = new.unwrap_or_else(|| panic!("no new master serves:\n{}", tail(&self.log())));
        process::signal(old, Signal::QUIT);
        let gone = wait::poll(|| process::has_ended(old).then_some(()));
        assert!(gone.is_some(), "the old master goes on:\n{}", tail(&self.log()));
        self.master = Some(Master::Daemon(new));
    }

    /// Reloads with a configuration that is refused, and gives the line that says why. The old workers stay.
    ///
    /// # Panics
    /// When it is not refused.
    pub fn reload_refused(&mut self, conf: Conf) -> String {
        let (old, mark, kept) = (self.worker_pids(), self.mark(), self.conf.clone());
        self.rewrite(conf);
        process::signal(self.master_pid(), Signal::HUP);
        let line = self.wait_for_log_since(mark, "[emerg]");
        assert_eq!(self.worker_pids(), old, "the workers are those from before");
        self.conf = kept;
        line
    }

    /// Whether the master `pid` has all its workers.
    fn serving(&self, pid: u32) -> bool {
        process::children(pid)
            .into_iter()
            .filter(|child| process::title(*child).starts_with("nginx: worker process"))
            .count()
            == self.conf.worker_count()
    }
}
