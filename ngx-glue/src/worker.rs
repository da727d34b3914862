//! A worker: its shard of instances and its epoch thread, made when the worker starts and dropped when it ends.

use std::{cell::RefCell, fmt, io, rc::Rc, sync::Arc};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use weir_core::{
    engine::{Engine, Ticker},
    filter::symbols::Symbol,
    host::RootHost,
    metrics::pulse::Pulse,
    plan::Plans,
    shard::{Rules, Shard},
    shared::{Shared, Zones},
};

use crate::{
    calls::{Client, Settings},
    conf::{Main, calls::AllRules},
    host::{Ngx, root::Worker},
    ngx::{
        cycle::{Cycle, Process},
        log::Level,
        timer::Timers,
        watch::Watch,
    },
    perf_map::PerfMap,
};

/// What one configuration's chains run on. Made in the master; each worker has its own copy through fork, and makes
/// its own shard in it.
pub(crate) struct Runtime {
    engine: Arc<Engine>,
    plans: Arc<Plans<Ngx>>,
    root: Worker,
    rules: Rules,
    /// What is said of calls, and what of them is allowed.
    calls: (Settings, Rc<AllRules>),
    zones: Arc<Zones>,
    /// Whether a process that runs requests writes down where guests' functions are.
    perf_map: bool,
    running: RefCell<Option<Running>>,
}

/// What only a process that runs requests has.
struct Running {
    /// By which it hears of messages.
    _watch: Option<Watch>,
    shard: Rc<Shard<Ngx>>,
    client: Rc<Client>,
    /// Makes the epochs pass that callbacks are bounded by.
    _ticker: Ticker,
    _perf_map: Option<PerfMap>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("engine", &self.engine)
            .field("running", &self.running.borrow().is_some())
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime that does not run yet.
    pub(crate) const fn new(
        engine: Arc<Engine>,
        plans: Arc<Plans<Ngx>>,
        root: Worker,
        zones: Arc<Zones>,
        rules: Rules,
        calls: (Settings, Rc<AllRules>),
        perf_map: bool,
    ) -> Self {
        Self { engine, plans, root, zones, rules, calls, perf_map, running: RefCell::new(None) }
    }

    /// Starts the epoch thread and makes the shard, if that has not been done.
    ///
    /// # Errors
    /// When the system has no thread to give, or nginx no connection.
    fn start(&self) -> io::Result<()> {
        let mut running = self.running.borrow_mut();
        if running.is_none() {
            let metrics = self.root.metrics();
            if !metrics.has_row() {
                metrics.claim_row(std::process::id(), is_alive);
            }
            let mut pulse = Pulse::new(&metrics, &self.zones, self.engine.settings().tick);
            let ticker = self.engine.watched_ticker(move |beat| pulse.beat(beat)).map_err(|error| {
                let advice = "raise the limit of processes of the user that workers run as";
                io::Error::new(error.kind(), format!("the system has no thread to give, {advice}: {error}"))
            })?;
            let timers = Rc::new(Timers::default());
            let shared = Shared::new(&self.zones);
            shared.join();
            let (settings, allowed) = &self.calls;
            let client = Client::new(settings.clone());
            let worker = self.root.sharing(Rc::clone(&shared)).with(Rc::clone(&timers));
            let worker = worker.calling(Rc::clone(&client), Rc::clone(allowed));
            let shard = Rc::new(Shard::with_rules(Arc::clone(&self.plans), worker, self.rules));
            timers.serve(&shard);
            client.serve(&shard);
            shard.start();
            let perf_map = self.perf_map.then(|| write_perf_map(&self.plans)).flatten();
            let watch = listen(&shared)?;
            *running = Some(Running { _watch: watch, shard, client, _ticker: ticker, _perf_map: perf_map });
        }
        Ok(())
    }

    /// Where guests' functions are, for profilers.
    pub(crate) fn symbols(&self) -> Vec<Symbol> {
        self.plans.symbols()
    }

    /// The shard of this process.
    ///
    /// A worker has made it when it started. It is made here only where no `init_process` has run for this
    /// configuration: without a master process, after a reload. `None`, and logged, when that fails.
    pub(crate) fn shard(&self) -> Option<Rc<Shard<Ngx>>> {
        let running =
            |runtime: &Self| runtime.running.borrow().as_ref().map(|running| Rc::clone(&running.shard));
        if let Some(shard) = running(self) {
            return Some(shard);
        }
        match self.start() {
            Ok(()) => running(self),
            Err(error) => {
                Cycle::with_current(|cycle| {
                    cycle.log().write(Level::Alert, format_args!("weir: cannot start: {error}"));
                });
                None
            }
        }
    }

    /// Everything that this process has measured can be seen in its metrics, if it runs requests.
    pub(crate) fn settle(&self) {
        if let Some(running) = self.running.borrow().as_ref() {
            running.shard.settle();
        }
    }

    fn stop(&self) {
        // Taken out first: dropping a shard ends root contexts, which may log.
        let running = self.running.take();
        if let Some(running) = &running {
            running.client.stop();
        }
        drop(running);
    }
}

/// A process begins to run requests by `main`. Answers whether it can; what is wrong has been logged.
pub(crate) fn init(main: &Main, cycle: Cycle<'_>) -> bool {
    // The cache manager and its loader never see a request.
    if Process::current() != Process::Server {
        return true;
    }
    if let Some(metrics) = main.metrics.get() {
        metrics.claim_row(std::process::id(), is_alive);
    }
    // Without a chain there is nothing to run.
    let Some(runtime) = main.runtime.get() else { return true };
    runtime
        .start()
        .inspect_err(|error| {
            cycle.log().write(Level::Emerg, format_args!("weir: cannot start: {error}"));
        })
        .is_ok()
}

/// Writes down where guests' functions are; what is wrong is logged, and stops nothing.
fn write_perf_map(plans: &Plans<Ngx>) -> Option<PerfMap> {
    PerfMap::write(plans)
        .inspect_err(|error| {
            Cycle::with_current(|cycle| {
                let log = cycle.log();
                log.write(Level::Warn, format_args!("weir: no map for perf could be written: {error}"));
            });
        })
        .ok()
}

/// Begins to listen for messages in queues; `None` where too many processes do already.
fn listen(shared: &Shared) -> io::Result<Option<Watch>> {
    let Some(waker) = shared.waker() else { return Ok(None) };
    let descriptor = waker.descriptor().try_clone_to_owned()?;
    let watch = Cycle::with_current(|cycle| Watch::new(descriptor, cycle));
    let none = || io::Error::other("nginx has no connection left to listen for messages in queues by");
    watch.map(Some).ok_or_else(none)
}

/// Other workers, or this one, have put messages into queues.
pub(crate) fn queues_ready(main: &Main) {
    if let Some(shard) = main.runtime.get().and_then(|runtime| runtime.shard()) {
        shard.queues_ready();
    }
}

/// What zones of another size had goes over into those of this configuration, which is good. In the master.
pub(crate) fn take_over(main: &Main, cycle: Cycle<'_>) {
    let Some(runtime) = main.runtime.get() else { return };
    for (zone, problem) in runtime.zones.take_over() {
        cycle.log().write(Level::Warn, format_args!("weir: zone \"{zone}\" {problem}"));
    }
}

/// A process ends: root contexts end with it, and its epoch thread.
pub(crate) fn exit(main: &Main) {
    if let Some(runtime) = main.runtime.get() {
        runtime.stop();
    }
    // After the last callbacks.
    if let Some(metrics) = main.metrics.get() {
        metrics.release_row(std::process::id());
    }
}

/// Whether process `pid` runs.
fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // A process of another user's is alive too.
    test_kill_process(pid) != Err(Errno::SRCH)
}
