//! One request without a proxy: check-out, six callbacks (context, request headers, response headers, done, log,
//! delete), reset.
#![allow(missing_docs, reason = "a bench")]

use std::{
    cell::{Cell, LazyCell},
    collections::VecDeque,
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weir_benches::{Bench, Case, Guest, finish};
use weir_core::{
    abi::types::MapType,
    chain::Chain,
    engine::Tracking,
    metrics::Timing,
    plan::Isolation,
    testing::{Memory, Request},
};

/// A filter that does nothing; that adds a header each way, in four languages; that matches the path against regular
/// expressions compiled when it was configured, and the same after they have matched something then: names of benches, guests
/// and their configurations.
const FILTERS: &[(&str, &str, &str)] = &[
    ("noop", "noop", ""),
    ("add_headers", "add_headers", ""),
    ("add_headers_cpp", "add_headers_cpp", ""),
    ("add_headers_as", "add_headers_as", ""),
    ("add_headers_go", "add_headers_go", ""),
    ("regexes", "regexes", ""),
    ("regexes_warm", "regexes", "/\n/index.html?a=1&b=2\n/api/v1/users/12345"),
];

/// By guest, by the way instances are put back, and by how many of them take turns.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let sampled = Timing::Sampled;
    let ways = [
        ("shared", Isolation::None, Tracking::Auto, sampled, 1),
        ("shared", Isolation::None, Tracking::Auto, sampled, 64),
        ("protect", Isolation::Stream, Tracking::Protect, sampled, 1),
        ("protect", Isolation::Stream, Tracking::Protect, sampled, 64),
        ("protect-all", Isolation::Stream, Tracking::Protect, Timing::All, 1),
        ("protect-uncounted", Isolation::Stream, Tracking::Protect, Timing::Off, 1),
        ("protect-uncounted", Isolation::Stream, Tracking::Protect, Timing::Off, 64),
        ("scan", Isolation::Stream, Tracking::Scan, sampled, 1),
        ("renew", Isolation::Stream, Tracking::Renew, sampled, 1),
    ];
    group.throughput(Throughput::Elements(1));
    for (filter, guest, configuration) in FILTERS {
        for (name, isolation, tracking, timing, in_turn) in ways {
            let case = Case { configuration, isolation, tracking, timing, ..Case::new(Guest::Built(guest)) };
            // Made when it is run first: those that are not asked for cost nothing.
            let bench = LazyCell::new(|| Bench::new(&case));
            // The requests of a batch are made outside what is measured; so many chains stay open between them.
            let mut open: VecDeque<Chain<Memory>> = VecDeque::new();
            group.bench_function(format!("{filter}/{name}/{in_turn}"), |bencher| {
                let bench = &*bench;
                bencher.iter_batched_ref(
                    || bench.request(),
                    |request| {
                        open.push_back(bench.begin(request));
                        if open.len() >= in_turn
                            && let Some(mut chain) = open.pop_front()
                        {
                            finish(&mut chain);
                        }
                    },
                    BatchSize::NumIterations(16),
                );
            });
        }
    }
    group.finish();
}

/// Requests that are used again and again, so that what is measured does not find the processor's caches full of what it took
/// to make them.
struct Kept {
    requests: Vec<Request>,
    /// How many headers each map had.
    lens: Vec<usize>,
    next: Cell<usize>,
}

impl Kept {
    fn new(bench: &Bench, count: usize) -> Self {
        let requests: Vec<_> = (0..count).map(|_| bench.request()).collect();
        let lens = bench.request().edit().maps.values().map(Vec::len).collect();
        Self { requests, lens, next: Cell::new(0) }
    }

    /// The one that was used longest ago, without the headers that filters have added.
    fn next(&self) -> Request {
        let at = self.next.replace((self.next.get() + 1) % self.requests.len());
        let request = self.requests[at].clone();
        let mut parts = request.edit();
        parts.maps.values_mut().zip(&self.lens).for_each(|(pairs, len)| pairs.truncate(*len));
        drop(parts);
        request
    }
}

/// Check-out, six callbacks and reset alone, without the chain that decides what follows from what they answer.
fn instances(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("instance");
    group.throughput(Throughput::Elements(1));
    for guest in ["noop", "add_headers"] {
        for (name, isolation) in [("shared", Isolation::None), ("protect", Isolation::Stream)] {
            for in_turn in [1, 64] {
                let case = Case { isolation, ..Case::new(Guest::Built(guest)) };
                let bench = LazyCell::new(|| Bench::new(&case));
                let mut out = VecDeque::new();
                group.bench_function(format!("{guest}/{name}/{in_turn}"), |bencher| {
                    let bench = &*bench;
                    let requests = Kept::new(bench, in_turn);
                    bencher.iter_batched_ref(
                        || requests.next(),
                        |request| {
                            out.push_back(bench.check_out(request));
                            if out.len() >= in_turn
                                && let Some(first) = out.pop_front()
                            {
                                first.finish().expect("callbacks that get through");
                            }
                        },
                        BatchSize::NumIterations(16),
                    );
                });
            }
        }
    }
    group.finish();
}

/// A filter without callbacks, which writes to no page.
const EMPTY: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#;

/// An instance is checked out and given back, without a callback in between, by the way it is put back and by how many
/// the pool has room for.
fn check_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check_out");
    group.throughput(Throughput::Elements(1));
    for (name, isolation, tracking) in [
        ("shared", Isolation::None, Tracking::Auto),
        ("protect", Isolation::Stream, Tracking::Protect),
        ("scan", Isolation::Stream, Tracking::Scan),
        ("renew", Isolation::Stream, Tracking::Renew),
    ] {
        for instances in [16, 200, 1000] {
            let case = Case { isolation, tracking, instances, ..Case::new(Guest::Text(EMPTY)) };
            let bench = LazyCell::new(|| Bench::new(&case));
            group.bench_function(format!("{name}/{instances}"), |bencher| {
                let bench = &*bench;
                let request = bench.request();
                bencher.iter(|| bench.begin(&request).finish());
            });
        }
    }
    group.finish();
}

/// A chain of so many filters of one module that do nothing: in one instance, and in one for each of them.
fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chain");
    for filters in [1, 2, 5, 10] {
        for (name, isolation) in [("stream", Isolation::Stream), ("filter", Isolation::Filter)] {
            let case = Case { filters, isolation, ..Case::new(Guest::Built("noop")) };
            let bench = LazyCell::new(|| Bench::new(&case));
            group.throughput(Throughput::Elements(filters as u64));
            group.bench_function(format!("{name}/{filters}"), |bencher| {
                let bench = &*bench;
                bencher.iter_batched_ref(
                    || bench.request(),
                    |request| bench.serve(request),
                    BatchSize::NumIterations(16),
                );
            });
        }
    }
    group.finish();
}

/// Writes to as many pages, after those that every request writes, as the request has headers.
const TOUCH: &str = r#"(module
    (memory (export "memory") 40)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 0))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (block $done
            (loop $next
                (br_if $done (i32.eqz (local.get 1)))
                (i32.store
                    (i32.add (i32.const 65536) (i32.mul (local.get 1) (i32.const 4096))) (i32.const 1))
                (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
                (br $next)))
        (i32.const 0)))"#;

/// More pages than an instance keeps hot after one such request.
const UNUSUAL: usize = 70;

/// Requests that write to so many pages that no request has written to before. Between two that are measured, a large
/// one has the instance forget which pages were written.
fn first_writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("first_write");
    let bench = Bench::new(&Case { tracking: Tracking::Protect, ..Case::new(Guest::Text(TOUCH)) });
    let request = |pages: usize| {
        let request = bench.request();
        let pairs = vec![(b"a".to_vec(), b"b".to_vec()); pages];
        request.edit().maps.insert(MapType::HttpRequestHeaders, pairs);
        request
    };
    let large = request(UNUSUAL);
    for pages in [1, 8, 32] {
        let measured = request(pages);
        group.throughput(Throughput::Elements(pages as u64));
        group.bench_function(format!("pages/{pages}"), |bencher| {
            bencher.iter_batched(
                || bench.serve(&large),
                |()| bench.serve(&measured),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Makes its memory larger by as many times 64 KiB as the request has headers, and fills that.
const GROW: &str = r#"(module
    (memory (export "memory") 4)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 0))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (memory.fill
            (i32.mul (memory.grow (local.get 1)) (i32.const 65536))
            (i32.const 1)
            (i32.mul (local.get 1) (i32.const 65536)))
        (i32.const 0)))"#;

/// Requests that need so many times 64 KiB more than an instance has, and give it back: the instance is put back, or
/// the next request gets a new one.
fn growth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("growth");
    for (way, tracking) in [("protect", Tracking::Protect), ("renew", Tracking::Renew)] {
        let bench = LazyCell::new(|| Bench::new(&Case { tracking, ..Case::new(Guest::Text(GROW)) }));
        for pages in [1, 4, 32] {
            group.throughput(Throughput::Bytes(pages * 65536));
            group.bench_function(format!("{way}/{}k", pages * 64), |bencher| {
                let bench = &*bench;
                let request = bench.request();
                let pairs = (0..pages).map(|_| (b"a".to_vec(), b"b".to_vec())).collect();
                request.edit().maps.insert(MapType::HttpRequestHeaders, pairs);
                bencher.iter(|| bench.serve(&request));
            });
        }
    }
    group.finish();
}

/// Twenty request headers are set, read and removed in one callback.
fn headers20(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers20");
    group.throughput(Throughput::Elements(60));
    for (name, isolation) in [("shared", Isolation::None), ("stream", Isolation::Stream)] {
        let case = Case { isolation, ..Case::new(Guest::Built("headers20")) };
        let bench = LazyCell::new(|| Bench::new(&case));
        group.bench_function(name, |bencher| {
            let bench = &*bench;
            bencher.iter_batched_ref(
                || bench.request(),
                |request| bench.serve(request),
                BatchSize::NumIterations(16),
            );
        });
    }
    group.finish();
}

criterion_group!(benches, requests, instances, check_out, chains, first_writes, growth, headers20);
criterion_main!(benches);
