//! `proxy_send_local_response`. What a chain makes of it is in `chain.rs`.

use weir_core::{
    abi::{Status, types::MapType},
    chain::{Direction, Verdict},
    filter::Callback,
    testing::{Request, Sent},
};

use crate::support::{
    Case, Guest, HIGH, bad_pointers, call, case, check, check_in, len, pairs, returns, serialized,
};

const SEND: &str = "proxy_send_local_response";

/// Arguments for `status` with details, body and headers as [`guest`] has them.
fn args(status: i64, headers: &[u8], grpc: i64) -> Vec<i64> {
    vec![status, 64, 7, 128, 4, 512, len(headers), grpc]
}

fn guest(headers: &[u8]) -> Guest {
    Guest::new().data(64, "details").data(128, "body").data(512, headers)
}

#[test]
fn everything_reaches_the_proxy() {
    let headers = serialized(&[("x-a", "1"), ("set-cookie", "a"), ("set-cookie", "b")]);
    for (grpc, expected) in [(-1, None), (0, Some(0)), (16, Some(16)), (-2, None)] {
        for callback in [
            Callback::RequestHeaders,
            Callback::RequestBody,
            Callback::ResponseHeaders,
            Callback::ResponseBody,
        ] {
            // The action that is returned does not matter any more.
            let steps = [call(SEND, args(403, &headers, grpc)), returns(1)];
            let bench = guest(&headers).on(callback, steps).bench();
            let request = bench.request();
            let mut chain = bench.begin(&request);
            let verdicts = [
                chain.headers(Direction::Request, false),
                chain.body(Direction::Request, true),
                chain.headers(Direction::Response, false),
                chain.body(Direction::Response, true),
            ];
            let responses = verdicts.iter().filter(|verdict| **verdict == Verdict::LocalResponse).count();
            assert_eq!(responses, 1, "{verdicts:?}");
            let sent = request.edit().sent.clone();
            let wanted = Sent {
                status: 403,
                details: b"details".to_vec(),
                body: b"body".to_vec(),
                headers: pairs(&[("x-a", "1"), ("set-cookie", "a"), ("set-cookie", "b")]),
                grpc_status: expected,
            };
            assert_eq!(sent, Some(wanted), "{callback:?}");
        }
    }
}

#[test]
fn a_response_may_be_empty() {
    let done = check_in(
        Callback::Log,
        Guest::new(),
        |_| (),
        &[case(SEND, [200, HIGH, 0, HIGH, 0, HIGH, 0, -1], Status::Ok)],
    );
    let sent = done.request.edit().sent.clone().expect("sent");
    assert!(sent.details.is_empty() && sent.body.is_empty() && sent.headers.is_empty());
}

#[test]
fn only_final_statuses_are_responses() {
    let status = |status| if (200..=999).contains(&status) { Status::Ok } else { Status::BadArgument };
    for code in [200, 204, 304, 599, 600, 999, 0, 99, 100, 199, 1000, 65736, -1] {
        let cases = [case(SEND, args(code, b"", -1), status(code))];
        let done = check_in(Callback::Log, guest(b""), |_| (), &cases);
        assert_eq!(done.warnings.len(), usize::from(status(code) != Status::Ok), "{:?}", done.warnings);
        assert_eq!(done.request.edit().sent.is_some(), status(code) == Status::Ok, "{code}");
    }
}

#[test]
fn headers_that_could_split_the_response_are_left_out() {
    let headers = serialized(&[
        ("good", "1"),
        (":status", "404"),
        (":path", "/"),
        ("bad name", "2"),
        ("bad-value", "3\r\nx: y"),
        ("", "4"),
        ("good-too", ""),
    ]);
    let done =
        check_in(Callback::Log, guest(&headers), |_| (), &[case(SEND, args(200, &headers, -1), Status::Ok)]);
    assert_eq!(
        done.request.edit().sent.clone().expect("sent").headers,
        pairs(&[("good", "1"), ("good-too", "")])
    );
    assert_eq!(done.warnings.len(), 5, "{:?}", done.warnings);
    assert!(done.warnings[0].contains("argument of its own"), "{:?}", done.warnings);
}

#[test]
fn too_late_or_nowhere_to_send_it() {
    // What the guest is told depends on whether its SDK survives the truth; unless it says so, it does not.
    let languages = [(None, Status::Ok), (Some("Rust"), Status::Ok), (Some("Go"), Status::BadArgument)];
    let speaking = |language: Option<&str>| match language {
        Some(language) => guest(b"").language(language),
        None => guest(b""),
    };
    let late = |prepare: fn(&Request), why: &str| {
        for (language, status) in languages {
            let done = check(speaking(language), prepare, &[case(SEND, args(403, b"", -1), status)]);
            let [warning] = &done.warnings[..] else { panic!("one warning: {:?}", done.warnings) };
            assert!(warning.contains("status 403") && warning.contains(why), "{warning}");
            assert!(done.request.edit().sent.is_none());
            assert!(done.request.edit().maps.contains_key(&MapType::HttpRequestHeaders));
        }
    };
    late(|request| request.edit().headers_sent = true, "headers have been sent");
    late(|request| request.edit().gone = true, "the stream is gone");
    for (language, status) in languages {
        let steps = [call(SEND, args(403, b"", -1))];
        let bench = speaking(language).on(Callback::Configure, steps).bench();
        bench.rehearse().expect("accepted");
        let (answers, warnings) = bench.spoken();
        assert_eq!(answers, [status.raw().to_string()]);
        assert!(warnings[0].contains("the stream is gone"), "{warnings:?}");
    }
}

#[test]
fn the_first_one_counts() {
    let steps = [403, 404].map(|status| call(SEND, args(status, b"", -1)));
    let bench = guest(b"").on(Callback::RequestHeaders, steps).bench();
    let request = bench.request();
    assert_eq!(bench.begin(&request).headers(Direction::Request, true), Verdict::LocalResponse);
    assert_eq!(request.edit().sent.as_ref().map(|sent| sent.status), Some(403));
}

#[test]
fn statuses() {
    let headers = serialized(&[("a", "1")]);
    let good = args(403, &headers, -1);
    let mut cases: Vec<Case> = bad_pointers(SEND, &good, &[(1, 2), (3, 4), (5, 6)], &[]);
    for size in [1, len(&headers) - 1, len(&headers) + 1] {
        let mut malformed = good.clone();
        malformed[6] = size;
        cases.push(case(SEND, malformed, Status::BadArgument));
    }
    let done = check(guest(&headers), |_| (), &cases);
    assert!(done.request.edit().sent.is_none());
}
