//! What workers share: shared data and queues, and metrics, and how those are written out. Alone, and while another thread or process does the same.
#![allow(missing_docs, reason = "a bench")]

use std::{
    hint::black_box,
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use weir_benches::zones;
use weir_core::{
    metrics::{
        Kind, Metrics, Options, Scope,
        catalog::Catalog,
        text::{Format, Text},
    },
    shared::Shared,
};

/// Has another thread do `work`, again and again, while `measure` runs, if there are two.
fn beside(threads: usize, work: impl Fn(&AtomicBool) + Sync, measure: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        if threads == 2 {
            scope.spawn(|| work(&stop));
        }
        measure();
        stop.store(true, Ordering::Relaxed);
    });
}

/// A value of so many bytes is read, and replaced, under one of 64 keys.
fn data(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shared_data");
    let (zones, shared) = zones();
    let keys: Vec<_> = (0..64).map(|number| format!("sessions/{number:08}").into_bytes()).collect();
    for size in [16, 1024, 65536] {
        let value = vec![7; size];
        let set = |shared: &Shared, key: &[u8]| {
            shared.set(b"filter", key, Some(&value), 0).expect("room");
        };
        keys.iter().for_each(|key| set(&shared, key));
        group.throughput(Throughput::Bytes(size as u64));
        for threads in [1, 2] {
            let other = |stop: &AtomicBool| {
                let shared = Shared::new(&zones);
                for key in keys.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    set(&shared, key);
                }
            };
            beside(threads, other, || {
                group.bench_function(BenchmarkId::new(format!("get/{size}"), threads), |bencher| {
                    let (mut keys, mut found) = (keys.iter().cycle(), Vec::new());
                    bencher.iter(|| keys.next().map(|key| shared.get(b"filter", key, &mut found)));
                });
                group.bench_function(BenchmarkId::new(format!("set/{size}"), threads), |bencher| {
                    let mut keys = keys.iter().cycle();
                    bencher.iter(|| keys.next().map(|key| set(&shared, key)));
                });
            });
        }
    }
    group.finish();
}

/// A message of so many bytes is put at the end of a queue, and one taken from its beginning.
fn queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shared_queue");
    let (zones, shared) = zones();
    let queue = shared.register(b"filter", b"jobs").expect("room");
    for size in [16, 1024] {
        let message = vec![7; size];
        let pass = |shared: &Shared, taken: &mut Vec<u8>| {
            shared.enqueue(queue, &message).expect("room");
            // With two, the other may have taken it.
            let _ = black_box(shared.dequeue(queue, taken));
        };
        group.throughput(Throughput::Bytes(size as u64));
        for threads in [1, 2] {
            let other = |stop: &AtomicBool| {
                let (shared, mut taken) = (Shared::new(&zones), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    pass(&shared, &mut taken);
                }
            };
            beside(threads, other, || {
                group.bench_function(BenchmarkId::new(format!("pass/{size}"), threads), |bencher| {
                    let mut taken = Vec::new();
                    bencher.iter(|| pass(&shared, &mut taken));
                });
            });
        }
    }
    group.finish();
}

/// The environment variable that makes this program count, as another worker does: the file that it counts in.
const COUNTS_IN: &str = "WEIR_BENCH_COUNTS_IN";

/// A process's part in the metrics of `file`: its scope, a counter, a gauge and a histogram.
fn metrics_in(file: &std::path::Path) -> (Metrics, Scope, [u32; 3]) {
    let (metrics, _) = Metrics::open(file, Options::default()).expect("a file");
    metrics.claim_row(std::process::id(), |_| true);
    let scope = metrics.scope("filter");
    let define = |kind, name: &[u8]| metrics.define("filter", kind, name).expect("room");
    let ids =
        [define(Kind::Counter, b"hits"), define(Kind::Gauge, b"level"), define(Kind::Histogram, b"sizes")];
    (metrics, scope, ids)
}

/// What the other process does until it is killed.
fn count_forever(file: &std::path::Path) -> ! {
    let (metrics, scope, [counter, ..]) = metrics_in(file);
    loop {
        let _ = metrics.increment(scope, counter, 1);
    }
}

/// Ends the other process.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guest's counter, gauge and histogram are changed, and a counter is read.
fn metrics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metric");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("metrics");
    let (metrics, scope, [counter, gauge, histogram]) = metrics_in(&file);
    for processes in [1, 2] {
        let _other = (processes == 2).then(|| {
            let program = std::env::current_exe().expect("this program's path");
            Other(Command::new(program).env(COUNTS_IN, &file).spawn().expect("another process"))
        });
        group.bench_function(BenchmarkId::new("increment", processes), |bencher| {
            bencher.iter(|| metrics.increment(scope, counter, 1));
        });
        group.bench_function(BenchmarkId::new("set", processes), |bencher| {
            bencher.iter(|| metrics.record(scope, gauge, black_box(7)));
        });
        group.bench_function(BenchmarkId::new("observe", processes), |bencher| {
            let mut value = 0;
            bencher.iter(|| {
                value = (value + 77) % 100_000;
                metrics.record(scope, histogram, value)
            });
        });
        group.bench_function(BenchmarkId::new("get", processes), |bencher| {
            bencher.iter(|| metrics.get(scope, counter));
        });
    }
    group.finish();
}

/// Lines between which nginx has its turn (`ngx-glue/src/content/metrics.rs`).
const LINES: usize = 500;

/// A catalog that knows all metrics of `metrics`.
fn learned(metrics: &Metrics) -> Catalog {
    let mut catalog = Catalog::new();
    while !catalog.learn(metrics.words(), LINES) {}
    catalog
}

/// Ten thousand metrics are written out. What is between two turns of nginx is one of these steps: metrics that are new
/// are learned, all are put in order, some lines are written.
fn scrape(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scrape/10000");
    let metrics = Metrics::nameless(Options::default()).expect("memory");
    metrics.claim_row(std::process::id(), |_| true);
    let scope = metrics.scope("filter");
    for number in 0..10_000 {
        let name = format!("requests_route={number}_code=200");
        let counter = metrics.define("filter", Kind::Counter, name.as_bytes()).expect("room");
        metrics.increment(scope, counter, number).expect("a counter");
    }
    group.bench_function("whole", |bencher| {
        let mut catalog = learned(&metrics);
        bencher.iter(|| {
            let mut text = Text::new(Format::Prometheus, catalog.series());
            while !text.write(metrics.words(), LINES) {}
            text.into_text()
        });
    });
    group.bench_function("step/learn", |bencher| {
        bencher.iter_batched_ref(
            Catalog::new,
            |catalog| catalog.learn(metrics.words(), LINES),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("step/sort", |bencher| {
        bencher.iter_batched_ref(|| learned(&metrics), Catalog::series, BatchSize::LargeInput);
    });
    group.bench_function("step/write", |bencher| {
        let mut catalog = learned(&metrics);
        bencher.iter_batched_ref(
            || Text::new(Format::Prometheus, catalog.series()),
            |text| text.write(metrics.words(), LINES),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, data, queues, metrics, scrape);

fn main() {
    if let Some(file) = std::env::var_os(COUNTS_IN) {
        count_forever(file.as_ref());
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
