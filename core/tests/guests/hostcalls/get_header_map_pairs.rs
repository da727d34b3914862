//! `proxy_get_header_map_pairs`.

use weir_core::{
    abi::{Status, pairs::Pairs, types::MapType},
    chain::Direction,
    filter::Callback,
};

use crate::support::{END, Guest, OUT, SIZE, bad_pointers, call, case, check, pairs, u32_at, value};

const GET: &str = "proxy_get_header_map_pairs";

/// Names and values of a list that a guest has logged.
fn texts(logged: &str) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs = Pairs::parse(logged.as_bytes()).expect("well-formed");
    pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn names_are_lower_case_and_what_is_repeated_stays_repeated() {
    let read = |map| [call(GET, [map, OUT, SIZE]), value(OUT)];
    let guest = Guest::new().on(Callback::RequestHeaders, read(0)).on(Callback::ResponseTrailers, read(3));
    let bench = guest.bench();
    let request = bench.request();
    let list = [(":method", "GET"), ("X-One", "A"), ("empty", ""), ("x-one", "b")];
    request.edit().maps.insert(MapType::HttpRequestHeaders, pairs(&list));
    request.edit().maps.insert(MapType::HttpResponseTrailers, pairs(&[("T", "t")]));
    let mut chain = bench.begin(&request);
    chain.headers(Direction::Request, true);
    chain.trailers(Direction::Response);
    let log = bench.log();
    let lower = list.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    assert_eq!(texts(&log[1]), lower);
    assert_eq!(texts(&log[3]), [("t".to_owned(), "t".to_owned())]);
}

#[test]
fn where_there_is_no_map_there_is_nothing() {
    let read = |map| [call(GET, [map, OUT, SIZE]), u32_at(OUT), u32_at(SIZE)];
    let bench = Guest::new()
        .data(OUT, [0xff; 8])
        .allocating("unreachable")
        .on(Callback::Configure, read(0))
        .on(Callback::RequestHeaders, [1, 3, 4, 5, 6, 7].map(read).concat())
        .bench();
    assert_eq!(bench.run(), ["0"; 21]);
}

#[test]
fn an_empty_map_is_four_zero_bytes() {
    let read = [call(GET, [1, OUT, SIZE]), value(OUT)];
    let bench = Guest::new().on(Callback::RequestHeaders, read).bench();
    let request = bench.request();
    request.edit().maps.insert(MapType::HttpRequestTrailers, Vec::new());
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "\0\0\0\0"]);
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(GET, &[0, OUT, SIZE], &[], &[(1, 4), (2, 4)]);
    cases.extend(bad_pointers(GET, &[7, OUT, SIZE], &[], &[(1, 4), (2, 4)]));
    cases.extend([-1, 8].map(|map| case(GET, [map, OUT, SIZE], Status::BadArgument)));
    cases.push(case(GET, [0, END - 4, END - 8], Status::Ok));
    check(Guest::new(), |_| (), &cases);
}
