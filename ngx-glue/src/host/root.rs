//! What a worker offers to every context in it: the error log of the cycle it runs by, clocks, metrics.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use weir_core::{
    abi::types::LogLevel,
    host::{LogLine, LogSink, RootHost, RootId, Speaker},
    metrics::Metrics,
    shared::{Claims, Shared},
};

use crate::{
    calls::Client,
    conf::calls::AllRules,
    ngx::{
        cycle::{self, Cycle},
        timer::Timers,
    },
};

/// What one worker does for all of them. Made in the master when a configuration first needs it; workers of later
/// configurations have the same.
static CLAIMS: OnceLock<Claims> = OnceLock::new();

/// Makes what workers claim, if that has not been done.
///
/// # Errors
/// When the system has no file to give.
pub(crate) fn prepare_claims() -> io::Result<()> {
    if CLAIMS.get().is_none() {
        // The master has one thread.
        let _ = CLAIMS.set(Claims::new()?);
    }
    Ok(())
}

/// The worker that runs, or the master while it tries out a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    metrics: Arc<Metrics>,
    /// `None` in the master, where nothing ticks.
    timers: Option<Rc<Timers>>,
    /// This process's part in what workers share.
    shared: Option<Rc<Shared>>,
    /// Who makes its calls, and what is allowed; `None` in the master.
    pub(super) calls: Option<(Rc<Client>, Rc<AllRules>)>,
}

impl Worker {
    /// The master, which tries a configuration out.
    pub(crate) const fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, timers: None, shared: None, calls: None }
    }

    /// The same with a part in what workers share.
    pub(crate) fn sharing(&self, shared: Rc<Shared>) -> Self {
        Self { shared: Some(shared), ..self.clone() }
    }

    /// The same with somebody who makes calls.
    pub(crate) fn calling(&self, client: Rc<Client>, allowed: Rc<AllRules>) -> Self {
        Self { calls: Some((client, allowed)), ..self.clone() }
    }

    /// The worker that runs, with timers for its root contexts.
    pub(crate) fn with(&self, timers: Rc<Timers>) -> Self {
        Self { timers: Some(timers), ..self.clone() }
    }
}

/// A line that waits for the log that the configuration names.
#[derive(Debug)]
struct Waiting {
    level: LogLevel,
    filter: String,
    speaker: Speaker,
    message: Vec<u8>,
}

/// Most lines that wait: a filter that logs without end while it is configured must not take all memory.
const MOST_WAITING: usize = 1000;

thread_local! {
    /// Lines of a configuration that is being read; `None` at any other time.
    static WAITING: RefCell<Option<Vec<Waiting>>> = const { RefCell::new(None) };
}

/// While `body` runs, keeps lines that the log of before the configuration does not take, since it is set to its own
/// level: [`write_waiting`] gives them to the log that the configuration names.
pub(crate) fn keep_waiting<T>(body: impl FnOnce() -> T) -> T {
    WAITING.set(Some(Vec::new()));
    body()
}

/// Writes what has waited to the log of `cycle`.
pub(crate) fn write_waiting(cycle: Cycle<'_>) {
    for line in WAITING.take().unwrap_or_default() {
        let Waiting { level, filter, speaker, message } = &line;
        cycle.log().write_line(LogLine { level: *level, filter, speaker: *speaker, message });
    }
}

/// Writes a line to the log of this process, or keeps it for the log that a configuration names.
pub(crate) fn log(line: LogLine<'_>) {
    let taken_now = Cycle::with_current(|cycle| {
        let taken = line.level >= cycle.log().guest_level();
        if taken {
            cycle.log().write_line(line);
        }
        taken
    });
    if taken_now {
        return;
    }
    WAITING.with_borrow_mut(|waiting| {
        if let Some(waiting) = waiting.as_mut().filter(|waiting| waiting.len() < MOST_WAITING) {
            waiting.push(Waiting {
                level: line.level,
                filter: line.filter.to_owned(),
                speaker: line.speaker,
                message: line.message.to_vec(),
            });
        }
    });
}

/// The least severe level that [`log`] takes.
pub(crate) fn log_level() -> LogLevel {
    let now = Cycle::with_current(|cycle| cycle.log().guest_level());
    if WAITING.with_borrow(Option::is_some) { now.min(LogLevel::Trace) } else { now }
}

impl LogSink for Worker {
    fn log(&self, line: LogLine<'_>) {
        log(line);
    }

    fn log_level(&self) -> LogLevel {
        log_level()
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

    fn when_idle(&self) {
        if let Some(timers) = &self.timers {
            timers.when_idle();
        }
    }

    fn settle_soon(&self) {
        if let Some(timers) = &self.timers {
            timers.settle_soon();
        }
    }

    fn set_tick(&self, root: RootId, period: u32) {
        if let Some(timers) = &self.timers {
            timers.set(root, period);
        }
    }

    /// A worker that ends leaves it to those that have taken its place.
    fn leads(&self, claim: u64) -> bool {
        let Some(claims) = CLAIMS.get() else { return true };
        if cycle::is_ending() {
            claims.give_up();
            return false;
        }
        claims.claim(claim)
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    fn shared(&self) -> Option<Rc<Shared>> {
        self.shared.clone()
    }
}
