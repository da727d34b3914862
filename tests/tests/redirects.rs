//! Internal redirects stay within one context.

use weir_tests::{
    Conf, Nginx, Origin, Reply, Request,
    trace::{self, Call, calls_of, count},
};

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
        assert_once(&calls_of(&nginx, path, status, body), "A");
    }
    // A named location keeps the status of the error.
    assert_once(&calls_of(&nginx, "/error-named/x", 404, "named"), "A");
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
    assert_once(&calls_of(&nginx, "/one", 200, "two"), "one");
    assert_once(&calls_of(&nginx, "/two", 200, "two"), "two");
    assert_once(&calls_of(&nginx, "/none", 200, "two"), "two");
    assert_once(&calls_of(&nginx, "/to-none", 200, "file"), "one");
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
