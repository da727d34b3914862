//! What Weir counts of a filter itself: how long its callbacks take, what they ask for, how they fail.
//!
//! A metric is defined when what it counts happens first, so there are none of callbacks that are never called. Where the
//! administrator has switched this off, nothing is defined and no clock is read.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use super::clock::Moment;
use super::{Id, Kind, Metrics, Own, Slot, Timing, Unit};
use crate::{
    context::{ContextId, ContextsOf},
    failure::Cause,
    filter::Callback,
    host::{Host, RootHost},
    instance::State,
    plan::Plugin,
};

/// Number of callbacks.
const CALLBACKS: usize = Callback::ALL.len();

/// Something that is counted for each callback of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has held the stream.
    Pause,
    /// It has sent a local response.
    LocalResponse,
}

/// Bytes of bodies that go into a guest, or come out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    /// From the proxy's buffers.
    Read,
    /// Into them.
    Written,
}

/// What is known of the metrics of one directive: their numbers, once they are defined. The same in all workers that
/// are forked after that.
#[derive(Debug)]
pub struct Recorder {
    /// No other one in this process, or in those that it was forked from or forks, has it.
    number: u64,
    times: Numbers<CALLBACKS>,
    pauses: Numbers<CALLBACKS>,
    local_responses: Numbers<CALLBACKS>,
    bytes: Numbers<2>,
}

impl Default for Recorder {
    fn default() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self {
            number: MADE.fetch_add(1, Ordering::Relaxed),
            times: Numbers::default(),
            pauses: Numbers::default(),
            local_responses: Numbers::default(),
            bytes: Numbers::default(),
        }
    }
}

impl Recorder {
    /// What tells it from others.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// Numbers of metrics; 0 where one has not been defined.
#[derive(Debug)]
struct Numbers<const N: usize>([AtomicU32; N]);

impl<const N: usize> Default for Numbers<N> {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; N])
    }
}

impl<const N: usize> Numbers<N> {
    /// Number `at`, defined by `define` the first time; `None` where there is no room for it.
    #[inline]
    fn get(&self, at: usize, define: impl FnOnce() -> Option<Id>) -> Option<Id> {
        let number = self.0.get(at)?;
        match number.load(Ordering::Relaxed) {
            0 => {
                // Without room it is tried again: that takes no more than looking.
                let id = define()?;
                number.store(id.0, Ordering::Relaxed);
                Some(id)
            }
            id => Some(Id(id)),
        }
    }
}

const TIME: Own<'_> = Own {
    kind: Kind::Histogram,
    unit: Unit::Nanoseconds,
    family: "weir_callback_duration_seconds",
    transient: true,
    help: "How long callbacks of a filter took.",
};

const PAUSES: Own<'_> = Own {
    kind: Kind::Counter,
    unit: Unit::None,
    family: "weir_callback_pauses",
    transient: true,
    help: "How often a filter has held a stream.",
};

const LOCAL_RESPONSES: Own<'_> = Own {
    kind: Kind::Counter,
    unit: Unit::None,
    family: "weir_local_responses",
    transient: true,
    help: "How often a filter has answered a request itself.",
};

const FAILURES: Own<'_> = Own {
    kind: Kind::Counter,
    unit: Unit::None,
    family: "weir_failures",
    transient: true,
    help: "How often a filter has failed, by callback and cause.",
};

const BYTES: Own<'_> = Own {
    kind: Kind::Counter,
    unit: Unit::Bytes,
    family: "weir_body_bytes",
    transient: true,
    help: "Bytes of bodies and of other buffers that were copied into a filter (read) and out of it (written).",
};

const CONTEXTS: Own<'_> =
    Own::new(Kind::Level, "weir_contexts", "Contexts of requests that live in a worker.");

const DEFERRED: Own<'_> = Own::new(
    Kind::Level,
    "weir_contexts_deferred",
    "Contexts in a worker that have outlived their request and wait for proxy_done.",
);

/// Where a worker counts stream contexts with a request, and without one. Nowhere by default.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Levels([Slot; 2]);

impl Levels {
    /// Those of this process, which has to have its row already.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self([&CONTEXTS, &DEFERRED].map(|own| metrics.slot(own, &[])))
    }

    /// An instance had `before` of each, and has `now`.
    #[inline]
    pub(crate) fn shift(self, metrics: &Metrics, before: [usize; 2], now: [usize; 2]) {
        for (slot, (before, now)) in self.0.into_iter().zip(before.into_iter().zip(now)) {
            if before != now {
                metrics.shift(slot, now.cast_signed() as i64 - before.cast_signed() as i64);
            }
        }
    }
}

/// Defines the metric `own` of a directive; `more` is one label more.
fn define<H: Host>(
    metrics: &Metrics,
    plugin: &Plugin<H>,
    own: &Own<'_>,
    more: &[(&str, &str)],
) -> Option<Id> {
    let mut labels =
        vec![("filter", plugin.filter.spec().name.as_str()), ("directive", plugin.place.as_str())];
    labels.extend_from_slice(more);
    metrics.define_own(own, &labels)
}

/// What a callback is called in labels: `on_request_headers`.
fn label(callback: Callback) -> &'static str {
    let name = callback.name();
    name.strip_prefix("proxy_").unwrap_or(name)
}

/// A callback that is timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    begun: Moment,
    /// Number of its directive's root context.
    root: usize,
}

/// Which callbacks of several are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// Each one's own tally decides.
    Each,
    /// All of them.
    All,
    /// None. [`passed`] counts those that have run, if there is somewhere to count them.
    None {
        /// There is.
        counts: bool,
    },
}

/// Which are timed of `callbacks`, each of which is about to run for each of these root contexts, by their numbers.
#[inline]
pub(crate) fn sampling<H: Host>(
    state: &State<H>,
    roots: impl Iterator<Item = usize>,
    callbacks: &[Option<Callback>],
) -> Sampling {
    let (mut decides, mut is_due) = (None, false);
    for tallies in roots.filter_map(|root| state.contexts.tallies(root)) {
        for callback in callbacks.iter().flatten() {
            if !tallies.is_by_chance(*callback) {
                return Sampling::Each;
            }
            is_due |= tallies.is_due(*callback);
        }
        decides = decides.or(Some(tallies));
    }
    match decides {
        None => Sampling::None { counts: false },
        Some(tallies) if tallies.draw() || is_due => Sampling::All,
        Some(_) => Sampling::None { counts: true },
    }
}

/// These callbacks of a context have run, and were not timed.
#[inline]
pub(crate) fn passed<'a, H: Host>(
    state: &State<H>,
    context: ContextId,
    callbacks: impl IntoIterator<Item = &'a Callback>,
) {
    if let Some(tallies) = state.contexts.root_of(context).and_then(|root| state.contexts.tallies(root)) {
        callbacks.into_iter().for_each(|callback| tallies.pass(*callback));
    }
}

/// `callback` of `context` begins; right then, if it `follows` another, which ended at that moment. It counts. `None` if it
/// is not timed; it is if `always`, where anything is.
#[inline]
pub(crate) fn begin<H: Host>(
    state: &State<H>,
    context: ContextId,
    callback: Callback,
    follows: Option<Moment>,
    always: bool,
) -> Option<Timed> {
    let root = state.contexts.root_of(context)?;
    let tallies = state.contexts.tallies(root)?;
    tallies
        .run(callback, always)
        .then(|| Timed { begun: follows.unwrap_or_else(|| state.ledger.now()), root })
}

/// A `callback` that is timed has ended; answers when.
#[inline]
pub(crate) fn end<H: Host>(state: &State<H>, callback: Callback, timed: Timed) -> Moment {
    let ended = state.ledger.now();
    let Some(tallies) = state.contexts.tallies(timed.root) else { return ended };
    let known = || {
        let plugin = state.contexts.plugin(ContextsOf::<H>::root_id(timed.root))?;
        let define = || define(&state.metrics, plugin, &TIME, &[("callback", label(callback))]);
        plugin.recorder.times.get(callback as usize, define)
    };
    if let Some(histogram) = tallies.histogram(callback, known)
        && state.ledger.note((timed.begun, ended), histogram, tallies, callback)
    {
        state.root.settle_soon();
    }
    ended
}

/// A callback of `plugin` has had an effect.
pub(crate) fn event<H: Host>(metrics: &Metrics, plugin: &Plugin<H>, callback: Callback, event: Event) {
    if metrics.options().callbacks == Timing::Off {
        return;
    }
    let (numbers, own) = match event {
        Event::Pause => (&plugin.recorder.pauses, &PAUSES),
        Event::LocalResponse => (&plugin.recorder.local_responses, &LOCAL_RESPONSES),
    };
    let define = || define(metrics, plugin, own, &[("callback", label(callback))]);
    if let Some(id) = numbers.get(callback as usize, define) {
        metrics.add(id, 1);
    }
}

/// The guest has read or written `count` bytes of a buffer.
#[inline]
pub(crate) fn copied<H: Host>(state: &State<H>, copied: Copied, count: usize) {
    let metrics = &state.metrics;
    if metrics.options().callbacks == Timing::Off {
        return;
    }
    let Some(plugin) = state.contexts.effective_plugin() else { return };
    let define = || {
        let operation = if copied == Copied::Read { "read" } else { "written" };
        define(metrics, plugin, &BYTES, &[("operation", operation)])
    };
    if let Some(id) = plugin.recorder.bytes.get(copied as usize, define) {
        metrics.add(id, count as u64);
    }
}

/// A callback of `plugin` has failed. This is seldom, and looks its metric up by name.
pub(crate) fn failed<H: Host>(metrics: &Metrics, plugin: &Plugin<H>, callback: Callback, cause: &Cause) {
    if metrics.options().callbacks == Timing::Off {
        return;
    }
    let labels = [("callback", label(callback)), ("cause", cause.label())];
    if let Some(id) = define(metrics, plugin, &FAILURES, &labels) {
        metrics.add(id, 1);
    }
}
