//! `proxy_get_header_map_size`.

use weir_core::{
    abi::{Status, types::MapType},
    filter::Callback,
};

use crate::support::{END, Guest, OUT, bad_pointers, call, case, check, pairs, serialized, u32_at};

const GET: &str = "proxy_get_header_map_size";

#[test]
fn it_is_the_size_of_the_serialized_pairs() {
    let read = |map| [call(GET, [map, OUT]), u32_at(OUT)];
    let bench = Guest::new()
        .data(OUT, [0xff; 4])
        .on(Callback::Configure, read(0))
        .on(Callback::RequestHeaders, read(0))
        .on(Callback::ResponseHeaders, [read(2), read(3), read(1), read(7)].concat())
        .bench();
    let request = bench.request();
    let list = [("a", "1"), ("b", ""), ("a", "22")];
    request.edit().maps.insert(MapType::HttpRequestHeaders, pairs(&list));
    request.edit().maps.insert(MapType::HttpResponseTrailers, pairs(&[]));
    bench.serve(&request);
    let (request, response) = (serialized(&list).len(), serialized(&[(":status", "200")]).len());
    let expected = ["0", &request.to_string(), "0", &response.to_string(), "0", "4", "0", "0", "0", "0"];
    assert_eq!(bench.log(), [&["0", "0"], &expected[..]].concat(), "a root context has none, nor has a call");
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(GET, &[0, OUT], &[], &[(1, 4)]);
    cases.extend(bad_pointers(GET, &[1, OUT], &[], &[(1, 4)]));
    cases.extend([-1, 8].map(|map| case(GET, [map, OUT], Status::BadArgument)));
    cases.push(case(GET, [0, END - 4], Status::Ok));
    check(Guest::new(), |_| (), &cases);
}
