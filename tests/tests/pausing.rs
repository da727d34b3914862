//! Filters that hold a request: for good, until the client goes away, or only seemingly.

use std::time::Duration;

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, raw::Listener, wasm::Minimal};

/// A filter whose `callback` runs `code` and answers Pause.
fn pausing(callback: &str, parameters: &str, code: &str) -> Vec<u8> {
    marked("proxy_abi_version_0_2_1", "", callback, parameters, code)
}

/// The same for a module with that mark, and with `more` in it.
fn marked(mark: &str, more: &str, callback: &str, parameters: &str, code: &str) -> Vec<u8> {
    // Imports come first in a module, so this one is written out.
    weir_tests::wasm::assemble(&format!(
        "(module
            (import \"env\" \"proxy_continue_stream\" (func $continue (param i32) (result i32)))
            (import \"env\" \"proxy_close_stream\" (func $close (param i32) (result i32)))
            (memory (export \"memory\") 1)
            (func (export \"malloc\") (param i32) (result i32) (i32.const 8))
            (func (export \"{mark}\"))
            (func (export \"proxy_on_context_create\") (param i32 i32))
            {more}
            (func (export \"{callback}\") (param {parameters}) (result i32) {code} (i32.const 1)))"
    ))
}

const HEADERS: (&str, &str) = ("proxy_on_request_headers", "i32 i32 i32");

fn conf(module: Vec<u8>) -> Conf {
    Conf::new()
        .file("pause.wasm", module)
        .guest("trace")
        .http("http2 on;")
        .wasm("module pause pause.wasm;")
        .server("location / { proxy_wasm trace A; proxy_wasm pause; proxy_wasm trace B; return 200 x; }")
}

#[test]
fn a_held_request_waits_and_ends_with_its_client() {
    let nginx = Nginx::start(conf(pausing(HEADERS.0, HEADERS.1, "")));
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    ] {
        let mark = nginx.mark();
        let mut raw = nginx.raw();
        raw.write(request);
        nginx.wait_for_log_since(mark, "A trace: on_request_headers");
        assert!(raw.is_silent_for(Duration::from_millis(50)));
        drop(raw);
        nginx.wait_for_log_since(mark, "A trace: on_delete");
        let log = nginx.log_since(mark);
        assert!(!log.contains("B trace: on_request_headers"), "{log}");
    }
}

#[test]
fn a_held_request_of_http2_ends_with_its_client() {
    let nginx = Nginx::start(conf(pausing(HEADERS.0, HEADERS.1, "")));
    let mark = nginx.mark();
    let mut connection = nginx.connect(Protocol::Http2);
    connection.send_and_forget(Request::get("/"));
    nginx.wait_for_log_since(mark, "A trace: on_request_headers");
    drop(connection);
    nginx.wait_for_log_since(mark, "A trace: on_delete");
}

/// A pause that the same callback takes back is none.
#[test]
fn a_request_resumed_at_once_goes_on() {
    let module = pausing(HEADERS.0, HEADERS.1, "(drop (call $continue (i32.const 0)))");
    let nginx = Nginx::start(conf(module));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mark = nginx.mark();
        assert_eq!(nginx.connect(protocol).get("/").text(), "x");
        nginx.wait_for_log_since(mark, "B trace: on_request_headers");
    }
}

#[test]
fn a_filter_can_close_the_stream() {
    let module = pausing(HEADERS.0, HEADERS.1, "(drop (call $close (i32.const 0)))");
    let nginx = Nginx::start(conf(module));
    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.read_to_end(), b"");
    assert!(nginx.connect(Protocol::Http2).try_send(Request::get("/")).is_err());
    nginx.wait_for_lines(0, "A trace: on_delete", 2);
}

/// Its upstream's connection is closed with it, whatever that still sends.
#[test]
fn a_filter_can_close_the_stream_of_an_upstream() {
    for callback in ["proxy_on_response_headers", "proxy_on_response_body"] {
        let module = pausing(callback, HEADERS.1, "(drop (call $close (i32.const 1)))");
        let origin = Listener::start();
        let nginx = Nginx::start(
            Conf::new()
                .file("pause.wasm", module)
                .guest("trace")
                .http("http2 on; proxy_http_version 1.1; proxy_buffering off;")
                .wasm("module pause pause.wasm;")
                .set("ORIGIN", origin.address())
                .server(
                    "location / { proxy_wasm trace A; proxy_wasm pause; proxy_pass http://@ORIGIN@; }
                     location /nothing { return 404; }",
                ),
        );
        let answer = |protocol: Protocol| {
            let mut server = origin.accept_raw();
            assert!(server.request_head().starts_with("GET / "));
            server.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            assert_eq!(server.read_to_end(), b"", "{protocol:?} {callback}");
        };
        let mut client = nginx.raw();
        client.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        answer(Protocol::Http1);
        assert!(!String::from_utf8_lossy(&client.read_to_end()).ends_with("\r\n0\r\n\r\n"));
        let mut client = nginx.connect(Protocol::Http2);
        client.send_and_forget(Request::get("/"));
        answer(Protocol::Http2);
        assert_eq!(client.get("/nothing").status, 404, "other streams go on");
        nginx.wait_for_lines(0, "A trace: on_delete", 2);
    }
}

/// A filter waits for something that does not come, such as a body that is not shown before the headers go on.
#[test]
fn a_request_is_not_held_for_ever() {
    let module = pausing(HEADERS.0, HEADERS.1, "");
    let nginx = Nginx::start(conf(module).http("proxy_wasm_pause_timeout 100ms;"));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for request in [Request::get("/"), Request::post("/", "x".repeat(100_000))] {
            let mark = nginx.mark();
            assert_eq!(nginx.connect(protocol).send(request).status, 504, "{protocol:?}");
            nginx.wait_for_log_since(mark, "a filter has held the request for \"proxy_wasm_pause_timeout\"");
            nginx.wait_for_log_since(mark, "A trace: on_delete");
        }
    }
}

/// A filter that holds whatever it can does not hold the answer that tells of it.
#[test]
fn nor_is_the_answer_that_says_so() {
    let nginx = Nginx::start(
        Conf::new().guest("edits").http("http2 on; proxy_wasm_pause_timeout 100ms; send_timeout 20s;").server(
            "location /headers { proxy_wasm edits 'reqh.pause resh.pause resb.pause'; proxy_wasm edits; return 200; }
             location /page { proxy_wasm edits 'reqh.pause resb.pause'; error_page 504 =203 /found; }
             location /found { return 200 found; }",
        ),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, status, text) in [("/headers", 504, "504 Gateway Time-out"), ("/page", 203, "found")] {
            let mut connection = nginx.connect(protocol);
            for request in [Request::post(path, "x"), Request::post_chunks(path, ["x"; 3])] {
                let response = connection.send(request);
                assert_eq!(response.status, status, "{protocol:?} {path}");
                assert!(response.text().contains(text), "{path}: {}", response.text());
            }
        }
    }
}

/// Filters of Higress's hold headers alone, until they have seen the body; those of others see no body before.
#[test]
fn a_module_of_higress_sees_the_body_while_it_holds_the_headers() {
    let body = "(func (export \"proxy_on_request_body\") (param i32 i32 i32) (result i32) (i32.const 0))";
    let module = marked("proxy_abi_version_0_2_100", body, HEADERS.0, HEADERS.1, "");
    let nginx = Nginx::start(conf(module).http("proxy_wasm_pause_timeout 100ms;"));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = nginx.connect(protocol).send(Request::post("/", "x".repeat(100_000)));
        assert_eq!(response.expect_status(200).text(), "x", "{protocol:?}");
    }
    // The first part lets the headers go: the rest may take its time.
    let mut raw = nginx.raw();
    raw.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nfirst");
    nginx.wait_for_log("B trace: on_request_body ctx=");
    assert!(raw.is_silent_for(Duration::from_millis(400)));
    raw.write("last");
    assert_eq!(raw.response().expect_status(200).text(), "x");
}

/// A filter that stops everything sees no body while it holds the headers, whatever the location says of others.
#[test]
fn what_stops_everything_holds_the_body_too() {
    let body = "(func (export \"proxy_on_request_body\") (param i32 i32 i32) (result i32) (i32.const 0))";
    for mark in ["proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1", "proxy_abi_version_0_2_100"] {
        for (action, status) in [(1, 200), (3, 504), (4, 504)] {
            let answers = format!("(return (i32.const {action}))");
            let module = marked(mark, body, HEADERS.0, HEADERS.1, &answers);
            let nginx = Nginx::start(
                conf(module).http("proxy_wasm_pause_timeout 100ms; proxy_wasm_body_while_paused on;"),
            );
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let response = nginx.connect(protocol).send(Request::post("/", "body"));
                assert_eq!(response.status, status, "{mark} {action} {protocol:?}");
            }
        }
    }
}

/// A response that a filter holds stays held until its client gives up; the contexts end once.
#[test]
fn a_pause_of_a_response_holds_it() {
    for (callback, parameters) in
        [("proxy_on_response_headers", "i32 i32 i32"), ("proxy_on_response_body", "i32 i32 i32")]
    {
        let nginx = Nginx::start(conf(pausing(callback, parameters, "")));
        let mut raw = nginx.raw();
        raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        nginx.wait_for_log("A trace: on_request_headers");
        drop(raw);
        nginx.wait_for_log("A trace: on_log");
        let log = nginx.stop();
        assert_eq!(log.matches("A trace: on_log").count(), 1, "{callback}: {log}");
    }
}

/// nginx is told to stop while a request is held: it ends when the client gives up.
#[test]
fn a_graceful_stop_waits_for_held_requests_only_as_long_as_their_clients() {
    let nginx = Nginx::start(conf(pausing(HEADERS.0, HEADERS.1, "")));
    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_for_log("A trace: on_request_headers");
    assert!(nginx.send_signal("quit").status.success());
    nginx.wait_for_log("gracefully shutting down");
    drop(raw);
    let mut nginx = nginx;
    assert!(nginx.wait_for_end().success());
    let log = nginx.log();
    assert!(log.contains("A trace: on_delete") && !log.contains("[alert]"), "{log}");
}

/// The smallest module goes through all phases without a callback of its own.
#[test]
fn a_filter_without_callbacks_holds_nothing() {
    let nginx = Nginx::start(conf(Minimal::default().assemble()));
    assert_eq!(nginx.get("/").text(), "x");
}

/// A filter that pauses, asks another location, and lets the *response* go on when that has answered: there is none, and the
/// request is held no longer than any other.
#[test]
fn going_on_with_what_is_not_held_does_not_hold_a_request_for_ever() {
    let module = weir_tests::wasm::calling(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $call) (i32.const 1))
            (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
                (drop (call $continue (i32.const 1))))"#,
    );
    let origin = Origin::start(|_| Reply::text("called"));
    let conf = conf(module).set("ORIGIN", origin.address());
    let nginx = Nginx::start(
        conf.http("upstream up { server @ORIGIN@; } proxy_wasm_pause_timeout 400ms;").workers(1),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mark = nginx.mark();
        assert_eq!(nginx.connect(protocol).send(Request::get("/")).status, 504, "{protocol:?}");
        nginx.wait_for_log_since(mark, "A trace: on_delete");
    }
    assert_eq!(origin.count(), 2, "the calls were made");
}
