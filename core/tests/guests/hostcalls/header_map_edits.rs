//! `proxy_add_header_map_value`, `proxy_replace_header_map_value`, `proxy_remove_header_map_value`.

use weir_core::{
    abi::{Status, types::MapType},
    engine::limits::MAX_PAIRS_BYTES,
    filter::Callback,
    testing::{Pair, Request},
};

use crate::support::{
    END, Guest, HIGH, OUT, SIZE, bad_pointers, call, case, check, check_in, len, pairs, value,
};

const ADD: &str = "proxy_add_header_map_value";
const REPLACE: &str = "proxy_replace_header_map_value";
const REMOVE: &str = "proxy_remove_header_map_value";

/// Where a name is put; its value lies at [`VALUE`].
const NAME: i64 = 64;
const VALUE: i64 = 512;

/// Arguments of an edit of `name` in `map`, for which [`guest`] has put the bytes in place.
fn args(edit: &str, map: i64, name: &[u8], value: &[u8]) -> Vec<i64> {
    let mut args = vec![map, NAME, len(name)];
    if edit != REMOVE {
        args.extend([VALUE, len(value)]);
    }
    args
}

fn guest(name: &[u8], value: &[u8]) -> Guest {
    Guest::new().data(NAME, name).data(VALUE, value)
}

fn list(request: &Request, map: MapType) -> Vec<Pair> {
    request.edit().maps.get(&map).cloned().unwrap_or_default()
}

const BEFORE: &[(&str, &str)] = &[("a", "1"), ("B", "2"), ("A", "3")];

#[test]
fn maps_are_edited() {
    for (edit, name, value, after) in [
        (ADD, "a", "4", &[("a", "1"), ("B", "2"), ("A", "3"), ("a", "4")][..]),
        (ADD, "x-New", "", &[("a", "1"), ("B", "2"), ("A", "3"), ("x-New", "")]),
        (REPLACE, "A", "4", &[("a", "4"), ("B", "2")]),
        (REPLACE, "new", "4", &[("a", "1"), ("B", "2"), ("A", "3"), ("new", "4")]),
        (REMOVE, "a", "", &[("B", "2")]),
        (REMOVE, "absent", "", BEFORE),
        (REMOVE, "", "", BEFORE),
        (REMOVE, "no header: at all\r\n", "", BEFORE),
    ] {
        for (map, callback) in [
            (MapType::HttpRequestHeaders, Callback::RequestHeaders),
            (MapType::HttpResponseHeaders, Callback::ResponseHeaders),
            (MapType::HttpResponseTrailers, Callback::ResponseBody),
        ] {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            let edited = case(edit, args(edit, i64::from(map.raw()), name, value), Status::Ok);
            let prepare = |request: &Request| drop(request.edit().maps.insert(map, pairs(BEFORE)));
            let done = check_in(callback, guest(name, value), prepare, &[edited]);
            assert_eq!(list(&done.request, map), pairs(after), "{edit} {map:?}");
            assert!(done.warnings.is_empty(), "{:?}", done.warnings);
        }
    }
}

#[test]
fn pseudo_headers_are_set_in_place() {
    for (map, name, value) in [
        (MapType::HttpRequestHeaders, ":path", "/new?query"),
        (MapType::HttpRequestHeaders, ":METHOD", "POST"),
        (MapType::HttpRequestHeaders, ":authority", "other:8080"),
        (MapType::HttpRequestHeaders, ":scheme", "https"),
        (MapType::HttpResponseHeaders, ":status", "404"),
    ] {
        for edit in [ADD, REPLACE] {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            let edited = case(edit, args(edit, i64::from(map.raw()), name, value), Status::Ok);
            let before = list(&Request::new(&weir_core::testing::Worker::default()), map).len();
            let done = check(guest(name, value), |_| (), &[edited]);
            let after = list(&done.request, map);
            assert_eq!(after.len(), before);
            assert!(after.iter().any(|(found, now)| found.eq_ignore_ascii_case(name) && now == value));
        }
    }
}

#[test]
fn a_change_is_seen_at_once() {
    let steps = [
        call(ADD, [0, NAME, 6, VALUE, 5]),
        call("proxy_get_header_map_value", [0, NAME, 6, OUT, SIZE]),
        value(OUT),
    ];
    let bench = guest(b"x-Name", b"value").on(Callback::RequestHeaders, steps).bench();
    assert_eq!(bench.run(), ["0", "0", "value"]);
}

/// Each is refused with a warning; the answer is one that the guest's SDK survives.
#[test]
fn edits_that_could_split_a_message_are_refused() {
    for (edit, map, name, value, why) in [
        (ADD, 0, &b""[..], &b"v"[..], "the name is empty"),
        (REPLACE, 2, b"a b", b"v", "characters that no header's name has"),
        (ADD, 0, b"a:", b"v", "characters"),
        (ADD, 0, "\u{e4}".as_bytes(), b"v", "characters"),
        (REPLACE, 0, b"a\r\nb", b"v", "characters"),
        (ADD, 0, b"a", b"v\r\nb: c", "split the message"),
        (REPLACE, 2, b"a", b"v\n", "split the message"),
        (ADD, 2, b"a", b"\0", "split the message"),
        (REPLACE, 0, b":path", b"/ HTTP/1.1\r\n", "split the message"),
        (ADD, 0, b":status", b"200", "no such pseudo-header"),
        (REPLACE, 2, b":path", b"/", "no such pseudo-header"),
        (REPLACE, 0, b":", b"v", "no such pseudo-header"),
        (ADD, 3, b":status", b"200", "no such pseudo-header"),
        (REPLACE, 2, b":status", b"99", "100 to 599"),
        (ADD, 2, b":status", b"600", "100 to 599"),
        (ADD, 2, b":status", b"", "100 to 599"),
        (REMOVE, 0, b":path", b"", "cannot be removed"),
        // Maps that do not exist in this phase, or at all.
        (ADD, 1, b"a", b"v", "cannot be changed in this phase"),
        (REPLACE, 3, b"a", b"v", "cannot be changed in this phase"),
        (REMOVE, 7, b"a", b"", "cannot be changed in this phase"),
        (ADD, 4, b"a", b"v", "cannot be changed in this phase"),
    ] {
        for (language, status) in [("Rust", Status::Ok), ("Go", Status::BadArgument)] {
            let before = Request::new(&weir_core::testing::Worker::default());
            let edited = case(edit, args(edit, map, name, value), status);
            let done = check(guest(name, value).language(language), |_| (), &[edited]);
            let [warning] = &done.warnings[..] else { panic!("one warning: {:?}", done.warnings) };
            let shown = name.escape_ascii().to_string();
            assert!(warning.contains(why) && warning.contains(&shown), "{warning}");
            assert!(warning.contains("proxy_on_request_headers"), "{warning}");
            assert_eq!(done.request.edit().maps, before.edit().maps, "{warning}");
        }
    }
}

#[test]
fn a_pair_that_is_larger_than_any_message_is_refused() {
    let size = i64::try_from(MAX_PAIRS_BYTES).expect("small");
    let fill = format!(
        "(func $fill (drop (memory.grow (i32.const 16)))
            (memory.fill (i32.const {END}) (i32.const 118) (i32.const {size}))) (start $fill)"
    );
    let edits =
        [case(ADD, [0, NAME, 1, END, size], Status::Ok), case(ADD, [0, NAME, 1, END, size - 1], Status::Ok)];
    let done = check(guest(b"a", b"").plus(&fill), |_| (), &edits);
    assert!(done.warnings.len() == 1 && done.warnings[0].contains("larger than any message may be"));
    let added = list(&done.request, MapType::HttpRequestHeaders);
    assert_eq!(added.last().map(|(_, value)| value.len()), Some(MAX_PAIRS_BYTES - 1));
}

/// A module that says nothing of its language is taken for one whose SDK panics.
#[test]
fn only_a_guest_that_names_other_languages_is_told_of_a_refusal() {
    let refused = |guest: Guest, status| {
        check(guest, |_| (), &[case(ADD, [0, NAME, 0, VALUE, 1], status)]);
    };
    refused(Guest::new(), Status::Ok);
    refused(Guest::new().plus(r#"(@custom "producers" "\01\08language\02\02Go\00\04Rust\00")"#), Status::Ok);
    refused(Guest::new().plus(r#"(@custom "producers" "\01\08language\01\03C++\00")"#), Status::BadArgument);
    refused(Guest::new().language("AssemblyScript"), Status::BadArgument);
}

#[test]
fn a_long_name_is_shown_in_part() {
    let name = [b"long ".repeat(20), b"end".to_vec()].concat();
    let refused = case(ADD, args(ADD, 0, &name, b""), Status::Ok);
    let done = check(guest(&name, b""), |_| (), &[refused]);
    assert!(done.warnings[0].len() < 200 && !done.warnings[0].contains("end"), "{:?}", done.warnings);
}

#[test]
fn a_root_context_edits_nothing() {
    for (language, status) in [("Rust", "0"), ("Go", "2")] {
        let calls = [
            call(ADD, [0, NAME, 1, VALUE, 1]),
            call(REPLACE, [0, NAME, 1, VALUE, 1]),
            call(REMOVE, [0, NAME, 1]),
        ];
        let bench = guest(b"a", b"v").language(language).on(Callback::Configure, calls).bench();
        bench.rehearse().expect("accepted");
        let (answers, warnings) = bench.spoken();
        assert_eq!(answers, [status; 3]);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(REMOVE, &[0, NAME, 1], &[(1, 2)], &[]);
    for edit in [ADD, REPLACE] {
        cases.extend(bad_pointers(edit, &[0, NAME, 1, VALUE, 1], &[(1, 2), (3, 4)], &[]));
        cases.extend([-1, 8].map(|map| case(edit, [map, NAME, 1, VALUE, 1], Status::BadArgument)));
        cases.push(case(edit, [0, NAME, 1, HIGH, 0], Status::Ok));
        cases.push(case(edit, [0, END - 1, 1, END - 1, 1], Status::Ok));
    }
    cases.extend([-1, 8].map(|map| case(REMOVE, [map, NAME, 1], Status::BadArgument)));
    check(guest(b"a", b"v").data(END - 1, "e"), |_| (), &cases);
}

#[test]
fn a_proxy_without_memory_is_an_internal_failure() {
    let full = |edit| case(edit, args(edit, 0, b"a", b"v"), Status::InternalFailure);
    check(guest(b"a", b"v"), |request| request.edit().exhausted = true, &[ADD, REPLACE, REMOVE].map(full));
}
