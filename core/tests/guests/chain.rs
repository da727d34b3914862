//! The filters of a request in order: pause and resume, local responses, closing.

use weir_core::{
    abi::types::{MapType, StreamType},
    chain::{Chain, Direction, Verdict},
    filter::Callback,
    plan::Isolation,
    testing::{Logged, Memory},
};

use crate::support::{Bench, Guest, Step, call, plugin, returns, wat};

const LOCAL: &str = "proxy_send_local_response";

fn local(status: i64) -> Step {
    call(LOCAL, [status, 0, 0, 0, 0, 0, 0, -1])
}

/// A chain of the filters a, b and c, each its own module that traces its callbacks; filter b, or whichever `name`
/// says, does `steps` in `callback` besides.
fn abc(name: &str, callback: Callback, steps: impl IntoIterator<Item = Step>) -> Bench {
    abc_with(vec![(name, callback, steps.into_iter().collect())])
}

fn abc_with(more: Vec<(&str, Callback, Vec<Step>)>) -> Bench {
    let plugins = ["a", "b", "c"].map(|name| {
        let mine = more.iter().filter(|(whose, ..)| *whose == name);
        let guest = mine.fold(Guest::tracer().named(name), |guest, (_, callback, steps)| {
            guest.on(*callback, steps.iter().cloned())
        });
        plugin(&guest.load(), "", Isolation::Auto)
    });
    let bench = Bench::new(plugins.to_vec());
    bench.rehearse().expect("accepted");
    bench.log();
    bench
}

/// What was traced since the last time, each letter behind its filter's name; answers of calls left out.
fn traced(bench: &Bench) -> String {
    let letter = |line: &Logged| {
        let letter = line.message.strip_suffix('2').filter(|letter| letter.len() == 1)?;
        Some(format!("{}{letter} ", line.filter))
    };
    bench.worker.take_log().iter().filter_map(letter).collect::<String>().trim_end().to_owned()
}

#[test]
fn requests_go_down_and_responses_come_up() {
    let bench = abc_with(Vec::new());
    let mut chain = bench.begin(&bench.request());
    assert_eq!(traced(&bench), "aC bC cC");
    chain.headers(Direction::Request, false);
    chain.body(Direction::Request, true);
    chain.trailers(Direction::Request);
    assert_eq!(traced(&bench), "aH bH cH aB bB cB aT bT cT");
    chain.headers(Direction::Response, false);
    chain.body(Direction::Response, true);
    chain.trailers(Direction::Response);
    assert_eq!(traced(&bench), "ch bh ah cb bb ab ct bt at");
    chain.finish();
    assert_eq!(traced(&bench), "aD aL aX bD bL bX cD cL cX");
}

#[test]
fn a_pause_holds_the_request_at_its_filter() {
    // 3 and 4 are further ways to stop of the C++ SDK.
    for action in [1, 3, 4, -1] {
        let bench = abc("b", Callback::RequestHeaders, [returns(action)]);
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause, "{action}");
        assert_eq!(traced(&bench), "aC bC cC aH bH");
        for other in [0, 2] {
            assert_eq!(
                chain.resume(Direction::Request, other),
                Verdict::Pause,
                "no other filter can resume it"
            );
        }
        assert_eq!(traced(&bench), "");
        assert_eq!(chain.resume(Direction::Request, 1), Verdict::Continue);
        assert_eq!(traced(&bench), "cH", "the one that paused is not asked again");
        assert_eq!(chain.resume(Direction::Request, 1), Verdict::Continue);
        assert_eq!(traced(&bench), "", "nothing is left to resume");
    }
}

/// `ContinueAndEndStream` of the C++ SDK, which is no way to stop.
#[test]
fn a_headers_callback_that_answers_2_goes_on() {
    let bench = abc("b", Callback::RequestHeaders, [returns(2)]);
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(traced(&bench), "aC bC cC aH bH cH");
}

#[test]
fn several_may_pause_one_after_the_other() {
    let pause = |name| (name, Callback::RequestHeaders, vec![returns(1)]);
    let bench = abc_with(vec![pause("a"), pause("b"), pause("c")]);
    let mut chain = bench.begin(&bench.request());
    traced(&bench);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    for (at, expected) in ["aH", "bH"].into_iter().enumerate() {
        assert_eq!(traced(&bench), expected);
        assert_eq!(chain.resume(Direction::Request, at), Verdict::Pause);
    }
    assert_eq!(traced(&bench), "cH");
    assert_eq!(chain.resume(Direction::Request, 2), Verdict::Continue);
}

#[test]
fn headers_are_shown_once() {
    let bench = abc_with(Vec::new());
    let mut chain = bench.begin(&bench.request());
    traced(&bench);
    chain.headers(Direction::Request, false);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(traced(&bench), "aH bH cH", "an internal redirect shows nothing new");
}

/// Each callback of either direction may pause; it goes on with the filter after the one that did.
#[test]
fn every_callback_may_pause() {
    let calls: [fn(&mut Chain<Memory>) -> Verdict; 6] = [
        |chain| chain.headers(Direction::Request, false),
        |chain| chain.body(Direction::Request, true),
        |chain| chain.trailers(Direction::Request),
        |chain| chain.headers(Direction::Response, false),
        |chain| chain.body(Direction::Response, true),
        |chain| chain.trailers(Direction::Response),
    ];
    for (at, (callback, seen, rest)) in [
        (Callback::RequestHeaders, "aH bH", "cH"),
        (Callback::RequestBody, "aB bB", "cB"),
        (Callback::RequestTrailers, "aT bT", "cT"),
        (Callback::ResponseHeaders, "ch bh", "ah"),
        (Callback::ResponseBody, "cb bb", "ab"),
        (Callback::ResponseTrailers, "ct bt", "at"),
    ]
    .into_iter()
    .enumerate()
    {
        let bench = abc("b", callback, [returns(1)]);
        let mut chain = bench.begin(&bench.request());
        let direction = if at < 3 { Direction::Request } else { Direction::Response };
        for (number, call) in calls.into_iter().enumerate() {
            traced(&bench);
            let expected = if number == at { Verdict::Pause } else { Verdict::Continue };
            assert_eq!(call(&mut chain), expected, "{callback:?}");
            if number == at {
                assert_eq!(traced(&bench), seen);
                assert_eq!(chain.resume(direction, 1), Verdict::Continue, "{callback:?}");
                assert_eq!(traced(&bench), rest);
            }
        }
        assert_eq!(bench.spoken().1, Vec::<String>::new(), "nothing to warn of");
    }
}

#[test]
fn a_local_response_ends_the_request_s_way() {
    for callback in [Callback::RequestHeaders, Callback::RequestBody, Callback::RequestTrailers] {
        let bench = abc("b", callback, [local(403)]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        let mut verdicts = vec![chain.headers(Direction::Request, false)];
        if verdicts[0] == Verdict::Continue {
            verdicts.push(chain.body(Direction::Request, true));
        }
        if verdicts.last() == Some(&Verdict::Continue) {
            verdicts.push(chain.trailers(Direction::Request));
        }
        assert_eq!(verdicts.last(), Some(&Verdict::LocalResponse), "{callback:?}");
        let letter = ["H", "B", "T"][verdicts.len() - 1];
        let seen = traced(&bench);
        assert!(seen.ends_with(&format!("a{letter} b{letter}")), "later filters are not called: {seen}");
        // The response goes through all, its sender too.
        chain.headers(Direction::Response, false);
        chain.body(Direction::Response, true);
        chain.trailers(Direction::Response);
        assert_eq!(traced(&bench), "ch bh ah cb bb ab ct bt at");
        chain.finish();
        assert_eq!(traced(&bench), "aD aL aX bD bL bX cD cL cX");
    }
}

/// What it does to responses a filter does to its own, too: it may replace it. Its second response it does not see.
#[test]
fn a_filter_replaces_its_own_local_response_once() {
    let again = [Callback::RequestHeaders, Callback::ResponseHeaders]
        .map(|callback| ("b", callback, vec![local(403)]));
    let bench = abc_with(again.to_vec());
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::LocalResponse);
    request.edit().sent = None;
    traced(&bench);
    assert_eq!(chain.headers(Direction::Response, true), Verdict::LocalResponse);
    assert_eq!(traced(&bench), "ch bh");
    assert!(request.edit().sent.is_some());
    assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
    assert_eq!(traced(&bench), "ah");
}

#[test]
fn a_local_response_replaces_the_response_for_the_filters_that_are_left() {
    let bench = abc("b", Callback::ResponseHeaders, [local(502)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.headers(Direction::Request, true);
    traced(&bench);
    assert_eq!(chain.headers(Direction::Response, false), Verdict::LocalResponse);
    assert_eq!(traced(&bench), "ch bh");
    assert_eq!(chain.headers(Direction::Response, false), Verdict::Continue);
    assert_eq!(traced(&bench), "ah", "the rest of the chain goes on");
    chain.body(Direction::Response, true);
    assert_eq!(traced(&bench), "ab", "neither its sender sees it, nor who has seen the one it replaces");
}

#[test]
fn a_response_may_be_replaced_more_than_once() {
    let sends = |name, status| (name, Callback::ResponseHeaders, vec![local(status)]);
    let bench = abc_with(vec![sends("c", 501), sends("b", 502), sends("a", 503)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    traced(&bench);
    for (status, seen) in [(501, "ch"), (502, "bh"), (503, "ah")] {
        assert_eq!(chain.headers(Direction::Response, true), Verdict::LocalResponse);
        assert_eq!(traced(&bench), seen);
        assert_eq!(request.edit().sent.take().map(|sent| sent.status), Some(status));
    }
    assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
    assert_eq!(traced(&bench), "");
}

/// A filter may answer the request that an earlier one had paused.
#[test]
fn a_local_response_after_a_resumption() {
    let bench = abc_with(vec![
        ("a", Callback::RequestHeaders, vec![returns(1)]),
        ("c", Callback::RequestHeaders, vec![local(403)]),
    ]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    traced(&bench);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    assert_eq!(chain.resume(Direction::Request, 0), Verdict::LocalResponse);
    chain.headers(Direction::Response, true);
    assert_eq!(traced(&bench), "aH bH cH ch bh ah");
}

#[test]
fn a_closed_stream_goes_no_further() {
    for direction in [0, 1] {
        let bench = abc("b", Callback::RequestHeaders, [call("proxy_close_stream", [direction])]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        traced(&bench);
        assert_eq!(chain.headers(Direction::Request, true), Verdict::Closed);
        assert_eq!(traced(&bench), "aH bH");
        chain.finish();
        assert_eq!(traced(&bench), "aD aL aX bD bL bX cD cL cX");
        let stream = if direction == 0 { StreamType::HttpRequest } else { StreamType::HttpResponse };
        assert_eq!(request.edit().closed, [stream]);
    }
    let bench = abc("b", Callback::ResponseBody, [call("proxy_close_stream", [1])]);
    let mut chain = bench.begin(&bench.request());
    chain.headers(Direction::Response, false);
    traced(&bench);
    assert_eq!(chain.body(Direction::Response, true), Verdict::Closed);
    assert_eq!(traced(&bench), "cb bb");
}

/// A response that is sent counts more than a stream that is to be closed.
#[test]
fn a_local_response_wins_over_closing() {
    let bench = abc("b", Callback::RequestHeaders, [call("proxy_close_stream", [0]), local(403)]);
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::LocalResponse);
}

#[test]
fn a_filter_that_fails_after_its_answer_has_failed() {
    let bench = abc("b", Callback::RequestHeaders, [local(403), wat("unreachable")]);
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 500 });
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 500 });
    traced(&bench);
    chain.headers(Direction::Response, true);
    assert_eq!(traced(&bench), "ch ah", "the response that tells of it is shown to those that still run");
}

#[test]
fn what_a_filter_changes_the_next_one_sees() {
    let add = "proxy_add_header_map_value";
    let read = "proxy_get_header_map_value";
    let writes =
        Guest::new().data(8, "x-new").on(Callback::RequestHeaders, [call(add, [0, 8, 5, 8, 5])]).load();
    let reads =
        Guest::new().data(8, "x-new").on(Callback::RequestHeaders, [call(read, [0, 8, 5, 64, 68])]).load();
    let order = |filters: [&std::sync::Arc<_>; 2]| {
        let bench = Bench::new(filters.map(|filter| plugin(filter, "", Isolation::Auto)).to_vec());
        let request = bench.request();
        bench.begin(&request).headers(Direction::Request, true);
        assert_eq!(request.text(MapType::HttpRequestHeaders, "X-New").as_deref(), Some("x-new"));
        bench.log()
    };
    assert_eq!(order([&writes, &reads]), ["0", "0"]);
    assert_eq!(order([&reads, &writes]), ["1", "0"]);
}
