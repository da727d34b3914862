//! Errors that nginx answers with a page of the configuration's, while filters wait for something or something waits for
//! them: the page comes, and nothing is left behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use weir_tests::{Conf, Nginx, Origin, Protocol, Raw, Reply, Request, wait::poll, wasm::assemble};

/// A filter whose callback for request headers answers `headers` and whose callback for bodies does `body`.
fn filter(headers: i32, body: &str) -> Vec<u8> {
    assemble(&format!(
        r#"(module
            (memory (export "memory") 1)
            (func (export "malloc") (param i32) (result i32) (i32.const 8))
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const {headers}))
            (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) {body}))"#
    ))
}

/// One worker with few instances, and pages for all errors.
fn conf(filter: Vec<u8>) -> Conf {
    Conf::new()
        .workers(1)
        .guest("trace")
        .file("filter.wasm", filter)
        .file("html/file", "file")
        .file("html/error.html", "the page")
        .wasm("module filter filter.wasm; instances 8 wait=0; failure_limit off;")
        .http("http2 on; proxy_wasm_pause_timeout 200ms; proxy_wasm_request_body_buffer 8k;")
        .http("error_page 400 413 500 502 504 /error.html; client_max_body_size 64k;")
        .server(
            "root html;
             location = /error.html { }
             location /named/ { error_page 400 413 500 502 504 @page; proxy_wasm trace A; proxy_wasm filter;
                 try_files /file =404; }
             location @page { return 200 'the page'; }
             location /shown/ { proxy_wasm_body_while_paused on; proxy_wasm trace A; proxy_wasm filter;
                 try_files /file =404; }
             location / { proxy_wasm trace A; proxy_wasm filter; try_files /file =404; }",
        )
}

/// Asks more often than there are instances; each time the page comes with that status, and the contexts end.
#[track_caller]
fn assert_page(nginx: &Nginx, request: &str, status: u16) {
    for path in ["/", "/named/"] {
        for _ in 0..10 {
            let mark = nginx.mark();
            let mut raw: Raw = nginx.raw();
            raw.write(request.replace("/PATH", path));
            let response = raw.head();
            assert_eq!(response.status, status, "{path} {request:.80}");
            drop(raw);
            nginx.wait_for_log_since(mark, "A trace: on_delete");
        }
    }
}

const PASSES: &str = "(i32.const 0)";
const HOLDS: &str = "(i32.const 1)";
const TRAPS: &str = "unreachable";

fn post(length: usize) -> String {
    format!("POST /PATH HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{}", "a".repeat(length))
}

fn chunks(body: &str) -> String {
    format!("POST /PATH HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn a_body_that_cannot_be_read_is_an_error_s_page() {
    let nginx = Nginx::start(conf(filter(0, PASSES)));
    assert_page(&nginx, &chunks("3\r\nabc\r\nZZ\r\n"), 400);
    assert_page(&nginx, &chunks(&format!("{:x}\r\n{}\r\n0\r\n\r\n", 100_000, "a".repeat(100_000))), 413);
    assert_eq!(nginx.get("/").text(), "file");
    assert!(!nginx.stop().contains("[alert]"));
}

#[test]
fn a_body_that_a_filter_fails_or_holds_is_an_error_s_page() {
    for (body, request, status) in [
        (TRAPS, post(20), 500),
        (TRAPS, post(60_000), 500),
        (TRAPS, chunks("3\r\nabc\r\n"), 500),
        (HOLDS, post(20_000), 413),
    ] {
        let nginx = Nginx::start(conf(filter(0, body)));
        assert_page(&nginx, &request, status);
        assert!(!nginx.stop().contains("[alert]"));
    }
}

#[test]
fn headers_that_a_filter_holds_are_an_error_s_page() {
    let nginx = Nginx::start(conf(filter(1, PASSES)));
    for request in ["GET /PATH HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), post(20), chunks("3\r\nab")] {
        assert_page(&nginx, &request, 504);
    }
    for request in [Request::get("/"), Request::post("/", "x".repeat(10_000))] {
        let response = nginx.connect(Protocol::Http2).send(request);
        assert_eq!((response.status, response.text().as_str()), (504, "the page"));
    }
    assert!(!nginx.stop().contains("[alert]"));
    // What goes wrong with a body that comes meanwhile does not wait for the filter either.
    for (body, request, status) in
        [(TRAPS, post(20), 500), (HOLDS, post(20_000), 413), (HOLDS, chunks("3\r\nabc\r\nZZ\r\n"), 400)]
    {
        let nginx = Nginx::start(conf(filter(1, body)));
        let mut raw = nginx.raw();
        raw.write(request.replace("/PATH", "/shown/"));
        assert_eq!(raw.head().status, status);
        assert!(!nginx.stop().contains("[alert]"));
    }
}

/// A filter that asks somebody who takes longer than a request may be held. What it says afterwards is too late: the
/// request has its answer, and goes nowhere.
#[test]
fn a_request_that_has_been_given_up_does_not_go_on() {
    let answers = Arc::new(AtomicUsize::new(0));
    let answered = Arc::clone(&answers);
    let slow = Origin::start(move |_| {
        thread::sleep(Duration::from_millis(600));
        answered.fetch_add(1, Ordering::SeqCst);
        Reply::status(200)
    });
    let origin = Origin::start(|_| Reply::text("origin"));
    for page in ["", "error_page 504 /error.html;"] {
        let nginx = Nginx::start(
            Conf::new()
                .workers(1)
                .guest("ask")
                .guest("trace")
                .file("html/error.html", "the page")
                .set("SLOW", slow.address())
                .set("ORIGIN", origin.address())
                .http("proxy_wasm_pause_timeout 200ms; upstream slow { server @SLOW@; }")
                .server(&format!(
                    "root html; {page} location = /error.html {{ }}
                     location / {{ proxy_wasm trace A; proxy_wasm ask slow; proxy_pass http://@ORIGIN@; }}"
                )),
        );
        let before = answers.load(Ordering::SeqCst);
        let mut raw = nginx.raw();
        // The rest of the body does not come, so that the request is still there when the call is answered.
        raw.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nabc");
        assert_eq!(raw.head().status, 504);
        poll(|| (answers.load(Ordering::SeqCst) > before).then_some(())).expect("the call is answered");
        for _ in 0..5 {
            assert_eq!(nginx.get("/error.html").status, 200);
        }
        drop(raw);
        nginx.wait_for_log("A trace: on_delete");
        assert_eq!(origin.count(), 0);
        assert!(!nginx.stop().contains("[alert]"));
    }
}
