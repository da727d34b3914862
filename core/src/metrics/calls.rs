//! What Weir counts of the calls that filters make: how many there are, how long they take, how they end.
//!
//! Names of upstreams come from filters, so there is a bound to how many are told apart.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use super::{Id, Kind, Metrics, Own, Slot, Unit, clock::Moment, ledger::clock};
use crate::host::calls::{CallError, CallEvent};

/// Most upstreams that a worker tells apart; calls of all further ones are counted as one's.
const MOST: usize = 256;

/// Most bytes of an upstream's name in a label.
const NAME: usize = 128;

/// What those are called that are not told apart. No upstream of nginx' has such a name.
const OTHERS: &str = "(other)";

/// How a call ends that nobody waits for any more.
const CANCELLED: &str = "cancelled";

const LIVE: Own<'_> = Own::new(Kind::Level, "weir_calls_live", "Calls of filters that have not ended.");
const CALLS: Own<'_> = Own::new(
    Kind::Counter,
    "weir_calls",
    "Calls of filters that have ended, by upstream and how they ended.",
);
const REFUSED: Own<'_> =
    Own::new(Kind::Counter, "weir_calls_refused", "Calls of filters that were not begun, by reason.");
const TIME: Own<'_> = Own::new(
    Kind::Histogram,
    "weir_call_duration_seconds",
    "How long calls of filters took until they were answered, or had failed.",
)
.of(Unit::Nanoseconds);

/// The upstreams of one filter, by their names.
type Upstreams = HashMap<Vec<u8>, Rc<Upstream>>;

/// The calls of one worker.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    metrics: Arc<Metrics>,
    live: Slot,
    /// By name of the filter.
    known: RefCell<HashMap<String, Upstreams>>,
    /// The one that was called last, which is often the next one too: comparing takes less than looking it up.
    last: RefCell<Option<Rc<Upstream>>>,
    /// How many are known.
    count: Cell<usize>,
}

/// What is counted of one filter's calls of one upstream.
#[derive(Debug)]
struct Upstream {
    filter: String,
    name: String,
    time: Option<Id>,
    /// By how calls have ended.
    outcomes: RefCell<Vec<(&'static str, Slot)>>,
}

/// A call that is being timed.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    upstream: Rc<Upstream>,
    begun: Moment,
}

impl Upstream {
    /// Whether it is the upstream `name` of `filter`. One whose name is not UTF-8 is never, and is looked up.
    fn is(&self, filter: &str, name: &[u8]) -> bool {
        self.filter == filter && self.name.as_bytes() == name
    }
}

impl CallMetrics {
    /// For the worker that calls this, which has its row.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let live = metrics.slot(&LIVE, &[]);
        Self { metrics, live, known: RefCell::default(), last: RefCell::default(), count: Cell::new(0) }
    }

    /// So many calls live now.
    pub(crate) fn live(&self, count: usize) {
        self.metrics.put(self.live, count as u64);
    }

    /// `filter` makes a call of `upstream`.
    pub(crate) fn begin(&self, filter: &str, upstream: &[u8]) -> Meter {
        let last = self.last.borrow().as_ref().filter(|last| last.is(filter, upstream)).cloned();
        let upstream = last.unwrap_or_else(|| {
            let upstream = self.upstream(filter, upstream);
            self.last.replace(Some(Rc::clone(&upstream)));
            upstream
        });
        Meter { upstream, begun: clock().now() }
    }

    fn upstream(&self, filter: &str, name: &[u8]) -> Rc<Upstream> {
        let mut known = self.known.borrow_mut();
        if let Some(found) = known.get(filter).and_then(|upstreams| upstreams.get(name)) {
            return Rc::clone(found);
        }
        let told_apart = name.len() <= NAME && self.count.get() < MOST;
        let name = if told_apart { name } else { OTHERS.as_bytes() };
        let upstreams = known.entry(filter.to_owned()).or_default();
        let made = || {
            self.count.set(self.count.get() + 1);
            let name = String::from_utf8_lossy(name).into_owned();
            let time = self.metrics.define_own(&TIME, &[("filter", filter), ("upstream", &name)]);
            Rc::new(Upstream { filter: filter.to_owned(), name, time, outcomes: RefCell::default() })
        };
        Rc::clone(upstreams.entry(name.to_vec()).or_insert_with(made))
    }

    /// A call has ended by `event`, the last one; `None`: by us, who were told what cannot be.
    pub(crate) fn ended(&self, meter: &Meter, event: Option<&'static str>) {
        let Meter { upstream, begun } = meter;
        if let Some(time) = upstream.time {
            self.metrics.observe(time, clock().since(*begun));
        }
        self.count(upstream, event.unwrap_or("protocol"));
    }

    /// Nobody waits for a call any more.
    pub(crate) fn cancelled(&self, meter: &Meter) {
        self.count(&meter.upstream, CANCELLED);
    }

    fn count(&self, upstream: &Upstream, outcome: &'static str) {
        let mut outcomes = upstream.outcomes.borrow_mut();
        let slot = match outcomes.iter().find(|(known, _)| *known == outcome) {
            Some((_, slot)) => *slot,
            None => {
                let labels =
                    [("filter", &*upstream.filter), ("upstream", &*upstream.name), ("outcome", outcome)];
                let slot = self.metrics.slot(&CALLS, &labels);
                outcomes.push((outcome, slot));
                slot
            }
        };
        self.metrics.count(slot, 1);
    }

    /// A call of `filter` was not begun. This is seldom, and looks its metric up by name.
    pub(crate) fn refused(&self, filter: &str, error: &CallError) {
        let reason = match error {
            CallError::Unknown(_) => "unknown",
            CallError::Refused(_) => "refused",
            CallError::Overloaded(_) => "overloaded",
        };
        if let Some(id) = self.metrics.define_own(&REFUSED, &[("filter", filter), ("reason", reason)]) {
            self.metrics.add(id, 1);
        }
    }
}

/// The word for how a call ends by `event`; `None` while it goes on.
pub(crate) fn outcome(event: &CallEvent) -> Option<&'static str> {
    Some(match event {
        CallEvent::Response(response) => {
            let status = response.headers.iter().next().filter(|(name, _)| *name == b":status");
            match status.and_then(|(_, value)| value.first()) {
                Some(b'2') => "2xx",
                Some(b'3') => "3xx",
                Some(b'4') => "4xx",
                Some(b'5') => "5xx",
                _ => "other",
            }
        }
        CallEvent::Failed(failure) => failure.word(),
        CallEvent::Closed(closed) => match closed.failure {
            Some(failure) => failure.word(),
            None if closed.status == 0 => "ok",
            None => "status",
        },
        CallEvent::Resolved(_) => "ok",
        CallEvent::InitialMetadata(_) | CallEvent::Message(_) | CallEvent::TrailingMetadata(_) => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CallMetrics, MOST};
    use crate::metrics::{Metrics, Options, catalog::Catalog};

    #[test]
    fn there_is_a_bound_to_names() {
        let metrics = Arc::new(Metrics::nameless(Options::default()).expect("memory"));
        let calls = CallMetrics::new(Arc::clone(&metrics));
        for number in 0..1000 {
            let meter = calls.begin("f", format!("upstream {number}").as_bytes());
            calls.ended(&meter, Some("2xx"));
        }
        let long = calls.begin("f", &[b'x'; 1000]);
        calls.ended(&long, Some("2xx"));
        let mut catalog = Catalog::new();
        catalog.learn(metrics.words(), usize::MAX);
        let series = catalog.series();
        let of = |family: &str| series.iter().filter(|one| one.family.name == family).count();
        assert_eq!([of("weir_calls"), of("weir_call_duration_seconds")], [MOST + 1; 2]);
        assert!(series.iter().any(|one| one.labels.contains("upstream=\"(other)\"")));
    }
}
