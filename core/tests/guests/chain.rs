//! The filters of a request in order: pause and resume, local responses, closing.

use weir_core::{
    abi::types::{MapType, StreamType},
    chain::Verdict,
    filter::Callback,
    plan::Isolation,
    testing::Logged,
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
    chain.request_headers(false);
    chain.request_body(1, true);
    chain.request_trailers();
    assert_eq!(traced(&bench), "aH bH cH aB bB cB aT bT cT");
    chain.response_headers(false);
    chain.response_body(1, true);
    chain.response_trailers();
    assert_eq!(traced(&bench), "ch bh ah cb bb ab ct bt at");
    chain.finish();
    assert_eq!(traced(&bench), "aD aL aX bD bL bX cD cL cX");
}

#[test]
fn a_pause_holds_the_request_at_its_filter() {
    // 2 to 4 are further ways to stop of Envoy's SDKs.
    for action in [1, 2, 3, 4, -1] {
        let bench = abc("b", Callback::RequestHeaders, [returns(action)]);
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.request_headers(true), Verdict::Pause, "{action}");
        assert_eq!(traced(&bench), "aC bC cC aH bH");
        assert_eq!(chain.resume_request(true), Verdict::Continue);
        assert_eq!(traced(&bench), "cH", "the one that paused is not asked again");
        assert_eq!(chain.resume_request(true), Verdict::Continue);
        assert_eq!(traced(&bench), "", "nothing is left to resume");
    }
}

#[test]
fn several_may_pause_one_after_the_other() {
    let pause = |name| (name, Callback::RequestHeaders, vec![returns(1)]);
    let bench = abc_with(vec![pause("a"), pause("b"), pause("c")]);
    let mut chain = bench.begin(&bench.request());
    traced(&bench);
    assert_eq!(chain.request_headers(true), Verdict::Pause);
    for expected in ["aH", "bH"] {
        assert_eq!(traced(&bench), expected);
        assert_eq!(chain.resume_request(true), Verdict::Pause);
    }
    assert_eq!(traced(&bench), "cH");
    assert_eq!(chain.resume_request(true), Verdict::Continue);
}

#[test]
fn headers_may_be_shown_once_more() {
    let bench = abc_with(Vec::new());
    let mut chain = bench.begin(&bench.request());
    traced(&bench);
    chain.request_headers(false);
    chain.request_headers(true);
    assert_eq!(traced(&bench), "aH bH cH aH bH cH", "an internal redirect");
}

/// A pause where nothing can be held is said once, and the stream goes on.
#[test]
fn other_pauses_are_warned_of_once() {
    let others = [
        Callback::RequestBody,
        Callback::RequestTrailers,
        Callback::ResponseHeaders,
        Callback::ResponseBody,
        Callback::ResponseTrailers,
    ];
    let guest = others.iter().fold(Guest::new(), |guest, callback| guest.on(*callback, [returns(1)]));
    let bench = guest.bench();
    let mut chain = bench.begin(&bench.request());
    let verdicts = [
        chain.request_body(1, true),
        chain.request_trailers(),
        chain.response_headers(false),
        chain.response_body(1, true),
        chain.response_trailers(),
    ];
    assert_eq!(verdicts, [Verdict::Continue; 5]);
    let log = bench.log();
    assert!(log.len() == 1 && log[0].contains("paused in proxy_on_request_body"), "{log:?}");
}

#[test]
fn a_local_response_ends_the_request_s_way() {
    for callback in [Callback::RequestHeaders, Callback::RequestBody, Callback::RequestTrailers] {
        let bench = abc("b", callback, [local(403)]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        let mut verdicts = vec![chain.request_headers(false)];
        if verdicts[0] == Verdict::Continue {
            verdicts.push(chain.request_body(1, true));
        }
        if verdicts.last() == Some(&Verdict::Continue) {
            verdicts.push(chain.request_trailers());
        }
        assert_eq!(verdicts.last(), Some(&Verdict::LocalResponse), "{callback:?}");
        let letter = ["H", "B", "T"][verdicts.len() - 1];
        let seen = traced(&bench);
        assert!(seen.ends_with(&format!("a{letter} b{letter}")), "later filters are not called: {seen}");
        // The response goes through the others' callbacks, not through its sender's.
        chain.response_headers(false);
        chain.response_body(4, true);
        chain.response_trailers();
        assert_eq!(traced(&bench), "ch ah cb ab ct at");
        chain.finish();
        assert_eq!(traced(&bench), "aD aL aX bD bL bX cD cL cX");
    }
}

#[test]
fn a_local_response_replaces_the_response_for_the_filters_that_are_left() {
    let bench = abc("b", Callback::ResponseHeaders, [local(502)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.request_headers(true);
    traced(&bench);
    assert_eq!(chain.response_headers(false), Verdict::LocalResponse);
    assert_eq!(traced(&bench), "ch bh");
    assert_eq!(chain.response_headers(false), Verdict::Continue);
    assert_eq!(traced(&bench), "ah", "the rest of the chain goes on");
    chain.response_body(1, true);
    assert_eq!(traced(&bench), "cb ab", "the sender does not see its own");
}

#[test]
fn a_response_may_be_replaced_more_than_once() {
    let sends = |name, status| (name, Callback::ResponseHeaders, vec![local(status)]);
    let bench = abc_with(vec![sends("c", 501), sends("b", 502), sends("a", 503)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    traced(&bench);
    for (status, seen) in [(501, "ch"), (502, "bh"), (503, "ah")] {
        assert_eq!(chain.response_headers(true), Verdict::LocalResponse);
        assert_eq!(traced(&bench), seen);
        assert_eq!(request.edit().sent.take().map(|sent| sent.status), Some(status));
    }
    assert_eq!(chain.response_headers(true), Verdict::Continue);
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
    assert_eq!(chain.request_headers(true), Verdict::Pause);
    assert_eq!(chain.resume_request(true), Verdict::LocalResponse);
    chain.response_headers(true);
    assert_eq!(traced(&bench), "aH bH cH bh ah");
}

#[test]
fn a_closed_stream_goes_no_further() {
    for direction in [0, 1] {
        let bench = abc("b", Callback::RequestHeaders, [call("proxy_close_stream", [direction])]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        traced(&bench);
        assert_eq!(chain.request_headers(true), Verdict::Closed);
        assert_eq!(traced(&bench), "aH bH");
        chain.finish();
        assert_eq!(traced(&bench), "aD aL aX bD bL bX cD cL cX");
        let stream = if direction == 0 { StreamType::HttpRequest } else { StreamType::HttpResponse };
        assert_eq!(request.edit().closed, [stream]);
    }
    let bench = abc("b", Callback::ResponseBody, [call("proxy_close_stream", [1])]);
    let mut chain = bench.begin(&bench.request());
    chain.response_headers(false);
    traced(&bench);
    assert_eq!(chain.response_body(1, true), Verdict::Closed);
    assert_eq!(traced(&bench), "cb bb");
}

/// A response that is sent counts more than a stream that is to be closed.
#[test]
fn a_local_response_wins_over_closing() {
    let bench = abc("b", Callback::RequestHeaders, [call("proxy_close_stream", [0]), local(403)]);
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.request_headers(true), Verdict::LocalResponse);
}

#[test]
fn a_filter_that_fails_after_its_answer_has_failed() {
    let bench = abc("b", Callback::RequestHeaders, [local(403), wat("unreachable")]);
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.request_headers(true), Verdict::Failed { status: 500 });
    assert_eq!(chain.resume_request(true), Verdict::Failed { status: 500 });
    traced(&bench);
    chain.response_headers(true);
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
        bench.begin(&request).request_headers(true);
        assert_eq!(request.text(MapType::HttpRequestHeaders, "X-New").as_deref(), Some("x-new"));
        bench.log()
    };
    assert_eq!(order([&writes, &reads]), ["0", "0"]);
    assert_eq!(order([&reads, &writes]), ["1", "0"]);
}
