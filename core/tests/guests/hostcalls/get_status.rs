//! `proxy_get_status`.

use weir_core::{
    abi::Status,
    filter::Callback,
    host::calls::{CallEvent, Closed},
};

use crate::{
    caller::{FAILED, begun, caller, dial, grpc_args, grpc_caller, response},
    support::{Guest, OUT, SIZE, Step, bad_pointers, call, case, check, u32_at, value},
};

const GET: &str = "proxy_get_status";

/// Where the status goes.
const CODE: i64 = 4000;

fn get() -> [Step; 3] {
    [call(GET, [CODE, OUT, SIZE]), u32_at(CODE), value(OUT)]
}

#[test]
fn grpc_has_its_status_when_it_is_closed() {
    let bench = grpc_caller()
        .on(Callback::RequestHeaders, [call("proxy_grpc_stream", grpc_args(None))])
        .on(Callback::GrpcClose, get())
        .bench();
    let _chain = bench.headers(&bench.request());
    drop(bench.log());
    let closed = Closed { status: 5, message: b"there is none".to_vec(), failure: None };
    bench.shard.called(begun(&bench.worker)[0], CallEvent::Closed(closed));
    assert_eq!(bench.log(), ["0", "5", "there is none"]);
}

#[test]
fn a_failed_http_call_has_11_and_its_word_and_a_good_one_0() {
    for (event, code, message) in [(FAILED, "11", "timeout"), (response(b""), "0", "")] {
        let bench =
            caller().on(Callback::RequestHeaders, [dial()]).on(Callback::HttpCallResponse, get()).bench();
        let _chain = bench.headers(&bench.request());
        drop(bench.log());
        bench.shard.called(begun(&bench.worker)[0], event);
        assert_eq!(bench.log(), ["0", code, message]);
    }
}

#[test]
fn elsewhere_all_is_well() {
    let bench = Guest::new().on(Callback::RequestHeaders, get()).bench();
    assert_eq!(bench.run(), ["0", "0", ""]);
}

#[test]
fn bad_pointers_are_refused() {
    let cases = bad_pointers(GET, &[CODE, OUT, SIZE], &[], &[(0, 4), (1, 4), (2, 4)]);
    check(Guest::new(), |_| (), &cases);
    check(Guest::new(), |_| (), &[case(GET, [CODE, OUT, SIZE], Status::Ok)]);
}
