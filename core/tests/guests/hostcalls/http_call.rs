//! `proxy_http_call`, and what `proxy_on_http_call_response` can read. What becomes of calls is in `calls.rs`.

use std::time::Duration;

use weir_core::{
    abi::Status,
    engine::limits::Limits,
    filter::Callback,
    host::calls::{CallError, CallEvent, CallFailure},
    plan::Isolation,
    testing::calls::{Begun, What},
};

use crate::{
    caller::{FAILED, HEADERS, TOKEN, args, begun, caller, dial, response},
    support::{
        Guest, OUT, SIZE, bad_pointers, call, case, check, check_in, len, pairs, param, returns, serialized,
        settings, u32_at, value,
    },
};

const CALL: &str = "proxy_http_call";

#[test]
fn everything_reaches_the_proxy() {
    let trailers = serialized(&[("t", "1")]);
    // A filter may add its own to those of its client: the last ones count.
    let client: &[_] = &[(":path", "/client"), (":authority", "client.test"), (":scheme", "http")];
    let others: &[_] = &[(":scheme", "https"), ("Content-Length", "7"), ("connection", "close")];
    let headers = serialized(&[client, HEADERS, others].concat());
    let guest = Guest::new().data(0, "origin").data(64, "body").data(512, &headers).data(1024, &trailers);
    let args = [0, 6, 512, len(&headers), 64, 4, 1024, len(&trailers), 250, TOKEN];
    let bench = guest.on(Callback::RequestHeaders, [call(CALL, args), u32_at(TOKEN)]).bench();
    let chain = bench.headers(&bench.request());
    assert_eq!(bench.log(), ["0", "1"]);
    let [Begun { token, by_stream: true, rules: 0, what }] = &bench.worker.take_calls()[..] else {
        panic!("one call")
    };
    assert_eq!(token.number(), 1);
    let expected = What::Http {
        upstream: b"origin".to_vec(),
        target: [&b"POST"[..], b"/path?query", b"origin.test"].map(<[u8]>::to_vec),
        scheme: Some(b"https".to_vec()),
        headers: pairs(&[("x-a", "1")]),
        body: b"body".to_vec(),
        trailers: pairs(&[("t", "1")]),
        timeout: Duration::from_millis(250),
        most: Limits::default().call_response,
    };
    assert_eq!(*what, expected);
    drop(chain);
}

#[test]
fn a_timeout_of_0_is_the_default_and_a_negative_one_is_refused() {
    let with = |milliseconds| {
        let mut args = args();
        args[8] = milliseconds;
        args
    };
    for (given, expected) in [
        (0, Limits::default().call_timeout),
        (1, Duration::from_millis(1)),
        (i32::MAX, Duration::from_millis(i32::MAX.unsigned_abs().into())),
    ] {
        let bench = caller().on(Callback::RequestHeaders, [call(CALL, with(given.into()))]).bench();
        let _chain = bench.headers(&bench.request());
        let calls = bench.worker.take_calls();
        let [Begun { what: What::Http { timeout, .. }, .. }] = calls[..] else { panic!("one call") };
        assert_eq!(timeout, expected);
    }
    for given in [-1, i32::MIN] {
        let done = check(caller(), |_| (), &[case(CALL, with(given.into()), Status::BadArgument)]);
        assert!(done.warnings[0].contains("is negative"), "{:?}", done.warnings);
    }
}

#[test]
fn method_path_and_authority_are_required_and_must_be_sane() {
    let good = [(":method", "GET"), (":path", "/"), (":authority", "a")];
    let with = |at: usize, value: &'static str| {
        let mut headers = good;
        headers[at].1 = value;
        headers.to_vec()
    };
    let more = |name, value| [&good[..], &[(name, value)]].concat();
    let bad = [
        good[1..].to_vec(),
        good[..2].to_vec(),
        vec![good[0], good[2]],
        with(0, ""),
        with(0, "G ET"),
        with(0, "GET\tx"),
        with(1, ""),
        with(1, "/a b"),
        with(1, "/a\x7f"),
        with(2, "a b"),
        more("x", "a\r\nb: c"),
        more("x y", "1"),
        more(":status", "200"),
    ];
    for headers in bad {
        let headers = serialized(&headers);
        let args = [0, 6, 512, len(&headers), 0, 0, 0, 0, 0, TOKEN];
        let done = check(Guest::new().data(512, &headers), |_| (), &[case(CALL, args, Status::BadArgument)]);
        let [warning] = &done.warnings[..] else { panic!("{:?}", done.warnings) };
        assert!(warning.contains("was not made"), "{warning}");
    }
    let trailers = serialized(&[(":path", "/")]);
    let mut args = args();
    (args[6], args[7]) = (1024, len(&trailers));
    check(caller().data(1024, &trailers), |_| (), &[case(CALL, args, Status::BadArgument)]);
}

/// Envoy wants it to be there, no more.
#[test]
fn an_empty_authority_is_the_upstream_s_name() {
    let headers = serialized(&[(":method", "GET"), (":path", "/"), (":authority", "")]);
    for (upstream, authority) in [("origin", "origin"), ("unix:/a", "localhost")] {
        let args = [0, len(upstream), 512, len(&headers), 0, 0, 0, 0, 0, TOKEN];
        let guest = Guest::new().data(0, upstream).data(512, &headers);
        let bench = guest.on(Callback::RequestHeaders, [call(CALL, args)]).bench();
        let _chain = bench.headers(&bench.request());
        let calls = bench.worker.take_calls();
        let [Begun { what: What::Http { target, .. }, .. }] = &calls[..] else { panic!("one call") };
        assert_eq!(target[2], authority.as_bytes());
    }
}

#[test]
fn what_is_no_list_of_pairs_is_a_bad_argument() {
    for at in [2, 6] {
        let mut args = args();
        (args[at], args[at + 1]) = (64, 4);
        check(caller(), |_| (), &[case(CALL, args, Status::BadArgument)]);
    }
}

#[test]
fn the_proxy_s_reasons_become_statuses() {
    for (error, status) in [
        (CallError::Unknown("no upstream of that name".into()), Status::BadArgument),
        (CallError::Refused("forbidden".into()), Status::BadArgument),
        (CallError::Overloaded("too many".into()), Status::InternalFailure),
    ] {
        let bench = caller().on(Callback::RequestHeaders, [dial(), dial()]).bench();
        bench.worker.refuse_calls(Some(error.clone()));
        let _chain = bench.headers(&bench.request());
        let (answers, warnings) = bench.spoken();
        let raw = status.raw().to_string();
        assert_eq!(answers, [&*raw, &*raw]);
        assert_eq!(warnings[0], format!("call to \"origin\" was not made: {error}"));
        assert_eq!(bench.shard.calls(), 0);
    }
}

#[test]
fn more_calls_than_the_limit_are_refused() {
    let mut settings = settings();
    settings.limits.calls = 2;
    let bench = caller()
        .on(Callback::RequestHeaders, [dial(), dial(), dial()])
        .bench_in(&settings, Isolation::Stream);
    let chain = bench.headers(&bench.request());
    let (answers, warnings) = bench.spoken();
    assert_eq!(answers, ["0", "0", "10"]);
    assert!(warnings[0].contains("calls_limit"), "{warnings:?}");
    drop(chain);
    assert_eq!(bench.shard.calls(), 0);
    let _chain = bench.headers(&bench.request());
    assert_eq!(bench.spoken().0, ["0", "0", "10"]);
}

#[test]
fn bad_pointers_are_refused() {
    let inputs = [(0, 1), (2, 3), (4, 5), (6, 7)];
    let cases = bad_pointers(CALL, &args(), &inputs, &[(9, 4)]);
    let bench =
        caller().on(Callback::RequestHeaders, cases.iter().map(|(name, args, _)| call(name, args))).bench();
    let _chain = bench.headers(&bench.request());
    assert!(bench.spoken().0.iter().all(|answer| answer == "6"));
    assert!(bench.worker.take_calls().is_empty());
}

#[test]
fn it_works_in_every_callback_that_has_a_context() {
    for callback in [
        Callback::RequestBody,
        Callback::ResponseHeaders,
        Callback::ResponseBody,
        Callback::Done,
        Callback::Log,
        Callback::Delete,
    ] {
        check_in(callback, caller(), |_| (), &[case(CALL, args(), Status::Ok)]);
    }
}

/// Everything that can be read of a response, where it can and where not.
fn reads() -> Vec<crate::support::Step> {
    let get = "proxy_get_header_map_value";
    vec![
        call(get, [6, 256, 7, OUT, SIZE]),
        value(OUT),
        call(get, [6, 264, 3, OUT, SIZE]),
        value(OUT),
        call(get, [7, 268, 1, OUT, SIZE]),
        value(OUT),
        call(get, [6, 268, 1, OUT, SIZE]),
        call("proxy_get_header_map_size", [6, OUT]),
        u32_at(OUT),
        call("proxy_get_buffer_bytes", [4, 1, 3, OUT, SIZE]),
        value(OUT),
        call("proxy_get_buffer_bytes", [4, 0, -1, OUT, SIZE]),
        value(OUT),
        call("proxy_get_buffer_status", [4, OUT, SIZE]),
        u32_at(OUT),
    ]
}

#[test]
fn the_response_is_read_in_its_callback_only() {
    let guest = caller().data(256, ":status\0x-b\0t");
    let told = [param(1), param(2), param(3), param(4)].into_iter().chain(reads());
    let bench =
        guest.on(Callback::RequestHeaders, [dial(), returns(1)]).on(Callback::HttpCallResponse, told).bench();
    let chain = bench.headers(&bench.request());
    let [token] = begun(&bench.worker)[..] else { panic!("one call") };
    assert_eq!(bench.log(), ["0"]);
    bench.shard.called(token, response(b"abcdef"));
    let pairs = serialized(&[(":status", "200"), ("x-b", "2"), ("x-b", "3")]);
    let size = pairs.len().to_string();
    let expected = [
        "1", "3", "6", "1", "0", "200", "0", "2, 3", "0", "1", "1", "0", &*size, "0", "bcd", "0", "abcdef",
        "0", "6",
    ];
    assert_eq!(bench.log(), expected);
    drop(chain);

    // Elsewhere there is nothing.
    let elsewhere = [
        case("proxy_get_header_map_value", [6, 256, 7, OUT, SIZE], Status::NotFound),
        case("proxy_get_header_map_pairs", [7, OUT, SIZE], Status::Ok),
        case("proxy_get_buffer_bytes", [4, 0, 9, OUT, SIZE], Status::NotFound),
        case("proxy_get_buffer_status", [4, OUT, SIZE], Status::NotFound),
        case("proxy_get_property", [300, 10, OUT, SIZE], Status::NotFound),
    ];
    check(caller().data(256, ":status").data(300, "call.error"), |_| (), &elsewhere);
}

#[test]
fn the_response_cannot_be_changed() {
    for (language, refused) in [("Rust", "0"), ("Go", "2")] {
        let edits = [
            call("proxy_add_header_map_value", [6, 256, 3, 256, 3]),
            call("proxy_replace_header_map_value", [7, 256, 3, 256, 3]),
            call("proxy_remove_header_map_value", [6, 256, 3]),
            call("proxy_set_header_map_pairs", [7, 0, 0]),
            call("proxy_set_buffer_bytes", [4, 0, 1, 256, 3]),
        ];
        let bench = caller()
            .language(language)
            .data(256, "x-b")
            .on(Callback::RequestHeaders, [dial()])
            .on(Callback::HttpCallResponse, edits)
            .bench();
        let _chain = bench.headers(&bench.request());
        drop(bench.log());
        bench.shard.called(begun(&bench.worker)[0], response(b""));
        let (answers, warnings) = bench.spoken();
        let bytes = if language == "Rust" { "0" } else { "1" };
        assert_eq!(answers, [refused, refused, refused, refused, bytes]);
        assert_eq!(warnings.len(), 5, "{warnings:?}");
    }
}

#[test]
fn a_failed_call_has_a_word_for_why() {
    let why = [
        param(2),
        param(3),
        param(4),
        call("proxy_get_property", [300, 10, OUT, SIZE]),
        value(OUT),
        call("proxy_get_buffer_bytes", [4, 0, 9, OUT, SIZE]),
        call("proxy_get_header_map_pairs", [6, OUT, SIZE]),
        u32_at(SIZE),
    ];
    for path in ["call.error", "call\0error"] {
        let bench = caller()
            .data(300, path)
            .on(Callback::RequestHeaders, [dial(), dial()])
            .on(Callback::HttpCallResponse, why.clone())
            .bench();
        let _chain = bench.headers(&bench.request());
        let [first, second] = begun(&bench.worker)[..] else { panic!("two calls") };
        drop(bench.log());
        bench.shard.called(second, FAILED);
        let shown = |word| ["0", "0", "0", "0", word, "0", "0", "4"].map(str::to_owned);
        assert_eq!(bench.log(), shown("timeout"));
        bench.shard.called(first, CallEvent::Failed(CallFailure::TooLarge));
        assert_eq!(bench.log(), shown("too_large"));
    }
}

#[test]
fn why_a_call_has_failed_is_a_header_for_whoever_asks_for_it() {
    let asked = |map| [call("proxy_get_header_map_value", [map, 300, 16, OUT, SIZE]), value(OUT)];
    let bench = caller()
        .data(300, ":dispatch_status")
        .on(Callback::RequestHeaders, [dial(), dial(), dial()])
        .on(Callback::HttpCallResponse, [asked(6).to_vec(), asked(7).to_vec()].concat())
        .bench();
    let _chain = bench.headers(&bench.request());
    let [first, second, third] = begun(&bench.worker)[..] else { panic!("three calls") };
    drop(bench.log());
    bench.shard.called(second, FAILED);
    assert_eq!(bench.log(), ["0", "timeout", "1", "timeout"], "and no trailer of that name");
    bench.shard.called(first, CallEvent::Failed(CallFailure::Unavailable));
    assert_eq!(bench.log()[..2], ["0", "broken connection"]);
    bench.shard.called(third, response(b""));
    assert_eq!(bench.log()[..1], ["1"], "not of one that was answered");
}

#[test]
fn a_draft_s_name_for_it_is_known() {
    check(caller(), |_| (), &[case("proxy_dispatch_http_call", args(), Status::Ok)]);
}
