//! The one loop that waits: until something is so, or a deadline has passed.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before a test fails, in a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Pause between two looks at first; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(200);

/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something; `None` when [`DEADLINE`] has passed.
pub fn poll<T>(look: impl FnMut() -> Option<T>) -> Option<T> {
    poll_for(DEADLINE, look)
}

/// Looks until `look` finds something; `None` when `limit` has passed.
pub fn poll_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{poll, poll_for};

    #[test]
    fn looks_again_until_it_finds() {
        let mut looks = 0;
        let found = poll(|| {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!((found, looks), (Some("found"), 3));
    }

    #[test]
    fn gives_up() {
        assert_eq!(poll_for(Duration::from_millis(1), || None::<()>), None);
    }
}
