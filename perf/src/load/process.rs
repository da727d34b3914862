//! What the kernel says of a process and its children.

use std::{fs, time::Duration};

/// The unit of times in /proc/PID/stat: a hundredth of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Processes that `pid` has started and that live.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// CPU time of `pid`, of those that it has started, and of those of them that have ended.
pub(super) fn cpu(pid: u32) -> Duration {
    let own: Duration = threads(pid).into_iter().sum();
    own + ended(pid) + children(pid).into_iter().map(cpu).sum::<Duration>()
}

/// CPU time of each thread.
fn threads(pid: u32) -> Vec<Duration> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let time = |thread: fs::DirEntry| -> Option<Duration> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
    };
    threads.filter_map(Result::ok).filter_map(time).collect()
}

/// CPU time of children that have ended.
fn ended(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // What follows the name in parentheses, which may have blanks; the state comes first.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<u32>().ok());
    let ticks: u32 = [13, 14].into_iter().filter_map(ticks).sum();
    TICK * ticks
}

/// Bytes in memory of those that `pid` has started; its own where there are none.
pub(super) fn memory(pid: u32) -> u64 {
    let started = children(pid);
    if started.is_empty() {
        return resident(pid);
    }
    started.into_iter().map(memory).sum()
}

fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::{cpu, memory};

    #[test]
    fn this_process_uses_time_and_memory() {
        let own = std::process::id();
        assert!(memory(own) > 100_000);
        let before = cpu(own);
        let mut sum = 0_u64;
        while cpu(own) < before + std::time::Duration::from_millis(20) {
            sum = std::hint::black_box((0..100_000).fold(sum, u64::wrapping_add));
        }
    }
}
