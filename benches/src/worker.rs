//! A worker without a proxy.

use std::{hint::black_box, io::Write as _, path::PathBuf, rc::Rc, sync::Arc};

use tempfile::TempPath;
use weir_core::{
    abi::types::LogLevel,
    chain::{Chain, Direction},
    engine::{Engine, Settings, Ticker, Tracking, cache::Cache},
    failure::Policy,
    filter::{Filter, FilterSpec},
    metrics::{Options, Timing, recorder::Recorder},
    plan::{ChainId, Declared, Isolation, Plans, Plugin},
    shard::Shard,
    shared::{Shared, Zones, ZonesSpec},
    testing::{Checkout, Memory, Request, Worker},
};

/// Where a filter's code comes from.
#[derive(Debug, Clone, Copy)]
pub enum Guest<'a> {
    /// `target/guests/NAME.wasm`, as `scripts/build-guests` makes it.
    Built(&'a str),
    /// WebAssembly as text.
    Text(&'a str),
}

impl Guest<'_> {
    /// The module's file, and what keeps it there.
    ///
    /// # Panics
    /// Where there is none, or the text is none.
    #[must_use]
    pub fn file(self) -> (PathBuf, Option<TempPath>) {
        match self {
            Self::Built(name) => {
                let guests = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests");
                let path = PathBuf::from(guests).join(name).with_extension("wasm");
                assert!(path.exists(), "{} is missing: run scripts/build-guests", path.display());
                (path, None)
            }
            Self::Text(text) => {
                let mut file = tempfile::NamedTempFile::new().expect("a file");
                file.write_all(&wat::parse_str(text).expect("WebAssembly as text"))
                    .expect("room on the disk");
                let path = file.into_temp_path();
                (path.to_path_buf(), Some(path))
            }
        }
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Case<'a> {
    /// The filters' code.
    pub guest: Guest<'a>,
    /// What each is configured with.
    pub configuration: &'a str,
    /// How many filters of it the chain has.
    pub filters: usize,
    /// Which requests share an instance.
    pub isolation: Isolation,
    /// How instances are put back.
    pub tracking: Tracking,
    /// Most instances alive at once.
    pub instances: u32,
    /// Where compiled code is kept.
    pub cache: Cache,
    /// Whether Weir counts callbacks, and which it times: a sample, unless an administrator says otherwise.
    pub timing: Timing,
}

impl<'a> Case<'a> {
    /// One filter, one instance for each request.
    #[must_use]
    pub fn new(guest: Guest<'a>) -> Self {
        Self {
            guest,
            configuration: "",
            filters: 1,
            isolation: Isolation::Stream,
            tracking: Tracking::Auto,
            instances: 200,
            cache: Cache::disabled(),
            timing: Timing::Sampled,
        }
    }

    /// One filter, one instance for all requests.
    #[must_use]
    pub fn shared(guest: Guest<'a>) -> Self {
        Self { isolation: Isolation::None, ..Self::new(guest) }
    }
}

/// A worker with one chain.
#[derive(Debug)]
pub struct Bench {
    shard: Shard<Memory>,
    id: ChainId,
    worker: Worker,
    _ticker: Ticker,
}

impl Bench {
    /// A worker that is ready for requests.
    ///
    /// # Panics
    /// When the filter is missing or refuses to start, or the system has no memory or thread.
    #[must_use]
    pub fn new(case: &Case<'_>) -> Self {
        let worker = Worker::default();
        worker.set_log_level(LogLevel::Critical);
        worker.keep_metrics(Options { callbacks: case.timing, ..Options::default() });
        worker.share(&Shared::new(&Zones::open(&ZonesSpec::default()).expect("memory")));
        let (plans, engine, id) = Self::plans(case, &worker);
        let shard = Shard::new(Arc::new(plans), worker.clone());
        shard.start();
        let ticker = engine.ticker().expect("a thread");
        Self { shard, id, worker, _ticker: ticker }
    }

    /// What a master makes of a configuration with this case's chain.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn plans(case: &Case<'_>, worker: &Worker) -> (Plans<Memory>, Arc<Engine>, ChainId) {
        let settings = Settings { instances: case.instances, tracking: case.tracking, ..Settings::default() };
        let engine = Engine::shared(&settings).expect("an engine");
        let (path, _kept) = case.guest.file();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let spec = FilterSpec {
            vm_id: name.clone(),
            name,
            path,
            configuration: Vec::new(),
            environment: Vec::new(),
        };
        let filter = Filter::load(&engine, &case.cache, spec, worker).expect("a module that loads");
        let plugin = || {
            Arc::new(Plugin {
                filter: Arc::clone(&filter),
                configuration: case.configuration.as_bytes().to_vec(),
                root_id: String::new(),
                isolation: case.isolation,
                snapshot: true,
                singleton: false,
                calls: 0,
                place: "bench:1".to_owned(),
                recorder: Recorder::default(),
                declared: Declared::default(),
            })
        };
        let mut plans = Plans::new();
        let id = plans.add_chain((0..case.filters).map(|_| plugin()).collect());
        plans.rehearse(&engine, worker).expect("a filter that accepts its configuration");
        (plans, engine, id)
    }

    /// A request that no filter has seen.
    #[must_use]
    pub fn request(&self) -> Request {
        Request::new(&self.worker)
    }

    /// Begins its chain: instances are checked out, contexts created.
    #[must_use]
    pub fn begin(&self, request: &Request) -> Chain<Memory> {
        self.shard.begin(self.id, request)
    }

    /// One request from its headers to its end.
    pub fn serve(&self, request: &Request) {
        let mut place = None;
        self.shard.begin_in(&mut place, Policy::default(), self.id, request);
        if let Some(chain) = &mut place {
            finish(chain);
        }
    }

    /// Checks an instance of the first filter out for a request that has no chain.
    ///
    /// # Panics
    /// When there is none, or it fails.
    #[must_use]
    pub fn check_out(&self, request: &Request) -> Checkout<'_> {
        Checkout::begin(&self.shard, request).expect("an instance")
    }
}

/// The rest of a request's life: the headers of both directions, and the end.
pub fn finish(chain: &mut Chain<Memory>) {
    black_box(chain.headers(Direction::Request, true));
    black_box(chain.headers(Direction::Response, true));
    chain.finish();
}

/// Zones of this process's own.
///
/// # Panics
/// Without memory.
#[must_use]
pub fn zones() -> (Arc<Zones>, Rc<Shared>) {
    let zones = Zones::open(&ZonesSpec::default()).expect("memory");
    let shared = Shared::new(&zones);
    (zones, shared)
}
