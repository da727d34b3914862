//! Filters that fail again and again: suspended, tried again later, and each time for longer.

use std::time::Duration;

use weir_core::{
    abi::types::{
        MapType,
        StreamType::{HttpRequest, HttpResponse},
    },
    chain::{Chain, Direction, Verdict},
    engine::{Engine, Settings, cache::Cache},
    failure::{Budget, Policy},
    filter::Callback,
    plan::{Isolation, Plans},
    shard::Rules,
    testing::{Memory, Worker},
};

use crate::support::{Bench, Guest, load, plugin, returns, settings, trace, wat};

const FAILED: Verdict = Verdict::Failed { status: 500 };
const UNAVAILABLE: Verdict = Verdict::Failed { status: 503 };

fn rules() -> Rules {
    let budget = Budget {
        failures: 3,
        window: Duration::from_secs(10),
        backoff: Duration::from_secs(1),
        longest: Duration::from_secs(3),
    };
    Rules { budget, ..Rules::default() }
}

/// A guest that fails where a request has six headers instead of five.
fn fragile() -> Guest {
    let fails = wat("(if (i32.eq (local.get 1) (i32.const 6)) (then unreachable))");
    Guest::new().on(Callback::RequestHeaders, [trace("H"), fails]).on(Callback::Done, [trace("D")])
}

/// A request that fails, or not.
fn begin(bench: &Bench, fails: bool) -> Chain<Memory> {
    let request = bench.request();
    if fails {
        let mut parts = request.edit();
        let headers = parts.maps.get_mut(&MapType::HttpRequestHeaders).expect("a map");
        headers.push((b"fail".to_vec(), b"yes".to_vec()));
    }
    bench.begin(&request)
}

fn send(bench: &Bench, fails: bool) -> Verdict {
    begin(bench, fails).headers(Direction::Request, true)
}

/// Three failures in a row.
fn suspend(bench: &Bench) {
    for _ in 0..3 {
        assert_eq!(send(bench, true), FAILED);
    }
    let log = bench.log();
    assert_eq!(log.last().map(String::as_str), Some("suspended for 1 s: 3 failures within 10 s"));
    assert_eq!(log.iter().filter(|line| line.contains("suspended")).count(), 1, "{log:?}");
}

#[test]
fn a_filter_that_fails_too_often_is_not_run_for_a_while() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = fragile().bench_with(isolation).rules(rules());
        suspend(&bench);
        let mut chain = begin(&bench, false);
        assert_eq!(chain.headers(Direction::Request, true), UNAVAILABLE);
        assert_eq!(chain.retry_after(), Some(Duration::from_secs(1)));
        assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue, "the answer goes out");
        drop(chain);
        bench.worker.pass(Duration::from_millis(700));
        let chain = begin(&bench, false);
        assert_eq!(chain.retry_after(), Some(Duration::from_millis(300)));
        drop(chain);
        assert!(bench.log().is_empty(), "neither run nor spoken of");

        bench.worker.pass(Duration::from_millis(300));
        assert_eq!(send(&bench, false), Verdict::Continue);
        let log = bench.log();
        assert_eq!(log.last().map(String::as_str), Some("runs again after its suspension"));
        assert_eq!(send(&bench, false), Verdict::Continue);
        assert_eq!(bench.log().len(), 2, "nothing more is said of it");
        suspend(&bench);
    }
}

#[test]
fn each_suspension_without_success_lasts_longer() {
    let bench = fragile().bench().rules(rules());
    suspend(&bench);
    for (waits, lasts) in [(1, 2), (2, 3), (3, 3)] {
        bench.worker.pass(Duration::from_secs(waits));
        assert_eq!(send(&bench, true), FAILED);
        let log = bench.log();
        assert_eq!(log.last(), Some(&format!("suspended for {lasts} s: it has failed again")));
        assert_eq!(send(&bench, true), UNAVAILABLE);
        assert!(bench.log().is_empty());
    }
}

#[test]
fn requests_in_flight_go_on_and_decide_nothing() {
    let bench = fragile().bench().rules(rules());
    let [mut good, mut bad] = [false, true].map(|fails| begin(&bench, fails));
    suspend(&bench);
    assert_eq!(good.headers(Direction::Request, true), Verdict::Continue);
    drop(good);
    assert_eq!(bench.log(), ["H2", "D2"]);
    assert_eq!(bad.headers(Direction::Request, true), FAILED);
    assert_eq!(bench.log().len(), 2, "what it logs, and the report");
    assert_eq!(send(&bench, false), UNAVAILABLE);
}

#[test]
fn failures_that_are_far_apart_do_not_count() {
    let bench = fragile().bench().rules(rules());
    for _ in 0..20 {
        assert_eq!(send(&bench, true), FAILED);
        bench.worker.pass(Duration::from_secs(5));
    }
    assert!(bench.log().iter().all(|line| !line.contains("suspended")));
}

#[test]
fn an_open_policy_skips_a_suspended_filter() {
    let [fragile, after] = [fragile().load(), Guest::tracer().named("after").load()];
    let plugins = [&fragile, &after].map(|filter| plugin(filter, "", Isolation::Stream));
    let bench = Bench::new(plugins.to_vec()).rules(rules()).policy(Policy::Open);
    for _ in 0..3 {
        assert_eq!(send(&bench, true), Verdict::Continue);
    }
    bench.log();
    let mut chain = begin(&bench, true);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Continue);
    chain.finish();
    assert_eq!(chain.retry_after(), None);
    assert_eq!(bench.log(), ["C2", "H2", "D2", "L2", "X2"]);
}

/// Directives that do not share instances are suspended apart.
#[test]
fn other_directives_of_the_same_module_run_on() {
    let filter = fragile().load();
    let mut plans = Plans::new();
    let first = plans.add_chain(vec![plugin(&filter, "first", Isolation::Stream)]);
    let second = plans.add_chain(vec![plugin(&filter, "second", Isolation::Stream)]);
    let bench = Bench::of(plans, first).rules(rules());
    suspend(&bench);
    let mut chain = bench.shard.begin(second, &bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Continue);
}

#[test]
fn a_budget_may_be_unlimited() {
    let budget = Budget { failures: 0, ..Budget::default() };
    let bench = fragile().bench().rules(Rules { budget, ..Rules::default() });
    for _ in 0..500 {
        assert_eq!(send(&bench, true), FAILED);
    }
}

/// A shared instance that traps in a tick: who waits in it is told, and a filter that does so again and again rests.
#[test]
fn ticks_that_fail_count_and_tell_who_waits() {
    let guest = Guest::new()
        .on(Callback::Configure, [wat("(drop (call $tick (i32.const 1000)))")])
        .on(Callback::RequestHeaders, [returns(1)])
        .on(Callback::Tick, [wat("unreachable")])
        .import(
            r#"(import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#,
        );
    let bench = guest.bench_with(Isolation::None).rules(rules());
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    let [(root, 1000)] = bench.worker.ticks()[..] else { panic!("{:?}", bench.worker.ticks()) };
    bench.shard.tick(root);
    assert_eq!(request.edit().resumed, [(HttpRequest, 0), (HttpResponse, 0)]);
    assert_eq!(chain.resume(Direction::Request, 0), FAILED);
    for _ in 0..2 {
        bench.shard.tick(root);
    }
    let log = bench.log();
    assert_eq!(log.iter().filter(|line| line.contains("proxy_on_tick failed")).count(), 3, "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("suspended for 1 s: 3 failures within 10 s"));
    bench.shard.tick(root);
    assert!(bench.log().is_empty(), "it rests");
    bench.worker.pass(Duration::from_secs(1));
    bench.shard.tick(root);
    assert_eq!(bench.log().last().map(String::as_str), Some("suspended for 2 s: it has failed again"));
}

/// A worker that has instances for two requests, each with a filter that logs and one that fails; two failures are too
/// many.
fn crowded(policy: Policy) -> Bench {
    let engine = Engine::shared(&Settings { instances: 4, ..settings() }).expect("an engine");
    let plugins = [Guest::tracer().named("before"), fragile()].map(|guest| {
        let loaded = load(&engine, &Cache::disabled(), &guest.spec(), &guest.wasm(), &Worker::default());
        plugin(&loaded.expect("the guest loads"), "", Isolation::Stream)
    });
    let budget = Budget { failures: 2, ..rules().budget };
    Bench::new(plugins.to_vec()).rules(Rules { budget, ..Rules::default() }).policy(policy)
}

/// Suspends the filter by requests that still have all instances; somebody waits for one of these, and is told.
fn suspend_the_crowded(bench: &Bench) -> [Chain<Memory>; 2] {
    let mut holders = [true, true].map(|fails| begin(bench, fails));
    assert!(!bench.shard.has_room_under(Policy::default(), bench.id));
    assert!(!bench.shard.has_room_under(Policy::Open, bench.id));
    let waiting = [bench.request(), bench.request()];
    waiting.iter().for_each(|request| bench.shard.wait(request));
    for (at, holder) in holders.iter_mut().enumerate() {
        assert!(waiting.iter().all(|request| !request.edit().instance_free), "after {at} failures");
        holder.headers(Direction::Request, true);
    }
    assert!(waiting.iter().all(|request| request.edit().instance_free), "both are to look again");
    bench.log();
    holders
}

/// It is answered at once, and takes nothing: not for the filters before the suspended one either.
#[test]
fn a_request_that_a_suspension_fails_needs_no_instance() {
    let bench = crowded(Policy::default());
    let holders = suspend_the_crowded(&bench);
    assert!(bench.shard.has_room_under(Policy::default(), bench.id));
    let mut chain = begin(&bench, false);
    assert_eq!(chain.headers(Direction::Request, true), UNAVAILABLE);
    assert_eq!(chain.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue, "the answer goes out");
    drop(chain);
    assert!(bench.log().is_empty(), "nobody has been run");

    bench.worker.pass(Duration::from_secs(1));
    assert!(!bench.shard.has_room_under(Policy::default(), bench.id), "on trial it needs one again");
    drop(holders);
    assert_eq!(send(&bench, false), Verdict::Continue);
}

/// The others of its chain are run, and wait for their instances.
#[test]
fn a_request_that_goes_on_needs_instances_for_the_others_alone() {
    let bench = crowded(Policy::Open);
    let [first, second] = suspend_the_crowded(&bench);
    let room = || bench.shard.has_room_under(Policy::Open, bench.id);
    assert!(!room());
    drop(first);
    assert!(room());
    let third = [false, false].map(|fails| begin(&bench, fails));
    assert!(!room(), "two that need one each instead of two");
    drop((second, third));
    assert!(bench.log().iter().all(|line| !line.contains("instance")));
}
