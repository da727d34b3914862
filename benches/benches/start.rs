//! What a start of nginx does before its workers run.
#![allow(missing_docs, reason = "a bench")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use weir_benches::{Bench, Case, Guest};
use weir_core::{
    abi::types::LogLevel,
    engine::{Engine, Settings, cache::Cache},
    filter::{Filter, FilterSpec},
    shard::Shard,
    testing::{Memory, Worker},
};

/// Of a language each; the Go one is the largest.
const GUESTS: &[&str] = &["add_headers", "add_headers_cpp", "add_headers_go"];

fn worker() -> Worker {
    let worker = Worker::default();
    worker.set_log_level(LogLevel::Critical);
    worker
}

/// An engine is made, and its address space reserved.
fn engine(criterion: &mut Criterion) {
    let settings = Settings::default();
    criterion.bench_function("start/engine", |bencher| {
        bencher.iter_with_large_drop(|| Engine::shared(&settings).expect("an engine"));
    });
}

/// A module is compiled; or its compiled artefact is found on disk and mapped.
fn loading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start/load");
    group.sample_size(10);
    let (engine, worker) = (Engine::shared(&Settings::default()).expect("an engine"), worker());
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Cache::open(&folder.path().join("cache")).expect("a folder of its own");
    for guest in GUESTS {
        let load = |cache: &Cache| {
            let (path, _) = Guest::Built(guest).file();
            let name = (*guest).to_owned();
            let (configuration, environment) = (Vec::new(), Vec::new());
            let spec = FilterSpec { vm_id: name.clone(), name, path, configuration, environment };
            Filter::<Memory>::load(&engine, cache, spec, &worker).expect("a module that loads")
        };
        // Some seconds for each time.
        if *guest != "add_headers_go" {
            group.bench_function(format!("{guest}/compile"), |bencher| {
                bencher.iter_with_large_drop(|| load(&Cache::disabled()));
            });
        }
        drop(load(&kept));
        group.bench_function(format!("{guest}/cached"), |bencher| {
            bencher.iter_with_large_drop(|| load(&kept));
        });
    }
    group.finish();
}

/// A filter is loaded from its artefact, started and configured, and its image made; and a worker's first instance is
/// made from that.
fn images(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start/image");
    group.sample_size(20);
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(&folder.path().join("cache")).expect("a folder of its own");
    for guest in GUESTS {
        let case = Case { cache: cache.clone(), ..Case::new(Guest::Built(guest)) };
        let worker = worker();
        // The engine outlives each time that is measured.
        let (_, _engine, _) = Bench::plans(&case, &worker);
        group.bench_function(format!("{guest}/configure"), |bencher| {
            bencher.iter_with_large_drop(|| Bench::plans(&case, &worker));
        });
        let (plans, _, id) = Bench::plans(&case, &worker);
        let plans = std::sync::Arc::new(plans);
        group.bench_function(format!("{guest}/first_instance"), |bencher| {
            bencher.iter_batched_ref(
                || {
                    let shard = Shard::new(std::sync::Arc::clone(&plans), worker.clone());
                    (shard, weir_core::testing::Request::new(&worker), None)
                },
                |(shard, request, chain)| *chain = Some(shard.begin(id, request)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, engine, loading, images);
criterion_main!(benches);
