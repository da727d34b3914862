//! One request without a proxy: check-out, six callbacks (context, request headers, response headers, done, log,
//! delete), reset. By guest, by the way instances are put back, and by how many of them take turns.

use std::{collections::VecDeque, hint::black_box, path::Path, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use weir_core::{
    chain::{Chain, Direction},
    engine::{Engine, Settings, Ticker, Tracking, cache::Cache},
    filter::{Filter, FilterSpec},
    metrics::recorder::Recorder,
    plan::{ChainId, Isolation, Plans, Plugin},
    shard::Shard,
    testing::{Memory, Request, Worker},
};

/// Guests, as `scripts/build-guests` makes them, and their configuration.
const GUESTS: &[(&str, &str)] = &[
    ("noop", ""),
    ("add_headers", ""),
    ("add_headers_cpp", ""),
    ("add_headers_as", ""),
    ("add_headers_go", ""),
];

/// A worker with a chain of `filters` times one guest.
struct Bench {
    shard: Shard<Memory>,
    id: ChainId,
    worker: Worker,
    _ticker: Ticker,
}

impl Bench {
    fn new(
        guest: &str,
        configuration: &str,
        isolation: Isolation,
        tracking: Tracking,
        filters: usize,
    ) -> Self {
        let settings = Settings { instances: 200, tracking, ..Settings::default() };
        let engine = Engine::shared(&settings).expect("an engine");
        let guests = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests");
        let spec = FilterSpec {
            name: guest.to_owned(),
            path: Path::new(guests).join(guest).with_extension("wasm"),
            configuration: Vec::new(),
            vm_id: guest.to_owned(),
            environment: Vec::new(),
        };
        let worker = Worker::default();
        worker.set_log_level(weir_core::abi::types::LogLevel::Critical);
        let filter = Filter::load(&engine, &Cache::disabled(), spec, &worker);
        let filter = filter.expect("run scripts/build-guests first");
        let plugin = || {
            Arc::new(Plugin {
                filter: Arc::clone(&filter),
                configuration: configuration.as_bytes().to_vec(),
                root_id: String::new(),
                isolation,
                snapshot: true,
                calls: 0,
                place: "bench:1".to_owned(),
                recorder: Recorder::default(),
            })
        };
        let mut plans = Plans::new();
        let id = plans.add_chain((0..filters).map(|_| plugin()).collect());
        plans.rehearse(&engine, &worker).expect("accepted");
        let shard = Shard::new(Arc::new(plans), worker.clone());
        shard.start();
        let ticker = engine.ticker().expect("a thread");
        Self { shard, id, worker, _ticker: ticker }
    }

    fn begin(&self, request: &Request) -> Chain<Memory> {
        self.shard.begin(self.id, request)
    }
}

fn serve(chain: &mut Chain<Memory>) {
    black_box(chain.headers(Direction::Request, true));
    black_box(chain.headers(Direction::Response, true));
    chain.finish();
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let ways = [
        ("shared", Isolation::None, Tracking::Auto, 1),
        ("protect", Isolation::Stream, Tracking::Protect, 1),
        ("protect", Isolation::Stream, Tracking::Protect, 64),
        ("scan", Isolation::Stream, Tracking::Scan, 1),
        ("renew", Isolation::Stream, Tracking::Renew, 1),
    ];
    for (guest, configuration) in GUESTS {
        for (name, isolation, tracking, in_turn) in ways {
            let bench = Bench::new(guest, configuration, isolation, tracking, 1);
            // The requests of a batch are made outside what is measured; so many chains stay open between them.
            let mut open: VecDeque<Chain<Memory>> = VecDeque::new();
            group.bench_function(format!("{guest}/{name}/{in_turn}"), |bencher| {
                bencher.iter_batched_ref(
                    || Request::new(&bench.worker),
                    |request| {
                        open.push_back(bench.begin(request));
                        if open.len() >= in_turn
                            && let Some(mut chain) = open.pop_front()
                        {
                            serve(&mut chain);
                        }
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("chain");
    for filters in [1, 2, 5, 10] {
        let bench = Bench::new("noop", "", Isolation::Stream, Tracking::Auto, filters);
        group.bench_function(format!("noop/{filters}"), |bencher| {
            bencher.iter_batched_ref(
                || Request::new(&bench.worker),
                |request| serve(&mut bench.begin(request)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
