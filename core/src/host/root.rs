//! What a worker offers to every context in it: log, clocks, metrics, what it shares with other workers.

use std::{rc::Rc, sync::Arc};

use super::LogSink;
use crate::{metrics::Metrics, shared::Shared};

/// One worker of the proxy. A cheap handle: cloned into every instance.
pub trait RootHost: LogSink + Clone + std::fmt::Debug + 'static {
    /// Wall clock, in nanoseconds since 1970-01-01T00:00:00Z.
    fn realtime_ns(&self) -> u64;

    /// A clock that never goes back, in nanoseconds since an arbitrary start.
    fn monotonic_ns(&self) -> u64;

    /// Calls [`Shard::idle`](crate::shard::Shard::idle) once, when the worker has nothing else to do.
    fn when_idle(&self);

    /// Calls [`Shard::settle`](crate::shard::Shard::settle) once, within a tenth of a second or so, and before the
    /// worker shows its metrics. Asked again and again until then.
    fn settle_soon(&self);

    /// Calls [`Shard::tick`](crate::shard::Shard::tick) for `root` each `period` milliseconds from now on, first when
    /// one has passed; with 0 no more. A later call takes an earlier one's place.
    fn set_tick(&self, root: RootId, period: u32);

    /// Whether this worker is the one that does for all of them what `claim` stands for: the first that asks, until it
    /// ends. Another one that asks after that takes its place.
    fn leads(&self, claim: u64) -> bool {
        let _ = claim;
        true
    }

    /// The metrics of the server that it belongs to. Asked once for each instance.
    fn metrics(&self) -> Arc<Metrics>;

    /// Shared data and queues, as this process takes part in them. Asked once for each instance. Without them nothing
    /// is found and every write is refused.
    fn shared(&self) -> Option<Rc<Shared>> {
        None
    }
}

/// A root context of a worker: number of its instance's group, and its own number in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId {
    pub(crate) group: usize,
    pub(crate) root: usize,
}
