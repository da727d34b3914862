//! What the guest's hostcalls find: the data of its store.

use std::{rc::Rc, sync::Arc};

use wasmtime::{Memory, TypedFunc};

use crate::{
    abi::{
        status::{Hostcall, HostcallError, Status},
        types::LogLevel,
    },
    calls::{Pending, Seat},
    context::{ContextId, Contexts, ContextsOf},
    filter::{Callback, Filter},
    host::{Host, LogLine, LogSink, RootHost, RootId, Speaker},
    instance::{
        answer::Answer,
        bounds::Bounds,
        series::{Globals, Running},
    },
    metrics::{Metrics, Scope, ledger::Ledger, recorder::Levels},
    shared::Shared,
    wasi::{Output, Random},
};

/// What the guest's hostcalls find: the data of its store.
pub struct State<H: Host> {
    pub(crate) filter: Arc<Filter<H>>,
    pub(crate) root: H::Root,
    pub(crate) contexts: ContextsOf<H>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocator: Option<TypedFunc<i32, i32>>,
    /// How much memory and how large a table it may have.
    pub(super) bounds: Bounds,
    /// The guest's allocator runs for us: bytes of the host are lent out.
    pub(crate) allocating: bool,
    /// Which callback runs: `proxy_get_configuration` and the configuration buffers depend on it.
    pub(crate) callback: Callback,
    /// It may be another one by now, since several are called in a row.
    pub(super) series: Option<Running>,
    /// Where the guest notes which one; `None` before the first series.
    pub(super) globals: Option<Globals>,
    /// What the callback that runs has asked the proxy for.
    pub(crate) asked: Asked,
    /// A metric could not be defined, which has been warned of.
    pub(crate) warned_metrics: bool,
    /// Where metrics are.
    pub(crate) metrics: Arc<Metrics>,
    /// Where the times of callbacks go at first.
    pub(crate) ledger: Rc<Ledger>,
    /// Which of them are this guest's.
    pub(crate) scope: Scope,
    /// Where in the worker it lives; `None` for an instance that ends with its request, or is only rehearsed.
    pub(crate) place: Option<Place>,
    /// What it has begun to write on its standard output and error.
    pub(crate) output: Output,
    /// Random numbers have been drawn.
    pub(crate) drew_random: bool,
    /// Random numbers that the worker holds ready; `None` while a configuration is rehearsed.
    pub(crate) random: Option<Rc<Random>>,
    /// What it shares with instances of other workers.
    pub(crate) shared: Option<Rc<Shared>>,
    /// The worker's calls; `None` while a configuration is rehearsed.
    pub(crate) calls: Option<Rc<Pending<H>>>,
    /// Where the instance is found.
    pub(crate) seat: Rc<Seat<H>>,
    /// How many calls were asked for while the configuration is rehearsed.
    pub(super) rehearsed_calls: u32,
    /// What the callback that runs is told of a call.
    pub(crate) answer: Option<Rc<Answer>>,
    /// Queues that were registered in a request whose instance is its own, with the numbers of their root contexts: at
    /// most as many as there are. The worker's instance is to be told of them.
    pub(crate) asked_queues: Vec<(usize, u32)>,
    /// How many stream contexts with and without a request the worker's numbers know of.
    counted: [usize; 2],
    levels: Levels,
}

/// What instances are made in: a worker, or the master, which tries a configuration out.
#[derive(Debug)]
pub(crate) struct Home<H: Host> {
    pub(crate) root: H::Root,
    /// The worker's calls; `None` in the master, where none can be made.
    pub(crate) calls: Option<Rc<Pending<H>>>,
    /// The worker's random numbers; `None` in the master: what it held ready would be every worker's.
    pub(crate) random: Option<Rc<Random>>,
    /// Where the worker counts contexts; nowhere in the master.
    pub(crate) levels: Levels,
    /// Where it notes how long callbacks take.
    pub(crate) ledger: Rc<Ledger>,
}

impl<H: Host> Home<H> {
    /// Where a configuration is only tried out.
    pub(crate) fn rehearsal(root: H::Root) -> Self {
        let ledger = Rc::new(Ledger::new(root.metrics()));
        Self { root, calls: None, random: None, levels: Levels::default(), ledger }
    }
}

/// Where an instance lives that lasts as long as its worker: the number of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) usize);

impl Place {
    /// What the proxy knows root context number `root` by.
    pub(crate) fn root(self, root: usize) -> RootId {
        RootId { group: self.0, root }
    }
}

/// What a callback asked the proxy for, besides its return value, and in which context: that need not be the one that
/// was called (`proxy_set_effective_context`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A local response was recorded.
    pub(crate) local_response: ContextId,
    /// The stream is to be closed.
    pub(crate) close: ContextId,
    /// What is held of requests and of responses is to go on.
    pub(crate) resume: [ContextId; 2],
}

impl Default for Asked {
    fn default() -> Self {
        Self { local_response: ContextId::NONE, close: ContextId::NONE, resume: [ContextId::NONE; 2] }
    }
}

impl<H: Host> std::fmt::Debug for State<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("callback", &self.callback).finish_non_exhaustive()
    }
}

impl<H: Host> State<H> {
    /// The state of a new instance of `filter`.
    pub(super) fn new(filter: &Arc<Filter<H>>, home: &Home<H>) -> Self {
        let root = &home.root;
        let metrics = root.metrics();
        let limits = &filter.engine().settings().limits;
        Self {
            filter: Arc::clone(filter),
            root: root.clone(),
            contexts: Contexts::new(),
            memory: None,
            allocator: None,
            bounds: Bounds::new(limits),
            allocating: false,
            callback: Callback::Initialize,
            series: None,
            globals: None,
            asked: Asked::default(),
            warned_metrics: false,
            scope: metrics.scope(&filter.spec().name),
            metrics,
            ledger: Rc::clone(&home.ledger),
            output: Output::default(),
            drew_random: false,
            random: home.random.clone(),
            place: None,
            shared: root.shared(),
            calls: home.calls.clone(),
            seat: Rc::default(),
            rehearsed_calls: 0,
            answer: None,
            asked_queues: Vec::new(),
            counted: [0; 2],
            levels: home.levels,
        }
    }

    /// A callback of `context` begins, which has asked for nothing yet.
    #[inline]
    pub(super) fn begin(&mut self, context: ContextId, callback: Callback) {
        self.contexts.set_effective(context);
        self.callback = callback;
        self.asked = Asked::default();
    }

    /// Makes it what it was when the instance began, but for its root contexts. Calls are cancelled.
    pub(super) fn reset(&mut self) {
        if self.contexts.calls() > 0 {
            let calls = self.contexts.take_all_calls();
            self.end_calls(calls);
        }
        self.contexts.reset();
        self.recount();
        self.allocating = false;
        self.asked = Asked::default();
    }

    /// Tells the worker's numbers how many stream contexts there are now.
    pub(super) fn recount(&mut self) {
        let now = [self.contexts.live(), self.contexts.deferred()];
        let before = std::mem::replace(&mut self.counted, now);
        self.levels.shift(&self.metrics, before, now);
    }

    /// Writes a log line in the effective context's place: its request's log, else the worker's. What is more than a
    /// filter may log is dropped: the guest's own lines, and ours about what it does.
    pub(crate) fn log(&self, level: LogLevel, speaker: Speaker, message: &[u8]) {
        if level < self.log_level() {
            return;
        }
        let (quota, now) = (self.filter.quota(), || self.root.monotonic_ns());
        if !quota.take(now()) {
            return;
        }
        if let Some(dropped) = quota.note(now) {
            self.write(LogLevel::Warn, Speaker::Weir, quota.sentence(dropped).as_bytes());
        }
        self.write(level, speaker, message);
    }

    fn write(&self, level: LogLevel, speaker: Speaker, message: &[u8]) {
        let line = LogLine { level, filter: &self.filter.spec().name, speaker, message };
        match self.contexts.effective_host() {
            Some(stream) => stream.log(line),
            None => self.root.log(line),
        }
    }

    /// The least severe level that is logged at all, in the effective context's place.
    pub(crate) fn log_level(&self) -> LogLevel {
        self.contexts.effective_host().map_or_else(|| self.root.log_level(), LogSink::log_level)
    }

    /// The effective context's request; `None` in a root context, and once the request is gone.
    ///
    /// # Errors
    /// A trap when the guest's allocator asks for it: what the host lends must not change while it runs.
    pub(crate) fn stream(&self) -> Hostcall<Option<H::Stream>> {
        if self.allocating {
            return Err(HostcallError::Trap(wasmtime::Error::msg(
                "the guest's allocator called a host function that reaches the request",
            )));
        }
        Ok(self.contexts.effective_host().cloned())
    }

    /// A warning of ours about what the guest does.
    pub(crate) fn warn(&self, message: &str) {
        self.log(LogLevel::Warn, Speaker::Weir, message.as_bytes());
    }

    /// `status`, or `other` where the SDK would panic at that. What went wrong has been logged.
    pub(crate) fn surviving(&self, status: Status, other: Status) -> Status {
        if self.filter.panics_on_status() { other } else { status }
    }

    /// The effective context's root has registered `queue`. In an instance that lasts it is told of messages from now
    /// on; while a configuration is rehearsed that is noted. A request's own instance is not there any more by then: the
    /// worker's is told in its place ([`asked_queues`](Self::asked_queues)).
    pub(crate) fn register(&mut self, queue: u32) {
        let Some(root) = self.contexts.effective_root() else { return };
        if self.place.is_some() || self.contexts.effective_host().is_none() {
            self.listen(root, queue);
        } else if !self.asked_queues.contains(&(root, queue)) {
            self.asked_queues.push((root, queue));
        }
    }

    /// Root context number `root` is told of messages in `queue` from now on, or, while a configuration is rehearsed,
    /// will be.
    pub(crate) fn listen(&mut self, root: usize, queue: u32) {
        if let (Some(_), Some(shared)) = (self.place, &self.shared) {
            shared.listen(queue);
        }
        self.contexts.add_queue(root, queue);
    }

    /// A callback has failed: says so if that may be for want of memory.
    #[cold]
    pub(super) fn explain(&mut self) {
        if std::mem::take(&mut self.bounds.memory_refused) {
            let limit = self.filter.engine().settings().limits.memory;
            self.warn(&format!("its memory was to grow beyond \"memory_limit\" ({limit} bytes): raise that"));
        }
    }

    /// What an edit that was refused is answered with: BAD_ARGUMENT, but OK where the SDK would panic at that.
    /// The refusal has been logged.
    pub(crate) fn refused(&self) -> Result<(), Status> {
        if self.filter.panics_on_status() { Ok(()) } else { Err(Status::BadArgument) }
    }

    /// What a property that was refused is answered with: `status`, but OK to guests that surely panic at that. The
    /// refusal has been logged.
    pub(crate) fn refused_property(&self, status: Status) -> Result<(), Status> {
        if self.filter.has_rust_sdk() { Ok(()) } else { Err(status) }
    }
}
