//! Whatever filters do to bodies, however these come, what arrives is what a model says.
//!
//! The model is in the guest `shuffle`: it knows what it was given and what it has let go, and this test, that each gets
//! what the one before it has let go, from end to end.

use proptest::{
    prelude::{Strategy, any},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use weir_tests::{Conf, Connection, Nginx, Origin, Protocol, Reply, Request, digest, tls::Certificate, wait};

/// One exchange.
#[derive(Debug, Clone)]
struct Case {
    seed: u32,
    request: usize,
    response: usize,
    /// Pieces of bodies that come without a length.
    pieces: Option<usize>,
    location: &'static str,
    filters: usize,
}

const LOCATIONS: [&str; 4] = ["buffered", "streamed", "small", "file"];

/// Sizes of the files that can be asked for.
const FILES: [usize; 4] = [1, 3000, 70_000, 400_000];

fn cases() -> impl Strategy<Value = Case> {
    let size = || proptest::sample::select(&[0, 1, 2, 100, 4096, 8192, 20_000, 70_000, 300_000][..]);
    let pieces = proptest::option::of(1..20_usize);
    let location = proptest::sample::select(&LOCATIONS[..]);
    (any::<u32>(), size(), size(), pieces, location, 1..=3_usize).prop_map(
        |(seed, request, response, pieces, location, filters)| Case {
            seed,
            request,
            response: if location == "file" { FILES[response % FILES.len()] } else { response },
            pieces,
            location,
            filters,
        },
    )
}

/// What a filter says of a body: what it was given, and what it has let go.
fn said(log: &str, name: char, direction: &str) -> Option<(String, String)> {
    let start = format!("shuffle: {name} {direction} in=");
    let line = log.lines().find(|line| line.contains(&start))?;
    let rest = line.split(&start).nth(1)?;
    let mut words = rest.split([' ', ',']);
    Some((words.next()?.to_owned(), words.next()?.trim_start_matches("out=").to_owned()))
}

fn sum(bytes: &[u8]) -> String {
    format!("{}:{}", bytes.len(), digest::fnv(bytes))
}

/// How many requests have ended.
fn ended(nginx: &Nginx) -> usize {
    let log = std::fs::read(nginx.prefix().join("ended.log")).unwrap_or_default();
    log.iter().filter(|byte| **byte == b'\n').count()
}

fn run(nginx: &Nginx, origin: &Origin, connection: &mut Connection, case: &Case) {
    let body = digest::bytes(case.request, u64::from(case.seed));
    let answer = digest::bytes(case.response, u64::from(case.seed) + 1);
    let target = if case.location == "file" {
        format!("/file/{}/{}", case.filters, case.response)
    } else {
        format!("/{}/{}/", case.location, case.filters)
    };
    let request = match case.pieces {
        Some(pieces) => Request::post_chunks(&target, body.chunks(case.request.div_ceil(pieces).max(1))),
        None => Request::post(&target, body.clone()),
    };
    let request = if case.location == "file" { Request::get(&target) } else { request };
    let mark = nginx.mark();
    let before = ended(nginx);
    let response = connection.send(
        request
            .header("x-seed", &case.seed.to_string())
            .header("x-size", &case.response.to_string())
            .header("x-pieces", &case.pieces.unwrap_or(0).to_string()),
    );
    assert_eq!(response.status, 200, "{case:?}");
    // The request is over when the client has all of it, not when nginx has waited in vain for more to send.
    let is_over = || (ended(nginx) > before).then_some(());
    assert!(wait::poll(is_over).is_some(), "{case:?}: the request has not ended\n{}", nginx.log_since(mark));
    let names: Vec<char> = "ABC".chars().take(case.filters).collect();
    let is_file = case.location == "file";
    // The last line of the last filter comes before the last byte of the body, but may be written after it has come.
    if case.response > 0 {
        nginx.wait_for_log_since(mark, "shuffle: A response in=");
    }
    let log = nginx.log_since(mark);
    assert!(!log.contains("shuffle: WRONG"), "{case:?}\n{log}");
    let sent = if is_file { digest::bytes(case.response, 1) } else { answer };
    let follow = |direction: &str, first: &[u8], names: &[char], arrived: &[u8]| {
        let mut expected = sum(first);
        for name in names {
            let Some((given, let_go)) = said(&log, *name, direction) else {
                // Without a body there are no callbacks.
                assert!(first.is_empty(), "{case:?}: {name} has not seen the {direction}\n{log}");
                continue;
            };
            assert_eq!(given, expected, "{case:?}: what {name} was given of the {direction}\n{log}");
            expected = let_go;
        }
        assert_eq!(sum(arrived), expected, "{case:?}: the {direction} that arrived\n{log}");
    };
    if !is_file {
        let seen = origin.last();
        follow("request", &body, &names, &seen.body);
        if let Some(length) = seen.header("content-length") {
            assert_eq!(length, seen.body.len().to_string(), "{case:?}");
        }
    }
    let reversed: Vec<char> = names.iter().rev().copied().collect();
    follow("response", &sent, &reversed, &response.body);
    if let Some(length) = response.header("content-length") {
        assert_eq!(length, response.body.len().to_string(), "{case:?}");
    }
}

fn start() -> (Nginx, Origin, Certificate) {
    let origin = Origin::start(|seen| {
        let number = |name| seen.header(name).and_then(|text| text.parse::<usize>().ok()).expect("a number");
        let seed = seen.header("x-seed").and_then(|text| text.parse::<u64>().ok()).expect("a seed");
        let (size, pieces) = (number("x-size"), number("x-pieces"));
        let body = digest::bytes(size, seed + 1);
        if pieces == 0 { Reply::text(body) } else { Reply::chunks(body.chunks(size.div_ceil(pieces).max(1))) }
    });
    let settings = [
        "",
        "proxy_request_buffering off; proxy_buffering off;",
        "client_body_buffer_size 4k; proxy_buffers 2 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 4k;
         output_buffers 1 4k; postpone_output 0;",
    ];
    let mut text = String::from("root html;\naccess_log ended.log ended;\n");
    for filters in 1..=3 {
        let chain: String =
            "ABC".chars().take(filters).map(|name| format!("proxy_wasm shuffle {name};")).collect();
        for (location, setting) in LOCATIONS.iter().zip(settings) {
            text += &format!(
                "location /{location}/{filters}/ {{ {chain} {setting} proxy_http_version 1.1;
                 proxy_pass http://@ORIGIN@; }}\n"
            );
        }
        text += &format!("location /file/{filters}/ {{ {chain} alias html/; }}\n");
    }
    let certificate = Certificate::new("weir.example");
    let conf = Conf::new()
        .guest("shuffle")
        .workers(1)
        .set("ORIGIN", origin.address())
        .http(
            "http2 on; client_max_body_size 20m; sendfile on; keepalive_requests 100000;
             proxy_wasm_request_body_buffer 20m; proxy_wasm_response_body_buffer 20m;
             log_format ended '$status';",
        )
        .server(&text)
        .quic_server(&certificate, &text);
    let conf =
        FILES.iter().fold(conf, |conf, size| conf.file(&format!("html/{size}"), digest::bytes(*size, 1)));
    (Nginx::start(conf), origin, certificate)
}

#[test]
fn arrive_as_the_model_says() {
    const CASES: usize = 100;
    let (nginx, origin, certificate) = start();
    let mut runner = TestRunner::deterministic();
    let mut connections = [
        nginx.connect(Protocol::Http1),
        nginx.connect(Protocol::Http2),
        Connection::open_quic(nginx.address_of(1), &certificate),
    ];
    for _ in 0..CASES {
        let case = cases().new_tree(&mut runner).expect("a case").current();
        for connection in &mut connections {
            run(&nginx, &origin, connection, &case);
        }
    }
}

/// What a filter has made of a small body waits for the end, which the filter leaves as it comes, and the request is over
/// when both have left.
#[test]
fn an_edited_body_ends_with_its_request() {
    let origin = Origin::start(|_| Reply::text("hello"));
    let nginx = Nginx::start(Conf::new().guest("trace").guest("edits").proxy(
        &origin,
        &format!(
            "proxy_wasm trace A; proxy_wasm edits 'resh.nolength resb.cut';
             location /unbuffered {{ proxy_buffering off; proxy_pass http://{}; }}",
            origin.address()
        ),
    ));
    for (path, request) in [
        ("/", "HTTP/1.0\r\n"),
        ("/", "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"),
        ("/unbuffered", "HTTP/1.0\r\n"),
    ] {
        let mark = nginx.mark();
        let mut client = nginx.raw();
        client.write(format!("GET {path} {request}\r\n"));
        let got = String::from_utf8_lossy(&client.read_to_end()).into_owned();
        assert!(got.contains("\r\n\r\nho") || got.contains("\r\n2\r\nho\r\n0\r\n"), "{got}");
        nginx.wait_for_log_since(mark, "A trace: on_log");
    }
    // A connection that is kept is free for the next request.
    let mark = nginx.mark();
    let mut client = nginx.raw();
    client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().text(), "ho");
    nginx.wait_for_log_since(mark, "A trace: on_log");
}
