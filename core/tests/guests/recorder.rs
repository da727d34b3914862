//! What Weir counts of a filter itself.

use weir_core::{
    chain::{Direction, Verdict},
    filter::Callback,
    metrics::{Options, Timing},
    plan::Isolation,
};

use crate::{
    hostcalls::define_metric::shown,
    support::{Bench, Guest, OUT, call, returns, show, wat},
};

/// A worker that counts what `guest` does.
fn counting(guest: Guest) -> Bench {
    guest.bench_with(Isolation::Stream).metrics(Options::default())
}

fn labels(more: &str) -> String {
    format!("{{filter=\"guest\",directive=\"test.conf:1\",{more}}}")
}

#[track_caller]
fn assert_shows(bench: &Bench, name: &str, more: &str, value: &str) {
    let line = format!("{name}{} {value}", labels(more));
    let name = format!("{name}{{");
    assert!(shown(bench, &name).contains(&line), "no {line} in {:#?}", shown(bench, &name));
}

#[test]
fn callbacks_are_counted_and_timed() {
    let bench = counting(Guest::new().on(Callback::RequestHeaders, []).on(Callback::Log, []));
    for _ in 0..3 {
        bench.serve(&bench.request());
    }
    let count = "weir_callback_duration_seconds_count";
    assert_shows(&bench, count, "callback=\"on_request_headers\"", "3");
    assert_shows(&bench, count, "callback=\"on_log\"", "3");
    assert!(shown(&bench, count).iter().all(|line| !line.contains("on_response_headers")));
    let bucket = "weir_callback_duration_seconds_bucket";
    assert_shows(&bench, bucket, "callback=\"on_log\",le=\"+Inf\"", "3");
    let sum = shown(&bench, "weir_callback_duration_seconds_sum");
    let sum = sum.iter().find(|line| line.contains("on_log")).and_then(|line| line.rsplit(' ').next());
    let sum: f64 = sum.expect("a sum").parse().expect("a number");
    assert!(sum > 0.0 && sum < 10.0, "{sum}");
}

#[test]
fn pauses_and_local_responses_are_counted() {
    let bench = counting(Guest::new().on(Callback::RequestHeaders, [returns(1)]));
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    assert_shows(&bench, "weir_callback_pauses_total", "callback=\"on_request_headers\"", "1");
    chain.finish();

    let send = call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1]);
    let bench = counting(Guest::new().on(Callback::RequestHeaders, [send]));
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::LocalResponse);
    assert_shows(&bench, "weir_local_responses_total", "callback=\"on_request_headers\"", "1");
    assert!(shown(&bench, "weir_callback_pauses_total").is_empty());
}

/// Also in a callback that no request is about.
#[test]
fn failures_of_ticks_are_counted() {
    let guest = Guest::new()
        .on(Callback::Configure, [wat("(drop (call $tick (i32.const 1000)))")])
        .on(Callback::Tick, [wat("unreachable")])
        .import(
            r#"(import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#,
        );
    let bench = guest.bench_with(Isolation::None).metrics(Options::default());
    drop(bench.begin(&bench.request()));
    let [(root, _)] = bench.worker.ticks()[..] else { panic!("{:?}", bench.worker.ticks()) };
    for _ in 0..2 {
        bench.shard.tick(root);
    }
    assert_shows(&bench, "weir_failures_total", "callback=\"on_tick\",cause=\"trap\"", "2");
}

#[test]
fn failures_are_counted_by_cause() {
    let bench = counting(Guest::new().on(Callback::RequestHeaders, [wat("unreachable")]));
    for _ in 0..2 {
        let request = bench.request();
        let verdict = bench.begin(&request).headers(Direction::Request, true);
        assert!(matches!(verdict, Verdict::Failed { .. }));
    }
    assert_shows(&bench, "weir_failures_total", "callback=\"on_request_headers\",cause=\"trap\"", "2");
    let count = "weir_callback_duration_seconds_count";
    assert_shows(&bench, count, "callback=\"on_request_headers\"", "2");
}

#[test]
fn bytes_of_bodies_are_counted() {
    let steps = [
        call("proxy_get_buffer_bytes", [0, 2, 100, OUT, OUT + 4]),
        call("proxy_set_buffer_bytes", [0, 0, 10, 0, 3]),
    ];
    let bench = counting(Guest::new().on(Callback::RequestBody, steps));
    let request = bench.request();
    show(&request, Direction::Request, "0123456789");
    bench.serve(&request);
    assert_shows(&bench, "weir_body_bytes_total", "operation=\"read\"", "8");
    assert_shows(&bench, "weir_body_bytes_total", "operation=\"written\"", "3");
}

#[test]
fn it_can_be_switched_off() {
    let off = Options { callbacks: Timing::Off, ..Options::default() };
    let bench = Guest::new().on(Callback::RequestHeaders, []).bench().metrics(off);
    bench.serve(&bench.request());
    assert!(shown(&bench, "weir_callback").is_empty());
}
