//! `proxy_get_header_map_value`.

use weir_core::{
    abi::{Status, types::MapType},
    filter::{AbiVersion, Callback},
};

use crate::support::{
    END, Guest, HIGH, OUT, SIZE, bad_pointers, call, case, check, len, pairs, u32_at, value,
};

const GET: &str = "proxy_get_header_map_value";

/// Reads `name` in `map`, as a guest of `version`.
fn read(version: AbiVersion, map: MapType, name: &str) -> Vec<String> {
    let steps = [call(GET, [i64::from(map.raw()), 8, len(name), OUT, SIZE]), value(OUT)];
    let bench = Guest::new().version(version).data(8, name).on(Callback::RequestHeaders, steps).bench();
    let request = bench.request();
    let list = [
        (":method", "GET"),
        ("X-Many", "1"),
        ("Cookie", "a=1"),
        ("x-many", "2"),
        ("cookie", "b=2"),
        ("empty", ""),
        ("X-MANY", "3"),
    ];
    request.edit().maps.insert(MapType::HttpRequestHeaders, pairs(&list));
    bench.serve(&request);
    bench.log()
}

#[test]
fn values_are_found_in_any_case_and_joined() {
    for (name, expected) in [
        (":method", "GET"),
        ("x-many", "1, 2, 3"),
        ("X-Many", "1, 2, 3"),
        ("cookie", "a=1; b=2"),
        ("empty", ""),
    ] {
        assert_eq!(read(AbiVersion::V0_2_1, MapType::HttpRequestHeaders, name), ["0", expected], "{name}");
    }
}

#[test]
fn a_missing_key_is_empty_in_0_1_0_and_not_found_since() {
    for map in MapType::ALL {
        assert_eq!(read(AbiVersion::V0_1_0, *map, "absent"), ["0", ""], "{map:?}");
        assert_eq!(read(AbiVersion::V0_2_0, *map, "absent"), ["1", ""], "{map:?}");
        assert_eq!(read(AbiVersion::V0_2_1, *map, "absent"), ["1", ""], "{map:?}");
    }
    // A name that no header can have is absent.
    assert_eq!(read(AbiVersion::V0_2_1, MapType::HttpRequestHeaders, ""), ["1", ""]);
    assert_eq!(read(AbiVersion::V0_2_1, MapType::HttpRequestHeaders, "x many\r\n"), ["1", ""]);
}

#[test]
fn nothing_is_allocated_for_an_empty_value() {
    let steps = [call(GET, [0, 8, 5, OUT, SIZE]), u32_at(OUT), u32_at(SIZE)];
    let guest = Guest::new().data(8, "empty").data(OUT, [1; 8]).allocating("unreachable");
    let bench = guest.on(Callback::RequestHeaders, steps).bench();
    let request = bench.request();
    request.edit().maps.insert(MapType::HttpRequestHeaders, pairs(&[("empty", "")]));
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "0", "0"]);
}

#[test]
fn values_are_bytes() {
    let steps = [call(GET, [0, 8, 1, OUT, SIZE]), value(OUT), u32_at(SIZE)];
    let bench = Guest::new().data(8, "a").on(Callback::RequestHeaders, steps).bench();
    let request = bench.request();
    request.edit().maps.insert(MapType::HttpRequestHeaders, vec![(b"a".to_vec(), b"\xff\xfe\0".to_vec())]);
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "\u{fffd}\u{fffd}\0", "3"]);
}

#[test]
fn a_root_context_finds_nothing() {
    let steps = [call(GET, [0, 8, 5, OUT, SIZE])];
    let guest =
        |version| Guest::new().version(version).data(8, ":path").on(Callback::Configure, steps.clone());
    assert_eq!(guest(AbiVersion::V0_2_1).bench().run(), ["1"]);
    assert_eq!(guest(AbiVersion::V0_1_0).bench().run(), ["0"]);
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(GET, &[0, 8, 5, OUT, SIZE], &[(1, 2)], &[(3, 4), (4, 4)]);
    cases.extend([-1, 8].map(|map| case(GET, [map, 8, 5, OUT, SIZE], Status::BadArgument)));
    cases.push(case(GET, [0, HIGH, 0, OUT, SIZE], Status::NotFound));
    cases.push(case(GET, [0, 8, 5, END - 4, END - 8], Status::Ok));
    check(Guest::new().data(8, ":path"), |_| (), &cases);
}
