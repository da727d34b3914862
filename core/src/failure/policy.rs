//! What becomes of a request whose filter has failed: it fails too, or goes on without that filter.

use super::Cause;

/// Status of a request whose filter failed, where nothing else is said.
const FAILED: u16 = 500;

/// Status of a request for which there is no instance now, where nothing else is said.
const UNAVAILABLE: u16 = 503;

/// What becomes of a request whose filter has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The request fails.
    Closed {
        /// Status to answer with; without, 500, or 503 where no instance is to be had.
        status: Option<u16>,
    },
    /// The filter is skipped for the rest of the request, and what it held goes on.
    Open,
}

impl Default for Policy {
    fn default() -> Self {
        Self::Closed { status: None }
    }
}

impl Policy {
    /// The status that a request is answered with whose filter failed of `cause`; `None` when it goes on.
    pub(crate) const fn status(self, cause: &Cause) -> Option<u16> {
        match cause {
            Cause::Unavailable(_) | Cause::Crowded(_) | Cause::Suspended(_) => self.unavailable(),
            _ => self.failed(),
        }
    }

    /// The status that a request is answered with where no filter can be run now; `None` when it goes on without.
    #[must_use]
    pub const fn unavailable(self) -> Option<u16> {
        self.status_or(UNAVAILABLE)
    }

    /// The status that a request is answered with whose filters have failed; `None` when it goes on without them.
    #[must_use]
    pub const fn failed(self) -> Option<u16> {
        self.status_or(FAILED)
    }

    const fn status_or(self, default: u16) -> Option<u16> {
        match self {
            Self::Open => None,
            Self::Closed { status: Some(status) } => Some(status),
            Self::Closed { status: None } => Some(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cause, Policy};

    #[test]
    fn a_status_that_is_given_holds_for_every_cause() {
        let suspended = Cause::Suspended(Duration::from_secs(1));
        assert_eq!(Policy::default().status(&Cause::Refused), Some(500));
        assert_eq!(Policy::default().status(&suspended), Some(503));
        let given = Policy::Closed { status: Some(429) };
        assert_eq!([given.status(&Cause::Refused), given.status(&suspended)], [Some(429); 2]);
        assert_eq!(Policy::Open.status(&Cause::Refused), None);
        assert_eq!((Policy::default().unavailable(), Policy::Open.unavailable()), (Some(503), None));
    }
}
