//! What every test here needs: filters given as steps, loaded and run against the proxy in memory.
//!
//! A [`Guest`] is a module in the making. What its steps find out it logs, so a test reads the guest's answers from the
//! worker's log.

mod guest;

use std::{
    io::Write as _,
    sync::{Arc, LazyLock},
};

use weir_core::{
    abi::{Status, types::LogLevel},
    chain::{Chain, Direction, Verdict},
    engine::{Engine, Settings, Ticker, cache::Cache, limits::Limits},
    failure::Policy,
    filter::{Callback, Filter, FilterSpec, LoadError},
    host::Speaker,
    metrics::{Options, recorder::Recorder},
    plan::{ChainId, Declared, Isolation, Plans, Plugin, Refusal},
    shard::{Rules, Shard},
    shared::{Shared, Zones, ZonesSpec},
    testing::{Logged, Memory, Request, Worker},
};

pub(crate) use guest::{
    Guest, Step, bytes, call, for_context, number, param, returns, say, trace, u32_at, u64_at, value, wat,
};

/// Bytes of a guest's memory: the first address that is not in it.
pub(crate) const END: i64 = 4 * 65536;

/// Where calls are told to put what they return: a pointer, and a size behind it.
pub(crate) const OUT: i64 = 4096;

/// Where the size is put.
pub(crate) const SIZE: i64 = OUT + 4;

/// The last address is -1 as a guest writes it.
pub(crate) const HIGH: i64 = -1;

/// First address that the guest's allocator hands out.
pub(crate) const HEAP: i64 = 65536;

/// Settings of the engine that most tests share. Callbacks have so long that a busy machine fails none of them.
pub(crate) fn settings() -> Settings {
    let limits = Limits { callback: LONG, configuration: LONG, ..Limits::default() };
    Settings { instances: 500, limits, ..Settings::default() }
}

/// Longer than any test takes that works.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// The shared engine, and the one thread that makes its epochs pass: more of them would shorten every deadline.
static SHARED: LazyLock<(Arc<Engine>, Ticker)> = LazyLock::new(|| {
    let engine = Engine::shared(&settings()).expect("an engine");
    let ticker = engine.ticker().expect("a thread");
    (engine, ticker)
});

pub(crate) fn engine() -> &'static Arc<Engine> {
    &SHARED.0
}

/// Loads `wasm` from a file as what `spec` says.
pub(crate) fn load(
    engine: &Arc<Engine>,
    cache: &Cache,
    spec: &FilterSpec,
    wasm: &[u8],
    worker: &Worker,
) -> Result<Arc<Filter<Memory>>, LoadError> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(wasm).expect("written");
    let spec = FilterSpec { path: file.path().to_owned(), ..spec.clone() };
    Filter::load(engine, cache, spec, worker)
}

/// A filter as a directive.
pub(crate) fn plugin(
    filter: &Arc<Filter<Memory>>,
    configuration: &str,
    isolation: Isolation,
) -> Arc<Plugin<Memory>> {
    Arc::new(Plugin {
        filter: Arc::clone(filter),
        configuration: configuration.as_bytes().to_vec(),
        root_id: "root".to_owned(),
        isolation,
        snapshot: true,
        singleton: false,
        calls: 0,
        place: "test.conf:1".to_owned(),
        recorder: Recorder::default(),
        declared: Declared::default(),
    })
}

/// A worker with one chain.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) worker: Worker,
    pub(crate) shard: Shard<Memory>,
    pub(crate) id: ChainId,
    pub(crate) plans: Arc<Plans<Memory>>,
    policy: Policy,
    engine: Arc<Engine>,
    ticker: Option<Ticker>,
}

impl Bench {
    /// The chain of `plugins` in a worker.
    pub(crate) fn new(plugins: Vec<Arc<Plugin<Memory>>>) -> Self {
        let mut plans = Plans::new();
        let id = plans.add_chain(plugins);
        Self::of(plans, id)
    }

    /// A worker that has `plans`; `id` is the chain that is used unless another one is named.
    pub(crate) fn of(plans: Plans<Memory>, id: ChainId) -> Self {
        let (worker, plans) = (Worker::default(), Arc::new(plans));
        let shard = Shard::new(Arc::clone(&plans), worker.clone());
        let policy = Policy::default();
        Self { worker, shard, id, plans, policy, engine: Arc::clone(engine()), ticker: None }
    }

    /// What becomes of requests whose filters fail.
    pub(crate) fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What the worker does about filters that misbehave.
    pub(crate) fn rules(mut self, rules: Rules) -> Self {
        self.shard = Shard::with_rules(Arc::clone(&self.plans), self.worker.clone(), rules);
        self
    }

    /// How the worker keeps metrics.
    pub(crate) fn metrics(mut self, options: Options) -> Self {
        self.worker.keep_metrics(options);
        self.shard = Shard::new(Arc::clone(&self.plans), self.worker.clone());
        self
    }

    /// Instances that are made from now on share what `zones` has.
    pub(crate) fn sharing(self, zones: &Arc<Zones>) -> Self {
        self.worker.share(&Shared::new(zones));
        self
    }

    pub(crate) fn rehearse(&self) -> Result<(), Refusal> {
        self.plans.unrehearsed().rehearse(&self.engine, &self.worker)
    }

    /// A worker that begins with the configuration, rehearsed in the master that this bench is.
    pub(crate) fn start(&self) -> (Shard<Memory>, Worker) {
        let mut plans = self.plans.unrehearsed();
        plans.rehearse(&self.engine, &self.worker).expect("accepted");
        let worker = Worker::default();
        let shard = Shard::new(plans.into(), worker.clone());
        shard.start();
        (shard, worker)
    }

    pub(crate) fn request(&self) -> Request {
        Request::new(&self.worker)
    }

    pub(crate) fn begin(&self, request: &Request) -> Chain<Memory> {
        self.shard.begin_under(self.policy, self.id, request)
    }

    /// Runs a whole request, with bodies, through the chain.
    pub(crate) fn serve(&self, request: &Request) {
        let mut chain = self.begin(request);
        let verdicts = [
            chain.headers(Direction::Request, false),
            chain.body(Direction::Request, true),
            chain.headers(Direction::Response, false),
            chain.body(Direction::Response, true),
        ];
        chain.finish();
        assert_eq!(verdicts, [Verdict::Continue; 4], "{:?}", self.log());
    }

    /// Serves a request of its own, and returns what was logged.
    pub(crate) fn run(&self) -> Vec<String> {
        self.serve(&self.request());
        self.log()
    }

    /// Texts of the lines logged since the last call, but for what of ours is only information.
    pub(crate) fn log(&self) -> Vec<String> {
        let mut lines = self.worker.take_log();
        lines.retain(|line| line.speaker == Speaker::Guest || line.level > LogLevel::Info);
        lines.into_iter().map(|line| line.message).collect()
    }

    /// The same, told apart by who spoke: the guests' lines, ours.
    pub(crate) fn spoken(&self) -> (Vec<String>, Vec<String>) {
        let (guests, mut ours): (Vec<_>, Vec<_>) =
            self.worker.take_log().into_iter().partition(|line: &Logged| line.speaker == Speaker::Guest);
        ours.retain(|line| line.level >= LogLevel::Warn);
        let texts = |lines: Vec<Logged>| lines.into_iter().map(|line| line.message).collect();
        (texts(guests), texts(ours))
    }
}

/// The zones that are there without any configuration. What a guest shares in them is its own by its name.
pub(crate) fn zones() -> Arc<Zones> {
    Zones::open(&ZonesSpec::default()).expect("memory")
}

/// Texts of all lines that `worker` has logged since the last time.
pub(crate) fn lines(worker: &Worker) -> Vec<String> {
    worker.take_log().into_iter().map(|line| line.message).collect()
}

/// Shows `bytes` as the next part of a body.
pub(crate) fn show(request: &Request, direction: Direction, bytes: impl Into<Vec<u8>>) {
    request.edit().buffers.insert(direction.buffer(), vec![bytes.into()]);
}

/// A call, its arguments, and the status it has to answer.
pub(crate) type Case = (&'static str, Vec<i64>, Status);

pub(crate) fn case(name: &'static str, args: impl AsRef<[i64]>, status: Status) -> Case {
    (name, args.as_ref().to_vec(), status)
}

/// What [`check`] leaves: the request as the guest left it, and our lines in the log.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) request: Request,
    pub(crate) warnings: Vec<String>,
}

/// Lets `guest` make the calls of `cases` in `callback` of one request, and compares what they answer.
pub(crate) fn check_in(
    callback: Callback,
    guest: Guest,
    prepare: impl FnOnce(&Request),
    cases: &[Case],
) -> Checked {
    let bench = guest.on(callback, cases.iter().map(|(name, args, _)| call(name, args))).bench();
    let request = bench.request();
    prepare(&request);
    bench.serve(&request);
    let (answers, warnings) = bench.spoken();
    assert_eq!(answers.len(), cases.len(), "{answers:?} {warnings:?}");
    for (answer, (name, args, status)) in answers.iter().zip(cases) {
        assert_eq!(*answer, status.raw().to_string(), "{name}{args:?} should answer {status:?}");
    }
    Checked { request, warnings }
}

/// The same in `proxy_on_request_headers`.
pub(crate) fn check(guest: Guest, prepare: impl FnOnce(&Request), cases: &[Case]) -> Checked {
    check_in(Callback::RequestHeaders, guest, prepare, cases)
}

/// For a call that is `good`, every way to give it memory that is not there.
///
/// `inputs` are the places of an address and of the size that belongs to it; `outputs` the places of addresses that
/// are written to, with how many bytes.
pub(crate) fn bad_pointers(
    name: &'static str,
    good: &[i64],
    inputs: &[(usize, usize)],
    outputs: &[(usize, i64)],
) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut with = |changes: &[(usize, i64)]| {
        let mut args = good.to_vec();
        for (at, arg) in changes {
            args[*at] = *arg;
        }
        cases.push(case(name, args, Status::InvalidMemoryAccess));
    };
    for (address, size) in inputs {
        // Right behind the end, across it, as high as it goes, and sums that would wrap around.
        for (ptr, len) in
            [(END, 1), (END - 1, 2), (HIGH, 1), (0, END + 1), (0, HIGH), (HIGH, HIGH), (2, HIGH)]
        {
            with(&[(*address, ptr), (*size, len)]);
        }
    }
    for (address, len) in outputs {
        for ptr in [END, END - len + 1, HIGH, -len, i64::from(i32::MIN)] {
            with(&[(*address, ptr)]);
        }
    }
    cases
}

/// A header list or the like, from texts.
pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<weir_core::testing::Pair> {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// The same as the ABI serializes it.
pub(crate) fn serialized(pairs: &[(&str, &str)]) -> Vec<u8> {
    let bytes: Vec<_> = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    weir_core::abi::pairs::encode(bytes)
}

/// The size of something as an argument.
pub(crate) fn len(bytes: impl AsRef<[u8]>) -> i64 {
    i64::try_from(bytes.as_ref().len()).expect("short")
}
