//! `proxy_grpc_stream`, `proxy_grpc_send`, `proxy_grpc_close`, `proxy_grpc_cancel`.

use bytes::Bytes;
use weir_core::{
    abi::Status,
    chain::Direction,
    filter::Callback,
    host::calls::{CallEvent, Closed},
    testing::calls::{Asked, Begun, What},
};

use crate::{
    caller::{begun, dial, fields, grpc_args, grpc_caller},
    support::{OUT, SIZE, Step, bad_pointers, call, case, check, len, param, say, serialized, u32_at, value},
};

const OPEN: &str = "proxy_grpc_stream";
const SEND: &str = "proxy_grpc_send";
const CLOSE: &str = "proxy_grpc_close";
const CANCEL: &str = "proxy_grpc_cancel";

fn open() -> Step {
    call(OPEN, grpc_args(None))
}

#[test]
fn a_stream_is_told_of_everything() {
    let map = |map| [call("proxy_get_header_map_value", [map, 256, 1, OUT, SIZE]), value(OUT)];
    let told = |word, more: &[Step]| [&[say(word), param(0), param(1), param(2)], more].concat();
    let message = [call("proxy_get_buffer_bytes", [5, 0, 9, OUT, SIZE]), value(OUT)];
    let bench = grpc_caller()
        .data(256, "a")
        .on(Callback::RequestHeaders, [open()])
        .on(Callback::GrpcReceiveInitialMetadata, told("initial", &map(4)))
        .on(Callback::GrpcReceive, told("message", &message))
        .on(Callback::GrpcReceiveTrailingMetadata, told("trailing", &map(5)))
        .on(Callback::GrpcClose, told("closed", &[]))
        .bench();
    let _chain = bench.headers(&bench.request());
    let [Begun { token, what: What::Grpc { message: None, timeout: None, .. }, .. }] =
        bench.worker.take_calls()[..]
    else {
        panic!("one stream")
    };
    drop(bench.log());
    for (event, expected) in [
        (CallEvent::InitialMetadata(fields(&[("a", "1")])), &["initial", "1", "1", "1", "0", "1"][..]),
        (CallEvent::Message(Bytes::from_static(b"one")), &["message", "1", "1", "3", "0", "one"]),
        (CallEvent::Message(Bytes::new()), &["message", "1", "1", "0", "0", ""]),
        (
            CallEvent::TrailingMetadata(fields(&[("a", "2"), ("b", "")])),
            &["trailing", "1", "1", "2", "0", "2"],
        ),
    ] {
        assert!(bench.shard.called(token, event));
        assert_eq!(bench.log(), expected);
    }
    assert!(!bench.shard.called(token, CallEvent::Closed(Closed::default())));
    assert_eq!(bench.log(), ["closed", "1", "1", "0"]);
}

/// SDKs for C++ and AssemblyScript, and the specification, have different names for one callback.
#[test]
fn trailing_metadata_has_two_names() {
    let name = r#"(func (export "proxy_on_grpc_trailing_metadata") (param i32 i32 i32)
        (call $number (i32.const 84) (i64.extend_i32_u (local.get 2))))"#;
    let bench = grpc_caller().plus(name).on(Callback::RequestHeaders, [open()]).bench();
    let _chain = bench.headers(&bench.request());
    drop(bench.log());
    let trailers = CallEvent::TrailingMetadata(fields(&[("a", "2")]));
    bench.shard.called(begun(&bench.worker)[0], trailers);
    assert_eq!(bench.log(), ["T1"]);
}

#[test]
fn messages_are_sent_until_the_guest_closes_its_side() {
    let send = |end| call(SEND, [1, 64, 4, end]);
    for (last, asked) in [(send(1), 2), (call(CLOSE, [1]), 2)] {
        let bench = grpc_caller()
            .on(Callback::RequestHeaders, [open(), send(0), last, send(0), call(CLOSE, [1])])
            .bench();
        let _chain = bench.headers(&bench.request());
        assert_eq!(bench.log(), ["0", "0", "0", "2", "0"]);
        let token = begun(&bench.worker)[0];
        let log = bench.worker.take_asked();
        assert_eq!(log.len(), asked);
        assert_eq!(log[0], Asked::Sent(token, b"body".to_vec(), false));
        assert!(matches!(log[1], Asked::Sent(_, _, true) | Asked::Closed(_)), "{log:?}");
        assert_eq!(bench.shard.calls(), 1, "the other side goes on");
    }
}

#[test]
fn a_message_that_is_not_taken_leaves_the_stream_as_it_was() {
    for (language, status) in [("Rust", "2"), ("Go", "10")] {
        let send = call(SEND, [1, 64, 4, 1]);
        let bench = grpc_caller()
            .language(language)
            .on(Callback::RequestHeaders, [open(), send.clone()])
            .on(Callback::ResponseHeaders, [send])
            .bench();
        bench.worker.block_sending(true);
        let mut chain = bench.headers(&bench.request());
        let (answers, warnings) = bench.spoken();
        assert_eq!(answers, ["0", status]);
        assert!(warnings[0].contains("was not sent"), "{warnings:?}");
        bench.worker.block_sending(false);
        let _ = chain.headers(Direction::Response, true);
        assert_eq!(bench.log(), ["0"]);
    }
}

#[test]
fn a_cancelled_stream_is_told_nothing_more() {
    let guest = grpc_caller()
        .on(Callback::RequestHeaders, [open()])
        .on(Callback::GrpcReceive, [call(CANCEL, [1])])
        .on(Callback::GrpcClose, [say("closed")]);
    let bench = guest.bench();
    let _chain = bench.headers(&bench.request());
    let [token] = begun(&bench.worker)[..] else { panic!("one call") };
    assert!(!bench.shard.called(token, CallEvent::Message(Bytes::new())), "the proxy is told to stop");
    assert_eq!(bench.worker.take_asked(), [Asked::Cancelled(token)]);
    assert!(!bench.shard.called(token, CallEvent::Closed(Closed::default())));
    assert_eq!(bench.log(), ["0", "0"]);
}

/// SDKs survive other statuses than the specification's: the Rust SDK's methods panic at NOT_FOUND of a stream that has
/// ended by itself.
#[test]
fn numbers_that_mean_nothing_are_told_apart() {
    for (language, unknown, other) in [("Go", "1", "2"), ("Rust", "0", "1")] {
        let steps = [
            call(SEND, [7, 64, 4, 0]),
            call(CANCEL, [7]),
            call(CLOSE, [7]),
            dial(),
            call(SEND, [1, 64, 4, 0]),
            call(CANCEL, [1]),
            call(CLOSE, [1]),
        ];
        let headers = serialized(crate::caller::HEADERS);
        let guest = grpc_caller().language(language).data(512, headers);
        let bench = guest.on(Callback::RequestHeaders, steps).bench();
        let _chain = bench.headers(&bench.request());
        assert_eq!(bench.spoken().0, ["1", unknown, unknown, "0", "2", other, other]);
    }
}

/// A stream of another instance is none of this one's.
#[test]
fn only_its_own_instance_reaches_a_stream() {
    let steps = [u32_at(1024), call(SEND, [1, 64, 4, 0]), call(CANCEL, [1]), open()];
    let bench = grpc_caller().language("Go").on(Callback::RequestHeaders, steps).bench();
    let _first = bench.headers(&bench.request());
    assert_eq!(bench.log(), ["0", "1", "1", "0"]);
    let _second = bench.headers(&bench.request());
    assert_eq!(bench.log(), ["0", "1", "1", "0"], "the first one's stream lives");
    assert_eq!(bench.shard.calls(), 2);
}

#[test]
fn bad_pointers_are_refused() {
    let inputs = [(0, 1), (2, 3), (4, 5), (6, 7)];
    check(grpc_caller(), |_| (), &bad_pointers(OPEN, &grpc_args(None), &inputs, &[(8, 4)]));
    let mut cases = vec![case(OPEN, grpc_args(None), Status::Ok)];
    cases.extend(bad_pointers(SEND, &[1, 64, 4, 0], &[(1, 2)], &[]));
    check(grpc_caller(), |_| (), &cases);
}

/// What Envoy's filters give as an upstream is understood.
#[test]
fn a_serialized_grpc_service_names_its_cluster() {
    let service = b"\x0a\x08\x0a\x06origin";
    let mut args = grpc_args(None);
    (args[0], args[1]) = (512, len(service));
    let bench = grpc_caller().data(512, service).on(Callback::RequestHeaders, [call(OPEN, args)]).bench();
    let _chain = bench.headers(&bench.request());
    let calls = bench.worker.take_calls();
    let [Begun { what: What::Grpc { upstream, .. }, .. }] = &calls[..] else { panic!("one call") };
    assert_eq!(upstream, b"origin");
}
