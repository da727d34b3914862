//! What a worker has measured and has not yet written down: one word for each callback that was [timed](super::tally), in a
//! row that the processor's caches hold, instead of three lines of each callback's own histogram. It is written down when
//! it is full, when the worker shows its metrics, and a moment after the first word came ([`RootHost::settle_soon`]), so
//! other processes see it late by that moment.
//!
//! [`RootHost::settle_soon`]: crate::host::RootHost::settle_soon

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, OnceLock},
};

use super::{
    Id, Metrics, Timing,
    clock::{Clock, Moment},
    recorder::Recorder,
    tally::{self, Tallies},
};
use crate::filter::Callback;

/// Words that a ledger has room for: 4 KiB.
const ROOM: usize = 512;

/// Bits of a word that are ticks of the clock: a callback that takes an hour fits.
const TICKS: u32 = 44;

/// Bits above them for how many callbacks the word stands for. Above those is the histogram's number.
const TIMES: u32 = 5;

/// The one clock: measured in the master, for all its children.
pub(super) fn clock() -> Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    *CLOCK.get_or_init(Clock::new)
}

/// The times of one worker's callbacks. What it holds is written down when it is dropped.
#[derive(Debug)]
pub(crate) struct Ledger {
    metrics: Arc<Metrics>,
    clock: Clock,
    len: Cell<usize>,
    words: Box<[Cell<u64>; ROOM]>,
    /// By number of a directive's recorder.
    tallies: RefCell<HashMap<u64, Rc<Tallies>>>,
}

impl Ledger {
    /// An empty one of this process.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            clock: clock(),
            len: Cell::new(0),
            words: Box::new([const { Cell::new(0) }; ROOM]),
            tallies: RefCell::default(),
        }
    }

    /// This worker's counts of the directive that `recorder` is of; `None` where nothing is counted.
    pub(crate) fn tallies(&self, recorder: &Recorder) -> Option<Rc<Tallies>> {
        let timing = self.metrics.options().callbacks;
        let make = || {
            let mut all = self.tallies.borrow_mut();
            Rc::clone(all.entry(recorder.number()).or_insert_with(|| Rc::new(Tallies::new(timing))))
        };
        (timing != Timing::Off).then(make)
    }

    /// Now.
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// What began at `begun`, and is timed, ended at `ended`: a `callback` of `tallies`, whose times are in `histogram`.
    /// Answers whether it is the first thing that waits to be written down.
    #[inline]
    pub(crate) fn note(
        &self,
        (begun, ended): (Moment, Moment),
        histogram: Id,
        tallies: &Tallies,
        callback: Callback,
    ) -> bool {
        let ticks = ended.since(begun).min((1 << TICKS) - 1);
        let times = tallies.time(callback, ticks);
        let at = self.len.get();
        if let Some(word) = self.words.get(at) {
            word.set((u64::from(histogram.0) << TIMES | u64::from(times)) << TICKS | ticks);
        }
        self.len.set(at + 1);
        if at + 1 >= ROOM {
            self.write_down();
        }
        at == 0
    }

    /// Writes everything down: what was not timed as what was timed last. Another period begins.
    pub(crate) fn settle(&self) {
        self.write_down();
        let tallies = self.tallies.borrow();
        let rest = tallies.values().flat_map(|tallies| tallies.end_period());
        let clock = self.clock;
        self.metrics
            .observe_each(rest.map(|(histogram, ticks, times)| (histogram, clock.nanoseconds(ticks), times)));
    }

    /// Writes down what was timed.
    #[inline(never)]
    fn write_down(&self) {
        let clock = self.clock;
        let words = self.words.iter().take(self.len.replace(0)).map(Cell::get);
        self.metrics.observe_each(words.map(|word| {
            #[allow(clippy::cast_possible_truncation, reason = "15 bits are left")]
            let histogram = Id((word >> (TICKS + TIMES)) as u32);
            let times = word >> TICKS & ((1 << TIMES) - 1);
            (histogram, clock.nanoseconds(word & ((1 << TICKS) - 1)), times)
        }));
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Every metric's number fits above the ticks and the count.
const _: () = assert!(super::layout::MOST_METRICS < 1 << (u64::BITS - TICKS - TIMES));

/// So does what a word may stand for.
const _: () = assert!(tally::MOST < 1 << TIMES);

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::{Ledger, ROOM, Tallies};
    use crate::{
        filter::Callback,
        metrics::{
            Id, Kind, Metrics, Options, Own, Timing, Unit,
            catalog::{Catalog, Reading},
            clock::Moment,
            histogram::Distribution,
            recorder::Recorder,
        },
    };

    const TIME: Own<'_> = Own::new(Kind::Histogram, "weir_test_seconds", "Time.").of(Unit::Nanoseconds);

    fn metrics(callbacks: Timing) -> (Arc<Metrics>, Ledger) {
        let options = Options { callbacks, ..Options::default() };
        let metrics = Arc::new(Metrics::nameless(options).expect("memory"));
        (Arc::clone(&metrics), Ledger::new(metrics))
    }

    fn nth(metrics: &Metrics, at: usize) -> Distribution {
        let mut catalog = Catalog::new();
        assert!(catalog.learn(metrics.words(), usize::MAX));
        match catalog.series()[at].read(metrics.words()) {
            Reading::Histogram(distribution) => *distribution,
            other => panic!("{other:?}"),
        }
    }

    /// Runs `callback`, and, if it is timed, `during` meanwhile, which may put its beginning off; then answers what
    /// [`Ledger::note`] does.
    fn run(
        ledger: &Ledger,
        tallies: &Tallies,
        callback: Callback,
        histogram: Id,
        during: impl FnOnce(&mut Moment),
    ) -> Option<bool> {
        if !tallies.run(callback, false) {
            return None;
        }
        let histogram = tallies.histogram(callback, || Some(histogram)).expect("a histogram");
        let mut begun = ledger.now();
        during(&mut begun);
        Some(ledger.note((begun, ledger.now()), histogram, tallies, callback))
    }

    #[test]
    fn everything_is_written_down_once() {
        let (metrics, ledger) = metrics(Timing::Sampled);
        let time = metrics.define_own(&TIME, &[]).expect("room");
        let tallies = ledger.tallies(&Recorder::default()).expect("it counts");
        let pause = |_: &mut _| thread::sleep(Duration::from_millis(2));
        let is_first = || run(&ledger, &tallies, Callback::Log, time, pause).expect("timed");
        assert!(is_first(), "the first one");
        assert!(!is_first(), "the second one");
        assert_eq!(nth(&metrics, 0).count(), 0, "not yet");
        ledger.settle();
        ledger.settle();
        assert_eq!(nth(&metrics, 0).count(), 2);
        assert!(nth(&metrics, 0).least() >= Some(2_000_000), "nanoseconds");
        assert!(run(&ledger, &tallies, Callback::Log, time, |_| ()).is_some());
        drop(ledger);
        assert_eq!(nth(&metrics, 0).count(), 3, "when it ends");
    }

    #[test]
    fn it_is_written_down_when_it_is_full() {
        let (metrics, ledger) = metrics(Timing::All);
        let time = metrics.define_own(&TIME, &[]).expect("room");
        let tallies = ledger.tallies(&Recorder::default()).expect("it counts");
        let runs = (0..=ROOM).filter_map(|_| run(&ledger, &tallies, Callback::Log, time, |_| ()));
        assert_eq!(runs.filter(|first| *first).count(), 2);
        assert_eq!(nth(&metrics, 0).count(), ROOM as u64, "each is timed");
    }

    /// However often they run, whichever run in turn, and whoever asks for the counts of their directive.
    #[test]
    fn what_is_not_timed_counts_like_what_is() {
        let (metrics, ledger) = metrics(Timing::Sampled);
        let callbacks = [Callback::ContextCreate, Callback::Delete, Callback::Log];
        let ids =
            callbacks.map(|callback| metrics.define_own(&TIME, &[("name", callback.name())]).expect("room"));
        let recorder = Recorder::default();
        let mut timed = 0;
        for (period, runs) in [1, 10, 100, 1000, 10_000].into_iter().enumerate() {
            let tallies = ledger.tallies(&recorder).expect("it counts");
            for _ in 0..runs {
                for (callback, id) in callbacks.into_iter().zip(ids).take(1 + period % 3) {
                    timed += u64::from(run(&ledger, &tallies, callback, id, |_| ()).is_some());
                }
            }
            ledger.settle();
        }
        let counts = [0, 1, 2].map(|at| nth(&metrics, at).count());
        assert_eq!(counts, [11_111, 10_110, 100]);
        let all = counts.iter().sum::<u64>();
        assert!(timed > all / 10 && timed < all / 5, "{timed} of {all} were timed");
    }

    /// Every fourth takes three times as long as the others.
    #[test]
    fn samples_stand_for_all() {
        const RUNS: u64 = 40_000;
        let (metrics, ledger) = metrics(Timing::Sampled);
        let time = metrics.define_own(&TIME, &[]).expect("room");
        let tallies = ledger.tallies(&Recorder::default()).expect("it counts");
        let short = 100_000_000;
        for number in 0..RUNS {
            let ticks = if number % 4 == 0 { 3 * short } else { short };
            let _ = run(&ledger, &tallies, Callback::Log, time, |begun| *begun = begun.earlier(ticks));
        }
        ledger.settle();
        let times = nth(&metrics, 0);
        assert_eq!(times.count(), RUNS);
        let mean = ledger.clock.nanoseconds(short * 3 / 2) as f64;
        let found = times.sum() as f64 / RUNS as f64;
        assert!((found / mean - 1.0).abs() < 0.05, "{found}, not {mean}");
    }

    #[test]
    fn where_callbacks_are_not_counted_there_are_no_tallies() {
        assert!(metrics(Timing::Off).1.tallies(&Recorder::default()).is_none());
    }
}
