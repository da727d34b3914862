//! `proxy_set_tick_period_milliseconds`, and the instances that tick.

use weir_core::{
    chain::Direction,
    filter::Callback,
    plan::Isolation,
    shard::Shard,
    testing::{Memory, Worker},
};

use crate::support::{Bench, Guest, call, lines, number, plugin, returns, trace, wat};

const SET: &str = "proxy_set_tick_period_milliseconds";

/// A guest that asks for ticks while it is configured, counts them in its memory, and says how many there were in each
/// tick and each request.
fn ticking() -> Guest {
    let count = number("(i64.load32_u (i32.const 8))");
    let more = wat("(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))");
    Guest::new()
        .on(Callback::Configure, [call(SET, [250]), returns(1)])
        .on(Callback::Tick, [trace("T"), more, count.clone()])
        .on(Callback::RequestHeaders, [count])
}

/// A worker that has rehearsed its configuration and started.
fn started(guest: &Guest, isolation: Isolation) -> (Bench, Shard<Memory>, Worker) {
    let bench = guest.bench_with(isolation);
    let (shard, worker) = bench.start();
    assert_eq!(bench.log(), ["0"], "configured once in the master");
    assert!(bench.worker.ticks().is_empty(), "nothing ticks there");
    (bench, shard, worker)
}

#[test]
fn a_root_context_ticks_in_the_worker_and_hands_on_what_it_learns() {
    for (isolation, seen) in
        [(Isolation::Auto, "2"), (Isolation::None, "2"), (Isolation::Stream, "0"), (Isolation::Filter, "0")]
    {
        let (bench, shard, worker) = started(&ticking(), isolation);
        let [(root, 250)] = worker.ticks()[..] else { panic!("{:?}", worker.ticks()) };
        assert_eq!(lines(&worker), ["0"], "configured in the worker");
        shard.tick(root);
        shard.tick(root);
        assert_eq!(lines(&worker), ["T1", "1", "T1", "2"]);
        let request = weir_core::testing::Request::new(&worker);
        shard.begin(bench.id, &request).headers(Direction::Request, true);
        assert_eq!(lines(&worker), [seen], "{isolation:?}");
    }
}

#[test]
fn a_tick_may_change_or_end_the_ticks() {
    let guest = ticking().on(Callback::Tick, [call(SET, [7]), call(SET, [0])]);
    let (_, shard, worker) = started(&guest, Isolation::Auto);
    let (root, _) = worker.ticks()[0];
    shard.tick(root);
    assert!(worker.ticks().is_empty());
    let guest = ticking().on(Callback::Tick, [call(SET, [-1])]);
    let (_, shard, worker) = started(&guest, Isolation::Auto);
    shard.tick(root);
    assert_eq!(worker.ticks(), [(root, u32::MAX)], "unsigned");
}

#[test]
fn a_tick_that_fails_is_logged_and_the_next_one_meets_a_new_instance() {
    let guest = ticking().on(Callback::Tick, [wat("unreachable")]);
    let (_, shard, worker) = started(&guest, Isolation::Auto);
    let (root, _) = worker.ticks()[0];
    lines(&worker);
    shard.tick(root);
    let log = lines(&worker);
    assert!(log.iter().any(|line| line.contains("proxy_on_tick failed")), "{log:?}");
    assert_eq!(worker.ticks(), [(root, 250)], "it goes on");
    shard.tick(root);
    assert!(lines(&worker).contains(&"0".to_owned()), "configured again");
}

/// In a shared instance a request may set them; in one of its own that would lead nowhere.
#[test]
fn a_request_may_ask_where_its_instance_lasts() {
    let guest = Guest::new().on(Callback::RequestHeaders, [call(SET, [40])]);
    let bench = guest.bench_with(Isolation::None);
    assert_eq!(bench.run(), ["0"]);
    assert_eq!(bench.worker.ticks().len(), 1);
    let bench = guest.bench();
    let log = bench.run();
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[0].contains("there will be none") && log[1] == "0", "{log:?}");
    assert!(bench.worker.ticks().is_empty());
}

/// Only the directive whose root context ticks is moved to the worker's instance.
#[test]
fn auto_is_decided_for_each_directive() {
    let configure =
        [wat("(if (i32.eq (local.get 1) (i32.const 4)) (then (drop (call $tick (i32.const 9)))))")];
    let guest = Guest::new()
        .import(
            r#"(import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#,
        )
        .on(Callback::Configure, configure)
        .on(
            Callback::RequestHeaders,
            [
                wat("(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))"),
                number("(i64.load32_u (i32.const 8))"),
            ],
        );
    let filter = guest.load();
    let plugins = ["tick", "no"].map(|text| plugin(&filter, text, Isolation::Auto));
    let mut plans = weir_core::plan::Plans::new();
    let id = plans.add_chain(plugins.to_vec());
    plans.rehearse(crate::support::engine(), &Worker::default()).expect("accepted");
    let bench = Bench::of(plans, id);
    bench.shard.start();
    for expected in [["1", "1"], ["2", "1"], ["3", "1"]] {
        bench.begin(&bench.request()).headers(Direction::Request, true);
        assert_eq!(bench.log(), expected);
    }
}

/// Which worker that is its proxies agree on.
#[test]
fn a_singleton_ticks_where_its_worker_leads() {
    let guest = ticking();
    let filter = guest.load();
    let singleton = |configuration: &str| {
        let mut one = plugin(&filter, configuration, Isolation::Auto);
        std::sync::Arc::get_mut(&mut one).expect("its only owner").singleton = true;
        one
    };
    let mut claims = Vec::new();
    for configuration in ["a", "a", "b"] {
        let mut plans = Bench::new(vec![singleton(configuration)]).plans.unrehearsed();
        plans.rehearse(crate::support::engine(), &Worker::default()).expect("accepted");
        let worker = Worker::default();
        let shard = Shard::new(plans.into(), worker.clone());
        shard.start();
        let [(root, _)] = worker.ticks()[..] else { panic!("{:?}", worker.ticks()) };
        drop(lines(&worker));
        worker.follow(true);
        shard.tick(root);
        assert!(lines(&worker).is_empty());
        claims.extend(worker.claims());
        worker.follow(false);
        shard.tick(root);
        assert_eq!(lines(&worker), ["T1", "1"]);
    }
    assert_eq!(claims.len(), 3);
    assert!(claims[0] == claims[1] && claims[0] != claims[2], "{claims:?}");
}
