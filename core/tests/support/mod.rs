//! What every test of core needs: guests in text form, loaded and run against the proxy in memory.
#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "a test's own module, used in parts by each file"
)]

use std::{io::Write, sync::Arc};

use weir_core::{
    chain::Chain,
    engine::{Engine, Settings, cache::Cache},
    filter::{Filter, FilterSpec, LoadError},
    plan::{ChainId, Isolation, Plans, Plugin, Refusal},
    shard::Shard,
    testing::{Logged, Memory, Request, Worker},
};

/// Settings with a small pool: tests run many processes at once.
pub fn settings() -> Settings {
    Settings { instances: 16, ..Settings::default() }
}

/// Puts `body` into a module that has what every filter must have: a marker, a memory, an allocator.
///
/// Imports must come first in a module, so they are given apart. The allocator hands out 64 KiB, bump by bump, from
/// address 65536 on; `$heap` is its pointer.
pub fn module(imports: &str, body: &str) -> String {
    format!(
        r#"(module
            {imports}
            (memory (export "memory") 4)
            (global $heap (mut i32) (i32.const 65536))
            (func (export "proxy_abi_version_0_2_1"))
            (func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32)
                (global.get $heap)
                (global.set $heap (i32.add (global.get $heap)
                    (i32.and (i32.add (local.get 0) (i32.const 15)) (i32.const -16)))))
            {body})"#
    )
}

/// Loads a module in text form as filter `name`.
pub fn load(name: &str, wat: &str, configuration: &[u8]) -> Result<Arc<Filter<Memory>>, LoadError> {
    load_bytes(name, &wat::parse_str(wat).expect("the guest's text is well-formed"), configuration)
}

/// Loads a module as filter `name`.
pub fn load_bytes(name: &str, wasm: &[u8], configuration: &[u8]) -> Result<Arc<Filter<Memory>>, LoadError> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(wasm).expect("written");
    let spec = FilterSpec {
        name: name.to_owned(),
        path: file.path().to_owned(),
        configuration: configuration.to_vec(),
        vm_id: name.to_owned(),
        environment: vec![("GRANTED".to_owned(), "yes".to_owned())],
    };
    let engine = Engine::shared(&settings()).expect("an engine");
    Filter::load(&engine, &Cache::disabled(), spec, &Worker::default())
}

/// A filter as a directive.
pub fn plugin(
    filter: &Arc<Filter<Memory>>,
    configuration: &str,
    isolation: Isolation,
) -> Arc<Plugin<Memory>> {
    Arc::new(Plugin {
        filter: Arc::clone(filter),
        configuration: configuration.as_bytes().to_vec(),
        root_id: "root".to_owned(),
        isolation,
        place: "test.conf:1".to_owned(),
    })
}

/// A worker with one chain.
pub struct Bench {
    pub worker: Worker,
    pub shard: Shard<Memory>,
    pub id: ChainId,
    pub plans: Arc<Plans<Memory>>,
    _ticker: weir_core::engine::Ticker,
}

impl Bench {
    /// The chain of `plugins` in a worker.
    pub fn new(plugins: Vec<Arc<Plugin<Memory>>>) -> Self {
        let worker = Worker::default();
        let mut plans = Plans::new();
        let id = plans.add_chain(plugins);
        let plans = Arc::new(plans);
        let ticker = Engine::shared(&settings()).expect("an engine").ticker().expect("a thread");
        Self { shard: Shard::new(Arc::clone(&plans), worker.clone()), worker, id, plans, _ticker: ticker }
    }

    /// One filter from text, isolated for each request.
    pub fn wat(imports: &str, body: &str) -> Self {
        let filter = load("guest", &module(imports, body), b"vm").expect("the guest loads");
        Self::new(vec![plugin(&filter, "plugin", Isolation::Stream)])
    }

    pub fn rehearse(&self) -> Result<(), Refusal> {
        let engine = Engine::shared(&settings()).expect("an engine");
        self.plans.rehearse(&engine, &self.worker)
    }

    pub fn request(&self) -> Request {
        Request::new(&self.worker)
    }

    pub fn begin(&self, request: &Request) -> Chain<Memory> {
        self.shard.begin(self.id, request)
    }

    /// Texts of the lines logged since the last call.
    pub fn log(&self) -> Vec<String> {
        self.worker.take_log().into_iter().map(|line: Logged| line.message).collect()
    }
}

/// Text of a guest that calls `call`, an expression of type i32, in `proxy_on_request_headers`, and logs its result
/// as one digit (`A` for 10, `C` for 12).
pub fn status_of(imports: &str, data: &str, call: &str) -> Bench {
    let imports =
        format!(r#"{imports} (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))"#);
    let body = format!(
        r#"(data (i32.const 1000) "0123456789ABC") {data}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $log (i32.const 2) (i32.add (i32.const 1000) {call}) (i32.const 1)))
            (i32.const 0))"#
    );
    Bench::wat(&imports, &body)
}
