//! What a location says of what filters hold: how much of a body, what becomes of more, and for how long.

use std::time::Duration;

use weir_core::{chain::Direction, host::Hold};

/// Bytes that one filter may hold of a body where nothing else is said.
const DEFAULT: usize = 1024 * 1024;

/// How long a filter may hold a request where nothing else is said: as long as a stream of Envoy's may be idle
/// (`stream_idle_timeout`).
pub(super) const PAUSE: Duration = Duration::from_secs(300);

/// How much of a body one filter may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes.
    pub(crate) size: usize,
    /// More goes on to the next filter, instead of failing the request.
    pub(crate) stream: bool,
}

impl Default for Limit {
    fn default() -> Self {
        Self { size: DEFAULT, stream: false }
    }
}

impl Limit {
    /// What becomes of a part of `size` bytes that a filter wants to hold.
    pub(crate) const fn judge(self, size: usize) -> Hold {
        if size <= self.size {
            Hold::Kept
        } else if self.stream {
            Hold::StreamThrough
        } else {
            Hold::TooLarge
        }
    }
}

/// What holds in a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bodies {
    /// How much of a request's body a filter may hold.
    pub(crate) request: Limit,
    /// How much of a response's body a filter may hold.
    pub(crate) response: Limit,
    /// Filters see bodies while one of them holds the headers.
    pub(crate) while_paused: bool,
    /// How long a filter may hold a request.
    pub(crate) pause: Duration,
}

impl Bodies {
    /// The limit of that direction.
    pub(crate) const fn limit(self, direction: Direction) -> Limit {
        match direction {
            Direction::Request => self.request,
            Direction::Response => self.response,
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_core::host::Hold;

    use super::Limit;

    #[test]
    fn what_is_beyond_the_limit_fails_or_goes_on() {
        let limit = Limit { size: 10, stream: false };
        assert_eq!(limit.judge(10), Hold::Kept);
        assert_eq!(limit.judge(11), Hold::TooLarge);
        assert_eq!(Limit { stream: true, ..limit }.judge(11), Hold::StreamThrough);
    }
}
