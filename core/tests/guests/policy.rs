//! What becomes of a request whose filter fails: it fails too, or goes on without that filter.

use std::panic::{AssertUnwindSafe, catch_unwind};

use weir_core::{
    abi::types::StreamType::{HttpRequest, HttpResponse},
    chain::{Chain, Direction, Verdict},
    engine::Settings,
    failure::Policy,
    filter::Callback,
    plan::Isolation,
    testing::Memory,
};

use crate::support::{Bench, Guest, call, for_context, plugin, returns, settings, show, wat};

const FAILED: Verdict = Verdict::Failed { status: 500 };

/// A chain of one filter before, the one that is tried, and one after it, which log what they see.
fn between(middle: &Guest, isolation: Isolation) -> Bench {
    let [before, after] = ["before", "after"].map(|name| Guest::tracer().named(name).load());
    let middle = middle.load();
    Bench::new([&before, &middle, &after].map(|filter| plugin(filter, "", isolation)).to_vec())
}

/// How a chain is told of something.
type Call = fn(&mut Chain<Memory>) -> Verdict;

/// The callbacks of a request, in the order of its life.
const CALLBACKS: [(Callback, Call, &str); 6] = [
    (Callback::RequestHeaders, |chain| chain.headers(Direction::Request, false), "H"),
    (Callback::RequestBody, |chain| chain.body(Direction::Request, true), "B"),
    (Callback::RequestTrailers, |chain| chain.trailers(Direction::Request), "T"),
    (Callback::ResponseHeaders, |chain| chain.headers(Direction::Response, false), "h"),
    (Callback::ResponseBody, |chain| chain.body(Direction::Response, true), "b"),
    (Callback::ResponseTrailers, |chain| chain.trailers(Direction::Response), "t"),
];

#[test]
fn an_open_policy_skips_the_filter_for_the_rest_of_the_request() {
    for isolation in [Isolation::Stream, Isolation::None] {
        for (fails_in, ..) in CALLBACKS {
            let fails = Guest::tracer().on(fails_in, [wat("unreachable")]);
            let bench = between(&fails, isolation).policy(Policy::Open);
            let mut chain = bench.begin(&bench.request());
            bench.log();
            let mut skipped = false;
            for (callback, call, letter) in CALLBACKS {
                assert_eq!(call(&mut chain), Verdict::Continue, "{fails_in:?} {callback:?}");
                let lines = bench.worker.take_log();
                let of = |name: &str| {
                    lines
                        .iter()
                        .filter(|line| line.filter == name)
                        .map(|line| &line.message[..])
                        .collect::<Vec<_>>()
                };
                let seen = format!("{letter}2");
                assert_eq!((of("before"), of("after")), (vec![&seen[..]], vec![&seen[..]]), "{lines:?}");
                if skipped {
                    assert!(of("guest").is_empty(), "{lines:?}");
                } else if callback == fails_in {
                    assert_eq!(of("guest").len(), 2, "what it has logged, and the report: {lines:?}");
                    skipped = true;
                }
            }
            chain.finish();
            assert!(bench.worker.take_log().iter().all(|line| line.filter != "guest"));
        }
    }
}

#[test]
fn a_filter_that_cannot_be_begun_is_skipped_too() {
    for (callback, step) in [
        (Callback::ContextCreate, for_context(2, [wat("unreachable")])),
        (Callback::ContextCreate, for_context(1, [wat("unreachable")])),
        (Callback::Configure, wat("unreachable")),
        (Callback::Start, wat("unreachable")),
        (Callback::VmStart, returns(0)),
    ] {
        for isolation in [Isolation::Stream, Isolation::None] {
            let fails = Guest::tracer().on(callback, [step.clone()]).load();
            let after = Guest::tracer().named("after").load();
            // Twice, so that what shares the instance that was not made is skipped as well.
            let plugins = [&fails, &fails, &after].map(|filter| plugin(filter, "", isolation));
            let bench = Bench::new(plugins.to_vec()).policy(Policy::Open);
            let mut chain = bench.begin(&bench.request());
            let reports = bench.log().into_iter().filter(|line| line.contains(callback.name()));
            assert_eq!(reports.count(), 1);
            for (callback, call, letter) in CALLBACKS {
                assert_eq!(call(&mut chain), Verdict::Continue, "{callback:?}");
                assert_eq!(bench.log(), [format!("{letter}2")]);
            }
        }
    }
}

#[test]
fn without_an_instance_a_request_goes_on_where_the_policy_is_open() {
    let settings = Settings { instances: 1, ..settings() };
    let bench = Guest::tracer().bench_in(&settings, Isolation::Stream).policy(Policy::Open);
    let first = bench.begin(&bench.request());
    bench.log();
    let mut second = bench.begin(&bench.request());
    assert!(bench.log()[0].contains("no instance can be made"));
    assert_eq!(second.headers(Direction::Request, true), Verdict::Continue);
    assert!(bench.log().is_empty());
    drop(first);
    bench.log();
    assert_eq!(bench.begin(&bench.request()).headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(bench.log()[0], "C2", "the next one has the instance that is free again");
}

#[test]
fn a_closed_policy_answers_with_its_status() {
    let fails = Guest::new().on(Callback::RequestHeaders, [wat("unreachable")]);
    let bench = fails.bench().policy(Policy::Closed { status: Some(429) });
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 429 });
    assert_eq!(chain.retry_after(), None);
}

/// What a filter has answered in the very callback that failed is not sent, whatever the policy is.
#[test]
fn a_local_response_of_a_callback_that_fails_is_withdrawn() {
    for callback in [Callback::RequestHeaders, Callback::ResponseHeaders] {
        for (policy, verdict) in [(Policy::default(), FAILED), (Policy::Open, Verdict::Continue)] {
            let answers = call("proxy_send_local_response", [200, 0, 0, 0, 0, 0, 0, -1]);
            let bench = Guest::new().on(callback, [answers, wat("unreachable")]).bench().policy(policy);
            let request = bench.request();
            let mut chain = bench.begin(&request);
            let direction =
                if callback == Callback::RequestHeaders { Direction::Request } else { Direction::Response };
            assert_eq!(chain.headers(direction, true), verdict, "{policy:?}");
            assert_eq!(bench.log()[0], "0", "the call was accepted");
            assert_eq!(request.edit().sent, None);
        }
    }
}

/// A filter that holds headers, and fails when it sees the body.
#[test]
fn held_headers_go_on_without_the_filter() {
    let fails = Guest::new()
        .on(Callback::RequestHeaders, [returns(1)])
        .on(Callback::RequestBody, [wat("unreachable")]);
    let bench = between(&fails, Isolation::Stream).policy(Policy::Open);
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, false), Verdict::Pause);
    bench.log();
    assert_eq!(chain.body(Direction::Request, true), Verdict::Continue);
    assert!(chain.headers_passed(Direction::Request) && chain.ended(Direction::Request));
    let log = bench.log();
    assert_eq!(
        (&log[0][..], &log[log.len() - 2..]),
        ("B2", &["H2".to_owned(), "B2".to_owned()][..]),
        "{log:?}"
    );
}

/// A filter that holds a request's body, and fails when it sees the response's headers.
#[test]
fn what_is_held_of_the_other_direction_goes_on_in_an_event_of_its_own() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let fails = Guest::new()
            .on(Callback::RequestBody, [returns(1)])
            .on(Callback::ResponseHeaders, [wat("unreachable")]);
        let bench = between(&fails, isolation).policy(Policy::Open);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        assert_eq!(chain.headers(Direction::Request, false), Verdict::Continue);
        show(&request, Direction::Request, "held");
        assert_eq!(chain.body(Direction::Request, true), Verdict::Pause);
        bench.log();
        assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
        assert_eq!(request.edit().resumed, [(HttpRequest, 1)]);
        bench.log();
        assert_eq!(chain.resume(Direction::Request, 1), Verdict::Continue);
        assert!(chain.ended(Direction::Request));
        assert_eq!(bench.log(), ["B2"]);
        assert_eq!(request.edit().buffers[&Direction::Request.buffer()].concat(), b"held");
    }
}

/// Two directives share an instance: when the second one fails, what the first one holds goes on.
#[test]
fn what_a_filter_of_the_same_instance_holds_goes_on() {
    let filter = Guest::new()
        .on(Callback::RequestHeaders, [for_context(4, [returns(1)])])
        .on(Callback::ResponseHeaders, [for_context(3, [wat("unreachable")])])
        .load();
    let bench =
        Bench::new((0..2).map(|_| plugin(&filter, "", Isolation::Stream)).collect()).policy(Policy::Open);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
    assert_eq!(request.edit().resumed, [(HttpRequest, 1)]);
    assert_eq!(chain.resume(Direction::Request, 1), Verdict::Continue);
    assert!(chain.headers_passed(Direction::Request));
    assert_eq!(bench.log().len(), 1, "one report");
}

/// Who waits in a shared instance that fails in another request would wait for ever: it is told, and its policy
/// decides for it alone.
#[test]
fn whoever_waits_in_a_shared_instance_that_fails_is_told() {
    let guest = Guest::new()
        .on(Callback::RequestHeaders, [for_context(2, [returns(1)])])
        .on(Callback::RequestHeaders, [for_context(3, [wat("unreachable")])]);
    for (policy, verdict) in [(Policy::default(), FAILED), (Policy::Open, Verdict::Continue)] {
        let bench = guest.bench_with(Isolation::None).policy(policy);
        let requests = [(); 3].map(|()| bench.request());
        let [mut waits, mut fails, mut idle] = requests.each_ref().map(|request| bench.begin(request));
        assert_eq!(waits.headers(Direction::Request, true), Verdict::Pause);
        assert_eq!(fails.headers(Direction::Request, true), verdict);
        assert_eq!(bench.log().len(), 1);
        assert_eq!(requests[0].edit().resumed, [(HttpRequest, 0), (HttpResponse, 0)]);
        assert_eq!(requests[1].edit().resumed, []);
        assert_eq!(waits.resume(Direction::Response, 0), Verdict::Continue, "it holds no response");
        assert!(bench.log().is_empty());
        assert_eq!(waits.resume(Direction::Request, 0), verdict);
        let log = bench.log();
        assert!(
            log.len() == 1 && log[0].contains("that holds this request has failed in another one"),
            "{log:?}"
        );
        assert_eq!(waits.headers_passed(Direction::Request), policy == Policy::Open);
        // One that holds nothing finds out when it is called.
        assert_eq!(idle.resume(Direction::Request, 0), Verdict::Continue);
        assert_eq!(idle.headers(Direction::Request, true), verdict);
        assert!(bench.log()[0].contains("has failed before"));
        drop([waits, fails, idle]);
        assert!(bench.log().is_empty());
    }
}

/// A panic of ours in a hostcall: the instance it happened in is not used again, whoever catches it.
/// The page of an error is another response: who has seen the headers of the one that it replaces sees nothing of it.
#[test]
fn what_replaces_a_response_is_shown_to_filters_that_have_seen_none() {
    for (fails_in, headers, body) in
        [(Callback::ResponseHeaders, vec!["h2"], vec!["b2"]), (Callback::ResponseBody, vec![], vec![])]
    {
        let bench = between(&Guest::tracer().on(fails_in, [wat("unreachable")]), Isolation::Stream);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        chain.headers(Direction::Request, true);
        let mut verdict = chain.headers(Direction::Response, false);
        show(&request, Direction::Response, "a response");
        if verdict == Verdict::Continue {
            verdict = chain.body(Direction::Response, false);
        }
        assert_eq!(verdict, FAILED, "{fails_in:?}");
        bench.log();
        show(&request, Direction::Response, "a page");
        assert_eq!(chain.headers(Direction::Response, false), Verdict::Continue);
        assert_eq!(bench.log(), headers, "{fails_in:?}");
        assert_eq!(chain.body(Direction::Response, true), Verdict::Continue);
        assert_eq!(bench.log(), body, "{fails_in:?}");
    }
}

#[test]
fn a_panic_below_a_callback_ends_the_instance() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let reads = call("proxy_get_header_map_size", [0, 8]);
        let bench = Guest::tracer().on(Callback::Done, [reads]).bench_with(isolation);
        let mut chain = bench.begin(&bench.request());
        let request = bench.request();
        let mut second = bench.begin(&request);
        bench.log();
        // While this lives, the proxy in memory panics wherever a hostcall reaches the request.
        let edited = request.edit();
        assert!(catch_unwind(AssertUnwindSafe(|| second.finish())).is_err());
        drop(edited);
        drop(second);
        assert_eq!(bench.log(), [if isolation == Isolation::None { "D3" } else { "D2" }]);
        let expected = if isolation == Isolation::None { FAILED } else { Verdict::Continue };
        assert_eq!(chain.headers(Direction::Request, true), expected);
        bench.log();
        let _third = bench.begin(&bench.request());
        let new = if isolation == Isolation::None { &["C1", "S1", "F1", "C2"][..] } else { &["C2"] };
        assert_eq!(bench.log(), new, "a new instance");
    }
}

#[test]
fn a_chain_that_was_ended_by_a_panic_follows_its_policy() {
    for (policy, verdict) in [(Policy::default(), FAILED), (Policy::Open, Verdict::Continue)] {
        let waits = Guest::tracer().on(Callback::RequestHeaders, [returns(1)]);
        let bench = waits.bench().policy(policy);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        assert_eq!(chain.headers(Direction::Request, false), Verdict::Pause);
        bench.log();
        let edited = request.edit();
        let response = || chain.headers(Direction::Response, false);
        assert!(catch_unwind(AssertUnwindSafe(response)).is_err());
        drop(edited);
        assert_eq!(chain.abandon(), verdict);
        if policy == Policy::Open {
            assert_eq!(request.edit().resumed, [(HttpRequest, 0)]);
            assert_eq!(chain.resume(Direction::Request, 0), Verdict::Continue);
        }
        assert_eq!(chain.headers(Direction::Response, false), Verdict::Continue);
        chain.finish();
        assert!(bench.log().is_empty(), "no filter is called any more");
    }
}
