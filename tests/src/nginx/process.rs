//! Processes: signals, and what /proc says of them.

use std::fs;

pub(super) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Sends a signal; a process that is gone already is no error.
pub(super) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // ESRCH: it has ended by itself.
    let _ = kill_process(pid, signal);
}

/// The processes that `pid` has started.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What a process calls itself; empty when it is gone.
pub(super) fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Whether a process is a worker of nginx that serves, and is not shutting down.
pub(super) fn is_serving(pid: u32) -> bool {
    let title = title(pid);
    title.starts_with("nginx: worker process") && !title.contains("is shutting down")
}

/// Whether a process is gone, or nothing is left of it but its status.
pub(super) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Resident memory in bytes; 0 when the process is gone.
pub(super) fn rss(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// Address space in bytes, whatever is behind it; 0 when the process is gone.
pub(super) fn address_space(pid: u32) -> u64 {
    status(pid, "VmSize:")
}

fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.trim().parse().ok());
    kib.unwrap_or(0) * 1024
}
