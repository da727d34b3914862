//! What Weir counts of a worker: its instances and what becomes of them, contexts, suspensions, modules.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use weir_core::{
    chain::{Direction, Verdict},
    engine::{Engine, Settings, Tracking, cache::Cache},
    failure::Budget,
    filter::Callback,
    host::calls::CallError,
    metrics::Options,
    plan::Isolation,
    shard::{Rules, Stock},
};

use crate::{
    caller::{FAILED, begun, caller, dial, response},
    hostcalls::define_metric::shown,
    support::{Bench, Guest, load, returns, settings, wat},
};

/// The value of the one series whose name and labels begin with `start`; 0 where there is none yet.
#[track_caller]
fn value(bench: &Bench, start: &str) -> u64 {
    let lines = shown(bench, start);
    assert!(lines.len() < 2, "{lines:?}");
    lines
        .first()
        .and_then(|line| line.rsplit(' ').next())
        .map_or(0, |number| number.parse().expect("a number"))
}

fn dropped(bench: &Bench, reason: &str) -> u64 {
    let labels = "{filter=\"guest\",directive=\"test.conf:1\",reason=";
    value(bench, &format!("weir_instances_dropped_total{labels}\"{reason}\"}}"))
}

fn pool(bench: &Bench) -> [u64; 4] {
    ["weir_pool_capacity", "weir_pool_in_use{", "weir_pool_in_use_most", "weir_pool_idle"]
        .map(|name| value(bench, name))
}

fn counting(guest: Guest, instances: u32) -> Bench {
    guest.bench_in(&Settings { instances, ..settings() }, Isolation::Stream).metrics(Options::default())
}

#[test]
fn instances_are_counted_where_they_are() {
    let bench = counting(Guest::tracer(), 3);
    assert_eq!(pool(&bench), [3, 0, 0, 0]);
    let chains: Vec<_> = (0..3).map(|_| bench.begin(&bench.request())).collect();
    assert_eq!(pool(&bench), [3, 3, 3, 0]);
    assert_eq!(value(&bench, "weir_contexts{"), 3);
    // There is no fourth.
    assert!(matches!(
        bench.begin(&bench.request()).headers(Direction::Request, true),
        Verdict::Failed { .. }
    ));
    assert_eq!(value(&bench, "weir_pool_exhaustions_total"), 1);
    let waits = bench.request();
    bench.shard.wait(&waits);
    bench.shard.wait_again(&waits);
    assert_eq!(value(&bench, "weir_pool_waits_total"), 1, "one request");
    drop(chains);
    assert_eq!(pool(&bench), [3, 0, 3, 3]);
    assert_eq!(value(&bench, "weir_contexts{"), 0);
    bench.serve(&bench.request());
    assert_eq!(value(&bench, "weir_instances_made_total"), 3);
    assert_eq!(value(&bench, "weir_instances_reset_total"), 4);
    assert!(shown(&bench, "weir_instances_dropped").is_empty());
}

#[test]
fn instances_that_are_given_up_are_counted_by_reason() {
    let traps = counting(Guest::new().on(Callback::RequestHeaders, [wat("unreachable")]), 3);
    let _ = traps.begin(&traps.request()).headers(Direction::Request, true);
    assert_eq!((dropped(&traps, "failed"), pool(&traps)[1]), (1, 0));

    let grows =
        counting(Guest::new().on(Callback::RequestHeaders, [wat("(drop (memory.grow (i32.const 1)))")]), 3);
    (0..3).for_each(|_| grows.serve(&grows.request()));
    assert_eq!((dropped(&grows, "grown"), value(&grows, "weir_instances_made_total")), (0, 1), "it is reset");

    assert_eq!(value(&grows, "weir_instances_trimmed_total"), 0, "a page is kept");
    let little = Settings { keep_resident: 0, ..settings() };
    let writes = wat("(i32.store8 (i32.const 9) (i32.const 1))");
    let trimmed = Guest::new().on(Callback::RequestHeaders, [writes]);
    let trimmed = trimmed.bench_in(&little, Isolation::Stream).metrics(Options::default());
    (0..3).for_each(|_| trimmed.serve(&trimmed.request()));
    assert_eq!(
        (value(&trimmed, "weir_instances_trimmed_total"), value(&trimmed, "weir_instances_made_total")),
        (3, 1)
    );

    let renewed = Settings { tracking: Tracking::Renew, ..settings() };
    let renewed = Guest::tracer().bench_in(&renewed, Isolation::Stream).metrics(Options::default());
    (0..3).for_each(|_| renewed.serve(&renewed.request()));
    assert_eq!((dropped(&renewed, "renewed"), value(&renewed, "weir_instances_made_total")), (3, 3));

    let few = Rules { stock: Stock { idle: 0, ..Stock::default() }, ..Rules::default() };
    let few = counting(Guest::tracer(), 3).rules(few);
    few.serve(&few.request());
    assert_eq!(dropped(&few, "spare"), 1);
}

#[test]
fn contexts_that_outlive_their_request_are_counted_apart() {
    let guest = Guest::new().on(Callback::Done, [returns(0)]);
    let bench = guest.bench_with(Isolation::None).metrics(Options::default());
    let chains: Vec<_> = (0..3).map(|_| bench.begin(&bench.request())).collect();
    assert_eq!([value(&bench, "weir_contexts{"), value(&bench, "weir_contexts_deferred")], [3, 0]);
    drop(chains);
    assert_eq!([value(&bench, "weir_contexts{"), value(&bench, "weir_contexts_deferred")], [0, 3]);
    let mut other = Guest::new().bench();
    other.worker = bench.worker.clone();
    drop(bench);
    assert_eq!(value(&other, "weir_contexts_deferred"), 0, "the instance has taken them along");
}

#[test]
fn time_between_callbacks_is_nobodys() {
    const BETWEEN: Duration = Duration::from_millis(20);
    let bench = counting(Guest::tracer(), 3);
    let begun = Instant::now();
    let request = bench.request();
    let mut chain = bench.begin(&request);
    for direction in [Direction::Request, Direction::Response] {
        std::thread::sleep(BETWEEN);
        let _ = chain.headers(direction, true);
    }
    std::thread::sleep(BETWEEN);
    chain.finish();
    let most = begun.elapsed().saturating_sub(BETWEEN * 3);
    let sums = shown(&bench, "weir_callback_duration_seconds_sum");
    let callbacks = ["context_create", "request_headers", "response_headers", "done", "log", "delete"];
    for callback in callbacks {
        assert!(sums.iter().any(|line| line.contains(callback)), "{callback}: {sums:?}");
    }
    let seconds = |line: &String| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
    let took: f64 = sums.iter().filter_map(seconds).sum();
    assert!(took > 0.0 && took <= most.as_secs_f64(), "{took} of {most:?}: {sums:?}");
}

#[test]
fn suspensions_are_shown_while_they_last() {
    let budget = Budget { failures: 2, ..Budget::default() };
    let fails = wat("(if (i32.eq (local.get 1) (i32.const 5)) (then unreachable))");
    let guest = Guest::new().on(Callback::RequestHeaders, [fails]);
    let bench = counting(guest, 3).rules(Rules { budget, ..Rules::default() });
    let suspended =
        || [value(&bench, "weir_filter_suspended"), value(&bench, "weir_filter_suspensions_total")];
    assert_eq!(suspended(), [0, 0]);
    for _ in 0..2 {
        let _ = bench.begin(&bench.request()).headers(Direction::Request, true);
    }
    assert_eq!(suspended(), [1, 1]);
    bench.worker.pass(Duration::from_secs(2));
    let well = bench.request();
    well.edit().maps.values_mut().for_each(Vec::clear);
    bench.serve(&well);
    assert_eq!(suspended(), [0, 1]);
}

#[test]
fn how_instances_are_put_back_is_shown_with_the_reason() {
    let bench = |tracking, isolation| {
        let settings = Settings { tracking, ..settings() };
        let bench = Guest::tracer().bench_in(&settings, isolation).metrics(Options::default());
        bench.rehearse().expect("accepted");
        shown(&bench, "weir_filter_reset").join("\n")
    };
    let shown = bench(Tracking::Renew, Isolation::Stream);
    assert!(
        shown.contains("instance=\"request\",tracker=\"renew\",reason=\"instance_reset says so\"} 1"),
        "{shown}"
    );
    let shown = bench(Tracking::Auto, Isolation::Stream);
    assert!(shown.contains("tracker=\"protect\",reason=\"it is the fastest\"} 1"), "{shown}");
    let shown = bench(Tracking::Auto, Isolation::None);
    assert!(shown.contains("instance=\"worker\",tracker=\"none\",reason=\"all requests"), "{shown}");
}

#[test]
fn calls_are_counted_by_upstream_and_how_they_end() {
    let bench = caller().on(Callback::RequestHeaders, [dial()]).bench_with(Isolation::None);
    let bench = bench.metrics(Options::default());
    let chains: Vec<_> = (0..4).map(|_| bench.headers(&bench.request())).collect();
    assert_eq!(value(&bench, "weir_calls_live"), 4);
    let calls = begun(&bench.worker);
    bench.shard.called(calls[0], response(b"yes"));
    bench.shard.called(calls[1], FAILED);
    drop(chains);
    assert_eq!(value(&bench, "weir_calls_live"), 0);
    let ended = |outcome: &str| {
        value(
            &bench,
            &format!("weir_calls_total{{filter=\"guest\",upstream=\"origin\",outcome=\"{outcome}\"}}"),
        )
    };
    assert_eq!(["2xx", "timeout", "cancelled"].map(ended), [1, 1, 2]);
    let timed = "weir_call_duration_seconds_count{filter=\"guest\",upstream=\"origin\"}";
    assert_eq!(value(&bench, timed), 2, "those that were answered, or have failed");

    bench.worker.refuse_calls(Some(CallError::Unknown("there is none".into())));
    let _ = bench.headers(&bench.request());
    assert_eq!(value(&bench, "weir_calls_refused_total{filter=\"guest\",reason=\"unknown\"}"), 1);
}

#[test]
fn modules_are_counted_by_where_they_come_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(folder.path()).expect("a cache");
    // Engines of their own, so that nothing is in use already.
    let engine = |instances| Engine::shared(&Settings { instances, ..settings() }).expect("an engine");
    let bench = Guest::new().bench().metrics(Options::default());
    let guest = Guest::new().named("loaded").data(8, "of this test only");
    let loaded = |engine: &Arc<Engine>| {
        load(engine, &cache, &guest.spec(), &guest.wasm(), &bench.worker).expect("loaded")
    };
    let first = engine(77);
    let filter = loaded(&first);
    let again = loaded(&first);
    drop((filter, again));
    let _ = loaded(&first);
    let loads = |source: &str| {
        value(&bench, &format!("weir_module_loads_total{{filter=\"loaded\",source=\"{source}\"}}"))
    };
    assert_eq!(["compiled", "in_use", "cache"].map(loads), [1, 1, 1]);
}
