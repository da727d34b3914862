//! A worker of the proxy in memory: its log, its clock, and what root contexts ask for.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::calls;
use crate::{
    abi::types::LogLevel,
    host::{LogLine, LogSink, RootHost, RootId, Speaker},
    metrics::{Metrics, Options, Timing},
    shared::Shared,
};

/// A line that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its severity.
    pub level: LogLevel,
    /// The filter it is about.
    pub filter: String,
    /// Who said it.
    pub speaker: Speaker,
    /// What was said; bytes that are no UTF-8 are replaced.
    pub message: String,
}

/// A worker: collects log lines.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    lines: Rc<RefCell<Vec<Logged>>>,
    level: Rc<Cell<Option<LogLevel>>>,
    passed: Rc<Cell<Duration>>,
    ticks: Rc<RefCell<BTreeMap<RootId, u32>>>,
    idle: Rc<Cell<bool>>,
    unsettled: Rc<Cell<bool>>,
    metrics: Rc<RefCell<Option<Arc<Metrics>>>>,
    shared: Rc<RefCell<Option<Rc<Shared>>>>,
    pub(super) calls: Rc<calls::Log>,
    claims: Rc<RefCell<Option<Vec<u64>>>>,
}

/// What every clock of the proxy in memory shows until it is [set forward](Worker::pass):
/// 2001-09-09T01:46:40.000000001Z.
pub const NOW_NS: u64 = 1_000_000_000_000_000_001;

impl Worker {
    /// The lines logged since this was called last.
    #[must_use]
    pub fn take_log(&self) -> Vec<Logged> {
        self.lines.take()
    }

    /// Sets the clocks forward.
    pub fn pass(&self, time: Duration) {
        self.passed.set(self.passed.get() + time);
    }

    fn now_ns(&self) -> u64 {
        NOW_NS + u64::try_from(self.passed.get().as_nanos()).unwrap_or(u64::MAX - NOW_NS)
    }

    /// Whether [`Shard::idle`](crate::shard::Shard::idle) is to be called; forgets that.
    #[must_use]
    pub fn take_idle(&self) -> bool {
        self.idle.take()
    }

    /// Whether [`Shard::settle`](crate::shard::Shard::settle) is to be called soon; forgets that.
    #[must_use]
    pub fn take_unsettled(&self) -> bool {
        self.unsettled.take()
    }

    /// The root contexts that tick, and their periods in milliseconds.
    #[must_use]
    pub fn ticks(&self) -> Vec<(RootId, u32)> {
        self.ticks.borrow().iter().map(|(root, period)| (*root, *period)).collect()
    }

    /// Keeps metrics as `options` says, in memory, in shards that are made from now on. Without this call Weir counts
    /// nothing itself, so the numbers of a guest's metrics begin at 1.
    ///
    /// # Panics
    /// Without memory.
    pub fn keep_metrics(&self, options: Options) {
        self.metrics.replace(Some(Self::new_metrics(options)));
    }

    fn new_metrics(options: Options) -> Arc<Metrics> {
        let metrics = Metrics::nameless(options).expect("memory for metrics");
        metrics.claim_row(std::process::id(), |_| true);
        Arc::new(metrics)
    }

    /// Instances that are made from now on have a part in the zones of `shared`.
    pub fn share(&self, shared: &Rc<Shared>) {
        self.shared.replace(Some(Rc::clone(shared)));
    }

    /// From now on another worker does what is done in one worker only; the other way round with `false`.
    pub fn follow(&self, follows: bool) {
        self.claims.replace(follows.then(Vec::new));
    }

    /// What was claimed in vain since [`follow`](Self::follow) was called.
    #[must_use]
    pub fn claims(&self) -> Vec<u64> {
        self.claims.borrow().clone().unwrap_or_default()
    }

    /// Drops lines that are less severe than `level`.
    pub fn set_log_level(&self, level: LogLevel) {
        self.level.set(Some(level));
    }
}

impl LogSink for Worker {
    fn log(&self, line: LogLine<'_>) {
        self.lines.borrow_mut().push(Logged {
            level: line.level,
            filter: line.filter.to_owned(),
            speaker: line.speaker,
            message: String::from_utf8_lossy(line.message).into_owned(),
        });
    }

    fn log_level(&self) -> LogLevel {
        self.level.get().unwrap_or(LogLevel::Trace)
    }
}

impl RootHost for Worker {
    fn realtime_ns(&self) -> u64 {
        self.now_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_ns()
    }

    fn when_idle(&self) {
        self.idle.set(true);
    }

    fn settle_soon(&self) {
        self.unsettled.set(true);
    }

    fn set_tick(&self, root: RootId, period: u32) {
        let mut ticks = self.ticks.borrow_mut();
        match period {
            0 => ticks.remove(&root),
            period => ticks.insert(root, period),
        };
    }

    fn leads(&self, claim: u64) -> bool {
        match &mut *self.claims.borrow_mut() {
            Some(claims) => {
                claims.push(claim);
                false
            }
            None => true,
        }
    }

    fn metrics(&self) -> Arc<Metrics> {
        let options = || Options { callbacks: Timing::Off, ..Options::default() };
        Arc::clone(self.metrics.borrow_mut().get_or_insert_with(|| Self::new_metrics(options())))
    }

    fn shared(&self) -> Option<Rc<Shared>> {
        self.shared.borrow().clone()
    }
}
