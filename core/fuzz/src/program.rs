//! Guests for the targets: modules made of text, loaded once, and what a worker needs to run them.

use std::{
    cell::OnceCell,
    fmt::Write as _,
    fs,
    sync::{Arc, LazyLock},
    time::Duration,
};

use weir_core::{
    abi::table,
    engine::{
        Engine, Settings, Ticker,
        cache::Cache,
        limits::{Limits, LogLimit},
    },
    filter::{AbiVersion, Filter, FilterSpec},
    metrics::recorder::Recorder,
    plan::{ChainId, Declared, Isolation, Plans, Plugin},
    shard::Shard,
    testing::{Memory, Worker},
};

/// Where a guest has the bytes of its directive: its program.
pub const PROGRAM: u32 = 128 * 1024;

/// Most bytes of a program: the page up to the end of the memory.
pub const LONGEST: usize = 64 * 1024;

/// The engine of all guests, and the thread that ends those that do not return.
static ENGINE: LazyLock<(Arc<Engine>, Ticker)> = LazyLock::new(|| {
    // Guests here return at once; an input that takes so long has found an endless loop. Clocks stand still, so a limit
    // of lines a second would be one of all lines.
    let log = LogLimit { rate: 0, burst: 0 };
    let limits = Limits { callback: Duration::from_secs(5), log, ..Limits::default() };
    let engine = Engine::shared(&Settings { instances: 64, limits, ..Settings::default() });
    let engine = engine.expect("an engine");
    let ticker = engine.ticker().expect("a thread");
    (engine, ticker)
});

/// Compiles and loads `text` as filter `name`.
///
/// # Panics
/// When it is no filter.
#[must_use]
pub fn load(name: &str, text: &str) -> Arc<Filter<Memory>> {
    let folder = std::env::temp_dir();
    let path = folder.join(format!(
        "weir-fuzz-{name}-{}-{:?}.wasm",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&path, wat::parse_str(text).expect("well-formed")).expect("a file");
    let spec = FilterSpec {
        name: name.to_owned(),
        path: path.clone(),
        configuration: b"of the module".to_vec(),
        vm_id: name.to_owned(),
        environment: vec![("GRANTED".to_owned(), "yes".to_owned())],
    };
    let filter = Filter::load(&ENGINE.0, &Cache::disabled(), spec, &Worker::default());
    fs::remove_file(&path).expect("the file is there");
    filter.expect("a filter")
}

/// A directive: `filter` with its program.
#[must_use]
pub fn plugin(filter: &Arc<Filter<Memory>>, program: &[u8], isolation: Isolation) -> Arc<Plugin<Memory>> {
    Arc::new(Plugin {
        filter: Arc::clone(filter),
        configuration: program.get(..LONGEST).unwrap_or(program).to_vec(),
        root_id: String::new(),
        isolation,
        snapshot: true,
        singleton: false,
        calls: 0,
        place: "fuzz:1".to_owned(),
        recorder: Recorder::default(),
        declared: Declared::default(),
    })
}

/// A worker whose one chain is `plugins`.
#[must_use]
pub fn worker(plugins: Vec<Arc<Plugin<Memory>>>) -> (Worker, Shard<Memory>, ChainId) {
    let mut plans = Plans::new();
    let id = plans.add_chain(plugins);
    let worker = Worker::default();
    (worker.clone(), Shard::new(Arc::new(plans), worker), id)
}

thread_local! {
    /// The filter that does nothing wrong.
    static WITNESS: OnceCell<Arc<Filter<Memory>>> = const { OnceCell::new() };
}

/// A filter that logs `D`, `L` and `X` when a request's context is done, logged and deleted.
#[must_use]
pub fn witness() -> Arc<Filter<Memory>> {
    const TEXT: &str = r#"(module
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "DLX")
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 0))
        (func $say (param i32) (drop (call $log (i32.const 5) (local.get 0) (i32.const 1))))
        (func (export "proxy_on_done") (param i32) (result i32) (call $say (i32.const 0)) (i32.const 1))
        (func (export "proxy_on_log") (param i32) (call $say (i32.const 1)))
        (func (export "proxy_on_delete") (param i32) (call $say (i32.const 2))))"#;
    WITNESS.with(|witness| Arc::clone(witness.get_or_init(|| load("witness", TEXT))))
}

/// Texts that mean something to host functions, and where the guest has them.
const TEXTS: [(u32, &str); 32] = [
    (8, "accept"),
    (32, ":path"),
    (64, ":status"),
    (96, ":method"),
    (128, "cookie"),
    (160, "x-new"),
    (192, "bad name\r\n"),
    (224, "200"),
    (256, "request\0path"),
    (288, "request.headers.accept"),
    (320, "mem\0variable"),
    (352, "my.own"),
    (384, "response\0code"),
    (416, "\u{1}\0\0\0\u{1}\0\0\0\u{1}\0\0\0a\0b\0"),
    (448, "\u{2}\0\0\0\u{5}\0\0\0\u{1}\0\0\0\u{1}\0\0\0\u{2}\0\0\0:path\0/\0b\0\r\n\0"),
    (512, "plugin_name"),
    (544, "origin"),
    (
        576,
        "\u{3}\0\0\0\u{7}\0\0\0\u{3}\0\0\0\u{5}\0\0\0\u{1}\0\0\0\u{a}\0\0\0\u{1}\0\0\0:method\0GET\0:path\0/\0:authority\0a\0",
    ),
    (672, "compress"),
    (688, "uncompress"),
    (704, "resolve"),
    (720, "set_envoy_filter_state"),
    (752, "clear_route_cache"),
    (784, "\u{a}\u{4}name\u{12}\u{5}value"),
    (816, "host.test"),
    (832, "a.Service"),
    (848, "Method"),
    (864, "call\0error"),
    (880, "filter_state.name"),
    (912, "x-b"),
    (928, "\u{a}\u{8}\u{a}\u{6}origin"),
    (944, "\u{78}\u{1}"),
];

/// Where the guest has the addresses and sizes of [`TEXTS`].
const TEXT_TABLE: u32 = 1024;

/// Numbers around edges, and where the guest has them.
const NUMBERS: [i32; 32] = [
    -1,
    -2,
    -4,
    -8,
    i32::MIN,
    i32::MAX,
    262_144,
    262_143,
    262_140,
    262_136,
    262_145,
    131_072,
    65_536,
    65_535,
    4096,
    2048,
    1024,
    512,
    256,
    200,
    204,
    301,
    404,
    500,
    599,
    600,
    1 << 20,
    1 << 16,
    1 << 24,
    48,
    32,
    16,
];
const NUMBER_TABLE: u32 = 2048;

/// Host functions that answer differently each time, which a comparison of two runs would stumble over.
const NOT_REPEATABLE: &[&str] = &["random_get"];

/// The text of a guest that does what its program says: in each callback some calls of host functions, which one and
/// with which arguments decoded byte by byte. At the end of each callback it logs a sum of all answers and of the
/// memory that answers are written to.
///
/// An argument is a small number (below 128), one of [`TEXTS`] (address and, as the next argument, size), one of
/// [`NUMBERS`], a number of 16 bits, or any number.
#[must_use]
pub fn interpreter(version: AbiVersion, language: &str) -> String {
    let mut functions: Vec<weir_core::abi::Entry<Memory>> = Vec::new();
    for row in table::<Memory>() {
        // The second form of a function of 0.1.0 cannot be imported beside the first.
        if !NOT_REPEATABLE.contains(&row.name) && functions.iter().all(|other| other.name != row.name) {
            functions.push(row);
        }
    }
    let mut text = format!("(module (@producers (language \"{language}\" \"\"))");
    let mut calls = String::new();
    for (at, row) in functions.iter().enumerate() {
        let result = if row.returns { "(result i32)" } else { "" };
        let params = row.params.join(" ");
        let _ = write!(
            text,
            "(import \"{}\" \"{}\" (func $f{at} (param {params}) {result}))",
            row.module, row.name
        );
        let arg = |ty: &&str| if **ty == *"i64" { "(i64.extend_i32_s (call $arg))" } else { "(call $arg)" };
        let args: String = row.params.iter().map(arg).collect();
        let call = format!("(call $f{at} {args})");
        let call = if row.returns { format!("(call $mix (i64.extend_i32_u {call}))") } else { call };
        let _ = write!(calls, "(func $op{at} {call})");
    }
    let table: String = (0..functions.len()).map(|at| format!(" $op{at}")).collect();
    let log = functions.iter().position(|row| row.name == "proxy_log").expect("listed");
    let read = functions.iter().position(|row| row.name == "proxy_get_buffer_bytes").expect("listed");
    let data = |at: u32, bytes: &[u8]| {
        let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!("(data (i32.const {at}) \"{bytes}\")")
    };
    let texts: String = TEXTS.iter().map(|(at, text)| data(*at, text.as_bytes())).collect();
    let places: Vec<u8> = TEXTS
        .iter()
        .flat_map(|(at, text)| [*at, u32::try_from(text.len()).unwrap_or(0)])
        .flat_map(u32::to_le_bytes)
        .collect();
    let numbers: Vec<u8> = NUMBERS.iter().flat_map(|number| number.to_le_bytes()).collect();
    let marker = AbiVersion::MARKERS.iter().find(|(other, _)| *other == version).map_or("", |(_, name)| name);
    let headers = if version == AbiVersion::V0_1_0 { "i32 i32" } else { "i32 i32 i32" };
    let _ = write!(
        text,
        r#"
        (memory (export "memory") 4)
        (type $nothing (func))
        (table funcref (elem {table}))
        (global $heap (mut i32) (i32.const 65536))
        ;; How the allocator behaves: 8 hands out the place of the program.
        (global $mode (mut i32) (i32.const 8))
        (global $at (mut i32) (i32.const 0))
        (global $end (mut i32) (i32.const 0))
        (global $next (mut i32) (i32.const 0))
        (global $has_next (mut i32) (i32.const 0))
        (global $sum (mut i64) (i64.const 0))
        {texts} {} {}
        (func (export "{marker}"))
        (func $byte (result i32)
            (if (i32.ge_u (global.get $at) (global.get $end)) (then (return (i32.const 0))))
            (global.set $at (i32.add (global.get $at) (i32.const 1)))
            (i32.load8_u offset={PROGRAM} (i32.sub (global.get $at) (i32.const 1))))
        (func $short (result i32) (i32.or (call $byte) (i32.shl (call $byte) (i32.const 8))))
        (func $arg (result i32) (local $tag i32)
            (if (global.get $has_next) (then (global.set $has_next (i32.const 0)) (return (global.get $next))))
            (local.set $tag (call $byte))
            (if (i32.lt_u (local.get $tag) (i32.const 0x80)) (then (return (local.get $tag))))
            (if (i32.lt_u (local.get $tag) (i32.const 0xa0)) (then
                (local.set $tag (i32.shl (i32.and (local.get $tag) (i32.const 31)) (i32.const 3)))
                (global.set $has_next (i32.const 1))
                (global.set $next (i32.load offset={TEXT_TABLE} (i32.add (local.get $tag) (i32.const 4))))
                (return (i32.load offset={TEXT_TABLE} (local.get $tag)))))
            (if (i32.lt_u (local.get $tag) (i32.const 0xc0)) (then (return
                (i32.load offset={NUMBER_TABLE} (i32.shl (i32.and (local.get $tag) (i32.const 31)) (i32.const 2))))))
            (if (i32.lt_u (local.get $tag) (i32.const 0xf0)) (then (return (call $short))))
            (i32.or (call $short) (i32.shl (call $short) (i32.const 16))))
        (func $mix (param i64)
            (global.set $sum (i64.xor (i64.rotl (global.get $sum) (i64.const 7)) (local.get 0))))
        {calls}
        (func $op
            (global.set $has_next (i32.const 0))
            (call_indirect (type $nothing) (i32.rem_u (call $byte) (i32.const {count}))))
        (func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32) (local $at i32)
            (if (i32.eq (global.get $mode) (i32.const 8)) (then (return (i32.const {PROGRAM}))))
            (if (i32.eq (global.get $mode) (i32.const 1)) (then (return (i32.const 0))))
            (if (i32.eq (global.get $mode) (i32.const 2)) (then (return (call $arg))))
            (if (i32.eq (global.get $mode) (i32.const 3)) (then (call $op)))
            (local.set $at (global.get $heap))
            (global.set $heap (i32.add (global.get $heap) (local.get 0)))
            ;; Begins anew rather than running into the program.
            (if (i32.or (i32.gt_u (local.get 0) (i32.const 32768)) (i32.gt_u (global.get $heap) (i32.const 98304)))
                (then (global.set $heap (i32.const 65536)) (return (i32.const 0))))
            (local.get $at))
        ;; Some calls; then a letter and the sum are logged. The result is another byte of the program.
        (func $run (param $letter i32) (result i32) (local $n i32) (local $at i32)
            (local.set $n (i32.and (call $byte) (i32.const 7)))
            (block $done
                (loop $again
                    (br_if $done (i32.eqz (local.get $n)))
                    (br_if $done (i32.ge_u (global.get $at) (global.get $end)))
                    (call $op)
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (br $again)))
            (loop $sum
                (call $mix (i64.load (local.get $at)))
                (call $mix (i64.load offset=65536 (local.get $at)))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $sum (i32.lt_u (local.get $at) (i32.const 4096))))
            (i32.store8 (i32.const 4000) (local.get $letter))
            (local.set $at (i32.const 0))
            (loop $digit
                (i32.store8 offset=4001 (local.get $at) (i32.add (i32.const 97) (i32.and (i32.const 15)
                    (i32.wrap_i64 (i64.shr_u (global.get $sum)
                        (i64.extend_i32_u (i32.shl (local.get $at) (i32.const 2))))))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br_if $digit (i32.lt_u (local.get $at) (i32.const 16))))
            (drop (call $f{log} (i32.const 5) (i32.const 4000) (i32.const 17)))
            (call $byte))
        (func (export "proxy_on_context_create") (param i32 i32) (drop (call $run (i32.const 67))))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (drop (call $f{read} (i32.const 7) (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 4)))
            (global.set $end (i32.load (i32.const 4)))
            (global.set $mode (i32.and (call $byte) (i32.const 3)))
            (i32.ne (call $run (i32.const 70)) (i32.const 7)))
        (func (export "proxy_on_request_headers") (param {headers}) (result i32) (call $run (i32.const 72)))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $run (i32.const 66)))
        (func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (call $run (i32.const 84)))
        (func (export "proxy_on_response_headers") (param {headers}) (result i32) (call $run (i32.const 104)))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $run (i32.const 98)))
        (func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (call $run (i32.const 116)))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32) (drop (call $run (i32.const 65))))
        (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32 i32) (drop (call $run (i32.const 73))))
        (func (export "proxy_on_grpc_receive") (param i32 i32 i32) (drop (call $run (i32.const 71))))
        (func (export "proxy_on_grpc_receive_trailing_metadata") (param i32 i32 i32)
            (drop (call $run (i32.const 74))))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32) (drop (call $run (i32.const 75))))
        (func (export "proxy_on_foreign_function") (param i32 i32 i32) (drop (call $run (i32.const 78))))
        (func (export "proxy_on_done") (param i32) (result i32) (i32.eqz (call $run (i32.const 68))))
        (func (export "proxy_on_log") (param i32) (drop (call $run (i32.const 76))))
        (func (export "proxy_on_delete") (param i32) (drop (call $run (i32.const 88)))))"#,
        data(TEXT_TABLE, &places),
        data(NUMBER_TABLE, &numbers),
        count = functions.len(),
    );
    text
}
