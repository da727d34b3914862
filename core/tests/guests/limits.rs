//! Limits on what a shared instance keeps, and on what a filter logs. Those on memory, tables, stack and time are among
//! the failures.

use std::time::Duration;

use weir_core::{
    chain::{Direction, Verdict},
    engine::{
        Engine, Settings,
        cache::Cache,
        limits::{Limits, LogLimit},
    },
    filter::Callback,
    plan::Isolation,
    testing::Worker,
};

use crate::support::{Bench, Guest, load, plugin, returns, say, settings, wat};

fn limited(limits: Limits) -> Settings {
    Settings { instances: 8, limits, ..settings() }
}

#[test]
fn a_shared_instance_serves_a_limited_number_of_requests() {
    let limits = Limits { contexts: 2, ..settings().limits };
    let bench = Guest::tracer().bench_in(&limited(limits), Isolation::None);
    let [first, mut second] = [(); 2].map(|()| bench.begin(&bench.request()));
    bench.log();
    let mut third = bench.begin(&bench.request());
    assert_eq!(third.headers(Direction::Request, true), Verdict::Failed { status: 503 });
    assert_eq!(third.retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(bench.log(), ["its shared instance serves 2 requests, as many as \"contexts_limit\" allows"]);
    drop(third);
    assert!(bench.log().is_empty());
    // Nothing has happened to the others, and there is room again.
    assert_eq!(second.headers(Direction::Request, true), Verdict::Continue);
    drop(first);
    bench.log();
    let mut fourth = bench.begin(&bench.request());
    assert_eq!(fourth.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(bench.log(), ["C4", "H4"]);
}

/// Of a request with two filters in one instance there is room for the first one only: its context ends as any other.
#[test]
fn a_context_that_was_created_in_vain_ends() {
    let engine = Engine::shared(&limited(Limits { contexts: 1, ..settings().limits })).expect("an engine");
    let guest = Guest::tracer();
    let cache = Cache::disabled();
    let filter =
        load(&engine, &cache, &guest.spec(), &guest.wasm(), &Worker::default()).expect("the guest loads");
    let bench = Bench::new((0..2).map(|_| plugin(&filter, "", Isolation::None)).collect());
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 503 });
    chain.finish();
    let log = bench.log();
    assert_eq!(log[log.len() - 3..], ["D3", "L3", "X3"], "{log:?}");
}

#[test]
fn deferred_contexts_are_limited() {
    let limits = Limits { deferred: 2, ..settings().limits };
    let defers = Guest::tracer().on(Callback::Done, [returns(0)]);
    let bench = defers.bench_in(&limited(limits), Isolation::None);
    let ends = || {
        drop(bench.begin(&bench.request()));
        bench.log()
    };
    assert_eq!(ends()[3..], ["C2", "D2"]);
    assert_eq!(ends(), ["C3", "D3"]);
    for id in 4..7 {
        let log = ends();
        assert_eq!((&log[0], &log[1]), (&format!("C{id}"), &format!("D{id}")));
        assert!(log[2].contains("2 contexts wait for proxy_done already"), "{log:?}");
        assert_eq!(log[3..], [format!("L{id}"), format!("X{id}")]);
    }
}

#[test]
fn a_flood_of_lines_is_cut_and_counted() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let limits = Limits { log: LogLimit { rate: 10, burst: 20 }, ..settings().limits };
        // A hundred lines with each request.
        let flood = [
            wat("(local.set 0 (i32.const 100)) (loop"),
            say("x"),
            wat("(local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))"),
        ];
        let bench = Guest::new().on(Callback::RequestHeaders, flood).bench_in(&limited(limits), isolation);
        let request = || {
            assert_eq!(bench.begin(&bench.request()).headers(Direction::Request, true), Verdict::Continue);
            let (guests, ours) = bench.spoken();
            (guests.len(), ours)
        };
        let note =
            |count| vec![format!("{count} lines of its own were dropped: \"log_limit\" allows 10 a second")];
        assert_eq!(request(), (20, note(80)));
        assert_eq!(request(), (0, vec![]), "no note so soon");
        bench.worker.pass(Duration::from_millis(500));
        assert_eq!(request(), (5, vec![]));
        bench.worker.pass(Duration::from_millis(500));
        // The lines of the last two requests are spoken of before this one's first line, its own not yet.
        assert_eq!(request(), (5, note(100 + 95)));
        bench.worker.pass(Duration::from_secs(100));
        let (lines, ours) = request();
        assert_eq!((lines, ours.len()), (20, 1));
    }
}

/// What nobody would read costs nothing.
#[test]
fn lines_below_the_level_do_not_count() {
    let limits = Limits { log: LogLimit { rate: 1, burst: 1 }, ..settings().limits };
    let trace = wat("(drop (call $proxy_log (i32.const 0) (i32.const 8) (i32.const 5)))");
    let guest = Guest::new().data(8, "quiet").on(Callback::RequestHeaders, [trace]);
    let bench = guest.bench_in(&limited(limits), Isolation::Stream);
    bench.worker.set_log_level(weir_core::abi::types::LogLevel::Warn);
    for _ in 0..10 {
        bench.serve(&bench.request());
    }
    bench.worker.set_log_level(weir_core::abi::types::LogLevel::Trace);
    bench.serve(&bench.request());
    assert_eq!(bench.spoken(), (vec!["quiet".to_owned()], vec![]));
}
