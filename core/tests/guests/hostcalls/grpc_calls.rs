//! `proxy_grpc_call`: one message each way. Streams are in `grpc_streams.rs`.

use std::time::Duration;

use bytes::Bytes;
use weir_core::{
    abi::Status,
    filter::Callback,
    host::calls::{CallError, CallEvent, CallFailure, Closed, Fields},
    testing::calls::{Asked, Begun, What},
};

use crate::{
    caller::{TOKEN, begun, cancelled, grpc_args, grpc_caller},
    support::{
        Bench, OUT, SIZE, bad_pointers, call, case, check, len, pairs, param, say, serialized, u32_at, value,
    },
};

const CALL: &str = "proxy_grpc_call";

fn args() -> Vec<i64> {
    grpc_args(Some((64, 4)))
}

fn closed(status: u32) -> CallEvent {
    CallEvent::Closed(Closed { status, ..Closed::default() })
}

fn message(bytes: &'static [u8]) -> CallEvent {
    CallEvent::Message(Bytes::from_static(bytes))
}

/// A worker whose guest makes a call in a request, and says what it is told.
fn bench() -> Bench {
    grpc_caller()
        .on(Callback::RequestHeaders, [call(CALL, args())])
        .on(Callback::GrpcReceiveInitialMetadata, [say("initial")])
        .on(Callback::GrpcReceiveTrailingMetadata, [say("trailing")])
        .on(
            Callback::GrpcReceive,
            [
                say("message"),
                param(0),
                param(1),
                param(2),
                call("proxy_get_buffer_bytes", [5, 0, 9, OUT, SIZE]),
                value(OUT),
            ],
        )
        .on(Callback::GrpcClose, [say("closed"), param(0), param(1), param(2)])
        .bench()
}

#[test]
fn everything_reaches_the_proxy() {
    let metadata = serialized(&[("x-a", "1")]);
    let mut args = args();
    (args[6], args[7]) = (512, len(&metadata));
    let guest = grpc_caller().data(512, &metadata);
    let bench = guest.on(Callback::RequestHeaders, [call(CALL, args), u32_at(TOKEN)]).bench();
    let _chain = bench.headers(&bench.request());
    assert_eq!(bench.log(), ["0", "1"]);
    let [Begun { by_stream: true, what, .. }] = &bench.worker.take_calls()[..] else { panic!("one call") };
    let expected = What::Grpc {
        upstream: b"origin".to_vec(),
        target: [&b"a.Service"[..], b"Method"].map(<[u8]>::to_vec),
        metadata: pairs(&[("x-a", "1")]),
        message: Some(b"body".to_vec()),
        timeout: Some(Duration::from_secs(1)),
    };
    assert_eq!(*what, expected);
}

#[test]
fn a_good_call_is_told_of_its_message_alone() {
    let bench = bench();
    let _chain = bench.headers(&bench.request());
    let [token] = begun(&bench.worker)[..] else { panic!("one call") };
    drop(bench.log());
    assert!(bench.shard.called(token, CallEvent::InitialMetadata(Fields::new())));
    assert!(bench.shard.called(token, message(b"abc")));
    assert!(bench.shard.called(token, CallEvent::TrailingMetadata(Fields::new())));
    assert!(bench.log().is_empty(), "nothing before it is known that all is well");
    bench.shard.called(token, closed(0));
    assert_eq!(bench.log(), ["message", "1", "1", "3", "0", "abc"]);
    assert!(!bench.shard.called(token, closed(0)), "it is over");
    assert_eq!(bench.shard.calls(), 0);
}

#[test]
fn a_bad_call_is_told_of_its_status_alone() {
    for (events, status) in [
        (vec![message(b"abc"), closed(3)], "3"),
        (vec![closed(0)], "13"),
        (vec![CallEvent::Failed(CallFailure::Timeout)], "4"),
        (vec![CallEvent::Failed(CallFailure::Connect)], "14"),
    ] {
        let bench = bench();
        let _chain = bench.headers(&bench.request());
        let [token] = begun(&bench.worker)[..] else { panic!("one call") };
        drop(bench.log());
        for event in events {
            bench.shard.called(token, event);
        }
        assert_eq!(bench.log(), ["closed", "1", "1", status]);
    }
}

#[test]
fn two_messages_are_one_too_many() {
    let bench = bench();
    let _chain = bench.headers(&bench.request());
    let [token] = begun(&bench.worker)[..] else { panic!("one call") };
    drop(bench.log());
    bench.shard.called(token, message(b"abc"));
    assert!(!bench.shard.called(token, message(b"def")));
    assert_eq!(bench.log(), ["closed", "1", "1", "13"]);
    assert_eq!(cancelled(&bench.worker), [token]);
}

#[test]
fn refusals_are_what_envoy_answers() {
    for (error, status) in [
        (CallError::Unknown("no upstream".into()), "4"),
        (CallError::Refused("forbidden".into()), "4"),
        (CallError::Overloaded("too many".into()), "10"),
    ] {
        let bench = bench();
        bench.worker.refuse_calls(Some(error));
        let _chain = bench.headers(&bench.request());
        let (answers, warnings) = bench.spoken();
        assert_eq!(answers, [status]);
        assert!(warnings[0].starts_with("call to \"origin\" was not made"), "{warnings:?}");
    }
}

#[test]
fn names_and_metadata_must_be_sane() {
    let metadata = serialized(&[("x", "a\r\nb")]);
    let with = |changes: &[(usize, i64)]| {
        let mut args = args();
        for (at, value) in changes {
            args[*at] = *value;
        }
        args
    };
    let cases = [
        case(CALL, with(&[(3, 0)]), Status::ParseFailure),
        case(CALL, with(&[(5, 0)]), Status::ParseFailure),
        case(CALL, with(&[(4, 128), (5, 3)]), Status::ParseFailure),
        case(CALL, with(&[(4, 132), (5, 3)]), Status::ParseFailure),
        case(CALL, with(&[(6, 512), (7, len(&metadata))]), Status::ParseFailure),
        case(CALL, with(&[(6, 64), (7, 3)]), Status::BadArgument),
        // An empty message is a message.
        case(CALL, with(&[(9, 0)]), Status::Ok),
    ];
    check(grpc_caller().data(128, "a b\0a/b").data(512, &metadata), |_| (), &cases);
}

#[test]
fn bad_pointers_are_refused() {
    let inputs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)];
    check(grpc_caller(), |_| (), &bad_pointers(CALL, &args(), &inputs, &[(11, 4)]));
}

#[test]
fn it_can_be_cancelled_and_closing_is_cancelling() {
    for end in ["proxy_grpc_cancel", "proxy_grpc_close"] {
        let bench = grpc_caller()
            .language("Go")
            .on(Callback::RequestHeaders, [call(CALL, args()), call(end, [1]), call(end, [1])])
            .on(Callback::GrpcClose, [say("closed")])
            .bench();
        let _chain = bench.headers(&bench.request());
        assert_eq!(bench.log(), ["0", "0", "1"]);
        let [token] = begun(&bench.worker)[..] else { panic!("one call") };
        assert_eq!(bench.worker.take_asked(), [Asked::Cancelled(token)]);
        assert!(!bench.shard.called(token, closed(0)));
        assert!(bench.log().is_empty());
    }
}
