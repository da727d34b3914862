//! Calls from their beginning to their end: who is told, who is not any more, and that nothing is left.

use weir_core::{
    abi::types::StreamType,
    chain::{Direction, Verdict},
    filter::Callback,
    metrics::Options,
    plan::Isolation,
};

mod of_roots;

use crate::{
    caller::{FAILED, HEADERS, begun, caller, cancelled, dial, grpc_args, grpc_caller, response},
    hostcalls::define_metric::shown,
    support::{
        Bench, Guest, OUT, SIZE, Step, call, for_context, param, plugin, returns, say, serialized, settings,
        trace, value, wat,
    },
};

const RESUME: &str = "proxy_continue_stream";
const EFFECTIVE: &str = "proxy_set_effective_context";

/// Makes a call in each request's headers and holds the request until it is answered.
fn holding() -> Guest {
    caller()
        .on(Callback::RequestHeaders, [dial(), returns(1)])
        .on(Callback::HttpCallResponse, [param(1), call(RESUME, [0])])
}

#[test]
fn an_answer_lets_its_request_go_on() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = holding().bench_with(isolation);
        let requests = [bench.request(), bench.request()];
        let mut chains = requests.each_ref().map(|request| bench.begin(request));
        for chain in &mut chains {
            assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
        }
        let calls = begun(&bench.worker);
        drop(bench.log());
        for at in [1, 0] {
            bench.shard.called(calls[at], response(b"yes"));
            assert_eq!(bench.log(), [(at + 1).to_string(), "0".to_owned()]);
            assert_eq!(requests[at].edit().resumed, [(StreamType::HttpRequest, 0)]);
            assert_eq!(chains[at].resume(Direction::Request, 0), Verdict::Continue);
        }
        assert_eq!(bench.shard.calls(), 0);
    }
}

/// The first parameter is the root context's number, but the request is the one that has called.
#[test]
fn the_effective_context_is_the_one_that_has_called() {
    let read = [param(0), call("proxy_get_header_map_value", [0, 256, 4, OUT, SIZE]), value(OUT)];
    let bench = caller()
        .data(256, "name")
        .on(Callback::RequestHeaders, [dial()])
        .on(Callback::HttpCallResponse, read)
        .bench_with(Isolation::None);
    let requests = [bench.request(), bench.request()];
    for (request, name) in requests.iter().zip(["first", "second"]) {
        let mut parts = request.edit();
        let map = parts.maps.get_mut(&weir_core::abi::types::MapType::HttpRequestHeaders).expect("there");
        map.push((b"name".to_vec(), name.as_bytes().to_vec()));
    }
    let _chains = requests.each_ref().map(|request| bench.headers(request));
    let calls = begun(&bench.worker);
    drop(bench.log());
    for (at, name) in [(0, "first"), (1, "second")] {
        bench.shard.called(calls[at], response(b""));
        assert_eq!(bench.log(), ["1", "0", name]);
    }
}

#[test]
fn calls_go_on_side_by_side_and_one_makes_the_next() {
    let steps = [
        param(1),
        Step::When("(i32.eq (local.get 1) (i32.const 2))".into(), vec![dial()]),
        Step::When("(i32.eq (local.get 1) (i32.const 3))".into(), vec![call(RESUME, [0])]),
    ];
    let bench = caller()
        .on(Callback::RequestHeaders, [dial(), dial(), returns(1)])
        .on(Callback::HttpCallResponse, steps)
        .bench();
    let request = bench.request();
    let mut chain = bench.headers(&request);
    let [first, second] = begun(&bench.worker)[..] else { panic!("two calls") };
    drop(bench.log());
    bench.shard.called(second, response(b""));
    assert_eq!(bench.log(), ["2", "0"]);
    let [third] = begun(&bench.worker)[..] else { panic!("one more") };
    assert!(request.edit().resumed.is_empty());
    bench.shard.called(first, FAILED);
    bench.shard.called(third, response(b""));
    assert_eq!(bench.log(), ["1", "3", "0"]);
    assert_eq!(chain.resume(Direction::Request, 0), Verdict::Continue);
    assert_eq!(bench.shard.calls(), 0);
}

#[test]
fn each_filter_of_a_request_has_its_own() {
    let filter = holding().load();
    for isolation in [Isolation::Filter, Isolation::Stream, Isolation::None] {
        let bench = Bench::new((0..2).map(|_| plugin(&filter, "", isolation)).collect());
        let request = bench.request();
        let mut chain = bench.begin(&request);
        assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
        let [first] = begun(&bench.worker)[..] else { panic!("the second one waits") };
        bench.shard.called(first, response(b""));
        assert_eq!(chain.resume(Direction::Request, 0), Verdict::Pause);
        let [second] = begun(&bench.worker)[..] else { panic!("one more") };
        bench.shard.called(second, response(b""));
        let wishes = [(StreamType::HttpRequest, 0), (StreamType::HttpRequest, 1)];
        assert_eq!(request.edit().resumed, wishes, "{isolation:?}");
        assert_eq!(chain.resume(Direction::Request, 1), Verdict::Continue);
    }
}

#[test]
fn a_request_that_ends_cancels_its_calls() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = caller()
            .on(Callback::RequestHeaders, [dial(), dial()])
            .on(Callback::HttpCallResponse, [say("told")])
            .bench_with(isolation);
        let chain = bench.headers(&bench.request());
        let calls = begun(&bench.worker);
        assert_eq!(bench.shard.calls(), 2);
        drop(chain);
        assert_eq!(cancelled(&bench.worker), calls);
        assert_eq!(bench.shard.calls(), 0);
        for call in calls {
            assert!(!bench.shard.called(call, response(b"")));
        }
        assert_eq!(bench.log(), ["0", "0"]);
    }
}

/// Such an instance could serve others as soon as the headers have gone by, if its call did not need it.
#[test]
fn a_filter_that_hears_no_answer_keeps_its_instance_for_its_call() {
    let bench = caller().on(Callback::RequestHeaders, [dial()]).bench();
    let chain = bench.headers(&bench.request());
    let calls = begun(&bench.worker);
    assert!(bench.worker.take_asked().is_empty());
    drop(chain);
    assert_eq!(cancelled(&bench.worker), calls);
}

#[test]
fn a_call_that_is_answered_is_not_cancelled() {
    let bench = holding().bench();
    let chain = bench.headers(&bench.request());
    bench.shard.called(begun(&bench.worker)[0], response(b""));
    drop(chain);
    assert!(bench.worker.take_asked().is_empty());
}

/// Calls of the end of a request: from `on_done`, which puts the rest off until the call has been answered.
fn late() -> Guest {
    let first = for_context(2, [dial(), returns(0)]);
    Guest::tracer()
        .data(0, "origin")
        .data(64, "body")
        .data(512, serialized(HEADERS))
        .on(Callback::Done, [first])
        .on(Callback::HttpCallResponse, [say("told"), call("proxy_done", [])])
}

#[test]
fn a_context_that_is_not_done_waits_for_its_call_in_every_isolation() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = late().bench_with(isolation);
        let request = bench.request();
        let mut chain = bench.headers(&request);
        chain.finish();
        let log = bench.log().join(" ");
        assert!(log.ends_with("D2 0"), "{log}");
        let [token] = begun(&bench.worker)[..] else { panic!("one call") };
        assert!(bench.worker.take_asked().is_empty());
        request.edit().gone = true;
        drop(chain);
        bench.shard.called(token, response(b""));
        assert_eq!(bench.log(), ["told", "0", "L2", "X2"], "{isolation:?}");
        assert_eq!(bench.shard.calls(), 0);
        // The instance serves the next request.
        let mut chain = bench.headers(&bench.request());
        chain.finish();
        let again = if isolation == Isolation::None { "C3 H3 D3 L3 X3" } else { "C2 H2 D2 0" };
        assert_eq!(bench.log().join(" "), again);
    }
}

/// Nothing could call `proxy_done` any more.
#[test]
fn an_own_instance_ends_with_its_last_call() {
    let bench = caller()
        .on(Callback::Done, [dial(), dial(), returns(0)])
        .on(Callback::HttpCallResponse, [say("told")])
        .on(Callback::Log, [trace("L")])
        .bench();
    bench.headers(&bench.request()).finish();
    let [first, second] = begun(&bench.worker)[..] else { panic!("two calls") };
    drop(bench.log());
    bench.shard.called(second, response(b""));
    assert_eq!(bench.log(), ["told"]);
    bench.shard.called(first, FAILED);
    assert_eq!(bench.log(), ["told", "L2"]);
}

#[test]
fn own_instances_that_wait_for_calls_are_limited() {
    let mut settings = settings();
    settings.limits.deferred = 1;
    let guest = caller().on(Callback::Done, [dial(), returns(0)]).on(Callback::Log, [trace("L")]);
    let bench = guest.bench_in(&settings, Isolation::Stream);
    bench.headers(&bench.request()).finish();
    assert_eq!(bench.spoken().0, ["0"]);
    bench.headers(&bench.request()).finish();
    let (said, warnings) = bench.spoken();
    assert_eq!(said, ["0", "L2"], "it ends at once");
    assert!(warnings[0].contains("deferred_limit"), "{warnings:?}");
    let calls = begun(&bench.worker);
    assert_eq!(cancelled(&bench.worker), calls[1..]);
    assert_eq!(bench.shard.calls(), 1);
}

#[test]
fn the_end_of_the_worker_is_the_end_of_all_calls() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = late().bench_with(isolation);
        bench.headers(&bench.request()).finish();
        let calls = begun(&bench.worker);
        let worker = bench.worker.clone();
        drop(bench.log());
        drop(bench);
        assert_eq!(cancelled(&worker), calls);
        let log: Vec<_> = worker.take_log().into_iter().map(|line| line.message).collect();
        assert_eq!(log[..2], ["L2", "X2"], "{isolation:?}");
    }
}

/// A report of a request, say: nobody waits for it.
#[test]
fn a_call_at_the_end_of_a_request_is_finished() {
    for isolation in [Isolation::Stream, Isolation::None] {
        for callback in [Callback::Done, Callback::Log, Callback::Delete] {
            let guest = caller()
                .on(Callback::RequestHeaders, [dial()])
                .on(callback, [dial()])
                .on(Callback::HttpCallResponse, [say("told")]);
            let bench = guest.bench_with(isolation).metrics(Options::default());
            for _ in 0..2 {
                let request = bench.request();
                bench.headers(&request).finish();
                request.edit().gone = true;
                let [first, last] = begun(&bench.worker)[..] else { panic!("two calls") };
                assert_eq!(cancelled(&bench.worker), [first], "{callback:?}");
                assert_eq!(bench.shard.calls(), 1, "it counts to calls_limit");
                drop(bench.log());
                assert!(!bench.shard.called(last, response(b"thanks")), "it is over");
                assert!(bench.log().is_empty(), "nobody is told");
                assert_eq!(bench.shard.calls(), 0);
            }
            let counted = shown(&bench, "weir_calls_total").join(" ");
            assert!(counted.contains("outcome=\"2xx\"} 2"), "{counted}");
        }
    }
}

/// The same, while the response comes.
#[test]
fn a_call_made_while_the_response_comes_is_finished() {
    for callback in [Callback::ResponseHeaders, Callback::ResponseBody, Callback::ResponseTrailers] {
        let guest = caller()
            .on(Callback::RequestHeaders, [dial()])
            .on(callback, [dial()])
            .on(Callback::HttpCallResponse, [say("told")]);
        let bench = guest.bench();
        let mut chain = bench.headers(&bench.request());
        chain.headers(Direction::Response, false);
        chain.body(Direction::Response, callback == Callback::ResponseBody);
        chain.trailers(Direction::Response);
        let calls = begun(&bench.worker);
        let [first, last] = calls[..] else { panic!("{callback:?}: {calls:?}") };
        chain.finish();
        assert_eq!(cancelled(&bench.worker), [first], "{callback:?}");
        drop(bench.log());
        assert!(!bench.shard.called(last, response(b"thanks")), "it is over");
        assert!(bench.log().is_empty(), "nobody is told");
    }
}

/// Who holds the response for an answer does not get it any more.
#[test]
fn a_call_that_holds_the_response_is_cancelled() {
    for callback in [Callback::ResponseHeaders, Callback::ResponseBody, Callback::ResponseTrailers] {
        let bench = caller().on(callback, [dial(), returns(1)]).bench();
        let mut chain = bench.headers(&bench.request());
        chain.headers(Direction::Response, false);
        chain.body(Direction::Response, callback == Callback::ResponseBody);
        chain.trailers(Direction::Response);
        let calls = begun(&bench.worker);
        assert_eq!(calls.len(), 1, "{callback:?}");
        chain.finish();
        assert_eq!(cancelled(&bench.worker), calls, "{callback:?}");
    }
}

/// A stream of messages has nobody who would write more of them.
#[test]
fn a_stream_at_the_end_of_a_request_is_cancelled() {
    let bench = grpc_caller().on(Callback::Log, [call("proxy_grpc_stream", grpc_args(None))]).bench();
    bench.headers(&bench.request()).finish();
    let calls = begun(&bench.worker);
    assert_eq!((calls.len(), cancelled(&bench.worker)), (1, calls));
}

#[test]
fn a_local_response_is_sent_for_the_request_that_has_called() {
    let send = call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1]);
    for isolation in [Isolation::Stream, Isolation::None] {
        let guest = caller()
            .on(Callback::RequestHeaders, [dial(), returns(1)])
            .on(Callback::HttpCallResponse, [send.clone()]);
        let bench = guest.bench_with(isolation);
        let request = bench.request();
        let mut chain = bench.headers(&request);
        bench.shard.called(begun(&bench.worker)[0], response(b""));
        assert_eq!(request.edit().sent.as_ref().map(|sent| sent.status), Some(403));
        assert_eq!(chain.answer(), Verdict::LocalResponse);
    }
}

#[test]
fn a_callback_that_fails_takes_back_its_response_and_its_request_learns_it() {
    let send = call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1]);
    for isolation in [Isolation::Stream, Isolation::None] {
        let guest = caller()
            .on(Callback::RequestHeaders, [dial(), dial(), returns(1)])
            .on(Callback::HttpCallResponse, [send.clone(), wat("unreachable")]);
        let bench = guest.bench_with(isolation);
        let request = bench.request();
        let mut chain = bench.headers(&request);
        let [first, second] = begun(&bench.worker)[..] else { panic!("two calls") };
        bench.shard.called(first, response(b""));
        assert!(request.edit().sent.is_none());
        let (_, ours) = bench.spoken();
        assert!(ours[0].starts_with("proxy_on_http_call_response failed"), "{ours:?}");
        assert!(request.edit().resumed.contains(&(StreamType::HttpRequest, 0)));
        assert_eq!(chain.resume(Direction::Request, 0), Verdict::Failed { status: 500 });
        bench.shard.called(second, response(b""));
        assert!(bench.spoken().0.is_empty(), "the instance is not entered again");
        chain.finish();
        drop(chain);
        assert_eq!(bench.shard.calls(), 0);
    }
}

/// Its request was not paused: it learns of the failure from its next callback, and one line tells of it.
#[test]
fn a_callback_that_fails_is_told_of_once() {
    for isolation in [Isolation::Stream, Isolation::None] {
        let guest = caller()
            .on(Callback::RequestHeaders, [dial()])
            .on(Callback::ResponseHeaders, [])
            .on(Callback::HttpCallResponse, [wat("unreachable")]);
        let bench = guest.bench_with(isolation);
        let mut chain = bench.headers(&bench.request());
        bench.shard.called(begun(&bench.worker)[0], response(b""));
        assert_eq!(chain.headers(Direction::Response, true), Verdict::Failed { status: 500 });
        let (_, ours) = bench.spoken();
        let [line] = &ours[..] else { panic!("one line: {ours:?}") };
        assert!(line.starts_with("proxy_on_http_call_response failed"), "{line}");
    }
}

/// Twenty things that happen while a request's calls are under way, with and without an answer: the client may leave
/// after any of them.
#[test]
fn a_client_that_leaves_at_any_point_leaves_nothing() {
    let guest = caller()
        .on(Callback::RequestHeaders, [dial(), dial(), returns(1)])
        .on(Callback::RequestBody, [dial()])
        .on(Callback::ResponseHeaders, [dial()])
        .on(Callback::ResponseBody, [dial()])
        .on(
            Callback::HttpCallResponse,
            [
                Step::When("(i32.lt_u (local.get 3) (i32.const 3))".into(), vec![dial()]),
                call(RESUME, [0]),
                call("proxy_done", []),
            ],
        )
        .on(Callback::Done, [dial(), returns(0)])
        .on(Callback::Log, [dial()]);
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = guest.bench_with(isolation);
        for leave in 0..20 {
            let request = bench.request();
            let mut chain = bench.begin(&request);
            let mut all = Vec::new();
            let mut answer = |size: &'static [u8]| {
                let new = begun(&bench.worker);
                if let Some(token) = new.first() {
                    bench.shard.called(*token, response(size));
                }
                all.extend(new);
            };
            for step in 0..leave {
                match step {
                    0 => drop(chain.headers(Direction::Request, false)),
                    1 | 8 | 14 => answer(b"a"),
                    2 | 5 => answer(b"long"),
                    3 | 6 | 10 => drop(chain.resume(Direction::Request, 0)),
                    4 => drop(chain.body(Direction::Request, false)),
                    7 => drop(chain.body(Direction::Request, true)),
                    9 => drop(chain.headers(Direction::Response, false)),
                    11 | 13 => drop(chain.body(Direction::Response, false)),
                    12 | 16 => answer(b"abc"),
                    15 => drop(chain.body(Direction::Response, true)),
                    17 => request.edit().gone = true,
                    _ => chain.finish(),
                }
            }
            drop(chain);
            // What still waits is what `on_done` has put off, and what was asked for while the response came.
            all.extend(begun(&bench.worker));
            for token in all {
                bench.shard.called(token, FAILED);
            }
            for _ in 0..3 {
                for token in begun(&bench.worker) {
                    bench.shard.called(token, response(b"done"));
                }
            }
            assert_eq!(bench.shard.calls(), 0, "after {leave} steps");
        }
    }
}
