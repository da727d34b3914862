//! `proxy_done`, and contexts that outlive their request.

use weir_core::{
    abi::Status,
    chain::Direction,
    filter::{AbiVersion, Callback},
    plan::Isolation,
};

use crate::support::{
    Bench, Guest, OUT, SIZE, call, case, check, check_in, for_context, plugin, returns, say, wat,
};

const DONE: &str = "proxy_done";
const SET: &str = "proxy_set_effective_context";

#[test]
fn where_nothing_is_pending_there_is_nothing_to_be_done() {
    let cases =
        [case(DONE, [], Status::NotFound), case(SET, [1], Status::Ok), case(DONE, [], Status::NotFound)];
    check(Guest::new(), |_| (), &cases);
    for callback in [Callback::Configure, Callback::VmStart, Callback::ContextCreate, Callback::Log] {
        let guest = Guest::new().on(callback, [call(DONE, [])]);
        let answers = guest.bench().run();
        assert!(
            !answers.is_empty() && answers.iter().all(|answer| answer == "1"),
            "{callback:?} {answers:?}"
        );
    }
}

/// `proxy_done` counts once, whatever `on_done` returns then.
#[test]
fn on_done_may_complete_itself() {
    for returned in [0, 1] {
        let guest = Guest::tracer().on(Callback::Done, [call(DONE, []), call(DONE, []), returns(returned)]);
        let bench = guest.bench_with(Isolation::None);
        bench.begin(&bench.request()).finish();
        let expected = ["C1", "S1", "F1", "C2", "D2", "0", "1", "L2", "X2"];
        assert_eq!(bench.log(), expected, "returning {returned}");
    }
}

#[test]
fn a_deferred_context_ends_after_the_callback_that_completes_it() {
    let complete = [call(SET, [2]), call(DONE, []), call(DONE, []), say("end")];
    let guest = Guest::tracer()
        .on(Callback::Done, [for_context(2, [returns(0)])])
        .on(Callback::RequestHeaders, [for_context(3, complete)])
        .on(Callback::ResponseHeaders, [for_context(3, [call(SET, [2])])]);
    let bench = guest.bench_with(Isolation::None);
    bench.begin(&bench.request()).finish();
    assert_eq!(bench.log(), ["C1", "S1", "F1", "C2", "D2"], "deferred");
    let mut next = bench.begin(&bench.request());
    next.headers(Direction::Request, true);
    assert_eq!(bench.log(), ["C3", "H3", "0", "0", "1", "end", "L2", "X2"]);
    next.headers(Direction::Response, true);
    assert_eq!(bench.log(), ["h3", "2"], "the context is unknown now");
}

/// Several may be pending at once; each is completed for itself, from any callback.
#[test]
fn pending_contexts_do_not_disturb_each_other() {
    let guest = Guest::tracer()
        .on(Callback::Done, [for_context(2, [returns(0)]), for_context(3, [returns(0)])])
        .on(Callback::Log, [for_context(4, [call(SET, [3]), call(DONE, [])])])
        .on(Callback::ContextCreate, [for_context(5, [call(SET, [2]), call(DONE, [])])]);
    let bench = guest.bench_with(Isolation::None);
    for _ in 0..3 {
        bench.begin(&bench.request()).finish();
    }
    let expected = ["C1", "S1", "F1", "C2", "D2", "C3", "D3", "C4", "D4", "L4", "0", "0", "X4", "L3", "X3"];
    assert_eq!(bench.log(), expected);
    bench.begin(&bench.request()).finish();
    assert_eq!(bench.log(), ["C5", "0", "0", "D5", "L5", "X5", "L2", "X2"]);
}

/// An instance that ends with its request has nothing left to wait for when all its filters are done.
#[test]
fn deferring_in_an_instance_of_the_request_s_own_lasts_as_long_as_the_request() {
    let read = [call("proxy_get_header_map_value", [0, 0, 5, OUT, SIZE])];
    let filter =
        Guest::tracer().data(0, ":path").on(Callback::Done, [returns(0)]).on(Callback::Log, read).load();
    for count in 1..3 {
        let bench = Bench::new((0..count).map(|_| plugin(&filter, "", Isolation::Filter)).collect());
        bench.begin(&bench.request()).finish();
        let log = bench.log();
        let ends = if count == 1 { &["D2", "L2", "0", "X2"][..] } else { &["D2", "D2", "L2", "0", "X2"] };
        assert!(log.join(" ").contains(&ends.join(" ")), "{log:?}");
        assert_eq!(log.iter().filter(|line| *line == "X2").count(), count);
    }
}

/// A filter of the same request may still complete it, and then it ends there.
#[test]
fn a_sibling_completes_what_was_deferred_before_the_request_s_own_instance_ends() {
    let filter = Guest::tracer()
        .on(
            Callback::Done,
            [for_context(3, [returns(0)]), for_context(4, [call(SET, [3]), call(DONE, []), call(DONE, [])])],
        )
        .load();
    let bench = Bench::new((0..2).map(|_| plugin(&filter, "", Isolation::Stream)).collect());
    bench.begin(&bench.request()).finish();
    let log = bench.log().join(" ");
    assert!(log.ends_with("C3 C4 D3 D4 0 0 1 L4 X4 L3 X3"), "{log}");
}

#[test]
fn a_deferred_context_that_fails_at_its_end_is_reported() {
    let guest = Guest::tracer().on(Callback::Done, [returns(0)]).on(Callback::Log, [wat("unreachable")]);
    let bench = guest.bench();
    bench.begin(&bench.request()).finish();
    let log = bench.log();
    assert!(log.last().is_some_and(|line| line.contains("proxy_on_log failed")), "{log:?}");
    bench.begin(&bench.request()).finish();
    assert_eq!(bench.log()[0], "C2", "a new instance");
}

#[test]
fn once_the_request_is_gone_nothing_of_it_is_found() {
    let path = "request.path";
    for (version, missing) in [(AbiVersion::V0_2_1, "1"), (AbiVersion::V0_1_0, "0")] {
        let reads = [
            call(SET, [2]),
            call("proxy_get_header_map_value", [0, 0, 5, OUT, SIZE]),
            call("proxy_get_property", [0, 12, OUT, SIZE]),
            call("proxy_get_buffer_bytes", [0, 0, 9, OUT, SIZE]),
            call("proxy_get_buffer_status", [0, OUT, SIZE]),
            call("proxy_get_header_map_pairs", [0, OUT, SIZE]),
            call("proxy_set_property", [0, 12, 0, 1]),
            call("proxy_log", [2, 0, 12]),
        ];
        let guest = Guest::new()
            .version(version)
            .data(0, path)
            .on(Callback::Done, [returns(0)])
            .on(Callback::RequestHeaders, [for_context(3, reads)]);
        let bench = guest.bench_with(Isolation::None);
        bench.serve(&bench.request());
        bench.serve(&bench.request());
        assert_eq!(bench.spoken().0, ["0", missing, "1", "1", "1", "0", "1", path, "0"], "{version:?}");
    }
}

/// While `on_done`, `on_log` and `on_delete` run, the request is still there.
#[test]
fn the_last_callbacks_still_see_the_request() {
    let read = [case("proxy_get_header_map_value", [0, 0, 5, OUT, SIZE], Status::Ok)];
    for callback in [Callback::Done, Callback::Log, Callback::Delete] {
        check_in(callback, Guest::new().data(0, ":path"), |_| (), &read);
    }
}
