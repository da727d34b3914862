//! Maps after any order of edits: nginx's lists, typed pointers and framing agree, and nothing can be smuggled.
//!
//! Core has refused names that are no tokens and values with NUL, CR or LF; everything else comes by here.

use proptest::prelude::*;

use super::{Mode, request as of_request, response as of_response, trailers as of_trailers};
use crate::ngx::{
    headers_in::HeadersIn,
    headers_out::HeadersOut,
    list::{Field, Table},
    request::Request,
    testing::{self, Setup, Typed},
};

/// What a filter does to a map.
#[derive(Debug, Clone)]
enum Edit {
    Set(Vec<u8>, Vec<u8>, bool),
    Remove(Vec<u8>),
    Clear,
}

/// Names that nginx or HTTP treats in some way, in any case, and others.
fn name() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: &[&str] = &[
        "host",
        "connection",
        "if-modified-since",
        "if-none-match",
        "user-agent",
        "content-length",
        "content-type",
        "transfer-encoding",
        "range",
        "te",
        "expect",
        "upgrade",
        "authorization",
        "keep-alive",
        "cookie",
        "trailer",
        "server",
        "date",
        "content-encoding",
        "location",
        "last-modified",
        "accept-ranges",
        "www-authenticate",
        "expires",
        "etag",
        "cache-control",
        "link",
        "set-cookie",
        "vary",
        "proxy-connection",
        "x-one",
        "x-two",
        ":method",
        ":path",
        ":authority",
        ":scheme",
        ":status",
        ":else",
    ];
    let known = (0..NAMES.len(), any::<u64>()).prop_map(|(index, upper)| {
        let cased = NAMES[index].bytes().enumerate().map(|(at, byte)| {
            // Pseudo-headers have one spelling.
            if upper >> (at % 64) & 1 == 1 && NAMES[index].as_bytes()[0] != b':' {
                byte.to_ascii_uppercase()
            } else {
                byte
            }
        });
        cased.collect()
    });
    let other =
        proptest::collection::vec(proptest::sample::select(b"abcXYZ019!#$%&'*+-.^_`|~".to_vec()), 1..12);
    prop_oneof![8 => known, 1 => other]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let telling = proptest::sample::select(vec![
        &b"chunked"[..],
        b"identity, chunked",
        b"5",
        b"05",
        b"+5",
        b"5, 5",
        b"0",
        b"close",
        b"keep-alive",
        b"upgrade",
        b"a.example",
        b"a.example:80",
        b"b.example, c",
        b"bytes",
        b"none",
        b"/new?x=1",
        b"/../..",
        b"HEAD",
        b"POST",
        b"CONNECT",
        b"200",
        b"204",
        b"101",
        b"99",
        b"Mon, 28 Sep 1970 06:00:00 GMT",
        b"text/html; charset=utf-8",
        b"",
    ])
    .prop_map(<[u8]>::to_vec);
    let any = proptest::collection::vec(
        any::<u8>().prop_filter("core refuses these", |byte| !matches!(byte, 0 | b'\r' | b'\n')),
        0..20,
    );
    prop_oneof![3 => telling, 1 => any]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        12 => (name(), value(), any::<bool>()).prop_map(|(name, value, add)| Edit::Set(name, value, add)),
        4 => name().prop_map(Edit::Remove),
        1 => Just(Edit::Clear),
    ];
    proptest::collection::vec(edit, 1..40)
}

fn setup() -> impl Strategy<Value = Setup> {
    (0_usize..4, proptest::option::of(0_u32..9), any::<bool>(), proptest::option::of(0_u32..9)).prop_map(
        |(room, length, chunked, response_length)| Setup {
            room,
            request_length: length.filter(|_| !chunked),
            chunked,
            response_length,
        },
    )
}

fn mode(add: bool) -> Mode {
    if add { Mode::Add } else { Mode::Replace }
}

/// Live fields, names in lower case.
fn pairs(table: Table<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let live = table.iter().filter(|field| field.is_live());
    live.map(|field| (field.name().to_ascii_lowercase(), field.value().to_vec())).collect()
}

fn named(pairs: &[(Vec<u8>, Vec<u8>)], name: &str) -> Vec<Vec<u8>> {
    pairs.iter().filter(|(found, _)| found == name.as_bytes()).map(|(_, value)| value.clone()).collect()
}

/// Typed pointers lead to what is in the list, and to all of it.
fn agree(typed: &Typed, pairs: &[(Vec<u8>, Vec<u8>)]) {
    for (name, values) in typed {
        // A client's expectation stays when its header goes.
        if *name != "expect" || !named(pairs, name).is_empty() {
            assert_eq!(values, &named(pairs, name), "{name}");
        }
    }
}

/// What nginx writes of a list, read again line by line, is that list: no field has become two, or another.
fn is_one_line_each(table: Table<'_>) {
    let written: Vec<u8> = table
        .iter()
        .filter(|field| field.is_live())
        .flat_map(|field: Field<'_>| [field.name(), b": ", field.value(), b"\r\n"].concat())
        .collect();
    let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(lines, table.iter().filter(|field| field.is_live()).count());
}

/// What the map shows is what `value` answers, and as many pairs as it says.
fn shows<'a>(
    of_cookies: &[u8],
    count: usize,
    visit: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])),
    value: impl Fn(&[u8]) -> Option<&'a [u8]>,
) {
    let mut seen: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    visit(&mut |name, value| seen.push((name.to_ascii_lowercase(), value.to_vec())));
    assert_eq!(seen.len(), count);
    for (name, _) in &seen {
        let separator: &[u8] = if name == b"cookie" { of_cookies } else { b", " };
        let all: Vec<_> =
            seen.iter().filter(|(other, _)| other == name).map(|(_, value)| &value[..]).collect();
        assert_eq!(value(name), Some(&all.join(separator)[..]), "{}", name.escape_ascii());
    }
}

fn check_request(request: Request<'static>, setup: Setup) {
    let table = HeadersIn::of(request).list();
    let pairs = pairs(table);
    agree(&testing::typed_in(request), &pairs);
    is_one_line_each(table);
    // One host, and the framing that the client has sent, or none, which nginx then writes itself.
    assert!(named(&pairs, "host").len() <= 1);
    for length in named(&pairs, "content-length") {
        assert_eq!(String::from_utf8_lossy(&length).parse().ok(), setup.request_length);
    }
    for coding in named(&pairs, "transfer-encoding") {
        assert!(setup.chunked && coding.eq_ignore_ascii_case(b"chunked"));
    }
    assert!(named(&pairs, "content-length").len() + named(&pairs, "transfer-encoding").len() <= 1);
    assert_eq!(request.body_length(), setup.request_length.map_or(-1, i64::from));
    assert_eq!(request.is_chunked(), setup.chunked);
    shows(
        b"; ",
        of_request::count(request),
        |visit| of_request::visit(request, visit),
        |name| of_request::value(request, name),
    );
}

fn check_response(request: Request<'static>, setup: Setup) {
    let out = HeadersOut::of(request);
    let pairs = pairs(out.list());
    agree(&testing::typed_out(request), &pairs);
    is_one_line_each(out.list());
    for ours in ["content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "content-type"]
    {
        assert!(named(&pairs, ours).is_empty(), "{ours}");
    }
    assert!(out.content_length().is_none_or(|length| Some(length) == setup.response_length.map(u64::from)));
    assert!((200..600).contains(&out.status()));
    shows(
        b", ",
        of_response::count(request),
        |visit| of_response::visit(request, visit),
        |name| of_response::value(request, name),
    );
}

fn check_trailers(request: Request<'static>) {
    let trailers = HeadersOut::of(request).trailers();
    is_one_line_each(trailers);
    let pairs = pairs(trailers);
    for framing in ["content-length", "transfer-encoding", "connection", "host", "trailer", "te", "upgrade"] {
        assert!(named(&pairs, framing).is_empty(), "{framing}");
    }
    assert!(pairs.iter().all(|(name, _)| name.first() != Some(&b':')));
    shows(
        b", ",
        of_trailers::count(request),
        |visit| of_trailers::visit(request, visit),
        |name| of_trailers::value(request, name),
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_stay_whole(setup in setup(), edits in edits()) {
        let request = testing::request(setup);
        for edit in edits {
            let _ = match edit {
                Edit::Set(name, value, add) => of_request::set(request, &name, &value, mode(add)),
                Edit::Remove(name) => of_request::remove(request, &name),
                Edit::Clear => of_request::clear(request),
            };
            check_request(request, setup);
        }
    }

    #[test]
    fn responses_stay_whole(setup in setup(), edits in edits()) {
        let request = testing::request(setup);
        for edit in edits {
            let _ = match edit {
                Edit::Set(name, value, add) => of_response::set(request, &name, &value, mode(add)),
                Edit::Remove(name) => of_response::remove(request, &name),
                Edit::Clear => { of_response::clear(request); Ok(()) }
            };
            check_response(request, setup);
        }
    }

    #[test]
    fn trailers_stay_whole(setup in setup(), edits in edits()) {
        let request = testing::request(setup);
        for edit in edits {
            let _ = match edit {
                Edit::Set(name, value, add) => of_trailers::set(request, &name, &value, mode(add)),
                Edit::Remove(name) => of_trailers::remove(request, &name),
                Edit::Clear => { of_trailers::clear(request); Ok(()) }
            };
            check_trailers(request);
        }
    }
}

/// What a filter reads is nginx's own memory, and what it sets goes to the request's pool.
#[test]
fn nothing_is_allocated_for_headers_but_from_the_request_s_pool() {
    let request = testing::request(Setup { room: 20, ..Setup::default() });
    let both = |name: &[u8], value: &[u8]| {
        for mode in [Mode::Add, Mode::Replace] {
            assert_eq!(of_request::set(request, name, value, mode), Ok(()));
            assert_eq!(of_response::set(request, name, value, mode), Ok(()));
        }
        assert_eq!(of_request::value(request, name), Some(value));
        assert_eq!(of_response::value(request, name), Some(value));
    };
    let taken = testing::allocations(|| {
        for name in [&b"x-one"[..], b"cookie", b"cache-control", b"user-agent", b"content-type", b"etag"] {
            both(name, b"value");
            assert_eq!(of_request::remove(request, name), Ok(()));
            both(name, b"another value");
        }
        let mut seen = 0;
        of_request::visit(request, &mut |_, _| seen += 1);
        of_response::visit(request, &mut |_, _| seen += 1);
        assert!(seen > 12 && of_request::count(request) > 6);
        assert_eq!(of_request::value(request, b"X-ONE"), Some(&b"another value"[..]));
    });
    assert_eq!(taken, 0);
    assert_eq!(testing::allocations(|| drop(vec![1])), 1, "the count counts");
}
