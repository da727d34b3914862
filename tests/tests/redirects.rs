//! Internal redirects stay within one context; subrequests are left alone unless a directive says otherwise.

use std::collections::BTreeMap;

use weir_tests::{
    Conf, Nginx, Origin, Protocol, Reply, Request,
    trace::{self, Call},
};

/// Sends one request, waits until nothing of it is left, and gives its calls.
fn calls(nginx: &Nginx, path: &str, status: u16, body: &str) -> Vec<Call> {
    let mark = nginx.mark();
    let response = nginx.get(path).expect_status(status);
    assert_eq!(response.text(), body, "{path}");
    nginx.wait_for_log_since(mark, "trace: on_delete");
    trace::stream_calls(&nginx.log_since(mark))
}

fn count(calls: &[Call], callback: &str) -> usize {
    calls.iter().filter(|call| call.callback == callback).count()
}

/// Every callback came once, and all from the filter `name`.
#[track_caller]
fn assert_once(calls: &[Call], name: &str) {
    for callback in
        ["on_context_create", "on_request_headers", "on_response_headers", "on_done", "on_log", "on_delete"]
    {
        assert_eq!(count(calls, callback), 1, "{callback} in {calls:#?}");
    }
    let ended =
        calls.iter().filter(|call| call.callback == "on_response_body" && call.end_of_stream()).count();
    assert_eq!(ended, 1, "{calls:#?}");
    assert!(calls.iter().all(|call| call.name == name), "{calls:#?}");
}

#[test]
fn internal_redirects_keep_the_context() {
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/accel" => Reply::text("").header("x-accel-redirect", "/static/file"),
        "/accel-named" => Reply::text("").header("x-accel-redirect", "@named"),
        "/fails" => Reply::status(503).body("origin"),
        _ => Reply::text("origin"),
    });
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .file("html/static/file", "file")
            .file("html/index.html", "index")
            .file("html/404.html", "custom")
            .set("ORIGIN", origin.address())
            .http("proxy_wasm trace A;")
            .server(
                "root html;
                 location = / { index index.html; }
                 location /try/ { try_files $uri /static/missing @named; }
                 location /try-file/ { try_files $uri /static/file; }
                 location /try-code/ { try_files $uri =404; error_page 404 = @named; }
                 location /error/ { error_page 404 /404.html; }
                 location /error-code/ { error_page 404 =200 /404.html; return 404; }
                 location /error-named/ { error_page 404 @named; return 404; }
                 location /rewrite/ { rewrite ^ /static/file last; }
                 location /rewrite-twice/ { rewrite ^ /rewrite/x last; }
                 location /break/ { rewrite ^ /static/file break; }
                 location /accel { proxy_pass http://@ORIGIN@; }
                 location /fails { proxy_intercept_errors on; error_page 503 =200 @named; proxy_pass http://@ORIGIN@; }
                 location /proxied-error { error_page 404 = @proxied; }
                 location @named { return 200 named; }
                 location @proxied { proxy_pass http://@ORIGIN@; }",
            ),
    );
    for (path, status, body) in [
        ("/", 200, "index"),
        ("/try/x", 200, "named"),
        ("/try-file/x", 200, "file"),
        ("/try-code/x", 200, "named"),
        ("/error/x", 404, "custom"),
        ("/error-code/x", 200, "custom"),
        ("/rewrite/x", 200, "file"),
        ("/rewrite-twice/x", 200, "file"),
        ("/break/x", 200, "file"),
        ("/accel", 200, "file"),
        ("/accel-named", 200, "named"),
        ("/fails", 200, "named"),
        ("/proxied-error", 200, "origin"),
    ] {
        assert_once(&calls(&nginx, path, status, body), "A");
    }
    // A named location keeps the status of the error.
    assert_once(&calls(&nginx, "/error-named/x", 404, "named"), "A");
}

#[test]
fn the_chain_is_that_of_the_first_location_with_filters() {
    let nginx = Nginx::start(Conf::new().guest("trace").file("html/file", "file").server(
        "root html;
                 location /one { proxy_wasm trace one; rewrite ^ /two last; }
                 location /two { proxy_wasm trace two; return 200 two; }
                 location /none { rewrite ^ /two last; }
                 location /to-none { proxy_wasm trace one; rewrite ^ /file last; }",
    ));
    assert_once(&calls(&nginx, "/one", 200, "two"), "one");
    assert_once(&calls(&nginx, "/two", 200, "two"), "two");
    assert_once(&calls(&nginx, "/none", 200, "two"), "two");
    assert_once(&calls(&nginx, "/to-none", 200, "file"), "one");
}

#[test]
fn a_response_is_changed_once_across_redirects() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("add_headers")
            .http("proxy_wasm add_headers; error_page 404 /404.html;")
            .file("html/404.html", "custom")
            .server("root html; location /x { return 404; } location /y { error_page 404 @z; } location @z { return 200 z; }"),
    );
    for path in ["/x", "/missing", "/y"] {
        assert_eq!(nginx.get(path).headers("x-weir"), ["response"], "{path}");
    }
}

/// Everything nginx has that makes subrequests of a client's request.
fn subrequests(directive: &str) -> Conf {
    Conf::new()
        .guest("trace")
        .file("html/page.shtml", "<!--# include virtual=\"/part\" -->|<!--# include virtual=\"/part?2\" -->")
        .file("html/page.html", "page")
        .http(&format!("proxy_wasm trace A; {directive}"))
        .server(
            "root html;
             location = /auth { auth_request /check; }
             location = /denied { auth_request /refuse; }
             location = /mirror { mirror /copy; try_files /page.html =404; }
             location = /addition { add_before_body /part; add_after_body /part; alias html/page.html; addition_types *; }
             location = /page.shtml { ssi on; ssi_types *; }
             location = /auth-page { auth_request /check; try_files /page.html =404; }
             location = /check { return 204; }
             location = /refuse { return 403; }
             location = /copy { return 200 copy; }
             location = /part { default_type text/html; return 200 part; }",
        )
}

#[test]
fn subrequests_are_left_alone() {
    let nginx = Nginx::start(subrequests(""));
    for (path, body) in [
        ("/auth-page", "page"),
        ("/mirror", "page"),
        ("/addition", "partpagepart"),
        ("/page.shtml", "part|part"),
    ] {
        let calls = calls(&nginx, path, 200, body);
        for callback in ["on_context_create", "on_request_headers", "on_response_headers", "on_delete"] {
            assert_eq!(count(&calls, callback), 1, "{path}: {callback} in {calls:#?}");
        }
    }
    let denied = nginx.get("/denied");
    assert_eq!((denied.status, denied.headers("x-trace")), (403, vec!["A"]));
}

#[test]
fn subrequests_are_filtered_where_the_directive_says_so() {
    let nginx = Nginx::start(subrequests("proxy_wasm_subrequests on;"));
    for (path, body, requests) in [
        ("/auth-page", "page", 2),
        ("/mirror", "page", 2),
        ("/addition", "partpagepart", 3),
        ("/page.shtml", "part|part", 3),
    ] {
        let mark = nginx.mark();
        assert_eq!(nginx.get(path).expect_status(200).text(), body, "{path}");
        nginx.wait_for_lines(mark, "trace: on_delete", requests);
        let calls = trace::stream_calls(&nginx.log_since(mark));
        for callback in ["on_context_create", "on_request_headers", "on_delete"] {
            assert_eq!(count(&calls, callback), requests, "{path}: {callback} in {calls:#?}");
        }
    }
}

/// What a subrequest passes on is not sent before its main request has ended, which waits for it: short parts stay in
/// nginx until the last of them is there.
#[test]
fn bodies_of_subrequests_may_be_changed() {
    let large = weir_tests::digest::bytes(300_000, 7);
    let reply = large.clone();
    let origin = Origin::start(move |_| Reply::text(reply.clone()));
    let include = |path: &str| format!("<!--# include virtual=\"{path}\" -->");
    let part = "proxy_wasm edits 'resb.append=+'; return 200 part;";
    let nginx = Nginx::start(
        Conf::new()
            .guest("edits")
            .set("ORIGIN", origin.address())
            .file("html/page.shtml", format!("[{}]", include("/part")))
            .file("html/pages.shtml", ["/part", "/large", "/part?2"].map(include).join(","))
            .http("proxy_wasm_subrequests on;")
            .server(&format!(
                "http2 on; root html; location / {{ ssi on; ssi_types *; }}
                 location = /part {{ {part} }}
                 location = /large {{
                     proxy_wasm edits 'resb.append=+'; proxy_buffering off; proxy_pass http://@ORIGIN@;
                 }}"
            )),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        assert_eq!(connection.get("/page.shtml").expect_status(200).text(), "[part+]", "{protocol:?}");
        let pages = connection.get("/pages.shtml").expect_status(200).body;
        let large_came = pages.strip_prefix(b"part+,").and_then(|rest| rest.strip_suffix(b",part+"));
        let large_came = large_came.expect("three parts");
        assert!(large_came.strip_suffix(b"+") == Some(&large[..]), "{} bytes", large_came.len());
    }
}

/// Parts of a file that nginx fetches by subrequests: the client's response is whole, and filtered once.
#[test]
fn slices() {
    let body = weir_tests::digest::bytes(100_000, 6);
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .guest("body_reader")
            .file("html/f", body.clone())
            .http("proxy_cache_path cache keys_zone=c:1m;")
            .server(
                "location / { proxy_wasm trace A; proxy_wasm body_reader; slice 10k; proxy_cache c;
                     proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;
                     proxy_cache_valid 200 206 1h; proxy_http_version 1.1; proxy_pass http://127.0.0.1:@PORT1@; }",
            )
            .server("root html;"),
    );
    for _ in 0..2 {
        let mark = nginx.mark();
        let response = nginx.get("/f").expect_status(200);
        assert!(response.body == body, "{} bytes", response.body.len());
        assert_eq!(response.headers("x-trace"), ["A"]);
        nginx.wait_for_log_since(mark, "trace: on_delete");
        let calls = trace::stream_calls(&nginx.log_since(mark));
        assert_eq!(count(&calls, "on_context_create"), 1);
    }
    let range = nginx.send(Request::get("/f").header("range", "bytes=15000-34999")).expect_status(206);
    assert!(range.body == body[15_000..35_000], "{} bytes", range.body.len());
}

/// nginx runs this location after the client has its response: nothing reaches the client a second time.
#[test]
fn post_action() {
    let origin = Origin::start(|_| Reply::text("after"));
    let nginx = Nginx::start(
        Conf::new().guest("trace").set("ORIGIN", origin.address()).http("proxy_wasm trace A;").server(
            "location / { post_action @after; return 200 first; }
             location @after { proxy_pass http://@ORIGIN@; }",
        ),
    );
    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = raw.response();
    assert_eq!((response.text().as_str(), response.headers("x-trace")), ("first", vec!["A"]));
    weir_tests::wait::poll(|| (origin.count() == 1).then_some(())).expect("the action was run");
    nginx.wait_for_log("trace: on_delete");
    let calls = trace::stream_calls(&nginx.stop());
    assert_eq!((count(&calls, "on_context_create"), count(&calls, "on_delete")), (1, 1));
}

/// The second origin is asked because the first has failed: for the filters it is one request.
#[test]
fn another_origin_is_tried() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let gone = weir_tests::ports::free();
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .guest("add_headers")
            .set("ORIGIN", origin.address())
            .http(&format!("upstream u {{ server 127.0.0.1:{gone}; server @ORIGIN@ backup; }}"))
            .server("location / { proxy_wasm trace A; proxy_wasm add_headers; proxy_next_upstream error non_idempotent; proxy_pass http://u; }"),
    );
    let mark = nginx.mark();
    assert_eq!(nginx.send(Request::post("/", "body")).text(), "body");
    assert_eq!(origin.last().headers("x-weir"), ["request"]);
    nginx.wait_for_log_since(mark, "trace: on_delete");
    let calls = trace::stream_calls(&nginx.log_since(mark));
    for callback in ["on_request_headers", "on_response_headers"] {
        assert_eq!(count(&calls, callback), 1, "{callback}");
    }
}

#[test]
fn the_body_of_the_main_request_reaches_the_origin_despite_subrequests() {
    let origin = Origin::start(|seen| Reply::text(seen.body.len().to_string()));
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .set("ORIGIN", origin.address())
            .http("proxy_wasm body_reader;")
            .server(
                "location / { auth_request /check; mirror /copy; proxy_pass http://@ORIGIN@; }
                 location = /check { proxy_pass_request_body off; proxy_set_header Content-Length ''; proxy_pass http://@ORIGIN@; }
                 location = /copy { internal; proxy_pass http://@ORIGIN@; }",
            ),
    );
    let body = weir_tests::digest::bytes(200_000, 4);
    assert_eq!(nginx.send(Request::post("/x", body.clone())).text(), "200000");
    nginx.wait_for_log("body_reader: request total=200000 ");
    weir_tests::wait::poll(|| (origin.count() == 3).then_some(())).expect("three requests at the origin");
    let sizes: BTreeMap<String, usize> =
        origin.seen().into_iter().map(|seen| (seen.target, seen.body.len())).collect();
    assert_eq!(sizes["/check"], 0);
    assert_eq!((sizes["/copy"], sizes["/x"]), (200_000, 200_000));
    let log = nginx.stop();
    assert_eq!(log.matches("body_reader: request total=").count(), 1, "{log}");
}
