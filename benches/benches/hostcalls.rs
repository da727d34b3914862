//! Calls into a guest and out of it. A guest calls one host function over and over in a body callback; what is measured
//! is one such call, the proxy in memory's part included: it copies what nginx's side lends.
#![allow(missing_docs, reason = "a bench")]

use std::{
    cell::{LazyCell, RefCell},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weir_benches::{Bench, Case, Guest};
use weir_core::{
    abi::types::{BufferType, MapType},
    chain::{Chain, Direction},
    metrics::Kind,
    testing::{Memory, Request},
};

/// One host function.
struct Call {
    /// The module that it is imported from.
    from: &'static str,
    /// Its name.
    name: &'static str,
    /// Its parameters' types, as text.
    params: &'static str,
    /// What it is given.
    arguments: &'static str,
    /// What is called once, when the filter is configured: an import, and code.
    before: (&'static str, &'static str),
    /// The sizes that are of interest: `SIZE` in the arguments; 0 for none.
    sizes: &'static [usize],
}

/// Where the guest has a name of eight bytes, 4 KiB of pairs, and a large value; where values are given to it.
const LAYOUT: &str = r#"
    (memory (export "memory") 64)
    (data (i32.const 1024) "x-header")
    (data (i32.const 1040) "plugin_name")
    (data (i32.const 1056) "x-adding")
    (data (i32.const 2048) "\01\00\00\00\08\00\00\00\08\00\00\00x-header\00x-header\00")
    (func (export "malloc") (param i32) (result i32) (i32.const 2097152))"#;

const NONE: (&str, &str) = ("", "");

/// A metric is defined: of a kind, under the name; its number is kept.
const fn defined(kind: Kind) -> (&'static str, &'static str) {
    let import =
        r#"(import "env" "proxy_define_metric" (func $before (param i32 i32 i32 i32) (result i32)))"#;
    let code = match kind {
        Kind::Counter => "(drop (call $before (i32.const 0) (i32.const 1024) (i32.const 8) (i32.const 32)))",
        Kind::Histogram => {
            "(drop (call $before (i32.const 2) (i32.const 1024) (i32.const 8) (i32.const 32)))"
        }
        _ => "(drop (call $before (i32.const 1) (i32.const 1024) (i32.const 8) (i32.const 32)))",
    };
    (import, code)
}

const CALLS: &[Call] = &[
    Call {
        from: "env",
        name: "proxy_get_current_time_nanoseconds",
        params: "i32",
        arguments: "(i32.const 16)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_get_log_level",
        params: "i32",
        arguments: "(i32.const 16)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "env",
        // Info, which the worker does not log.
        name: "proxy_log",
        params: "i32 i32 i32",
        arguments: "(i32.const 2) (i32.const 65536) (i32.const SIZE)",
        before: NONE,
        sizes: &[100],
    },
    Call {
        from: "env",
        name: "proxy_get_header_map_value",
        params: "i32 i32 i32 i32 i32",
        arguments: "(i32.const 0) (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 4)",
        before: NONE,
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        name: "proxy_get_header_map_pairs",
        params: "i32 i32 i32",
        arguments: "(i32.const 0) (i32.const 0) (i32.const 4)",
        before: NONE,
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        name: "proxy_replace_header_map_value",
        params: "i32 i32 i32 i32 i32",
        arguments: "(i32.const 0) (i32.const 1024) (i32.const 8) (i32.const 65536) (i32.const SIZE)",
        before: NONE,
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        // What has been added right before, which is measured too.
        name: "proxy_remove_header_map_value",
        params: "i32 i32 i32",
        arguments: "(block (result i32)
            (drop (call $before (i32.const 0) (i32.const 1056) (i32.const 8) (i32.const 65536) (i32.const SIZE)))
            (i32.const 0))
            (i32.const 1056) (i32.const 8)",
        before: (
            r#"(import "env" "proxy_add_header_map_value"
                (func $before (param i32 i32 i32 i32 i32) (result i32)))"#,
            "",
        ),
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        // What has been enqueued right before, which is measured too.
        name: "proxy_dequeue_shared_queue",
        params: "i32 i32 i32",
        arguments: "(block (result i32)
            (drop (call $enqueue (i32.load (i32.const 32)) (i32.const 65536) (i32.const SIZE)))
            (i32.load (i32.const 32)))
            (i32.const 0) (i32.const 4)",
        before: (
            r#"(import "env" "proxy_register_shared_queue" (func $before (param i32 i32 i32) (result i32)))
               (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))"#,
            "(drop (call $before (i32.const 1024) (i32.const 8) (i32.const 32)))",
        ),
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        name: "proxy_set_header_map_pairs",
        params: "i32 i32 i32",
        arguments: "(i32.const 2) (i32.const 2048) (i32.const 30)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_get_buffer_bytes",
        params: "i32 i32 i32 i32 i32",
        arguments: "(i32.const 0) (i32.const 0) (i32.const SIZE) (i32.const 0) (i32.const 4)",
        before: NONE,
        sizes: &[1024, 65536, 1_048_576],
    },
    Call {
        from: "env",
        name: "proxy_set_buffer_bytes",
        params: "i32 i32 i32 i32 i32",
        arguments: "(i32.const 0) (i32.const 0) (i32.const SIZE) (i32.const 65536) (i32.const SIZE)",
        before: NONE,
        sizes: &[1024, 65536],
    },
    Call {
        from: "env",
        name: "proxy_set_property",
        params: "i32 i32 i32 i32",
        arguments: "(i32.const 1024) (i32.const 8) (i32.const 65536) (i32.const SIZE)",
        before: NONE,
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        name: "proxy_set_shared_data",
        params: "i32 i32 i32 i32 i32",
        arguments: "(i32.const 1024) (i32.const 8) (i32.const 65536) (i32.const SIZE) (i32.const 0)",
        before: NONE,
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        name: "proxy_get_shared_data",
        params: "i32 i32 i32 i32 i32",
        arguments: "(i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 4) (i32.const 8)",
        before: (
            r#"(import "env" "proxy_set_shared_data"
                (func $before (param i32 i32 i32 i32 i32) (result i32)))"#,
            "(drop (call $before (i32.const 1024) (i32.const 8) (i32.const 65536) (i32.const SIZE) (i32.const 0)))",
        ),
        sizes: &[16, 1024],
    },
    Call {
        from: "env",
        name: "proxy_increment_metric",
        params: "i32 i64",
        arguments: "(i32.load (i32.const 32)) (i64.const 1)",
        before: defined(Kind::Counter),
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_record_metric",
        params: "i32 i64",
        arguments: "(i32.load (i32.const 32)) (i64.const 70)",
        before: defined(Kind::Histogram),
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_get_metric",
        params: "i32 i32",
        arguments: "(i32.load (i32.const 32)) (i32.const 16)",
        before: defined(Kind::Gauge),
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_get_property",
        params: "i32 i32 i32 i32",
        arguments: "(i32.const 1040) (i32.const 11) (i32.const 0) (i32.const 4)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_get_header_map_size",
        params: "i32 i32",
        arguments: "(i32.const 0) (i32.const 16)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "env",
        name: "proxy_get_buffer_status",
        params: "i32 i32 i32",
        arguments: "(i32.const 0) (i32.const 16) (i32.const 24)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "wasi_snapshot_preview1",
        name: "clock_time_get",
        params: "i32 i64 i32",
        arguments: "(i32.const 0) (i64.const 0) (i32.const 16)",
        before: NONE,
        sizes: &[0],
    },
    Call {
        from: "wasi_snapshot_preview1",
        name: "random_get",
        params: "i32 i32",
        arguments: "(i32.const 65536) (i32.const SIZE)",
        before: NONE,
        sizes: &[16],
    },
];

/// A guest that makes the call as often as its response body has bytes, and fails when one does not succeed.
fn guest(call: &Call, size: usize) -> String {
    let Call { from, name, params, arguments, before: (import, before), .. } = call;
    let text = format!(
        r#"(module {import}
        (import "{from}" "{name}" (func $call (param {params}) (result i32)))
        {LAYOUT}
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (memory.fill (i32.const 65536) (i32.const 97) (i32.const 1048576))
            {before}
            (i32.const 1))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
            (loop $next
                (if (call $call {arguments}) (then unreachable))
                (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
                (br_if $next (local.get 1)))
            (i32.const 0)))"#
    );
    text.replace("SIZE", &size.to_string())
}

/// A request that is at its response's body, with a header and a request body of so many bytes.
fn at_body(bench: &Bench, size: usize) -> (Request, Chain<Memory>) {
    let request = bench.request();
    {
        let mut parts = request.edit();
        let headers = parts.maps.entry(MapType::HttpRequestHeaders).or_default();
        headers.push((b"x-header".to_vec(), vec![b'a'; size]));
        parts.buffers.insert(BufferType::HttpRequestBody, vec![vec![b'a'; size]]);
    }
    let mut chain = bench.begin(&request);
    chain.headers(Direction::Request, false);
    chain.headers(Direction::Response, false);
    (request, chain)
}

/// Runs the body callback with so many bytes to come.
fn body(request: &Request, chain: &mut Chain<Memory>, count: usize) -> Duration {
    request.edit().buffers.insert(BufferType::HttpResponseBody, vec![vec![0; count]]);
    let began = Instant::now();
    chain.body(Direction::Response, false);
    began.elapsed()
}

/// How many calls one callback makes: few enough to stay within the time that a callback may take.
const fn at_once(size: usize) -> u64 {
    if size >= 65536 { 32 } else { 1024 }
}

/// So many calls, `most` in each callback; how long they take.
fn repeated(request: &Request, chain: &RefCell<Chain<Memory>>, calls: u64, most: u64) -> Duration {
    let (mut left, mut spent) = (calls, Duration::ZERO);
    while left > 0 {
        let count = left.min(most);
        spent += body(request, &mut chain.borrow_mut(), usize::try_from(count).unwrap_or(1));
        left -= count;
    }
    spent
}

fn host_functions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hostcall");
    for call in CALLS {
        for size in call.sizes {
            let text = guest(call, *size);
            // Made when it is run first: those that are not asked for cost nothing.
            let begun = LazyCell::new(|| {
                let bench = Bench::new(&Case::shared(Guest::Text(&text)));
                let (request, chain) = at_body(&bench, *size);
                (bench, request, RefCell::new(chain))
            });
            let name = match size {
                0 => call.name.to_owned(),
                size => format!("{}/{size}", call.name),
            };
            match size {
                0 => group.throughput(Throughput::Elements(1)),
                size => group.throughput(Throughput::Bytes(*size as u64)),
            };
            group.bench_function(name, |bencher| {
                let (_, request, chain) = &*begun;
                bencher.iter_custom(|calls| repeated(request, chain, calls, at_once(*size)));
            });
        }
    }
    group.finish();
}

/// All of a request's body is read, which is in so many parts of so many bytes.
fn body_views(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body_view");
    let Some(call) = CALLS.iter().find(|call| call.name == "proxy_get_buffer_bytes") else { return };
    for (parts, bytes) in
        [(1, 1024), (1, 65536), (16, 4096), (64, 1024), (1, 1 << 20), (32, 32768), (256, 4096)]
    {
        let size = parts * bytes;
        let text = guest(call, size);
        let begun = LazyCell::new(|| {
            let bench = Bench::new(&Case::shared(Guest::Text(&text)));
            let (request, chain) = at_body(&bench, 0);
            request.edit().buffers.insert(BufferType::HttpRequestBody, vec![vec![b'a'; bytes]; parts]);
            (bench, request, RefCell::new(chain))
        });
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{parts}x{bytes}"), |bencher| {
            let (_, request, chain) = &*begun;
            bencher.iter_custom(|calls| repeated(request, chain, calls, at_once(size)));
        });
    }
    group.finish();
}

/// A callback that does nothing, of a chain with one filter.
fn callbacks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("callback");
    group.throughput(Throughput::Elements(1));
    let text = r#"(module
        (memory (export "memory") 1)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0)))"#;
    for (name, case) in [("shared", Case::shared(Guest::Text(text))), ("own", Case::new(Guest::Text(text)))] {
        let bench = Bench::new(&case);
        let (request, mut chain) = at_body(&bench, 1);
        body(&request, &mut chain, 1);
        group.bench_function(name, |bencher| bencher.iter(|| chain.body(Direction::Response, false)));
    }
    group.finish();
}

criterion_group!(benches, callbacks, host_functions, body_views);
criterion_main!(benches);
