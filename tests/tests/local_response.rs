//! Filters answer by themselves: in each phase, in each protocol, alone and among others.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, conf::quote, trace};

fn local(configuration: &str) -> String {
    format!("proxy_wasm local {};", quote(configuration))
}

const REPLY: &str = r#"{"status": 403, "headers": [["x-why", "no"], ["x-why", "never"], ["content-type", "text/x"]], "body": "denied"}"#;

#[test]
fn from_the_request_headers() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let nginx = Nginx::start(Conf::new().guest("local").http("http2 on;").proxy(&origin, &local(REPLY)));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        // One connection: it stays usable.
        let mut connection = nginx.connect(protocol);
        for request in [
            Request::get("/"),
            Request::head("/"),
            Request::post("/", "x".repeat(10_000)),
            Request::post_chunks("/", ["a", "b"]),
            Request::get("/"),
        ] {
            let is_head = format!("{request:?}").contains("HEAD");
            let response = connection.send(request);
            assert_eq!(response.status, 403);
            assert_eq!(response.text(), if is_head { "" } else { "denied" });
            assert_eq!(response.headers("x-why"), ["no", "never"]);
            assert_eq!(response.headers("content-type"), ["text/x"]);
            assert_eq!(response.headers("content-length"), ["6"]);
        }
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn whatever_the_callback_returns() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("local")
            .proxy(&origin, &local(r#"{"status": 418, "body": "teapot", "then": "continue"}"#)),
    );
    let response = nginx.get("/");
    assert_eq!((response.status, response.text().as_str()), (418, "teapot"));
    assert_eq!(origin.count(), 0);
}

#[test]
fn any_status_and_no_body() {
    let statuses = [200, 201, 204, 301, 304, 400, 401, 404, 429, 444, 499, 500, 502, 503, 504, 599, 600, 999];
    let locations: Vec<String> = statuses
        .iter()
        .map(|status| {
            let reply =
                format!(r#"{{"status": {status}, "headers": [["x-a", "1"], ["location", "/there"]]}}"#);
            format!("location = /{status} {{ {} return 200 x; }}", local(&reply))
        })
        .collect();
    let nginx = Nginx::start(Conf::new().guest("local").server(&locations.join("\n")));
    let mut connection = nginx.connect(Protocol::Http1);
    for status in statuses {
        let response = connection.get(&format!("/{status}"));
        assert_eq!((response.status, response.text().as_str()), (status, ""));
        assert_eq!((response.header("x-a"), response.header("location")), (Some("1"), Some("/there")));
    }
}

/// `error_page` is for errors of nginx, not for what a filter has answered.
#[test]
fn error_pages_do_not_replace_it() {
    let nginx = Nginx::start(Conf::new().guest("local").file("html/403.html", "page").server(&format!(
        "root html; error_page 403 /403.html; location / {{ {} return 200 x; }}",
        local(REPLY)
    )));
    let response = nginx.get("/");
    assert_eq!((response.status, response.text().as_str()), (403, "denied"));
}

/// nginx's own filters see it as any response: `add_header` with and without `always`, `expires`, and HEAD, which gets
/// the length of the body and none of it. A page of an error keeps the filters it came with.
#[test]
fn what_nginx_adds_to_responses_it_adds_to_it() {
    let nginx = Nginx::start(Conf::new().guest("local").server(&format!(
        "http2 on; add_header x-always 1 always; add_header x-fine 1; expires 1h;
         location / {{ {} return 200 x; }}
         location /fine {{ {} return 404; }}
         location /page {{ error_page 404 @page; return 404; }}
         location @page {{ {} return 200 y; }}",
        local(REPLY),
        local(r#"{"status": 200, "body": "fine"}"#),
        local(REPLY),
    )));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        for path in ["/", "/page"] {
            let denied = connection.get(path);
            assert_eq!((denied.status, denied.text().as_str()), (403, "denied"), "{path} {protocol:?}");
            assert_eq!((denied.header("x-always"), denied.header("x-fine")), (Some("1"), None), "{path}");
            assert_eq!(denied.header("cache-control"), None, "{path}");
        }
        let fine = connection.get("/fine");
        assert_eq!((fine.status, fine.text().as_str()), (200, "fine"), "{protocol:?}");
        assert_eq!((fine.header("x-always"), fine.header("x-fine")), (Some("1"), Some("1")));
        assert_eq!(fine.header("cache-control"), Some("max-age=3600"));
        let head = connection.send(Request::head("/"));
        assert_eq!((head.status, head.text().as_str()), (403, ""), "{protocol:?}");
        assert_eq!((head.header("content-length"), head.headers("x-why")), (Some("6"), vec!["no", "never"]));
    }
}

#[test]
fn from_the_request_body() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let reply =
        r#"{"when": "request_body", "status": 413, "headers": [["x-why", "long"]], "body": "too long"}"#;
    for buffering in ["on", "off"] {
        let nginx = Nginx::start(
            Conf::new()
                .guest("local")
                .http("http2 on;")
                .proxy(&origin, &format!("{} proxy_request_buffering {buffering};", local(reply))),
        );
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut connection = nginx.connect(protocol);
            let response = connection.send(Request::post("/", "x".repeat(1000)));
            assert_eq!(
                (response.status, response.text().as_str()),
                (413, "too long"),
                "{protocol:?} {buffering}"
            );
            assert_eq!(response.header("x-why"), Some("long"));
            assert_eq!(response.header("content-length"), Some("8"));
        }
        // Without a body there is nothing to answer.
        assert_eq!(nginx.get("/").text(), "origin");
        if buffering == "on" {
            assert!(origin.seen().iter().all(|seen| seen.method == "GET"), "no POST has reached the origin");
        }
    }
}

#[test]
fn from_the_response_headers() {
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/chunks" => Reply::chunks(["abc", "def"]),
        "/empty" => Reply::status(204),
        _ => Reply::text("x".repeat(50_000)).header("x-origin", "1").header("etag", "\"e\""),
    });
    let reply =
        r#"{"when": "response_headers", "status": 502, "headers": [["x-why", "bad"]], "body": "replaced"}"#;
    let nginx = Nginx::start(
        Conf::new()
            .guest("local")
            .set("ORIGIN", origin.address())
            .http("http2 on; proxy_http_version 1.1;")
            .file("html/file", "static")
            .server(&format!(
                "{} root html; location /file {{ }} location / {{ proxy_pass http://@ORIGIN@; }}
                 location /return {{ return 200 nginx; }}",
                local(reply)
            )),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        for path in ["/sized", "/chunks", "/empty", "/return", "/file", "/missing", "/sized"] {
            let response = connection.get(path);
            assert_eq!((response.status, response.text().as_str()), (502, "replaced"), "{protocol:?} {path}");
            assert_eq!(
                (response.header("x-why"), response.header("content-length")),
                (Some("bad"), Some("8"))
            );
            assert_eq!((response.header("x-origin"), response.header("etag")), (None, None), "{path}");
        }
        assert_eq!(connection.send(Request::head("/sized")).status, 502);
    }
}

/// What filters have made of the body of the response that is replaced is no part of the one that replaces it.
#[test]
fn with_its_own_body_alone() {
    let origin = Origin::start(|_| Reply::text("body"));
    let nginx = Nginx::start(Conf::new().guest("edits").set("ORIGIN", origin.address()).http("http2 on;").server(
        "location /one { proxy_wasm edits 'resh.prepend=more resh.local=denied'; proxy_pass http://@ORIGIN@; }
         location /two { proxy_wasm edits 'resh.local=denied'; proxy_wasm edits 'resh.prepend=more';
             proxy_pass http://@ORIGIN@; }
         location /return { proxy_wasm edits 'resh.prepend=more resh.local=denied'; return 200 body; }
         location /late { proxy_wasm edits 'resb.prepend=more resb.local=denied'; return 200 body; }
         location /seen { proxy_wasm edits 'resh.prepend=more'; proxy_wasm edits 'resh.local=denied'; return 200 body; }",
    ));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        for path in ["/one", "/two", "/return", "/late"] {
            let response = connection.get(path);
            assert_eq!((response.status, response.text().as_str()), (418, "denied"), "{protocol:?} {path}");
            assert_eq!(response.header("content-length"), Some("6"));
        }
        // A filter that sees it may add to it.
        let response = connection.get("/seen");
        assert_eq!((response.status, response.text().as_str()), (418, "moredenied"), "{protocol:?}");
    }
}

/// The headers wait for the first part of a body that filters see, so a response from there replaces it.
#[test]
fn from_the_response_body_it_replaces_what_has_not_left() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let reply = r#"{"when": "response_body", "status": 500, "body": "instead"}"#;
    let nginx = Nginx::start(Conf::new().guest("local").proxy(&origin, &local(reply)));
    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.0\r\n\r\n");
    let all = String::from_utf8_lossy(&raw.read_to_end()).into_owned();
    assert!(all.contains(" 500 ") && all.contains("instead") && !all.contains("origin"), "{all}");
}

/// A filter that answers ends the request's way: later filters do not see it; the answer passes them all, the sender
/// too.
#[test]
fn among_other_filters() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let chain = format!("proxy_wasm trace A; {} proxy_wasm trace B;", local(REPLY));
    let nginx = Nginx::start(Conf::new().guest("local").guest("trace").proxy(&origin, &chain));
    let response = nginx.get("/");
    assert_eq!((response.status, response.text().as_str()), (403, "denied"));
    assert_eq!(response.headers("x-trace"), ["B", "A"]);
    let log = nginx.stop();
    let calls = trace::stream_calls(&log);
    let who = |callback: &str| -> Vec<&str> {
        calls.iter().filter(|call| call.callback == callback).map(|call| call.name.as_str()).collect()
    };
    assert_eq!(who("on_request_headers"), ["A"]);
    assert_eq!(who("on_response_headers"), ["B", "A"]);
    assert_eq!(who("on_response_body"), ["B", "A"]);
    assert_eq!(who("on_delete").len(), 2);
    let body = calls.iter().find(|call| call.callback == "on_response_body").expect("a body");
    assert_eq!((body.number("body_size"), body.end_of_stream()), (6, true));
    assert!(log.contains("local: on_response_headers"), "the sender sees its own answer: {log}");
    assert_eq!(origin.count(), 0);
}

/// An answer in place of a response that others have changed already: they see the new one, once.
#[test]
fn from_the_response_headers_among_other_filters() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let reply = r#"{"when": "response_headers", "status": 502, "body": "replaced"}"#;
    let chain = format!("proxy_wasm trace A; {} proxy_wasm trace B;", local(reply));
    let nginx = Nginx::start(Conf::new().guest("local").guest("trace").proxy(&origin, &chain));
    let response = nginx.get("/");
    assert_eq!((response.status, response.text().as_str()), (502, "replaced"));
    let calls = trace::stream_calls(&nginx.stop());
    let count = |name: &str, callback: &str| {
        calls.iter().filter(|call| call.callback == callback && call.name == name).count()
    };
    assert_eq!(count("A", "on_response_headers"), 1, "A sees the answer");
    assert_eq!(response.headers("x-trace").iter().filter(|name| **name == "A").count(), 1);
    let ended = calls.iter().filter(|call| call.callback == "on_response_body" && call.name == "A");
    assert_eq!(ended.map(|call| call.number("body_size")).sum::<usize>(), 8);
}

/// What answers a call of gRPC: the statuses, and over HTTP/2 the stream ends with the headers, as clients demand of a
/// response without trailers.
#[test]
fn to_calls_of_grpc() {
    let locations = [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (503, 14), (500, 2), (200, 2)]
        .map(|(status, _)| {
            let reply = format!(r#"{{"status": {status}, "body": "é 1%", "headers": [["x-a", "1"]]}}"#);
            format!("location = /{status} {{ {} return 200 x; }}", local(&reply))
        });
    let own = local(r#"{"status": 403, "headers": [["grpc-status", "9"], ["content-length", "7"]]}"#);
    let nginx = Nginx::start(
        Conf::new()
            .guest("local")
            .http("http2 on;")
            .server(&format!("{} location = /own {{ {own} return 200 x; }}", locations.join("\n"))),
    );
    let ask = |protocol, path: &str, kind: &str| {
        nginx.connect(protocol).send(Request::post(path, "call").header("content-type", kind))
    };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (status, expected) in [
            (400, "13"),
            (401, "16"),
            (403, "7"),
            (404, "12"),
            (429, "14"),
            (503, "14"),
            (500, "2"),
            (200, "2"),
        ] {
            let response = ask(protocol, &format!("/{status}"), "application/grpc+proto");
            assert_eq!((response.status, response.text().as_str()), (200, ""), "{status}");
            assert_eq!(response.headers("content-type"), ["application/grpc"]);
            assert_eq!(response.headers("grpc-status"), [expected], "{status}");
            assert_eq!(response.headers("grpc-message"), ["%C3%A9 1%25"], "{status}");
            assert_eq!(response.headers("x-a"), ["1"]);
        }
        assert_eq!(ask(protocol, "/own", "application/grpc").headers("grpc-status"), ["9"]);
        let response = ask(protocol, "/403", "application/grpc-web");
        assert_eq!((response.status, response.header("grpc-status")), (403, None));
    }

    let mut socket = TcpStream::connect(nginx.address()).expect("connect to nginx");
    socket.set_read_timeout(Some(weir_tests::wait::DEADLINE)).expect("a read timeout");
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/403"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
    ] {
        // A literal without indexing, its name new (RFC 7541, 6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let length = u8::try_from(block.len()).expect("a short block");
    let (settings, headers) = ([0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, length, 1, 5, 0, 0, 0, 1]);
    let all = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &headers, &block].concat();
    socket.write_all(&all).expect("write to nginx");
    let flags = loop {
        let mut frame = [0; 9];
        socket.read_exact(&mut frame).expect("a frame");
        let [high, middle, low, kind, flags, ..] = frame;
        let length = u32::from_be_bytes([0, high, middle, low]);
        socket.read_exact(&mut vec![0; length as usize]).expect("the frame's payload");
        if kind == 1 {
            break flags;
        }
    };
    assert_eq!(flags & 1, 1, "END_STREAM");
}

#[test]
fn it_is_logged_and_counted_by_nginx_as_any_response() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("local")
            .http("log_format l '$status $body_bytes_sent $sent_http_x_why';")
            .server(&format!("access_log access.log l; location / {{ {} return 200 x; }}", local(REPLY))),
    );
    let _ = nginx.get("/");
    let path = nginx.prefix().join("access.log");
    let line = weir_tests::wait::poll(|| {
        let text = std::fs::read_to_string(&path).ok()?;
        text.ends_with('\n').then_some(text)
    });
    assert_eq!(line.as_deref(), Some("403 6 no, never\n"));
}

/// A filter that blocks what it finds in a body by answering and pausing, when the headers have left: the client is not kept
/// waiting, and what it has got does not look complete.
#[test]
fn too_late_and_pausing_closes_the_stream() {
    let module = weir_tests::wasm::assemble(
        r#"(module
            (import "env" "proxy_send_local_response"
                (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "malloc") (param i32) (result i32) (i32.const 8))
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
                (drop (call $answer (i32.const 451) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                    (i32.const 0) (i32.const -1)))
                (i32.const 1)))"#,
    );
    let origin = Origin::start(|_| Reply::chunks(["first", "second", "last"]));
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .file("late.wasm", module)
            .wasm("module late late.wasm;")
            .http("http2 on; proxy_http_version 1.1;")
            .proxy(&origin, "proxy_wasm trace A; proxy_wasm late;"),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mark = nginx.mark();
        assert!(nginx.connect(protocol).try_send(Request::get("/")).is_err(), "{protocol:?}");
        nginx.wait_for_log_since(mark, "local response with status 451 dropped");
        nginx.wait_for_log_since(mark, "whose headers have left: it is closed");
        nginx.wait_for_log_since(mark, "A trace: on_delete");
    }
}
