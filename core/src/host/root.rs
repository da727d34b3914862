//! What a worker offers to every context in it: log, clocks.

use super::LogSink;

/// One worker of the proxy. A cheap handle: cloned into every instance.
pub trait RootHost: LogSink + Clone + std::fmt::Debug + 'static {
    /// Wall clock, in nanoseconds since 1970-01-01T00:00:00Z.
    fn realtime_ns(&self) -> u64;

    /// A clock that never goes back, in nanoseconds since an arbitrary start.
    fn monotonic_ns(&self) -> u64;
}
