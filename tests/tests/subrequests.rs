//! Subrequests are left alone unless a directive says otherwise; then each is a request of its own, with its body and its
//! end.

use std::collections::BTreeMap;

use serde_json::json;
use weir_tests::{
    Conf, Nginx, Origin, Protocol, Reply, Request, digest,
    trace::{self, Call, calls_of, count},
};

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
        let calls = calls_of(&nginx, path, 200, body);
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
    let large = digest::bytes(300_000, 7);
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
    let body = digest::bytes(100_000, 6);
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
    let body = digest::bytes(200_000, 4);
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

/// A subrequest's instance is there for the next one: a page, or a file in slices, has any number of them.
#[test]
fn instances_come_back_when_a_subrequest_ends() {
    let file = digest::bytes(200_000, 3);
    let origin = Origin::start({
        let file = file.clone();
        move |seen| {
            let asked = seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
            let (from, to) = asked.expect("a range");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            let range = number(from)..(number(to) + 1).min(file.len());
            let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, file.len());
            Reply::status(206).header("content-range", &shown).body(file[range].to_vec())
        }
    });
    let include = "<!--# include virtual=\"/part\" -->";
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .workers(1)
            .set("ORIGIN", origin.address())
            .file("html/page.shtml", include.repeat(30))
            .file("html/page.html", "page")
            .file("html/empty.shtml", include.replace("part", "nothing").repeat(30))
            .wasm("instances 3 wait=0;")
            .http("http2 on; proxy_wasm_subrequests on;")
            .server(
                "root html; location / { ssi on; ssi_types *; }
                 location = /checked { auth_request /check; try_files /page.html =404; }
                 location = /check { proxy_wasm trace C; return 204; }
                 location = /nothing { proxy_wasm trace N; return 204; }
                 location = /part { proxy_wasm trace P; default_type text/html; return 200 part; }
                 location = /file { proxy_wasm trace F; slice 1k; proxy_set_header Range $slice_range;
                     proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }",
            ),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        assert_eq!(connection.get("/page.shtml").expect_status(200).text(), "part".repeat(30));
        assert_eq!(connection.get("/empty.shtml").expect_status(200).text(), "");
        let response = connection.get("/file").expect_status(200);
        assert!(response.body == file, "{} bytes", response.body.len());
        for _ in 0..30 {
            let _ = connection.get("/checked").expect_status(200);
        }
    }
    let log = nginx.stop();
    let calls = trace::stream_calls(&log);
    assert_eq!(count(&calls, "on_context_create"), count(&calls, "on_delete"));
    assert!(count(&calls, "on_log") > 250, "{}", count(&calls, "on_log"));
    assert!(!log.contains("[error]"), "{log}");
}

/// nginx puts a response together of parts: one that cannot be had is no page of an error in the middle of it.
#[test]
fn a_part_that_fails_ends_the_response() {
    let file = digest::bytes(30_000, 3);
    let nginx = Nginx::start(
        Conf::new()
            .guest("noop")
            .workers(1)
            .file("html/f", file.clone())
            // The main request has the one that there is.
            .wasm("instances 1 wait=0;")
            .http("proxy_wasm_subrequests on;")
            .server(
                "location / { proxy_wasm noop; slice 10k; proxy_set_header Range $slice_range;
                     proxy_http_version 1.1; proxy_pass http://127.0.0.1:@PORT1@; }",
            )
            .server("root html;"),
    );
    let mut raw = nginx.raw();
    raw.write("GET /f HTTP/1.1\r\nHost: x\r\n\r\n");
    let cut = raw.try_response().expect_err("it is not whole");
    assert_eq!(cut.status, 200);
    assert!(file.starts_with(&cut.body), "{} bytes", cut.body.len());
    nginx.wait_for_log("a part of a response cannot be replaced");
}

/// The body of a main request is that of its subrequests, too; what filters make of it is the subrequest's alone.
#[test]
fn bodies_of_requests_are_seen_in_subrequests() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = Nginx::start(
        Conf::new()
            .guest("edits")
            .guest("trace")
            .set("ORIGIN", origin.address())
            .http("http2 on; proxy_wasm_subrequests on; client_body_buffer_size 16k;")
            .server(
                "location / { mirror /copy; mirror /as-it-came; proxy_pass http://@ORIGIN@/main; }
                 location = /copy { internal; proxy_wasm trace A; proxy_wasm edits 'reqb.append=+ reqb.prepend=-';
                     proxy_pass http://@ORIGIN@/copy; }
                 location = /as-it-came { internal; proxy_wasm trace B; proxy_pass http://@ORIGIN@/as-it-came; }
                 location = /answered { mirror /answer; proxy_pass http://@ORIGIN@/main; }
                 location = /answer { internal; proxy_wasm edits 'reqb.local=no'; proxy_pass http://@ORIGIN@/never; }",
            ),
    );
    let mut sent = 0;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        // In memory, and in a file.
        for size in [1, 5_000, 200_000] {
            let body = digest::bytes(size, 9);
            for request in [Request::post("/", body.clone()), Request::post_chunks("/", [body.clone()])] {
                let mark = nginx.mark();
                // nginx gives mirrors up with the client's connection.
                let mut connection = nginx.connect(protocol);
                let response = connection.send(request);
                assert!(response.body == body, "{protocol:?} {size}: {}", response.body.len());
                sent += 3;
                weir_tests::wait::poll(|| (origin.count() == sent).then_some(())).expect("three requests");
                let seen: BTreeMap<String, Vec<u8>> =
                    origin.seen().into_iter().rev().take(3).map(|seen| (seen.target, seen.body)).collect();
                assert!(seen["/main"] == body && seen["/as-it-came"] == body);
                assert!(seen["/copy"] == [b"-", &body[..], b"+"].concat(), "{}", seen["/copy"].len());
                nginx.wait_for_lines(mark, "trace: on_delete", 2);
                let calls = trace::stream_calls(&nginx.log_since(mark));
                let headers = calls.iter().filter(|call| call.callback == "on_request_headers");
                assert!(headers.clone().count() == 2 && headers.clone().all(|call| !call.end_of_stream()));
                assert_eq!(count(&calls, "on_request_body"), 2, "{calls:#?}");
            }
        }
        // Without a body its headers are all there is.
        let mark = nginx.mark();
        let mut connection = nginx.connect(protocol);
        let _ = connection.get("/").expect_status(200);
        sent += 3;
        nginx.wait_for_lines(mark, "trace: on_delete", 2);
        let calls = trace::stream_calls(&nginx.log_since(mark));
        let mut headers = calls.iter().filter(|call| call.callback == "on_request_headers");
        assert!(headers.all(Call::end_of_stream));
        assert_eq!(connection.send(Request::post("/answered", "x")).text(), "x");
        sent += 1;
        weir_tests::wait::poll(|| (origin.count() == sent).then_some(())).expect("all requests");
    }
    assert!(origin.seen().iter().all(|seen| seen.target != "/never"));
}

/// All bodies are to be in files, and that of the main request is; a subrequest's is not put into another one.
#[test]
fn a_body_that_is_in_a_file_stays_there() {
    let page = "[<!--# include virtual=\"/part\" -->]";
    let origin = Origin::start(move |_| Reply::text(page));
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .set("ORIGIN", origin.address())
            .http("proxy_wasm_subrequests on; client_body_in_file_only clean;")
            .server(
                "location / { ssi on; ssi_types *; proxy_pass http://@ORIGIN@/page; }
                 location = /part { proxy_wasm trace A; return 200 part; }",
            ),
    );
    let response = nginx.send(Request::post("/", "x".repeat(100_000)));
    assert_eq!(response.expect_status(200).text(), "[part]");
    let calls = trace::stream_calls(&nginx.stop());
    let headers = calls.iter().find(|call| call.callback == "on_request_headers").expect("headers");
    assert!(!headers.end_of_stream());
    let body = calls.iter().find(|call| call.callback == "on_request_body").expect("a body");
    assert_eq!(body.number("body_size"), 100_000);
}

/// A filter holds the body of a subrequest until another request lets it go on.
#[test]
fn a_held_body_of_a_subrequest_goes_on() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = Nginx::start(
        Conf::new()
            .guest("edits")
            .workers(1)
            .set("ORIGIN", origin.address())
            .http("proxy_wasm_subrequests on; proxy_wasm_isolation none;")
            .server(
                "location / { mirror /copy; proxy_pass http://@ORIGIN@/main; }
                 location = /copy { internal; proxy_wasm edits 'reqb.pause'; proxy_pass http://@ORIGIN@/copy; }
                 location = /resume { proxy_wasm edits ''; return 200 x; }",
            ),
    );
    let mut client = nginx.raw();
    client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nheld");
    assert_eq!(client.response().text(), "held", "the main request goes on");
    nginx.wait_for_log("edits: reqb size=4 end=true Pause");
    assert_eq!((origin.count(), origin.last().target.as_str()), (1, "/main"));
    let id = nginx.wait_for_log("edits: context ");
    let id = id.split("edits: context ").nth(1).and_then(|rest| rest.split(',').next()).expect("an id");
    let _ = nginx.send(Request::get("/resume").header("x-resume", &format!("{id} 0"))).expect_status(200);
    weir_tests::wait::poll(|| (origin.count() == 2).then_some(())).expect("the subrequest goes on");
    assert_eq!((origin.last().target.as_str(), &origin.last().body[..]), ("/copy", &b"held"[..]));
}

/// A filter of a subrequest asks somebody about its headers or its body, and answers.
#[test]
fn a_subrequest_is_answered_once_a_call_has_been() {
    let page = "[<!--# include virtual=\"/part\" -->]";
    let origin = Origin::start(move |seen| Reply::text(if seen.target == "/page" { page } else { "called" }));
    let nginx = Nginx::start(
        Conf::new()
            .guest("calls")
            .set("ORIGIN", origin.address())
            .http("http2 on; proxy_wasm_subrequests on;")
            .server(
                "location / { ssi on; ssi_types *; proxy_pass http://@ORIGIN@/page; }
                 location = /part { proxy_wasm calls; return 200 part; }",
            ),
    );
    let calls = json!([{ "upstream": origin.address().to_string() }]).to_string();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for when in ["reqh", "reqb"] {
            let request = Request::post("/", "body").header("x-when", when).header("x-calls", &calls);
            let text = nginx.connect(protocol).send(request).expect_status(200).text();
            assert!(text.starts_with('[') && text.contains("called"), "{protocol:?} {when}: {text}");
        }
    }
}
