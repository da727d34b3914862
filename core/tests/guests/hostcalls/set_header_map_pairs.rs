//! `proxy_set_header_map_pairs`.

use weir_core::{
    abi::{Status, types::MapType},
    engine::limits::{MAX_PAIRS, MAX_PAIRS_BYTES},
    filter::Callback,
    testing::{Request, Worker},
};

use crate::support::{
    Case, Checked, END, Guest, HIGH, bad_pointers, call, case, check, len, pairs, serialized,
};

const SET: &str = "proxy_set_header_map_pairs";

/// Sets the pairs in `map`.
fn set(guest: Guest, map: i64, bytes: &[u8], status: Status) -> Checked {
    let prepare = |request: &Request| {
        request.edit().maps.insert(MapType::HttpResponseTrailers, pairs(&[("old", "1")]));
    };
    check(guest.data(8, bytes), prepare, &[case(SET, [map, 8, len(bytes)], status)])
}

fn headers(request: &Request) -> Vec<weir_core::testing::Pair> {
    request.edit().maps[&MapType::HttpRequestHeaders].clone()
}

/// Pseudo-headers that are not named stay: there is no request without a method.
#[test]
fn all_pairs_are_replaced() {
    let list = [("new", "1"), (":path", "/new"), ("x-Many", "a"), ("x-Many", "b"), ("empty", "")];
    let done = set(Guest::new(), 0, &serialized(&list), Status::Ok);
    let stay = [(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", "/new")];
    let new = [("new", "1"), ("x-many", "a"), ("x-many", "b"), ("empty", "")];
    assert_eq!(
        headers(&done.request),
        pairs(&[&stay[..], &new].concat()),
        "the codec writes names in lower case"
    );
    assert!(done.warnings.is_empty());
    let done = set(Guest::new(), 3, &serialized(&[("t", "2")]), Status::Ok);
    assert_eq!(done.request.edit().maps[&MapType::HttpResponseTrailers], pairs(&[("t", "2")]));
}

/// The host is `:authority` or `host`, whichever is not what it was.
#[test]
fn the_host_is_the_one_that_is_new() {
    for (authority, host, stays) in [
        ("new", "example.com", (":authority", "new")),
        ("example.com", "new", ("host", "new")),
        ("new", "other", (":authority", "new")),
    ] {
        for order in [[0, 1], [1, 0]] {
            let list = order.map(|at| [(":authority", authority), ("HOST", host)][at]);
            let done = set(Guest::new(), 0, &serialized(&list), Status::Ok);
            let (name, value) = (stays.0.as_bytes(), stays.1.as_bytes());
            let found: Vec<_> = headers(&done.request);
            let named = |name: &[u8]| found.iter().find(|pair| pair.0 == name).map(|pair| pair.1.clone());
            assert_eq!(named(name).as_deref(), Some(value), "{list:?}");
            assert_eq!(named(b"host").is_some(), name == b"host", "{list:?}: {found:?}");
        }
    }
    let same = [(":authority", "new"), ("host", "new")];
    let done = set(Guest::new(), 0, &serialized(&same), Status::Ok);
    assert!(headers(&done.request).contains(&(b"host".to_vec(), b"new".to_vec())));
}

#[test]
fn an_empty_list_has_two_forms() {
    for empty in [&[][..], &[0; 4]] {
        let done = set(Guest::new(), 0, empty, Status::Ok);
        let headers = headers(&done.request);
        assert!(headers.len() == 4 && headers.iter().all(|(name, _)| name.starts_with(b":")), "{headers:?}");
    }
}

#[test]
fn what_is_malformed_changes_nothing() {
    let good = serialized(&[("a", "b")]);
    let many = u32::try_from(MAX_PAIRS + 1).expect("small").to_le_bytes();
    let before = headers(&Request::new(&Worker::default()));
    let lying = [&good[..4], &[0xff; 4], &good[8..]].concat();
    let unterminated = [&good[..good.len() - 1], b"x"].concat();
    for bytes in [
        &good[..3],
        &good[..5],
        &good[..good.len() - 1],
        &[good.clone(), vec![0]].concat(),
        &many,
        &lying,
        &unterminated,
        b"\0",
    ] {
        let done = set(Guest::new(), 0, bytes, Status::BadArgument);
        assert_eq!(headers(&done.request), before, "{bytes:?}");
    }
    let large = i64::try_from(MAX_PAIRS_BYTES).expect("small") + 1;
    let memory = Guest::new().plus("(func $grow (drop (memory.grow (i32.const 16)))) (start $grow)");
    check(memory, |_| (), &[case(SET, [0, 8, large], Status::BadArgument)]);
}

/// The others are set all the same; the answer is one that the guest's SDK survives.
#[test]
fn pairs_that_could_split_a_message_are_left_out() {
    let list = [
        ("a", "1"),
        ("b c", "2"),
        ("d", "3\r\ne: f"),
        (":status", "200"),
        (":nonsense", ""),
        ("", ""),
        ("g", "4"),
    ];
    for (language, status) in [("Rust", Status::Ok), ("Go", Status::BadArgument)] {
        let done = set(Guest::new().language(language), 0, &serialized(&list), status);
        assert_eq!(headers(&done.request)[4..], pairs(&[("a", "1"), ("g", "4")]));
        assert_eq!(done.warnings.len(), 5, "{:?}", done.warnings);
        assert!(done.warnings[0].contains("b c"), "{:?}", done.warnings);
    }
}

#[test]
fn a_map_that_does_not_exist_here_is_refused_once() {
    let list = serialized(&[("a", "1"), ("b", "2")]);
    for map in [1, 4, 5, 6, 7] {
        for (language, status) in [("Rust", Status::Ok), ("Go", Status::BadArgument)] {
            let done = set(Guest::new().language(language), map, &list, status);
            assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings);
        }
    }
    for (language, status) in [("Rust", "0"), ("Go", "2")] {
        let guest = Guest::new().language(language).data(8, &list);
        let bench = guest.on(Callback::Configure, [call(SET, [0, 8, len(&list)])]).bench();
        bench.rehearse().expect("accepted");
        let (answers, warnings) = bench.spoken();
        assert_eq!((answers, warnings.len()), (vec![status.to_owned()], 1));
    }
}

#[test]
fn statuses() {
    let list = serialized(&[("a", "1")]);
    let mut cases: Vec<Case> = bad_pointers(SET, &[0, 8, len(&list)], &[(1, 2)], &[]);
    cases.extend([-1, 8].map(|map| case(SET, [map, 8, len(&list)], Status::BadArgument)));
    cases.push(case(SET, [0, HIGH, 0], Status::Ok));
    cases.push(case(SET, [0, END - len(&list), len(&list)], Status::Ok));
    check(Guest::new().data(8, &list).data(END - len(&list), &list), |_| (), &cases);
}

#[test]
fn a_proxy_without_memory_is_an_internal_failure() {
    let list = serialized(&[("a", "1")]);
    let full = case(SET, [0, 8, len(&list)], Status::InternalFailure);
    check(Guest::new().data(8, &list), |request| request.edit().exhausted = true, &[full]);
}
