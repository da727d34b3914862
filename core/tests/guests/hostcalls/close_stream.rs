//! `proxy_close_stream`.

use weir_core::{
    abi::{Status, types::StreamType},
    chain::{Direction, Verdict},
    filter::Callback,
};

use crate::support::{Guest, call, case, check_in, returns};

const CLOSE: &str = "proxy_close_stream";

/// Whatever the callback returns: a closed stream can neither go on nor wait.
#[test]
fn the_verdict_says_that_the_stream_is_to_be_closed() {
    for action in [0, 1] {
        let guest = Guest::new()
            .on(Callback::RequestHeaders, [call(CLOSE, [0]), returns(action)])
            .on(Callback::ResponseHeaders, [call(CLOSE, [1]), returns(action)]);
        let bench = guest.bench();
        let request = bench.request();
        let mut chain = bench.begin(&request);
        assert_eq!(chain.headers(Direction::Request, true), Verdict::Closed);
        assert_eq!(chain.headers(Direction::Response, true), Verdict::Closed);
        assert_eq!(chain.body(Direction::Request, true), Verdict::Continue, "asked for no more");
        assert_eq!(request.edit().closed, [StreamType::HttpRequest, StreamType::HttpResponse]);
        assert_eq!(bench.log(), ["0", "0"]);
    }
}

#[test]
fn unknown_streams_and_those_that_are_gone() {
    // 2 and 3 are those of TCP.
    let bad = [2, 3, 4, -1, i64::from(i32::MAX)].map(|stream| case(CLOSE, [stream], Status::BadArgument));
    let done = check_in(Callback::RequestHeaders, Guest::new(), |_| (), &bad);
    assert!(done.request.edit().closed.is_empty());
    let gone = [case(CLOSE, [0], Status::NotFound)];
    check_in(Callback::RequestHeaders, Guest::new(), |request| request.edit().gone = true, &gone);
    let bench = Guest::new().on(Callback::Configure, [call(CLOSE, [0])]).bench();
    assert_eq!(bench.run(), ["1"], "a root context has no stream");
}
