//! What core allocates and copies for a request: in steady state nothing is allocated, and each byte of a body is copied
//! once, from the proxy's buffers to the guest or back.
//!
//! An allocator counts what this thread takes. The proxy here lends and takes bytes without allocating, and counts them,
//! so whatever is counted is core's.
#![allow(missing_docs, reason = "a test")]

mod counting;
mod lean;

use std::{io::Write as _, sync::Arc};

use counting::allocations;
use lean::{Lean, Stream, Worker};
use weir_core::{
    chain::{Direction, Verdict},
    engine::{Engine, Settings, cache::Cache, limits::Limits},
    filter::{Filter, FilterSpec},
    metrics::recorder::Recorder,
    plan::{ChainId, Declared, Isolation, Plans, Plugin},
    shard::Shard,
};

/// What both guests have: imports, a memory, an allocator that always hands out the same place.
const COMMON: &str = r#"
    (import "env" "proxy_get_header_map_value" (func $value (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_size" (func $size (param i32 i32) (result i32)))
    (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_replace_header_map_value" (func $replace (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
    (import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
    (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_current_time_nanoseconds" (func $time (param i32) (result i32)))
    (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 40)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 65536))
    (func $ok (param i32) (if (local.get 0) (then unreachable)))
    (data (i32.const 0) "acceptx-new:pathrequest\00pathresponse\00codeconnection\00mtlsplugin_namelean\00v")
    (data (i32.const 512) "\01\00\00\00\01\00\00\00\01\00\00\00a\00b\00")"#;

/// Reads and sets headers in both directions, reads properties, and does in the other callbacks what filters commonly
/// do: nothing.
const HEADERS_GUEST: &str = r#"
    (func $both (param $map i32) (result i32)
        (call $ok (call $value (local.get $map) (i32.const 0) (i32.const 6) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $pairs (local.get $map) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $size (local.get $map) (i32.const 1024)))
        (call $ok (call $add (local.get $map) (i32.const 6) (i32.const 5) (i32.const 0) (i32.const 6)))
        (call $ok (call $replace (local.get $map) (i32.const 6) (i32.const 5) (i32.const 0) (i32.const 6)))
        (call $ok (call $remove (local.get $map) (i32.const 6) (i32.const 5)))
        (call $ok (call $set_pairs (local.get $map) (i32.const 512) (i32.const 16)))
        (call $ok (call $property (i32.const 16) (i32.const 12) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $property (i32.const 28) (i32.const 13) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $property (i32.const 41) (i32.const 15) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $property (i32.const 56) (i32.const 11) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $property (i32.const 67) (i32.const 6) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $get (i32.const 7) (i32.const 0) (i32.const -1) (i32.const 1024) (i32.const 1028)))
        (call $ok (call $time (i32.const 1024)))
        (call $ok (call $log (i32.const 2) (i32.const 0) (i32.const 6)))
        (i32.const 0))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $both (i32.const 0)))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $both (i32.const 2)))
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
    (func (export "proxy_on_log") (param i32))
    (func (export "proxy_on_delete") (param i32))"#;

/// Edits of pairs that [`HEADERS_GUEST`] makes in one direction: added, replaced, removed, cleared and set.
const EDITS: usize = 5;

/// Reads the request's body in ranges of 8 KiB, and writes the response's: puts something before it, behind it, and in
/// the place of some of it.
const BODIES_GUEST: &str = r#"
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (local $at i32)
        (loop $again
            (call $ok (call $get (i32.const 0) (local.get $at) (i32.const 8192) (i32.const 1024) (i32.const 1028)))
            (local.set $at (i32.add (local.get $at) (i32.load (i32.const 1028))))
            ;; The first and the last byte of each range are what they should be.
            (if (i32.ne (i32.load8_u (i32.load (i32.const 1024))) (i32.const 120)) (then unreachable))
            (br_if $again (i32.lt_u (local.get $at) (local.get 1))))
        (i32.const 0))
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
        (memory.fill (i32.const 65536) (i32.const 110) (i32.const 1000000))
        (call $ok (call $set (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 1000)))
        (call $ok (call $set (i32.const 1) (local.get 1) (i32.const 0) (i32.const 65536) (i32.const 20000)))
        (call $ok (call $set (i32.const 1) (i32.const 3) (i32.const 500) (i32.const 65536) (i32.const 1000000)))
        (i32.const 0))"#;

struct Bench {
    shard: Shard<Lean>,
    id: ChainId,
    _ticker: weir_core::engine::Ticker,
}

impl Bench {
    /// A worker whose chain is `count` times the guest with `functions`.
    fn new(functions: &str, isolation: Isolation, count: usize) -> Self {
        let long = std::time::Duration::from_secs(60);
        let limits = Limits { callback: long, configuration: long, ..Limits::default() };
        let engine = Engine::shared(&Settings { instances: 64, limits, ..Settings::default() });
        let engine = engine.expect("an engine");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let wasm = wat::parse_str(format!("(module {COMMON} {functions})")).expect("well-formed");
        file.write_all(&wasm).expect("written");
        let spec = FilterSpec {
            name: "guest".into(),
            path: file.path().to_owned(),
            configuration: Vec::new(),
            vm_id: "guest".into(),
            environment: Vec::new(),
        };
        let filter = Filter::<Lean>::load(&engine, &Cache::disabled(), spec, &Worker).expect("loads");
        let plugin = |_| {
            Arc::new(Plugin {
                filter: Arc::clone(&filter),
                configuration: b"configuration".to_vec(),
                root_id: String::new(),
                isolation,
                snapshot: true,
                singleton: false,
                calls: 0,
                place: "test.conf:1".into(),
                recorder: Recorder::default(),
                declared: Declared::default(),
            })
        };
        let mut plans = Plans::new();
        let id = plans.add_chain((0..count).map(plugin).collect());
        let _ticker = engine.ticker().expect("a thread");
        Self { shard: Shard::new(Arc::new(plans), Worker), id, _ticker }
    }

    /// One request from its begin to its end.
    fn serve(&self, stream: &Stream) {
        let mut chain = self.shard.begin(self.id, stream);
        let verdicts = [
            chain.headers(Direction::Request, false),
            chain.body(Direction::Request, true),
            chain.headers(Direction::Response, false),
            chain.body(Direction::Response, true),
        ];
        chain.finish();
        assert_eq!(verdicts, [Verdict::Continue; 4]);
    }
}

/// Every isolation, one filter and several.
const MODES: [(Isolation, usize); 5] = [
    (Isolation::Stream, 1),
    (Isolation::Stream, 5),
    (Isolation::Filter, 5),
    (Isolation::None, 1),
    (Isolation::None, 5),
];

#[test]
fn a_request_whose_headers_are_read_and_set_allocates_nothing() {
    for (isolation, count) in MODES {
        let bench = Bench::new(HEADERS_GUEST, isolation, count);
        let stream = Stream::default();
        // Instances are made, vectors get their size.
        (0..10).for_each(|_| bench.serve(&stream));
        stream.0.edits.set(0);
        let taken = allocations(|| (0..500).for_each(|_| bench.serve(&stream)));
        assert_eq!(taken, 0, "in 500 requests: {isolation:?}, {count} filters");
        assert_eq!(stream.0.edits.get(), 500 * count * 2 * EDITS, "the filters have run");
    }
}

#[test]
fn requests_that_overlap_allocate_nothing_either() {
    for (isolation, count) in MODES {
        let bench = Bench::new(HEADERS_GUEST, isolation, count);
        let streams: Vec<_> = (0..8).map(|_| Stream::default()).collect();
        let mut chains = Vec::with_capacity(streams.len());
        let mut round = || {
            chains.extend(streams.iter().map(|stream| bench.shard.begin(bench.id, stream)));
            for chain in &mut chains {
                assert_eq!(chain.headers(Direction::Request, true), Verdict::Continue);
            }
            for chain in &mut chains {
                assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
            }
            chains.clear();
        };
        (0..10).for_each(|_| round());
        let taken = allocations(|| (0..100).for_each(|_| round()));
        assert_eq!(taken, 0, "{isolation:?}, {count} filters");
    }
}

/// 1 MiB in pieces that have nothing to do with the ranges that are read.
fn body() -> (Vec<&'static [u8]>, usize) {
    let whole: &'static [u8] = Vec::leak(vec![b'x'; 1 << 20]);
    (whole.chunks(16_000).collect(), whole.len())
}

#[test]
fn each_byte_of_a_body_that_is_read_is_copied_once() {
    let bench = Bench::new(BODIES_GUEST, Isolation::Stream, 1);
    let stream = Stream::default();
    let (pieces, len) = body();
    stream.0.body.replace(pieces);
    let read = || {
        let mut chain = bench.shard.begin(bench.id, &stream);
        assert_eq!(chain.body(Direction::Request, true), Verdict::Continue);
    };
    (0..3).for_each(|_| read());
    stream.0.lent.set(0);
    let taken = allocations(read);
    assert_eq!(stream.0.lent.get(), len, "each byte is lent once");
    assert_eq!(taken, 0, "and goes straight into the guest's memory: nothing of the host's is in between");
}

#[test]
fn each_byte_of_a_body_that_is_written_is_copied_once() {
    let bench = Bench::new(BODIES_GUEST, Isolation::Stream, 1);
    let stream = Stream::default();
    let (pieces, len) = body();
    stream.0.body.replace(pieces);
    let write = || {
        let mut chain = bench.shard.begin(bench.id, &stream);
        assert_eq!(chain.body(Direction::Response, true), Verdict::Continue);
    };
    (0..3).for_each(|_| write());
    stream.0.given.set(0);
    stream.0.lent.set(0);
    let taken = allocations(write);
    assert_eq!(stream.0.given.get(), 1000 + 20_000 + 1_000_000, "each byte is given to the proxy once");
    assert_eq!((stream.0.last.get(), stream.0.range.get()), ((b'n', b'n'), (3, 503)));
    assert_eq!(taken, 0, "straight from the guest's memory: nothing of the host's is in between");
    assert_eq!(stream.0.lent.get(), 0, "what stays is not looked at");
    assert_eq!(stream.len(), len);
}
