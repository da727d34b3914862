//! What a worker offers to every context in it: the error log of the cycle it runs by, and clocks.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use weir_core::{
    abi::types::LogLevel,
    host::{LogLine, LogSink, RootHost},
};

use crate::ngx::cycle::Cycle;

/// The worker that runs, or the master while it tries out a configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worker;

impl LogSink for Worker {
    fn log(&self, line: LogLine<'_>) {
        Cycle::with_current(|cycle| cycle.log().write_line(line));
    }

    fn log_level(&self) -> LogLevel {
        Cycle::with_current(|cycle| cycle.log().guest_level())
    }
}

impl RootHost for Worker {
    /// Not nginx's cached time, which stands still while a callback runs: guests measure with this.
    fn realtime_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic_ns(&self) -> u64 {
        // The first one to ask is the master, so all workers count from the same start.
        static START: OnceLock<Instant> = OnceLock::new();
        let since = START.get_or_init(Instant::now).elapsed();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}
