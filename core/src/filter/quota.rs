//! How many lines a filter still may log: one account for all its instances in a process.
//!
//! A filter is made before workers are forked, so each worker has an account of its own. Only one thread uses it; the
//! numbers are atomic since a filter can be seen from several.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::engine::limits::LogLimit;

/// Least time between two notes of how many lines were dropped, ns.
const BETWEEN_NOTES: u64 = 1_000_000_000;

/// How many lines this process has dropped that have not been spoken of, of all filters.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Whether a filter has dropped lines that have not been spoken of: only then its account need be looked at.
pub(crate) fn any_dropped() -> bool {
    DROPPED.load(Relaxed) != 0
}

/// The account of one filter.
#[derive(Debug)]
pub(crate) struct Quota {
    limit: LogLimit,
    /// When the account would be full again if nothing more were logged, ns: each line moves it on by the time that
    /// one line takes at the long-run rate.
    full: AtomicU64,
    dropped: AtomicU64,
    /// When dropped lines were last spoken of, ns.
    noted: AtomicU64,
}

impl Quota {
    /// A full account.
    pub(crate) const fn new(limit: LogLimit) -> Self {
        Self { limit, full: AtomicU64::new(0), dropped: AtomicU64::new(0), noted: AtomicU64::new(0) }
    }

    /// Takes a line from the account; false where it has none: the line is counted as dropped.
    pub(crate) fn take(&self, now: u64) -> bool {
        let LogLimit { rate, burst } = self.limit;
        if rate == 0 {
            return true;
        }
        let each = u64::try_from(Duration::from_secs(1).as_nanos()).unwrap_or(u64::MAX) / u64::from(rate);
        let full = self.full.load(Relaxed).max(now);
        if full - now > each.saturating_mul(u64::from(burst.saturating_sub(1))) {
            self.dropped.fetch_add(1, Relaxed);
            DROPPED.fetch_add(1, Relaxed);
            return false;
        }
        self.full.store(full.saturating_add(each), Relaxed);
        true
    }

    /// How many lines have been dropped that have not been spoken of, if it is time to do so; the clock (`now`, ns) is
    /// asked only if there are some.
    pub(crate) fn note(&self, now: impl FnOnce() -> u64) -> Option<u64> {
        if self.dropped.load(Relaxed) == 0 {
            return None;
        }
        let (now, noted) = (now(), self.noted.load(Relaxed));
        if noted != 0 && now.saturating_sub(noted) < BETWEEN_NOTES {
            return None;
        }
        self.noted.store(now.max(1), Relaxed);
        let dropped = self.dropped.swap(0, Relaxed);
        DROPPED.fetch_sub(dropped, Relaxed);
        Some(dropped)
    }

    /// What the log says of them.
    pub(crate) fn sentence(&self, dropped: u64) -> String {
        format!("{dropped} lines of its own were dropped: \"log_limit\" allows {} a second", self.limit.rate)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        DROPPED.fetch_sub(*self.dropped.get_mut(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{LogLimit, Quota, any_dropped};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let quota = Quota::new(LogLimit { rate: 10, burst: 5 });
        let taken = |now| (0..100).filter(|_| quota.take(now)).count();
        assert_eq!(taken(SECOND), 5);
        assert_eq!(taken(SECOND), 0);
        assert_eq!(taken(SECOND + SECOND / 10), 1);
        assert_eq!(taken(SECOND + SECOND / 2), 4);
        assert_eq!(taken(100 * SECOND), 5, "no more than a burst is saved");
    }

    #[test]
    fn notes_are_apart_and_add_up() {
        let quota = Quota::new(LogLimit { rate: 1, burst: 1 });
        assert_eq!(quota.note(|| unreachable!("nothing was dropped")), None);
        let drops = |count: usize, now| assert_eq!((0..count).filter(|_| quota.take(now)).count(), 0);
        assert!(quota.take(0));
        drops(3, 0);
        assert!(any_dropped());
        assert_eq!(quota.note(|| 0), Some(3));
        drops(2, 0);
        assert_eq!(quota.note(|| SECOND / 2), None);
        drops(1, SECOND / 2);
        assert_eq!(quota.note(|| SECOND + 1), Some(3));
        assert_eq!(quota.note(|| 10 * SECOND), None);
    }

    #[test]
    fn there_may_be_no_limit() {
        let quota = Quota::new(LogLimit { rate: 0, burst: 0 });
        assert!((0..100_000).all(|_| quota.take(0)));
    }
}
