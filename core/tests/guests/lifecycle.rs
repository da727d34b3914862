//! Contexts from birth to end, and what a filter is told when.

use weir_core::{
    abi::types::MapType,
    chain::{Direction, Verdict},
    filter::{AbiVersion, Callback},
    plan::Isolation,
};

use crate::support::{Bench, Guest, for_context, pairs, param, plugin, returns, say, show, trace, wat};

#[test]
fn a_request_s_callbacks_come_in_order() {
    let bench = Guest::tracer().bench();
    bench.rehearse().expect("accepted");
    assert_eq!(bench.log(), ["C1", "S1", "F1"], "once, on trial");
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, false), Verdict::Continue);
    assert_eq!(chain.body(Direction::Request, true), Verdict::Continue);
    assert_eq!(chain.trailers(Direction::Request), Verdict::Continue);
    assert_eq!(chain.headers(Direction::Response, false), Verdict::Continue);
    assert_eq!(chain.body(Direction::Response, true), Verdict::Continue);
    assert_eq!(chain.trailers(Direction::Response), Verdict::Continue);
    chain.finish();
    chain.finish();
    drop(chain);
    let expected = ["C1", "S1", "F1", "C2", "H2", "B2", "T2", "h2", "b2", "t2", "D2", "L2", "X2"];
    assert_eq!(bench.log(), expected);
}

#[test]
fn filters_of_one_module_share_the_request_s_instance_and_responses_come_in_reverse() {
    let filter = Guest::tracer().load();
    let bench = Bench::new((0..2).map(|_| plugin(&filter, "", Isolation::Stream)).collect());
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.headers(Direction::Request, true);
    chain.headers(Direction::Response, true);
    chain.finish();
    let expected = ["C1", "S1", "F1", "C2", "S2", "F2", "C3", "C4", "H3", "H4", "h4", "h3"];
    assert_eq!(bench.log(), [&expected[..], &["D3", "L3", "X3", "D4", "L4", "X4"]].concat());
}

#[test]
fn a_shared_instance_is_configured_once_and_gives_no_id_twice() {
    let bench = Guest::tracer().bench_with(Isolation::None);
    let mut first = bench.begin(&bench.request());
    let mut second = bench.begin(&bench.request());
    first.headers(Direction::Request, true);
    second.headers(Direction::Request, true);
    drop(first);
    drop(second);
    bench.begin(&bench.request()).finish();
    let expected = ["C1", "S1", "F1", "C2", "C3", "H2", "H3", "D2", "L2", "X2", "D3", "L3", "X3"];
    assert_eq!(bench.log(), [&expected[..], &["C4", "D4", "L4", "X4"]].concat());
}

#[test]
fn a_chain_that_is_dropped_ends_its_contexts() {
    let bench = Guest::tracer().bench();
    drop(bench.begin(&bench.request()));
    assert_eq!(bench.log(), ["C1", "S1", "F1", "C2", "D2", "L2", "X2"]);
}

/// An instance that lives in the worker is told when the worker ends; those of requests have ended with them.
#[test]
fn a_worker_s_end_is_the_end_of_its_root_contexts() {
    let filter = Guest::tracer().load();
    let bench = |isolation| Bench::new((0..2).map(|_| plugin(&filter, "", isolation)).collect());
    let shared = bench(Isolation::None);
    shared.begin(&shared.request()).finish();
    let own = bench(Isolation::Stream);
    own.begin(&own.request()).finish();
    for (bench, expected) in [(shared, &["D1", "X1", "D2", "X2"][..]), (own, &[])] {
        let worker = bench.worker.clone();
        drop(bench.log());
        drop(bench);
        let log: Vec<_> = worker.take_log().into_iter().map(|line| line.message).collect();
        assert_eq!(log, expected);
    }
}

#[test]
fn what_still_waits_for_proxy_done_ends_with_the_worker() {
    let guest = Guest::tracer().on(Callback::Done, [returns(0)]);
    let bench = guest.bench_with(Isolation::None);
    for _ in 0..2 {
        bench.begin(&bench.request()).finish();
    }
    let worker = bench.worker.clone();
    assert_eq!(bench.log(), ["C1", "S1", "F1", "C2", "D2", "C3", "D3"]);
    drop(bench);
    let log: Vec<_> = worker.take_log().into_iter().map(|line| line.message).collect();
    assert_eq!(log, ["L2", "X2", "L3", "X3", "D1", "X1"]);
}

#[test]
fn a_root_context_that_fails_at_its_end_is_reported() {
    let bench = Guest::new().on(Callback::Delete, [for_context(1, [wat("unreachable")])]);
    let bench = bench.bench_with(Isolation::None);
    bench.begin(&bench.request()).finish();
    let worker = bench.worker.clone();
    drop(bench.log());
    drop(bench);
    let log = worker.take_log();
    assert!(log.len() == 1 && log[0].message.contains("proxy_on_delete failed"), "{log:?}");
}

/// What each callback is told besides its context.
#[test]
fn callbacks_are_told_what_there_is() {
    let guest = Guest::new()
        .configuration("12345")
        .on(Callback::ContextCreate, [say("create"), param(0), param(1)])
        .on(Callback::VmStart, [say("start"), param(1)])
        .on(Callback::Configure, [say("configure"), param(1)])
        .on(Callback::RequestHeaders, [say("request"), param(1), param(2)])
        .on(Callback::RequestBody, [say("body"), param(1), param(2)])
        .on(Callback::RequestTrailers, [say("trailers"), param(1)])
        .on(Callback::ResponseHeaders, [say("response"), param(1), param(2)])
        .on(Callback::ResponseBody, [say("body"), param(1), param(2)])
        .on(Callback::ResponseTrailers, [say("trailers"), param(1)]);
    let bench = guest.bench();
    let request = bench.request();
    {
        let mut parts = request.edit();
        parts.maps.insert(MapType::HttpRequestTrailers, pairs(&[("a", "1"), ("b", "2")]));
        parts.maps.insert(MapType::HttpResponseTrailers, pairs(&[("a", "1")]));
    }
    let mut chain = bench.begin(&request);
    chain.headers(Direction::Request, false);
    show(&request, Direction::Request, "abc");
    chain.body(Direction::Request, false);
    show(&request, Direction::Request, "");
    chain.body(Direction::Request, false);
    chain.body(Direction::Request, true);
    chain.trailers(Direction::Request);
    chain.headers(Direction::Response, true);
    show(&request, Direction::Response, vec![0; 70000]);
    chain.body(Direction::Response, true);
    chain.trailers(Direction::Response);
    let expected = [
        &["create", "1", "0", "start", "5", "configure", "6", "create", "2", "1"][..],
        &["request", "5", "0", "body", "3", "0", "body", "0", "1", "trailers", "2"],
        &["response", "1", "1", "body", "70000", "1", "trailers", "1"],
    ];
    assert_eq!(bench.log(), expected.concat());
}

/// 0.1.0 has no `end_of_stream` on headers; either shape may come with any marker.
#[test]
fn headers_callbacks_have_two_or_three_parameters() {
    for (version, expected) in [
        (AbiVersion::V0_1_0, ["2", "5", "2", "1"].to_vec()),
        (AbiVersion::V0_2_0, ["2", "5", "1", "2", "1", "1"].to_vec()),
        (AbiVersion::V0_2_1, ["2", "5", "1", "2", "1", "1"].to_vec()),
    ] {
        let steps = || (0..if version == AbiVersion::V0_1_0 { 2 } else { 3 }).map(param);
        let guest = Guest::new()
            .version(version)
            .on(Callback::RequestHeaders, steps())
            .on(Callback::ResponseHeaders, steps());
        assert_eq!(guest.load().abi_version(), version);
        let bench = guest.bench();
        let mut chain = bench.begin(&bench.request());
        chain.headers(Direction::Request, true);
        chain.headers(Direction::Response, true);
        assert_eq!(bench.log(), expected, "{version:?}");
    }
    let old_shape = Guest::new().plus(
        r#"(func (export "proxy_on_request_headers") (param i32 i32) (result i32)
            (call $number (i32.const 0) (i64.extend_i32_u (local.get 1))) (i32.const 0))"#,
    );
    assert_eq!(old_shape.bench().run(), ["5"], "0.2.1 with the shape of 0.1.0");
}

#[test]
fn a_filter_that_refuses_its_configuration_is_named_with_its_place() {
    for callback in [Callback::VmStart, Callback::Configure] {
        let bench = Guest::tracer().on(callback, [returns(0)]).bench();
        let refusal = bench.rehearse().expect_err("refused");
        assert_eq!(refusal.place, "test.conf:1");
        let text = refusal.to_string();
        assert!(text.contains("filter \"guest\""), "{text}");
        assert!(text.contains(&format!("{} returned false", callback.name())), "{text}");
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 500 });
    }
}

#[test]
fn what_no_filter_exports_is_not_wanted() {
    let bench = Guest::new().on(Callback::ResponseBody, [trace("b")]).bench();
    let mut chain = bench.begin(&bench.request());
    for callback in Callback::ALL {
        let wanted = matches!(callback, Callback::ResponseBody | Callback::MemoryAllocate);
        assert_eq!(chain.wants(*callback), wanted, "{callback:?}");
        assert_eq!(bench.shard.wants(bench.id, *callback), wanted, "{callback:?}");
    }
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(chain.body(Direction::Response, true), Verdict::Continue);
    assert_eq!(bench.log(), ["b2"]);
}
