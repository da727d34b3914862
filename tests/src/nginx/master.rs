//! The master process: a child of the test, or a daemon.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, ExitStatus},
};

use super::{prefix::Prefix, process};
use crate::{conf::Conf, wait};

/// A master process.
#[derive(Debug)]
pub(super) enum Master {
    /// Started with `daemon off`.
    Child(Child),
    /// Started by a process that has ended; known by its pid file.
    Daemon(u32),
}

impl Master {
    /// Starts nginx.
    ///
    /// # Errors
    /// The status of the process that should have gone into the background.
    pub(super) fn start(conf: &Conf, prefix: &Prefix) -> Result<Self, ExitStatus> {
        if !conf.is_daemon() {
            return Ok(Self::Child(prefix.run(&["-g", "daemon off;"])));
        }
        let status = prefix.run(&[]).wait().expect("nginx goes into the background");
        if !status.success() {
            return Err(status);
        }
        let pid = wait::poll(|| prefix.pid()?.parse().ok());
        Ok(Self::Daemon(pid.expect("nginx has written its pid file")))
    }

    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Daemon(pid) => *pid,
        }
    }

    /// How it has ended, if it has. Of a daemon that is not known: success is assumed.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Child(child) => child.try_wait().expect("the state of nginx"),
            Self::Daemon(pid) => process::has_ended(*pid).then(|| ExitStatus::from_raw(0)),
        }
    }
}
