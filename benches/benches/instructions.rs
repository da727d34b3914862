//! Instructions of the hot paths, counted by callgrind: hardly different from run to run, whatever else the machine does.
//!
//! `PATH=$PWD/target/tools/bin:$PATH cargo bench --workspace --bench instructions`, after `scripts/setup gate`. Everything is warm when counting begins: instances live, functions are resolved, the pages that
//! requests write are hot. The proxy in memory's part is counted too.
#![allow(missing_docs, reason = "a bench")]
#![allow(unused_qualifications, reason = "what the macros make")]

use std::{hint::black_box, path::Path};

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use weir_benches::{Bench, Case, Guest};
use weir_core::{
    abi::{
        pairs::{Measure, Pairs, Writer, encode},
        types::BufferType,
    },
    chain::{Chain, Direction},
    engine::{Tracking, cache::Cache},
    metrics::Timing,
    plan::Isolation,
    testing::{Memory, Pair, Request},
};

/// Requests before the one that counts.
const WARM: usize = 20;

/// Compiling under callgrind takes a minute; artefacts are kept from run to run.
fn cache() -> Cache {
    Cache::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench-cache"))).expect("a folder")
}

fn case(guest: &'static str, filters: usize, isolation: Isolation, tracking: Tracking) -> Case<'static> {
    let cache = cache();
    Case { filters, isolation, tracking, instances: 4, cache, ..Case::new(Guest::Built(guest)) }
}

/// A worker that has served some requests, and one that comes next.
fn warm(case: &Case<'_>) -> (Bench, Request) {
    let bench = Bench::new(case);
    for _ in 0..WARM {
        bench.serve(&bench.request());
    }
    let request = bench.request();
    (bench, request)
}

fn own(guest: &'static str) -> (Bench, Request) {
    warm(&case(guest, 1, Isolation::Stream, Tracking::Protect))
}

fn shared(guest: &'static str) -> (Bench, Request) {
    warm(&case(guest, 1, Isolation::None, Tracking::Auto))
}

fn chain(filters: usize) -> (Bench, Request) {
    warm(&case("noop", filters, Isolation::Stream, Tracking::Protect))
}

/// The same without times of callbacks, as most requests of a busy worker are.
fn untimed(filters: usize) -> (Bench, Request) {
    let case = case("noop", filters, Isolation::Stream, Tracking::Protect);
    warm(&Case { timing: Timing::Off, ..case })
}

#[library_benchmark]
#[bench::noop_shared(args = ("noop"), setup = shared)]
#[bench::noop_own(args = ("noop"), setup = own)]
#[bench::add_headers_shared(args = ("add_headers"), setup = shared)]
#[bench::add_headers_own(args = ("add_headers"), setup = own)]
#[bench::add_headers_cpp_own(args = ("add_headers_cpp"), setup = own)]
#[bench::headers20_own(args = ("headers20"), setup = own)]
#[bench::five_noops_own(args = (5), setup = chain)]
#[bench::five_noops_untimed(args = (5), setup = untimed)]
fn request((bench, request): (Bench, Request)) -> (Bench, Request) {
    bench.serve(&request);
    (bench, request)
}

/// A worker that has served some requests, and a hundred that come next: on the way the times of callbacks, which wait for
/// it, are written down.
fn hundred(guest: &'static str) -> (Bench, Vec<Request>) {
    let (bench, first) = own(guest);
    let requests = std::iter::once(first).chain((1..100).map(|_| bench.request())).collect();
    (bench, requests)
}

#[library_benchmark]
#[bench::noop_own(args = ("noop"), setup = hundred)]
fn hundred_requests((bench, requests): (Bench, Vec<Request>)) -> (Bench, Vec<Request>) {
    requests.iter().for_each(|request| bench.serve(request));
    (bench, requests)
}

/// A guest whose body callback makes a hundred calls that do next to nothing.
const CALLS: &str = r#"(module
    (import "env" "proxy_get_current_time_nanoseconds" (func $call (param i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 1024))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
        (local.set 1 (i32.const 100))
        (loop $next
            (drop (call $call (i32.const 16)))
            (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
            (br_if $next (local.get 1)))
        (i32.const 0)))"#;

/// The same, but it reads the body once.
const READS: &str = r#"(module
    (import "env" "proxy_get_buffer_bytes" (func $call (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 3)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 65536))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
        (drop (call $call (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 4)))
        (i32.const 0)))"#;

fn at_body(text: &'static str) -> (Bench, Request, Chain<Memory>) {
    let bench = Bench::new(&Case { instances: 4, cache: cache(), ..Case::shared(Guest::Text(text)) });
    let request = bench.request();
    request.edit().buffers.insert(BufferType::HttpRequestBody, vec![vec![b'a'; 1024]; 64]);
    let mut chain = bench.begin(&request);
    chain.headers(Direction::Request, false);
    for _ in 0..WARM {
        chain.body(Direction::Request, false);
    }
    (bench, request, chain)
}

#[library_benchmark]
#[bench::hundred_hostcalls(args = (CALLS), setup = at_body)]
#[bench::reads_64_kib(args = (READS), setup = at_body)]
fn body((bench, request, mut chain): (Bench, Request, Chain<Memory>)) -> (Bench, Request, Chain<Memory>) {
    black_box(chain.body(Direction::Request, false));
    (bench, request, chain)
}

fn headers() -> Vec<Pair> {
    (0..50).map(|number| (vec![b'a'; 8 + number % 16], vec![b'a'; 10 + number * 7 % 50])).collect()
}

#[library_benchmark]
#[bench::fifty(headers())]
fn write_pairs(headers: Vec<Pair>) -> (Vec<Pair>, Vec<u8>) {
    let mut measure = Measure::default();
    headers.iter().for_each(|(name, value)| measure.add(name, value));
    let mut place = vec![0; measure.bytes()];
    let mut writer = Writer::new(&mut place, &measure).expect("room for all");
    headers.iter().for_each(|(name, value)| writer.push(name, value));
    assert!(writer.finish(), "all of them fit");
    (headers, place)
}

fn encoded() -> Vec<u8> {
    let headers = headers();
    encode(headers.iter().map(|(name, value)| (&name[..], &value[..])))
}

#[library_benchmark]
#[bench::fifty(encoded())]
fn read_pairs(bytes: Vec<u8>) -> (Vec<u8>, usize) {
    let pairs = Pairs::parse(&bytes).expect("well-formed");
    let sum = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    (bytes, sum)
}

library_benchmark_group!(
    name = paths,
    benchmarks = [request, hundred_requests, body, write_pairs, read_pairs]
);

main!(
    config = LibraryBenchmarkConfig::default()
        // The handler that notes pages has to see a guest's registers as they are.
        .tool(Callgrind::with_args(["--cache-sim=no", "--vex-iropt-register-updates=allregs-at-mem-access"]));
    library_benchmark_groups = paths
);
