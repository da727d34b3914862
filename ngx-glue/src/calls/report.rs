//! Failed calls in the log: once for each burst of the same failure, with a count of those that were not logged.

use std::{
    cell::RefCell,
    collections::HashMap,
    time::{Duration, Instant},
};

use weir_core::{
    abi::types::LogLevel,
    host::{LogLine, Speaker, calls::CallFailure},
};

use crate::host::root;

use super::fault::Fault;

/// How long failures of one kind are counted instead of logged, after one was logged.
const QUIET: Duration = Duration::from_secs(10);

/// Most kinds that are told apart. One more begins anew.
const MOST: usize = 256;

/// What was logged last, and what has not been since.
#[derive(Debug, Default)]
pub(crate) struct Reports(RefCell<HashMap<Kind, Burst>>);

/// Failures that one line stands for.
type Kind = (Box<[u8]>, Box<str>, CallFailure);

#[derive(Debug)]
struct Burst {
    since: Instant,
    unsaid: u64,
}

/// Who calls whom, kept in one piece until it may have to be said.
#[derive(Debug)]
pub(crate) struct Names {
    text: Box<[u8]>,
    /// Where the filter's name ends and the upstream's begins.
    end: usize,
}

impl Names {
    /// `filter` calls `upstream`.
    pub(crate) fn new(filter: &str, upstream: &[u8]) -> Self {
        Self { text: [filter.as_bytes(), upstream].concat().into(), end: filter.len() }
    }
}

impl Reports {
    /// Says that a call has failed, unless that was said just now.
    pub(crate) fn say(&self, names: &Names, fault: &Fault) {
        let (filter, upstream) = names.text.split_at(names.end);
        let filter = &*String::from_utf8_lossy(filter);
        let Some(unsaid) = self.count(filter, upstream, fault.failure, Instant::now()) else { return };
        let more = match unsaid {
            0 => String::new(),
            unsaid => format!(" (and {unsaid} more like this before)"),
        };
        let name = String::from_utf8_lossy(upstream);
        let message = format!("a call to \"{name}\" has failed: {fault}{more}");
        let (level, speaker) = (LogLevel::Error, Speaker::Weir);
        root::log(LogLine { level, filter, speaker, message: message.as_bytes() });
    }

    /// How many were not logged since the last one, if this one is to be.
    fn count(&self, filter: &str, upstream: &[u8], failure: CallFailure, now: Instant) -> Option<u64> {
        let mut bursts = self.0.borrow_mut();
        let kind: Kind = (upstream.into(), filter.into(), failure);
        if let Some(burst) = bursts.get_mut(&kind) {
            if now.duration_since(burst.since) < QUIET {
                burst.unsaid += 1;
                return None;
            }
            burst.since = now;
            return Some(std::mem::take(&mut burst.unsaid));
        }
        if bursts.len() >= MOST {
            bursts.clear();
        }
        bursts.insert(kind, Burst { since: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use weir_core::host::calls::CallFailure;

    use super::Reports;

    #[test]
    fn a_burst_is_said_once() {
        let (reports, begin) = (Reports::default(), Instant::now());
        let count =
            |failure, seconds| reports.count("f", b"up", failure, begin + Duration::from_secs(seconds));
        assert_eq!(count(CallFailure::Reset, 0), Some(0));
        assert_eq!(count(CallFailure::Reset, 1), None);
        assert_eq!(count(CallFailure::Timeout, 1), Some(0), "another kind");
        assert_eq!(count(CallFailure::Reset, 9), None);
        assert_eq!(count(CallFailure::Reset, 10), Some(2));
        assert_eq!(count(CallFailure::Reset, 11), None);
    }
}
