//! What has become of the requests of a turn.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in nanoseconds: a minute.
const MOST: u64 = 60_000_000_000;

/// What has become of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Answered as it should be; so many bytes of a body.
    Answered(u64),
    /// Its client went away, as the profile has it, or took its time: its latency says nothing of the server.
    Odd,
    /// Not answered, or otherwise than it should be.
    Failed(String),
}

/// Requests of one kind.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    /// From the time a request was due until all of its response was there, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// Requests that were sent.
    pub(super) sent: u64,
    /// Of these, those that were answered, those of odd clients included.
    pub(super) answered: u64,
    /// Bytes of bodies that came.
    pub(super) bytes: u64,
    /// How many failed, by what went wrong.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Default for Kind {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, MOST, 3).expect("these bounds are right");
        Self { latencies, sent: 0, answered: 0, bytes: 0, errors: BTreeMap::new() }
    }
}

impl Kind {
    pub(super) fn note(&mut self, latency: Duration, fate: Fate) {
        self.sent += 1;
        match fate {
            Fate::Answered(bytes) => {
                self.answered += 1;
                self.bytes += bytes;
                self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(MOST));
            }
            Fate::Odd => self.answered += 1,
            Fate::Failed(reason) => *self.errors.entry(reason).or_default() += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        // The bounds are the same.
        let _ = self.latencies.add(&other.latencies);
        self.sent += other.sent;
        self.answered += other.answered;
        self.bytes += other.bytes;
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Everything of one turn, or of several.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    /// By name of the traffic.
    pub(super) kinds: BTreeMap<String, Kind>,
    /// Requests that were sent again, since the connection they went to had just been closed.
    pub(super) again: u64,
    /// How long it was.
    pub(super) time: Duration,
}

impl Record {
    pub(super) fn kind(&mut self, name: &str) -> &mut Kind {
        self.kinds.entry(name.to_owned()).or_default()
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, kind) in &other.kinds {
            self.kind(name).add(kind);
        }
        self.again += other.again;
        self.time += other.time;
    }

    /// All kinds together.
    pub(super) fn all(&self) -> Kind {
        let mut all = Kind::default();
        self.kinds.values().for_each(|kind| all.add(kind));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Fate, Kind, Record};

    #[test]
    fn only_requests_that_were_answered_have_a_latency() {
        let mut kind = Kind::default();
        kind.note(Duration::from_millis(1), Fate::Answered(5));
        kind.note(Duration::from_secs(1), Fate::Odd);
        kind.note(Duration::from_secs(9), Fate::Failed("status 500".to_owned()));
        assert_eq!((kind.sent, kind.answered, kind.bytes, kind.failed()), (3, 2, 5, 1));
        assert_eq!(kind.latencies.len(), 1);
        assert!(kind.latencies.max().abs_diff(1_000_000) < 2_000);
    }

    #[test]
    fn turns_add_up() {
        let mut one = Record { time: Duration::from_secs(1), ..Record::default() };
        one.kind("a").note(Duration::from_millis(1), Fate::Failed("lost".to_owned()));
        let mut both = one.clone();
        both.add(&one);
        assert_eq!((both.all().errors["lost"], both.time.as_secs()), (2, 2));
    }
}
