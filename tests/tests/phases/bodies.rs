//! Bodies of requests, wanted or not, and what breaks off or becomes another protocol.

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, trace::outline};

use super::{body_size, order, trace};

#[test]
fn request_bodies() {
    let origin = Origin::start(|_| Reply::text("ok"));
    for buffering in ["on", "off"] {
        let nginx = Nginx::start(
            Conf::new()
                .guest("trace")
                .http("http2 on;")
                .proxy(&origin, &format!("proxy_wasm trace A; proxy_request_buffering {buffering};")),
        );
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut connection = nginx.connect(protocol);
            let mut post =
                |request: Request| trace(&nginx, || assert_eq!(connection.send(request).text(), "ok"));
            let small = post(Request::post("/", "12345"));
            assert_eq!(
                order(&small),
                [
                    "on_context_create",
                    "on_request_headers",
                    "on_request_body",
                    "on_response_headers",
                    "on_response_body",
                    "on_done",
                    "on_log",
                    "on_delete"
                ],
                "{protocol:?}, buffering {buffering}"
            );
            assert_eq!(outline(&small)[1], "on_request_headers:false");
            assert_eq!(body_size(&small, "on_request_body"), 5);
            let large = post(Request::post("/", "x".repeat(300_000)));
            assert_eq!(body_size(&large, "on_request_body"), 300_000);
            let chunked = post(Request::post_chunks("/", ["abc", "defg", "h"]));
            assert_eq!(outline(&chunked)[1], "on_request_headers:false");
            assert_eq!(body_size(&chunked, "on_request_body"), 8);
            let empty = post(Request::post("/", ""));
            assert_eq!(
                outline(&empty)[1],
                "on_request_headers:true",
                "{protocol:?}: a Content-Length of 0 is no body"
            );
            assert!(!order(&empty).contains(&"on_request_body"), "{protocol:?}");
        }
    }
}

/// The body of a request that nobody reads: it is thrown away, and neither hurts the response nor the next request.
#[test]
fn request_bodies_that_nobody_wants() {
    let nginx =
        Nginx::start(Conf::new().guest("trace").server("location / { proxy_wasm trace A; return 200 ok; }"));
    let mut connection = nginx.connect(Protocol::Http1);
    for request in
        [Request::post("/", "x".repeat(100_000)), Request::post_chunks("/", ["a", "b"]), Request::get("/")]
    {
        let calls = trace(&nginx, || assert_eq!(connection.send(request).text(), "ok"));
        assert_eq!(body_size(&calls, "on_response_body"), 2);
    }
}

/// After 101 the connection carries something else, in which filters have no part.
#[test]
fn upgraded_connections() {
    let origin = weir_tests::raw::Listener::start();
    let nginx =
        Nginx::start(Conf::new().guest("trace").guest("body_reader").set("ORIGIN", origin.address()).server(
            "location / { proxy_wasm trace A; proxy_wasm body_reader; proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
             proxy_pass http://@ORIGIN@; }",
        ));
    let calls = trace(&nginx, || {
        let mut client = nginx.raw();
        client.write("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
        let mut server = origin.accept();
        server.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
        let response = client.head();
        assert_eq!((response.status, response.headers("x-trace")), (101, vec!["A"]));
        for _ in 0..3 {
            client.write("to the server");
            assert_eq!(server.read(13), b"to the server");
            server.write("to the client");
            assert_eq!(client.read(13), b"to the client");
        }
        drop(server);
        assert_eq!(client.read_to_end(), b"");
    });
    assert_eq!(order(&calls)[1..3], ["on_request_headers", "on_response_headers"]);
}

/// An origin that breaks off: the client sees it, the contexts end.
#[test]
fn responses_that_break_off() {
    let origin = weir_tests::raw::Listener::start();
    let nginx =
        Nginx::start(Conf::new().guest("trace").set("ORIGIN", origin.address()).server(
            "location / { proxy_wasm trace A; proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }",
        ));
    for (head, expected) in [("Content-Length: 100", 4), ("Transfer-Encoding: chunked", 0)] {
        let calls = trace(&nginx, || {
            let mut client = nginx.raw();
            client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            let mut server = origin.accept();
            server.write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhalf"));
            drop(server);
            let all = String::from_utf8_lossy(&client.read_to_end()).into_owned();
            assert!(all.ends_with(if expected > 0 { "half" } else { "" }), "{all}");
        });
        let order = order(&calls);
        assert!(order.ends_with(&["on_done", "on_log", "on_delete"]), "{order:?}");
    }
}
