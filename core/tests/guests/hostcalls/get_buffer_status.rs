//! `proxy_get_buffer_status`.

use weir_core::{
    abi::{Status, types::BufferType},
    filter::Callback,
    testing::Request,
};

use crate::support::{END, Guest, OUT, SIZE, bad_pointers, call, case, check, u32_at};

const GET: &str = "proxy_get_buffer_status";

fn body(request: &Request) {
    request.edit().buffers.insert(BufferType::HttpResponseBody, vec![vec![0; 300], vec![0; 7]]);
}

#[test]
fn the_size_is_all_that_is_readable_and_the_flags_are_none() {
    let read = |id| [call(GET, [id, OUT, SIZE]), u32_at(OUT), u32_at(SIZE)];
    let bench = Guest::new()
        .data(OUT, [0xff; 8])
        .on(Callback::VmStart, read(6))
        .on(Callback::Configure, read(7))
        .on(Callback::ResponseBody, read(1))
        .bench();
    let request = bench.request();
    body(&request);
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "2", "0", "0", "6", "0", "0", "307", "0"]);
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(GET, &[1, OUT, SIZE], &[], &[(1, 4), (2, 4)]);
    cases.extend([-1, 9].map(|id| case(GET, [id, OUT, SIZE], Status::BadArgument)));
    cases.extend([0, 2, 3, 4, 5, 8].map(|id| case(GET, [id, OUT, SIZE], Status::NotFound)));
    cases.push(case(GET, [1, END - 4, END - 4], Status::Ok));
    check(Guest::new(), body, &cases);
}

#[test]
fn a_root_context_has_no_body() {
    let bench = Guest::new().on(Callback::Configure, [call(GET, [1, OUT, SIZE])]).bench();
    assert_eq!(bench.run(), ["1"]);
}
