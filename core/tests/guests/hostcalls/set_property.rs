//! `proxy_set_property`.

use weir_core::{
    abi::Status,
    engine::limits::{MAX_PROPERTIES, MAX_PROPERTY_PATH, MAX_PROPERTY_VALUE},
    filter::Callback,
    plan::Isolation,
};

use crate::support::{Bench, Guest, HIGH, OUT, SIZE, bad_pointers, call, case, check, len, plugin, value};

const SET: &str = "proxy_set_property";
const GET: &str = "proxy_get_property";

#[test]
fn what_is_set_is_seen_by_the_filters_after_it_and_in_later_callbacks() {
    let read = || [call(GET, [8, 6, OUT, SIZE]), value(OUT)];
    let writes = Guest::new().data(8, "my.own").data(32, "value");
    let writes = writes.on(Callback::RequestHeaders, [call(SET, [8, 6, 32, 5])]).load();
    let reads = Guest::new().data(8, "my.own");
    let reads = reads.on(Callback::RequestHeaders, read()).on(Callback::ResponseHeaders, read()).load();
    let bench = Bench::new(vec![plugin(&writes, "", Isolation::Auto), plugin(&reads, "", Isolation::Auto)]);
    assert_eq!(bench.run(), ["0", "0", "value", "0", "value"]);
    let request = bench.request();
    bench.serve(&request);
    assert_eq!(request.edit().properties.get(b"my.own"), Some(&b"value"[..]));
}

#[test]
fn a_value_may_be_replaced_and_be_empty() {
    let cases = [
        case(SET, [8, 6, 32, 5], Status::Ok),
        case(SET, [8, 6, HIGH, 0], Status::Ok),
        // A trailing NUL ends the last segment: the same path.
        case(SET, [8, 7, 32, 2], Status::Ok),
    ];
    let done = check(Guest::new().data(8, "my\0own\0").data(32, "value"), |_| (), &cases);
    assert_eq!(done.request.edit().properties.get(b"my\0own"), Some(&b"va"[..]));
}

#[test]
fn the_proxy_s_variables_are_written_if_they_may_be() {
    let guest = Guest::new().data(8, "mem.limit_rate").data(32, "5k").data(64, "mem.absent");
    let cases = [case(SET, [8, 14, 32, 2], Status::Ok), case(SET, [64, 10, 32, 2], Status::NotFound)];
    let variable = b"limit_rate".to_vec();
    let done =
        check(guest, |request| drop(request.edit().native.insert(variable.clone(), Vec::new())), &cases);
    assert_eq!(done.request.edit().native[&variable], b"5k");
    assert_eq!(done.warnings.len(), 1);
    assert!(done.warnings[0].contains("there is no such variable"), "{:?}", done.warnings);
}

#[test]
fn the_rust_sdk_survives_a_refusal() {
    let guest = Guest::new().data(8, "mem.absent").data(96, "unexpected status: ");
    let done = check(guest, |_| (), &[case(SET, [8, 10, 32, 2], Status::Ok)]);
    assert_eq!(done.warnings.len(), 1);
}

#[test]
fn there_are_bounds() {
    let path = i64::try_from(MAX_PROPERTY_PATH).expect("small");
    let large = i64::try_from(MAX_PROPERTY_VALUE).expect("small");
    let memory = Guest::new()
        .data(0, vec![b'a'; MAX_PROPERTY_PATH + 1])
        .plus("(func $grow (drop (memory.grow (i32.const 16)))) (start $grow)");
    let cases = [
        case(SET, [0, 0, 0, 1], Status::BadArgument),
        case(SET, [0, path + 1, 0, 1], Status::BadArgument),
        case(SET, [0, path, 0, large + 1], Status::InternalFailure),
        case(SET, [0, path, 0, large], Status::Ok),
    ];
    let done = check(memory, |_| (), &cases);
    assert_eq!(done.warnings.len(), 3, "{:?}", done.warnings);
    let fill = |request: &weir_core::testing::Request| {
        for number in 0..MAX_PROPERTIES {
            request.edit().properties.set(format!("p{number}").as_bytes(), b"", false).expect("room");
        }
    };
    check(Guest::new().data(0, "one more"), fill, &[case(SET, [0, 8, 0, 1], Status::InternalFailure)]);
}

#[test]
fn a_root_context_and_a_request_that_is_gone_keep_nothing() {
    // The SDK of Rust does not survive anything but OK.
    for (words, status) in [("", "1"), ("unexpected status: ", "0")] {
        let guest = Guest::new().data(256, words).data(8, "my.own");
        let bench = guest.on(Callback::Configure, [call(SET, [8, 6, 8, 1])]).bench();
        let said = "property \"my.own\" was not set: there is no request that it would belong to";
        assert_eq!(bench.run(), [said, status]);
    }
    let gone = case(SET, [8, 6, 8, 1], Status::NotFound);
    check(Guest::new().data(8, "my.own"), |request| request.edit().gone = true, &[gone]);
}

#[test]
fn statuses() {
    let path = "my.own";
    let cases = bad_pointers(SET, &[8, len(path), 32, 5], &[(0, 1), (2, 3)], &[]);
    check(Guest::new().data(8, path), |_| (), &cases);
}
