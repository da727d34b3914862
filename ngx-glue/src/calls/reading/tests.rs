//! Responses whole, in pieces, cut anywhere, and whatever bytes.

use proptest::prelude::*;
use weir_core::host::calls::{CallFailure, Response};

use super::{Reading, Stage};

const MOST: usize = 10_000;

/// What becomes of `pieces`, after which the connection is closed: the response, whether another may follow, and how
/// many bytes were none of it.
fn read(pieces: &[&[u8]], is_head: bool) -> Result<(Response, bool, usize), CallFailure> {
    let mut reading = Reading::new(MOST, is_head);
    let mut spare = 0;
    for piece in pieces {
        spare += piece.len() - reading.take(piece).map_err(|fault| fault.failure)?;
    }
    reading.end().map_err(|fault| fault.failure)?;
    let goes_on = reading.goes_on();
    Ok((reading.take_response(), goes_on, spare))
}

fn whole(text: &str) -> Result<(Response, bool, usize), CallFailure> {
    read(&[text.as_bytes()], false)
}

fn body(response: &Response) -> Vec<u8> {
    response.body.concat()
}

#[test]
fn heads_say_where_a_response_ends() {
    // The head after its status line, the rest; the body, whether another may follow, spare bytes.
    let cases: [(&str, &str, &str, bool, usize); 13] = [
        ("Content-Length: 2\r\n", "ok", "ok", true, 0),
        ("content-length: 2, 2\r\nCONTENT-LENGTH: 2\r\n", "ok!", "ok", true, 1),
        ("Content-Length: 0\r\n", "", "", true, 0),
        ("Content-Length: 2\r\nConnection: x, Close\r\n", "ok", "ok", false, 0),
        ("Transfer-Encoding: gzip, chunked\r\n", "2\r\nok\r\n0\r\n\r\n", "ok", true, 0),
        ("Transfer-Encoding: chunked\r\n", "2;a=\"b\"\r\nok\r\n00 \r\nx: y\r\n\r\n!", "ok", true, 1),
        ("Transfer-Encoding: chunked\r\nContent-Length: 9\r\n", "0\r\n\r\n", "", false, 0),
        ("Transfer-Encoding: chunked, gzip\r\nContent-Length: 2\r\n", "okay", "okay", false, 0),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "okay", "okay", false, 0),
        ("", "until the end", "until the end", false, 0),
        ("Content-Lengths: 2\r\n", "until the end", "until the end", false, 0),
        ("Transfer-Encoding: chunked\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789", true, 0),
        ("\n", "", "", false, 0),
    ];
    for (fields, rest, expected, goes_on, spare) in cases {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{rest}");
        let (response, may_follow, left) = whole(&text).unwrap_or_else(|word| panic!("{text}: {word:?}"));
        if fields == "\n" {
            // The second empty line is the body's.
            assert_eq!(body(&response), b"\r\n", "{text}");
            continue;
        }
        assert_eq!(String::from_utf8_lossy(&body(&response)), expected, "{text}");
        assert_eq!((may_follow, left), (goes_on, spare), "{text}");
    }
}

#[test]
fn some_responses_have_no_body() {
    for (code, is_head) in [(204, false), (304, false), (101, false), (200, true), (404, true)] {
        let text = format!("HTTP/1.1 {code} X\r\nContent-Length: 5\r\n\r\nspare");
        let (response, goes_on, spare) = read(&[text.as_bytes()], is_head).expect("a response");
        assert_eq!((body(&response).len(), goes_on, spare), (0, code != 101, 5), "{code}");
    }
    let (response, ..) = whole("HTTP/1.1 100 A\r\na: b\r\n\r\nHTTP/1.1 103 B\r\n\r\nHTTP/1.1 204 C\r\n\r\n")
        .expect("a response");
    assert_eq!(response.headers.iter().collect::<Vec<_>>(), [(&b":status"[..], &b"204"[..])]);
}

#[test]
fn older_servers_are_understood() {
    let goes_on = |fields: &str| {
        whole(&format!("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok")).map(|read| read.1)
    };
    assert_eq!(goes_on(""), Ok(false));
    assert_eq!(goes_on("Connection: Keep-Alive\r\n"), Ok(true));
    assert_eq!(goes_on("Transfer-Encoding: chunked\r\n"), Err(CallFailure::Protocol));
}

#[test]
fn names_are_in_lower_case_and_in_order() {
    let (response, ..) =
        whole("HTTP/1.1 299 X\r\nX-B: 1\r\nA:2\r\nx-b:  \u{e4} \r\nContent-Length: 0\r\n\r\n")
            .expect("a response");
    let text: Vec<_> = response
        .headers
        .iter()
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    assert_eq!(text, [":status=299", "x-b=1", "a=2", "x-b=\\xc3\\xa4", "content-length=0"]);
}

#[test]
fn what_is_no_response_is_refused() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let noise = format!("{chunked}1;{}\r\n", "x".repeat(20_000));
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(MOST));
    let hints = "HTTP/1.1 103 X\r\n\r\n".repeat(1000);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:\r\n".repeat(1025));
    let cases: [(&str, &str, CallFailure); 25] = [
        ("", "", CallFailure::Reset),
        ("HTTP/1.1 200 OK\r\nA", "", CallFailure::Reset),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "o", CallFailure::Reset),
        ("HTTP/1.1 103 X\r\n\r\n", "", CallFailure::Reset),
        (chunked, "2\r\nok\r\n0\r\n", CallFailure::Reset),
        (chunked, "2\r\nok\r\n", CallFailure::Reset),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "", CallFailure::Protocol),
        ("HTTP/1.1 099 X\r\n\r\n", "", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n", "ok", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n", "ok", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "ok", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n", "ok", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", "ok", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n", "ok", CallFailure::Protocol),
        ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", "ok", CallFailure::Protocol),
        (chunked, "no chunk", CallFailure::Protocol),
        (chunked, "\r\n", CallFailure::Protocol),
        (chunked, "2\nok", CallFailure::Protocol),
        (chunked, "2\r\nokay\r\n", CallFailure::Protocol),
        (chunked, "2;a\nok", CallFailure::Protocol),
        (&noise, "", CallFailure::Protocol),
        (chunked, "fffffffffffffffff\r\n", CallFailure::TooLarge),
        (&long, "", CallFailure::TooLarge),
        (&hints, "", CallFailure::TooLarge),
        (&many, "", CallFailure::TooLarge),
    ];
    for (head, rest, word) in cases {
        let text = format!("{head}{rest}");
        assert_eq!(whole(&text).map(|read| read.0), Err(word), "{text:.200}");
    }
}

#[test]
fn bodies_have_a_bound() {
    let sized =
        |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let chunk = |length: usize| {
        let text = "x".repeat(length);
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{text}\r\n0\r\n\r\n")
    };
    let endless = |length: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(length));
    for text in [&sized as &dyn Fn(usize) -> String, &chunk, &endless] {
        assert_eq!(whole(&text(MOST)).map(|(response, ..)| body(&response).len()), Ok(MOST));
        assert_eq!(whole(&text(MOST + 1)).err(), Some(CallFailure::TooLarge));
    }
    // It is known before it comes.
    for text in [sized(MOST + 1), chunk(MOST + 1)] {
        let begin = text.find("xx").expect("a body");
        assert!(Reading::new(MOST, false).take(&text.as_bytes()[..begin]).is_err());
    }
}

#[test]
fn nothing_is_kept_of_what_is_complete() {
    let mut reading = Reading::new(MOST, false);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(reading.take(head).ok(), Some(head.len()));
    assert_eq!((reading.stage, reading.begun.capacity()), (Stage::Sized(2), 0));
}

const RESPONSES: [&str; 5] = [
    "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 100 X\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n00A \r\n0123456789\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n",
    "\r\n\r\nHTTP/1.0 404 Not Found\n\nuntil the end",
    "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
];

proptest! {
    #[test]
    fn pieces_do_not_matter(which in 0..RESPONSES.len(), mut cuts in prop::collection::vec(0..200_usize, 0..12)) {
        let text = RESPONSES[which].as_bytes();
        cuts.retain(|cut| *cut <= text.len());
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &text[two[0]..two[1]]).collect();
        prop_assert_eq!(read(&pieces, false), whole(RESPONSES[which]));
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        prop_assert_eq!(read(&bytes, false), whole(RESPONSES[which]));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(
        head in prop::option::of(0..RESPONSES.len()),
        cut in 0..100_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let begin = head.map_or(&[][..], |head| RESPONSES[head].as_bytes());
        let text = [begin.get(..cut).unwrap_or(begin), &bytes].concat();
        let one = read(&[&text], false);
        let pieces: Vec<&[u8]> = text.chunks(7).collect();
        let many = read(&pieces, false);
        if let (Ok(one), Ok(many)) = (&one, &many) {
            prop_assert_eq!(one, many);
        }
    }
}
