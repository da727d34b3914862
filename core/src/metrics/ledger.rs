//! What a worker has measured and has not yet written down: one word for each callback, in a row that the processor's
//! caches hold, instead of three lines of each callback's own histogram. It is written down when it is full, when the
//! worker shows its metrics, and a moment after the first word came ([`RootHost::settle_soon`]), so other processes see
//! it late by that moment.
//!
//! [`RootHost::settle_soon`]: crate::host::RootHost::settle_soon

use std::{
    cell::Cell,
    sync::{Arc, OnceLock},
};

use super::{
    Id, Metrics,
    clock::{Clock, Moment},
};

/// Words that a ledger has room for: 4 KiB.
const ROOM: usize = 512;

/// Bits of a word that are ticks of the clock: a callback that takes a day fits. Above them is the histogram's number.
const TICKS: u32 = 48;

/// The one clock: measured in the master, for all its children.
pub(super) fn clock() -> Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    *CLOCK.get_or_init(Clock::new)
}

/// The times of one worker's callbacks. What it holds is written down when it is dropped.
#[derive(Debug)]
pub(crate) struct Ledger {
    metrics: Arc<Metrics>,
    /// Whether callbacks are timed.
    timed: bool,
    clock: Clock,
    len: Cell<usize>,
    words: Box<[Cell<u64>; ROOM]>,
}

impl Ledger {
    /// An empty one of this process.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let timed = metrics.options().callbacks;
        Self {
            metrics,
            timed,
            clock: clock(),
            len: Cell::new(0),
            words: Box::new([const { Cell::new(0) }; ROOM]),
        }
    }

    /// Now; `None` where callbacks are not timed.
    #[inline]
    pub(crate) fn now(&self) -> Option<Moment> {
        self.timed.then(|| self.clock.now())
    }

    /// Something lasted from `begun` to `ended`: it goes into `histogram`, in nanoseconds. Answers whether it is the first
    /// thing that waits to be written down.
    #[inline]
    pub(crate) fn note(&self, histogram: Id, begun: Moment, ended: Moment) -> bool {
        let ticks = ended.since(begun).min((1 << TICKS) - 1);
        let at = self.len.get();
        if let Some(word) = self.words.get(at) {
            word.set(u64::from(histogram.0) << TICKS | ticks);
        }
        self.len.set(at + 1);
        if at + 1 >= ROOM {
            self.settle();
        }
        at == 0
    }

    /// Writes everything down.
    #[inline(never)]
    pub(crate) fn settle(&self) {
        let clock = self.clock;
        let words = self.words.iter().take(self.len.replace(0)).map(Cell::get);
        self.metrics.observe_each(words.map(|word| {
            #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
            let histogram = Id((word >> TICKS) as u32);
            (histogram, clock.nanoseconds(word & ((1 << TICKS) - 1)))
        }));
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Every metric's number fits above the ticks.
const _: () = assert!(super::layout::MOST_METRICS < 1 << (u64::BITS - TICKS));

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::{Ledger, ROOM};
    use crate::metrics::{
        Kind, Metrics, Options, Own, Unit,
        catalog::{Catalog, Reading},
        histogram::Distribution,
    };

    const TIME: Own<'_> = Own::new(Kind::Histogram, "weir_test_seconds", "Time.").of(Unit::Nanoseconds);

    fn written(metrics: &Metrics) -> Distribution {
        let mut catalog = Catalog::new();
        assert!(catalog.learn(metrics.words(), usize::MAX));
        match catalog.series()[0].read(metrics.words()) {
            Reading::Histogram(distribution) => *distribution,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_is_written_down_once() {
        let metrics = Arc::new(Metrics::nameless(Options::default()).expect("memory"));
        let time = metrics.define_own(&TIME, &[]).expect("room");
        let ledger = Ledger::new(Arc::clone(&metrics));
        let begun = ledger.now().expect("a clock");
        thread::sleep(Duration::from_millis(2));
        let ended = ledger.now().expect("a clock");
        assert!(ledger.note(time, begun, ended), "the first one");
        assert!(!ledger.note(time, begun, ended), "the second one");
        assert_eq!(written(&metrics).count(), 0, "not yet");
        ledger.settle();
        ledger.settle();
        assert_eq!(written(&metrics).count(), 2);
        assert!(written(&metrics).least() >= Some(2_000_000), "nanoseconds");
        let firsts = (0..ROOM + 1).filter(|_| ledger.note(time, begun, ended)).count();
        assert_eq!((firsts, written(&metrics).count()), (2, ROOM as u64 + 2), "when it is full");
        drop(ledger);
        assert_eq!(written(&metrics).count(), ROOM as u64 + 3, "when it ends");
    }

    #[test]
    fn where_callbacks_are_not_timed_no_clock_is_read() {
        let options = Options { callbacks: false, ..Options::default() };
        let ledger = Ledger::new(Arc::new(Metrics::nameless(options).expect("memory")));
        assert!(ledger.now().is_none());
    }
}
