//! When a filter that fails again and again is left alone for a while.
//!
//! ```text
//!             N failures within the window
//!   running ───────────────────────────────► suspended ◄──────────────┐
//!      ▲                                         │ its time is over   │ a request on trial fails:
//!      │  a request on trial ends well           ▼                    │ twice as long
//!      └───────────────────────────────────── on trial ───────────────┘
//! ```
//!
//! What is counted are the failures of one worker, of the directives that share an instance. While suspended, a
//! filter is not run: requests are answered by the [policy](super::Policy) at no cost. On trial every request is let
//! through, and the first one whose outcome is known decides; those that began before do not.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::Duration,
};

/// How many failures are too many, and how long a filter is suspended then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// This many failures within [`window`](Self::window) suspend a filter; 0: it is never suspended.
    pub failures: u32,
    /// How long a failure counts.
    pub window: Duration,
    /// How long the first suspension lasts. Each that follows without success lasts twice as long.
    pub backoff: Duration,
    /// The longest that a suspension lasts.
    pub longest: Duration,
}

impl Default for Budget {
    /// A callback that runs into its time limit costs a worker some 30 ms: 100 of these in 10 s are less than a third
    /// of its time. Fewer failures would let whoever finds a request that makes a filter fail suspend it for everybody.
    fn default() -> Self {
        Self {
            failures: 100,
            window: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

/// Whether a request may run a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may.
    Run,
    /// It may, and decides whether the filter is well again.
    Trial,
    /// It may not, for as long.
    Suspended(Duration),
}

/// Where a filter is in the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Suspended {
        /// Time it ends, ns.
        until: u64,
    },
    Trial,
}

/// The failures of one filter in one worker.
#[derive(Debug)]
struct Record {
    state: State,
    /// Times of the failures that count, ns, oldest first; fewer than the budget allows.
    times: VecDeque<u64>,
    /// How long the next suspension lasts.
    next: Duration,
}

impl Record {
    const fn new(budget: &Budget) -> Self {
        Self { state: State::Running, times: VecDeque::new(), next: budget.backoff }
    }

    fn admit(&mut self, now: impl FnOnce() -> u64) -> Admission {
        match self.state {
            State::Running => Admission::Run,
            State::Trial => Admission::Trial,
            State::Suspended { until } => match until.saturating_sub(now()) {
                0 => {
                    self.state = State::Trial;
                    Admission::Trial
                }
                left => Admission::Suspended(Duration::from_nanos(left)),
            },
        }
    }

    /// A request has failed; answers for how long the filter is suspended, if it is now.
    fn fail(&mut self, budget: &Budget, trial: bool, now: u64) -> Option<Duration> {
        match self.state {
            State::Running => {
                let window = nanoseconds(budget.window);
                while self.times.front().is_some_and(|time| now.saturating_sub(*time) >= window) {
                    self.times.pop_front();
                }
                self.times.push_back(now);
                let most = usize::try_from(budget.failures).unwrap_or(usize::MAX);
                (most > 0 && self.times.len() >= most).then(|| self.suspend(budget, now))
            }
            State::Trial if trial => Some(self.suspend(budget, now)),
            State::Trial | State::Suspended { .. } => None,
        }
    }

    fn suspend(&mut self, budget: &Budget, now: u64) -> Duration {
        let time = self.next.min(budget.longest);
        self.next = time.saturating_mul(2);
        self.times.clear();
        self.state = State::Suspended { until: now.saturating_add(nanoseconds(time)) };
        time
    }

    /// A request on trial has ended well; answers whether that ends the trial.
    fn succeed(&mut self, budget: &Budget) -> bool {
        let ends = self.state == State::Trial;
        if ends {
            *self = Self::new(budget);
        }
        ends
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The records of a worker: one for each group of directives that share instances.
#[derive(Debug)]
pub(crate) struct Suspensions {
    budget: Budget,
    records: Vec<RefCell<Record>>,
    /// How many groups are suspended, or will be found to be so no more.
    resting: Cell<usize>,
}

impl Suspensions {
    /// Records of `groups` groups, none of which has failed.
    pub(crate) fn new(budget: Budget, groups: usize) -> Self {
        let records = (0..groups).map(|_| RefCell::new(Record::new(&budget))).collect();
        Self { budget, records, resting: Cell::new(0) }
    }

    /// Whether a request may run `group`. The clock (`now`, ns) is asked only where that depends on it.
    pub(crate) fn admit(&self, group: usize, now: impl FnOnce() -> u64) -> Admission {
        let Some(record) = self.records.get(group) else { return Admission::Run };
        let mut record = record.borrow_mut();
        let rested = matches!(record.state, State::Suspended { .. });
        let admission = record.admit(now);
        if rested && admission == Admission::Trial {
            self.resting.set(self.resting.get() - 1);
        }
        admission
    }

    /// Whether some group is suspended; perhaps its time is over.
    pub(crate) fn any(&self) -> bool {
        self.resting.get() > 0
    }

    /// For how long `group` is still suspended, if it is. Nobody is admitted by this.
    pub(crate) fn rests(&self, group: usize, now: u64) -> Option<Duration> {
        match self.records.get(group)?.borrow().state {
            State::Suspended { until } if now < until => Some(Duration::from_nanos(until - now)),
            _ => None,
        }
    }

    /// A request has failed in `group`, `trial` as it was admitted; answers what the log is to say if that suspends the
    /// group.
    pub(crate) fn charge(&self, group: usize, trial: bool, now: u64) -> Option<String> {
        let time = self.fail(group, trial, now)?.as_secs_f64();
        let Budget { failures, window, .. } = self.budget;
        Some(if trial {
            format!("suspended for {time} s: it has failed again")
        } else {
            format!("suspended for {time} s: {failures} failures within {} s", window.as_secs_f64())
        })
    }

    /// The same; answers for how long.
    fn fail(&self, group: usize, trial: bool, now: u64) -> Option<Duration> {
        if self.budget.failures == 0 {
            return None;
        }
        let time = self.records.get(group)?.borrow_mut().fail(&self.budget, trial, now)?;
        self.resting.set(self.resting.get() + 1);
        Some(time)
    }

    /// A request that was admitted on trial has ended well in `group`; answers whether it runs again from now on.
    pub(crate) fn succeed(&self, group: usize) -> bool {
        self.records.get(group).is_some_and(|record| record.borrow_mut().succeed(&self.budget))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Admission, Budget, Suspensions};

    const SECOND: u64 = 1_000_000_000;

    fn budget(failures: u32) -> Budget {
        Budget {
            failures,
            window: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
            longest: Duration::from_secs(5),
        }
    }

    fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn too_many_failures_within_the_window_suspend() {
        let all = Suspensions::new(budget(3), 2);
        assert_eq!(all.fail(0, false, 0), None);
        assert_eq!(all.fail(0, false, 9 * SECOND), None);
        assert_eq!(all.fail(0, false, 10 * SECOND), None, "the first one counts no more");
        assert_eq!(all.fail(1, false, 11 * SECOND), None, "another group's");
        assert_eq!(all.fail(0, false, 11 * SECOND), secs(1));
        assert_eq!(all.admit(0, || 11 * SECOND), Admission::Suspended(Duration::from_secs(1)));
        assert_eq!(all.admit(1, || unreachable!("a group that runs needs no clock")), Admission::Run);
        assert_eq!(all.fail(0, false, 11 * SECOND), None, "what was in flight");
        assert_eq!(all.admit(0, || 12 * SECOND), Admission::Trial);
    }

    #[test]
    fn suspensions_double_until_a_request_ends_well() {
        let all = Suspensions::new(budget(1), 1);
        let mut now = 0;
        assert_eq!(all.fail(0, false, now), secs(1));
        for time in [2, 4, 5, 5] {
            now += 5 * SECOND;
            assert_eq!(all.admit(0, || now), Admission::Trial);
            assert_eq!(all.fail(0, false, now), None, "it began before the trial");
            assert_eq!(all.fail(0, true, now), secs(time));
        }
        assert!(!all.succeed(0), "it was admitted before the last suspension");
        now += 5 * SECOND;
        assert_eq!(all.admit(0, || now), Admission::Trial);
        assert!(all.succeed(0));
        assert!(!all.succeed(0), "told once");
        assert_eq!(all.admit(0, || now), Admission::Run);
        assert_eq!(all.fail(0, false, now), secs(1), "the back-off begins anew");
    }

    #[test]
    fn a_budget_of_nothing_never_suspends() {
        let all = Suspensions::new(budget(0), 1);
        assert!((0..10_000).all(|n| all.fail(0, n % 2 == 0, n).is_none()));
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Wait(u64),
        Begin,
        /// The request that began as this one ends, well or not.
        End(usize, bool),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            2 => (0..4 * SECOND).prop_map(Event::Wait),
            3 => Just(Event::Begin),
            4 => (0..6_usize, any::<bool>()).prop_map(|(which, well)| Event::End(which, well)),
        ];
        prop::collection::vec(event, 0..200)
    }

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn it_does_what_the_drawing_says(failures in 1..5_u32, events in events()) {
            let budget = budget(failures);
            let all = Suspensions::new(budget, 1);
            let mut now = 0;
            // Requests in flight: whether they are on trial.
            let mut flying = Vec::new();
            let mut failed_at: Vec<u64> = Vec::new();
            let (mut until, mut on_trial, mut next) = (None, false, 1);
            for event in events {
                match event {
                    Event::Wait(time) => now += time,
                    Event::Begin => {
                        let expected = match until {
                            Some(until) if now < until => {
                                Admission::Suspended(Duration::from_nanos(until - now))
                            }
                            None if !on_trial => Admission::Run,
                            _ => {
                                (until, on_trial) = (None, true);
                                Admission::Trial
                            }
                        };
                        let rests = match expected {
                            Admission::Suspended(left) => Some(left),
                            _ => None,
                        };
                        prop_assert_eq!(all.rests(0, now), rests);
                        let admitted = all.admit(0, || now);
                        prop_assert_eq!(admitted, expected);
                        prop_assert_eq!(all.any(), rests.is_some());
                        match admitted {
                            Admission::Run => flying.push(false),
                            Admission::Trial => flying.push(true),
                            Admission::Suspended(_) => {}
                        }
                    }
                    Event::End(which, well) => {
                        if flying.is_empty() {
                            continue;
                        }
                        let trial = flying.remove(which % flying.len());
                        if well {
                            let ends = trial && all.succeed(0);
                            prop_assert_eq!(ends, trial && on_trial);
                            if ends {
                                (on_trial, next) = (false, 1);
                                failed_at.clear();
                            }
                            continue;
                        }
                        let suspends = if on_trial {
                            trial
                        } else if until.is_none() {
                            failed_at.push(now);
                            let counts = failed_at.iter().filter(|time| now - **time < 10 * SECOND);
                            counts.count() >= usize::try_from(failures).expect("small")
                        } else {
                            false
                        };
                        let told = all.fail(0, trial, now);
                        prop_assert_eq!(told, if suspends { secs(next) } else { None });
                        if suspends {
                            until = Some(now + next * SECOND);
                            on_trial = false;
                            next = (next * 2).min(5);
                            failed_at.clear();
                        }
                    }
                }
            }
        }
    }
}
