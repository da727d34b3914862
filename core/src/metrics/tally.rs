//! How often the callbacks of one directive have run in one worker, and which of these times are measured.
//!
//! Reading the clock for each callback of a busy worker, and writing that down, takes as long as some callbacks do. So in
//! a period, which ends when the [ledger](super::ledger) is settled, a callback is timed the first [`FEW`] times, and by
//! chance one time of [`ONE_OF`] after that. What is timed stands for itself and for those before it that were not: how
//! often callbacks ran is exact, and how long they took is what was sampled.

use std::cell::Cell;

use super::{Id, Timing};
use crate::filter::Callback;

/// How often a callback is timed in a period before chance decides: always, where a worker has 640 requests a second.
const FEW: u8 = 64;

/// One time of so many is measured after that.
const ONE_OF: u32 = 8;

/// Most callbacks that one measurement stands for, itself among them. Chance alone would let more pass once in 50 times.
pub(super) const MOST: u8 = 30;

/// Number of callbacks.
const CALLBACKS: usize = Callback::ALL.len();

/// Counts of one directive's callbacks. What a callback that is not timed needs comes first, in one line of the
/// processor's caches.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Tallies {
    /// For choosing by chance.
    chance: Cell<u32>,
    /// As [`FEW`]; [`u8::MAX`] where each is timed.
    few: u8,
    /// How often each has been timed in this period, before chance decides.
    runs: [Cell<u8>; CALLBACKS],
    /// How often since it was timed last, in whichever period.
    untimed: [Cell<u8>; CALLBACKS],
    /// Where its times are; 0 while that is not known.
    histograms: [Cell<u32>; CALLBACKS],
    /// How long it took when it was timed last, in ticks of the clock.
    last: [Cell<u64>; CALLBACKS],
}

impl Tallies {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            chance: Cell::new(0),
            few: if timing == Timing::All { u8::MAX } else { FEW },
            runs: [const { Cell::new(0) }; CALLBACKS],
            untimed: [const { Cell::new(0) }; CALLBACKS],
            histograms: [const { Cell::new(0) }; CALLBACKS],
            last: [const { Cell::new(0) }; CALLBACKS],
        }
    }

    /// `callback` runs; answers whether it is to be timed. It is anyway, if `always`.
    #[inline]
    pub(super) fn run(&self, callback: Callback, always: bool) -> bool {
        let runs = &self.runs[callback as usize];
        if runs.get() < self.few {
            runs.set(runs.get() + u8::from(self.few == FEW));
            return true;
        }
        let is_timed = always || self.draw() || self.is_due(callback);
        if !is_timed {
            self.pass(callback);
        }
        is_timed
    }

    /// Whether chance decides that something is timed.
    #[inline]
    pub(super) fn draw(&self) -> bool {
        // Knuth's constants, as Numerical Recipes gives them; the upper bits are the random ones.
        let random = self.chance.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.chance.set(random);
        random >> (u32::BITS - ONE_OF.trailing_zeros()) == 0
    }

    /// Whether it is chance that decides about `callback`, in this period.
    #[inline]
    pub(super) fn is_by_chance(&self, callback: Callback) -> bool {
        self.runs[callback as usize].get() >= self.few
    }

    /// Whether `callback` is to be timed next time, whatever chance says.
    #[inline]
    pub(super) fn is_due(&self, callback: Callback) -> bool {
        self.untimed[callback as usize].get() + 1 >= MOST
    }

    /// `callback` has run, and was not timed.
    #[inline]
    pub(super) fn pass(&self, callback: Callback) {
        let untimed = &self.untimed[callback as usize];
        untimed.set(untimed.get().saturating_add(1));
    }

    /// Where the times of `callback` are; `known` tells it the first time.
    pub(super) fn histogram(&self, callback: Callback, known: impl FnOnce() -> Option<Id>) -> Option<Id> {
        let cell = &self.histograms[callback as usize];
        if cell.get() == 0 {
            cell.set(known()?.0);
        }
        Some(Id(cell.get()))
    }

    /// `callback` took `ticks`; answers how many times that stands for.
    #[inline]
    pub(super) fn time(&self, callback: Callback, ticks: u64) -> u8 {
        self.last[callback as usize].set(ticks);
        self.untimed[callback as usize].replace(0) + 1
    }

    /// The period ends. Visits what has not been measured: where it belongs, what is to be written down for each time, and
    /// how many times.
    pub(super) fn end_period(&self) -> impl Iterator<Item = (Id, u64, u64)> {
        self.runs.iter().for_each(|runs| runs.set(0));
        let all = self.untimed.iter().zip(&self.histograms).zip(&self.last);
        // What has no metric, since there was no room, waits for one.
        let some = all.filter(|((untimed, histogram), _)| untimed.get() > 0 && histogram.get() > 0);
        some.map(|((untimed, histogram), last)| {
            (Id(histogram.get()), last.get(), u64::from(untimed.replace(0)))
        })
    }
}

/// What each callback of a busy worker touches is in one line.
const _: () = assert!(std::mem::offset_of!(Tallies, histograms) <= 64 + 4);

#[cfg(test)]
mod tests {
    use super::{FEW, MOST, Tallies};
    use crate::{
        filter::Callback,
        metrics::{Id, Timing},
    };

    #[test]
    fn the_first_are_timed_and_then_one_of_eight() {
        let tallies = Tallies::new(Timing::Sampled);
        for period in 0..10 {
            assert!(
                (0..FEW).all(|_| tallies.run(Callback::Log, false) && tallies.time(Callback::Log, 1) == 1)
            );
            let (mut timed, mut stands) = (0, 0);
            for _ in 0..8000 {
                if tallies.run(Callback::Log, false) {
                    let times = tallies.time(Callback::Log, 1);
                    assert!(times <= MOST);
                    timed += 1;
                    stands += u64::from(times);
                }
            }
            assert!((850..1250).contains(&timed), "{timed} in period {period}");
            let _ = tallies.histogram(Callback::Log, || Some(Id(7)));
            let rest: Vec<_> = tallies.end_period().collect();
            assert_eq!(stands + rest.iter().map(|(_, _, times)| times).sum::<u64>(), 8000);
        }
    }

    /// One that follows another in turn is not always the one that is, or is not, timed.
    #[test]
    fn what_runs_in_turn_is_timed_alike() {
        let tallies = Tallies::new(Timing::Sampled);
        let mut timed = [0_u32; 4];
        for run in 0..40_000 {
            if tallies.run(Callback::Log, false) {
                timed[run % 4] += 1;
                tallies.time(Callback::Log, 1);
            }
        }
        assert!(timed.iter().all(|count| (1100..1650).contains(count)), "{timed:?}");
    }

    #[test]
    fn all_are_timed_where_that_is_asked_for() {
        let tallies = Tallies::new(Timing::All);
        assert!(
            (0..1000).all(|_| tallies.run(Callback::Done, false) && tallies.time(Callback::Done, 5) == 1)
        );
        assert_eq!(tallies.end_period().count(), 0);
    }
}
