//! `proxy_continue_stream`, and `proxy_continue_request`, `proxy_continue_response` of 0.1.0 in both their shapes.

use weir_core::{
    abi::{Status, types::StreamType},
    chain::{Direction, Verdict},
    filter::{AbiVersion, Callback},
};

use crate::support::{Guest, call, case, check, returns, show, wat};

const CONTINUE: &str = "proxy_continue_stream";

#[test]
fn statuses() {
    check(
        Guest::new(),
        |_| (),
        &[
            case(CONTINUE, [0], Status::Ok),
            case(CONTINUE, [1], Status::Ok),
            case(CONTINUE, [2], Status::Unimplemented),
            case(CONTINUE, [3], Status::Unimplemented),
            case(CONTINUE, [4], Status::BadArgument),
            case(CONTINUE, [-1], Status::BadArgument),
        ],
    );
}

#[test]
fn a_root_context_and_a_request_that_is_gone_have_nothing_to_resume() {
    let bench = Guest::new().on(Callback::Configure, [call(CONTINUE, [0])]).bench();
    assert_eq!(bench.run(), ["1"]);
    check(Guest::new(), |request| request.edit().gone = true, &[case(CONTINUE, [0], Status::NotFound)]);
}

/// The proxy is asked, whatever the callback returns afterwards; it resumes once the callback has returned.
#[test]
fn a_filter_may_ask_before_it_pauses() {
    let bench = Guest::new().on(Callback::RequestHeaders, [call(CONTINUE, [0]), returns(1)]).bench();
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    assert_eq!(request.edit().resumed, [(StreamType::HttpRequest, 0)]);
    assert_eq!(chain.resume(Direction::Request, 0), Verdict::Continue);
}

/// What was asked for while nothing was held is not for what is held later.
#[test]
fn a_filter_that_holds_nothing_resumes_nothing() {
    let guest = Guest::new()
        .on(Callback::RequestHeaders, [call(CONTINUE, [0]), call(CONTINUE, [1])])
        .on(Callback::RequestBody, [call(CONTINUE, [1]), returns(1)])
        .on(Callback::ResponseHeaders, [returns(1)])
        .on(Callback::ResponseBody, [call(CONTINUE, [0]), call(CONTINUE, [1])]);
    let bench = guest.bench();
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(Direction::Request, false), Verdict::Continue);
    assert!(request.edit().resumed.is_empty());
    show(&request, Direction::Request, "a body");
    assert_eq!(chain.body(Direction::Request, true), Verdict::Pause);
    assert!(request.edit().resumed.is_empty());
    assert_eq!(chain.headers(Direction::Response, false), Verdict::Pause);
    show(&request, Direction::Response, "a body");
    assert_eq!(chain.body(Direction::Response, true), Verdict::Continue);
    assert_eq!(request.edit().resumed, [(StreamType::HttpRequest, 0)], "it holds the request's body");
}

/// SDKs import a function that returns a status, the specification's text has one that returns nothing.
#[test]
fn both_shapes_of_0_1_0() {
    for (result, start, end) in [("(result i32)", "(drop ", ")"), ("", "", "")] {
        let import = ["request", "response"].map(|direction| {
            format!(r#"(import "env" "proxy_continue_{direction}" (func $continue_{direction} {result}))"#)
        });
        let calls =
            ["request", "response"].map(|direction| wat(format!("{start}(call $continue_{direction}){end}")));
        let guest = Guest::new().version(AbiVersion::V0_1_0).import(&import.concat());
        let [continue_request, continue_response] = calls;
        let guest = guest
            .on(Callback::RequestHeaders, [continue_request, returns(1)])
            .on(Callback::ResponseHeaders, [continue_response, returns(1)]);
        let bench = guest.bench();
        let request = bench.request();
        let mut chain = bench.begin(&request);
        for direction in [Direction::Request, Direction::Response] {
            assert_eq!(chain.headers(direction, true), Verdict::Pause);
        }
        let both = [(StreamType::HttpRequest, 0), (StreamType::HttpResponse, 0)];
        assert_eq!(request.edit().resumed, both, "{result}");
    }
}

#[test]
fn the_old_names_answer_as_the_new_one() {
    let calls = || ["proxy_continue_request", "proxy_continue_response"].map(|name| call(name, []));
    let guest = Guest::new().version(AbiVersion::V0_1_0);
    let bench = guest.on(Callback::Configure, calls()).on(Callback::RequestHeaders, calls()).bench();
    assert_eq!(bench.run(), ["1", "1", "0", "0"]);
}
