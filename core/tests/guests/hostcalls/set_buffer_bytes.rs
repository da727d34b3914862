//! `proxy_set_buffer_bytes`.

use weir_core::{
    abi::{Status, types::BufferType},
    filter::Callback,
    testing::Request,
};

use crate::support::{Guest, HIGH, OUT, SIZE, bad_pointers, call, case, check, check_in, value};

const SET: &str = "proxy_set_buffer_bytes";

fn body(request: &Request) {
    let pieces = ["hel", "", "lo wo", "rld"].map(|piece| piece.as_bytes().to_vec());
    request.edit().buffers.insert(BufferType::HttpRequestBody, pieces.to_vec());
}

/// What is left of the body.
fn left(request: &Request) -> String {
    let pieces = request.edit().buffers.get(&BufferType::HttpRequestBody).cloned();
    String::from_utf8(pieces.unwrap_or_default().concat()).expect("text")
}

#[test]
fn any_range_is_replaced_whatever_pieces_it_is_in() {
    for (start, size, new, expected) in [
        (0, 0, 3, "NEWhello world"),
        (11, 0, 3, "hello worldNEW"),
        (12, 0, 3, "hello worldNEW"),
        (HIGH, HIGH, 3, "hello worldNEW"),
        (0, 11, 3, "NEW"),
        (0, HIGH, 3, "NEW"),
        (2, 4, 3, "heNEWworld"),
        (5, 1, 3, "helloNEWworld"),
        (5, 0, 1, "helloN world"),
        (6, HIGH, 3, "hello NEW"),
        (6, 400, 3, "hello NEW"),
        (1, HIGH, 3, "hNEW"),
        (0, 6, 0, "world"),
        (0, HIGH, 0, ""),
        (4, 0, 0, "hello world"),
        (HIGH, HIGH, 0, "hello world"),
    ] {
        let read = [
            call(SET, [0, start, size, 64, new]),
            call("proxy_get_buffer_bytes", [0, 0, HIGH, OUT, SIZE]),
            value(OUT),
        ];
        let bench = Guest::new().data(64, "NEW").on(Callback::RequestBody, read).bench();
        let request = bench.request();
        body(&request);
        bench.serve(&request);
        assert_eq!(bench.log(), ["0", "0", expected], "{size} from {start}");
        assert_eq!(left(&request), expected);
    }
}

#[test]
fn an_empty_body_is_given_bytes_at_its_end() {
    let bench = Guest::new().data(64, "NEW").on(Callback::RequestBody, [call(SET, [0, 7, 9, 64, 3])]).bench();
    let request = bench.request();
    request.edit().buffers.insert(BufferType::HttpRequestBody, Vec::new());
    bench.serve(&request);
    assert_eq!((bench.log(), left(&request)), (vec!["0".to_owned()], "NEW".to_owned()));
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(SET, &[0, 0, 0, 64, 3], &[(3, 4)], &[]);
    cases.extend([-1, 9, i64::from(i32::MAX)].map(|id| case(SET, [id, 0, 0, 64, 3], Status::BadArgument)));
    cases.push(case(SET, [0, 0, 0, HIGH, 0], Status::Ok));
    let done = check_in(Callback::RequestBody, Guest::new(), body, &cases);
    assert_eq!(left(&done.request), "hello world", "no refused call changes anything");
    assert_eq!(done.warnings, Vec::<String>::new());
}

/// Buffers of other phases, of TCP, of calls out, and the configurations: refused with a warning, and the answer is
/// one that the guest's SDK survives.
#[test]
fn there_is_no_such_buffer() {
    for id in [1, 2, 3, 4, 5, 6, 7, 8] {
        for (language, status) in [("Rust", Status::Ok), ("Go", Status::NotFound)] {
            let cases = [case(SET, [id, 0, 0, 64, 3], status)];
            let done = check(Guest::new().language(language), body, &cases);
            let [warning] = &done.warnings[..] else { panic!("one warning: {:?}", done.warnings) };
            assert!(warning.contains("dropped in proxy_on_request_headers"), "{warning}");
            assert!(warning.contains("does not exist in this phase"), "{warning}");
            assert_eq!(left(&done.request), "hello world");
        }
    }
    // A module that says nothing of its language is taken for one whose SDK panics.
    check(Guest::new(), body, &[case(SET, [1, 0, 0, 64, 3], Status::Ok)]);
}

#[test]
fn nothing_to_change_without_a_request() {
    for (language, status) in [("Rust", Status::Ok), ("Go", Status::NotFound)] {
        let cases = [case(SET, [0, 0, 0, 64, 3], status)];
        check(Guest::new().language(language), |request| request.edit().gone = true, &cases);
        let root = Guest::new().language(language).on(Callback::Configure, [call(SET, [0, 0, 0, 64, 3])]);
        let bench = root.bench();
        bench.rehearse().expect("accepted");
        let (answers, warnings) = bench.spoken();
        assert_eq!((answers, warnings.len()), (vec![status.raw().to_string()], 1), "{language}");
    }
}
