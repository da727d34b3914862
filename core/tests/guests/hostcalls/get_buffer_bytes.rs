//! `proxy_get_buffer_bytes`.

use weir_core::{
    abi::{Status, types::BufferType},
    filter::Callback,
    testing::Request,
};

use crate::support::{
    END, Guest, HEAP, HIGH, OUT, SIZE, bad_pointers, call, case, check, number, u32_at, value,
};

const GET: &str = "proxy_get_buffer_bytes";

/// A request's body in several pieces, one of them empty.
fn body(request: &Request) {
    let pieces = ["hel", "", "lo wo", "rld"].map(|piece| piece.as_bytes().to_vec());
    request.edit().buffers.insert(BufferType::HttpRequestBody, pieces.to_vec());
}

#[test]
fn any_range_is_read_whatever_pieces_it_is_in() {
    let whole = "hello world";
    for (start, max, expected) in [
        (0, 11, whole),
        (0, HIGH, whole),
        (0, 5, "hello"),
        (2, 2, "ll"),
        (3, 1, "l"),
        (6, HIGH, "world"),
        (10, 1, "d"),
        (11, 1, ""),
        (12, 5, ""),
        (HIGH, HIGH, ""),
        (4, 0, ""),
    ] {
        let read = [call(GET, [0, start, max, OUT, SIZE]), value(OUT)];
        let bench = Guest::new().on(Callback::RequestBody, read).bench();
        let request = bench.request();
        body(&request);
        bench.serve(&request);
        assert_eq!(bench.log(), ["0", expected], "from {start}, at most {max}");
    }
}

#[test]
fn nothing_is_allocated_for_no_bytes() {
    let read = [call(GET, [0, 11, 5, OUT, SIZE]), u32_at(OUT), u32_at(SIZE)];
    let bench =
        Guest::new().data(OUT, [1; 8]).allocating("unreachable").on(Callback::RequestBody, read).bench();
    let request = bench.request();
    body(&request);
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "0", "0"]);
}

#[test]
fn configurations_are_read_from_any_callback() {
    let read =
        || [call(GET, [6, 0, HIGH, OUT, SIZE]), value(OUT), call(GET, [7, 1, 3, OUT, SIZE]), value(OUT)];
    let callbacks = [Callback::VmStart, Callback::Configure, Callback::RequestHeaders, Callback::Log];
    let guest = callbacks.iter().fold(Guest::new(), |guest, callback| guest.on(*callback, read()));
    assert_eq!(guest.bench().run(), ["0", "vm", "0", "lug"].repeat(4));
}

#[test]
fn before_there_is_a_root_context_only_the_module_has_a_configuration() {
    let read = [call(GET, [6, 0, 9, OUT, SIZE]), value(OUT), call(GET, [7, 0, 9, OUT, SIZE])];
    assert_eq!(Guest::new().on(Callback::Initialize, read).bench().run(), ["0", "vm", "1"]);
}

#[test]
fn statuses() {
    let good = [0, 0, 5, OUT, SIZE];
    let mut cases = bad_pointers(GET, &good, &[], &[(3, 4), (4, 4)]);
    cases.extend(bad_pointers(GET, &[7, 0, 5, OUT, SIZE], &[], &[(3, 4), (4, 4)]));
    cases
        .extend([-1, 9, i64::from(i32::MAX)].map(|id| case(GET, [id, 0, 5, OUT, SIZE], Status::BadArgument)));
    // Buffers of other phases, of TCP and of calls out.
    cases.extend([1, 2, 3, 4, 5, 8].map(|id| case(GET, [id, 0, 5, OUT, SIZE], Status::NotFound)));
    cases.push(case(GET, [0, 0, 5, END - 4, END - 8], Status::Ok));
    check(Guest::new(), body, &cases);
}

#[test]
fn a_root_context_has_no_body() {
    let bench = Guest::new().on(Callback::Configure, [call(GET, [0, 0, 5, OUT, SIZE])]).bench();
    assert_eq!(bench.run(), ["1"]);
}

#[test]
fn bytes_that_the_proxy_cannot_read_are_an_internal_failure() {
    let fails = [case(GET, [0, 0, 5, OUT, SIZE], Status::InternalFailure)];
    let prepare = |request: &Request| {
        body(request);
        request.edit().exhausted = true;
    };
    check(Guest::new(), prepare, &fails);
}

#[test]
fn places_are_checked_before_anything_is_allocated() {
    let heap = number("(i64.extend_i32_u (global.get $heap))");
    let bench = Guest::new()
        .on(Callback::RequestHeaders, [call(GET, [7, 0, 5, OUT, END]), heap.clone()])
        .on(Callback::ResponseHeaders, [call(GET, [7, 0, 5, OUT, SIZE]), heap])
        .bench();
    assert_eq!(bench.run(), ["6", &HEAP.to_string(), "0", &(HEAP + 16).to_string()]);
}
