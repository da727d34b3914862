//! A worker: its shard of instances and its epoch thread, made when the worker starts and dropped when it ends.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    rc::Rc,
    sync::Arc,
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use weir_core::{
    engine::{Engine, Ticker},
    filter::symbols::Symbol,
    host::RootHost,
    metrics::{Metrics, pulse::Pulse},
    plan::Plans,
    shard::{Rules, Shard},
    shared::{Shared, Zones},
};

use crate::{
    calls::{Client, Settings},
    conf::{Main, calls::AllRules},
    host::{Ngx, root::Worker},
    ngx::{
        again::Again,
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
    /// When a process that could not begin tries again.
    again: Again,
    /// It could not begin, and has said so.
    has_failed: Cell<bool>,
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
    pub(crate) fn new(
        engine: Arc<Engine>,
        plans: Arc<Plans<Ngx>>,
        root: Worker,
        zones: Arc<Zones>,
        rules: Rules,
        calls: (Settings, Rc<AllRules>),
        perf_map: bool,
    ) -> Self {
        let (running, again, has_failed) = (RefCell::new(None), Again::new(), Cell::new(false));
        Self { engine, plans, root, zones, rules, calls, perf_map, running, again, has_failed }
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
            let watch = listen(&shared)?;
            let (settings, allowed) = &self.calls;
            let client = Client::new(settings.clone());
            let worker = self.root.sharing(Rc::clone(&shared)).with(Rc::clone(&timers));
            let worker = worker.calling(Rc::clone(&client), Rc::clone(allowed));
            let shard = Rc::new(Shard::with_rules(Arc::clone(&self.plans), worker, self.rules));
            timers.serve(&shard);
            client.serve(&shard);
            shard.start();
            let perf_map = self.perf_map.then(|| write_perf_map(&self.plans)).flatten();
            *running = Some(Running { _watch: watch, shard, client, _ticker: ticker, _perf_map: perf_map });
        }
        Ok(())
    }

    /// Where guests' functions are, for profilers.
    pub(crate) fn symbols(&self) -> Vec<Symbol> {
        self.plans.symbols()
    }

    /// Begins to run requests, or says why not, and tries again in time.
    fn begin(&self) {
        let started = self.start();
        Cycle::with_current(|cycle| match started {
            Ok(()) if self.has_failed.replace(false) => {
                cycle.log().write(Level::Warn, "weir: this worker runs filters now");
            }
            Ok(()) => {}
            Err(error) => {
                if !self.has_failed.replace(true) {
                    cycle.log().write(
                        Level::Alert,
                        format_args!(
                            "weir: this worker cannot run filters; it tries again each second, and \"proxy_wasm_failure\" \
                             says what becomes of requests meanwhile: {error}"
                        ),
                    );
                }
                self.again.begin();
            }
        });
    }

    /// The shard of this process; `None` while it cannot run filters, which has been logged.
    ///
    /// A worker has made it when it started. It is made here only where no `init_process` has run for this
    /// configuration: without a master process, after a reload.
    pub(crate) fn shard(&self) -> Option<Rc<Shard<Ngx>>> {
        let running =
            |runtime: &Self| runtime.running.borrow().as_ref().map(|running| Rc::clone(&running.shard));
        if let Some(shard) = running(self) {
            return Some(shard);
        }
        if self.again.is_set() {
            return None;
        }
        self.begin();
        running(self)
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

/// A process begins to run requests by `main`. Where it cannot run filters it serves what passes none.
pub(crate) fn init(main: &Main) {
    // The cache manager and its loader never see a request.
    if Process::current() != Process::Server {
        return;
    }
    if let Some(metrics) = main.metrics.get() {
        lengthen(metrics);
        metrics.claim_row(std::process::id(), is_alive);
    }
    // Without a chain there is nothing to run.
    if let Some(runtime) = main.runtime.get() {
        runtime.begin();
    }
}

/// Gives the file of metrics its length back, where somebody has shortened it: the workers that have run until then were
/// killed for touching what was cut off.
fn lengthen(metrics: &Metrics) {
    let lost = "the file of metrics has been shortened while nginx runs, which kills workers (SIGBUS)";
    let advice = "reload nginx, which makes a new one";
    let (level, outcome) = match metrics.lengthen() {
        Ok(false) => return,
        Ok(true) => (Level::Error, "it has its length again, but not all that was in it".to_owned()),
        Err(error) => (Level::Alert, format!("it cannot be made as long as it was: {error}")),
    };
    Cycle::with_current(|cycle| cycle.log().write(level, format_args!("weir: {lost}; {outcome}: {advice}")));
}

/// Some time after a process could not begin to run filters by `main`.
pub(crate) fn start_again(main: &Main) {
    if let Some(runtime) = main.runtime.get() {
        runtime.begin();
    }
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
