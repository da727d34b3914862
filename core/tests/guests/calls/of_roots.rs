//! Calls of root contexts: of configurations, of ticks, and those that requests make in their name.

use weir_core::{
    chain::Direction,
    filter::Callback,
    plan::Isolation,
    shard::Shard,
    testing::{Memory, Request, Worker},
};

use super::EFFECTIVE;
use crate::{
    caller::{TOKEN, begun, caller, dial, response},
    support::{Bench, Guest, call, lines, param, returns, say, settings, u32_at, wat},
};

/// A worker that has rehearsed its configuration and started.
fn started(guest: &Guest, isolation: Isolation) -> (Bench, Shard<Memory>, Worker) {
    let bench = guest.bench_with(isolation);
    let (shard, worker) = bench.start();
    assert!(bench.worker.take_calls().is_empty(), "no call leaves the master");
    (bench, shard, worker)
}

#[test]
fn a_configuration_s_call_is_made_in_each_worker_and_what_it_learns_is_kept() {
    let keep = wat("(i32.store8 (i32.const 8) (i32.const 7))");
    let show = wat("(call $number (i32.const 0) (i64.load8_u (i32.const 8)))");
    let answered =
        caller().on(Callback::HttpCallResponse, [param(0), keep]).on(Callback::RequestHeaders, [show]);
    for (callback, isolation, seen) in [
        (Callback::Configure, Isolation::Auto, "7"),
        (Callback::Configure, Isolation::None, "7"),
        (Callback::Configure, Isolation::Stream, "0"),
        (Callback::VmStart, Isolation::Auto, "7"),
    ] {
        let guest = answered.clone().on(callback, [dial(), u32_at(TOKEN), returns(1)]);
        let (bench, shard, worker) = started(&guest, isolation);
        assert_eq!(bench.log(), ["0", "2147483648"], "a number that no call has");
        assert_eq!(lines(&worker), ["0", "1"]);
        let [token] = begun(&worker)[..] else { panic!("one call") };
        shard.called(token, response(b""));
        assert_eq!(lines(&worker), ["1"]);
        let request = Request::new(&worker);
        let _ = shard.begin(bench.id, &request).headers(Direction::Request, true);
        assert_eq!(lines(&worker), [seen], "{isolation:?}");
    }
}

/// What is asked for in the master takes memory there.
#[test]
fn a_configuration_s_calls_are_limited_too() {
    let mut settings = settings();
    settings.limits.calls = 1;
    let guest = caller().on(Callback::Configure, [dial(), dial(), returns(1)]);
    let bench = guest.bench_in(&settings, Isolation::Auto);
    bench.rehearse().expect("accepted");
    let (answers, warnings) = bench.spoken();
    assert_eq!(answers, ["0", "10"]);
    assert!(warnings[0].contains("calls_limit"), "{warnings:?}");
}

#[test]
fn a_root_context_s_call_is_finished_whatever_becomes_of_requests() {
    let guest = caller()
        .on(Callback::Configure, [call("proxy_set_tick_period_milliseconds", [250]), returns(1)])
        .on(Callback::Tick, [dial()])
        .on(Callback::RequestHeaders, [call(EFFECTIVE, [1]), dial()])
        .on(Callback::HttpCallResponse, [say("told")]);
    let (bench, shard, worker) = started(&guest, Isolation::Auto);
    let [(root, _)] = worker.ticks()[..] else { panic!("one ticks") };
    shard.tick(root);
    let request = Request::new(&worker);
    let _ = shard.begin(bench.id, &request).headers(Direction::Request, true);
    let calls = worker.take_calls();
    assert!(calls.iter().all(|call| !call.by_stream));
    drop(lines(&worker));
    for call in calls {
        shard.called(call.token, response(b""));
    }
    assert_eq!(lines(&worker), ["told", "told"]);
}

/// A request's own instance lives on until its root context's call is answered, too.
#[test]
fn a_call_sent_off_by_a_request_is_finished_in_its_own_instance() {
    let bench = caller()
        .on(Callback::Log, [call(EFFECTIVE, [1]), dial()])
        .on(Callback::HttpCallResponse, [say("told")])
        .bench();
    bench.headers(&bench.request()).finish();
    let [token] = begun(&bench.worker)[..] else { panic!("one call") };
    drop(bench.log());
    bench.shard.called(token, response(b""));
    assert_eq!(bench.log(), ["told"]);
    assert_eq!(bench.shard.calls(), 0);
}
