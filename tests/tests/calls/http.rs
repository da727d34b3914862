//! Calls over HTTP/1.1 to an address.

use std::thread;

use serde_json::json;
use weir_tests::{Conf, Nginx, Origin, Reply, Request, raw::Listener, wait};

use super::{assert_failed, conf, header, outcome, outcomes, status};

#[test]
fn a_request_arrives_as_it_was_made_and_its_response_comes_back() {
    let origin =
        Origin::start(|_| Reply::status(418).header("x-two", "1").header("x-two", "2").body("short"));
    let nginx = Nginx::start(conf(""));
    let outcome = outcome(
        &nginx,
        json!({
            "upstream": origin.address().to_string(), "method": "PUT", "path": "/a/b?c={d}|e#f", "authority": "api.example:81",
            "headers": [["X-One", "eins"], ["x-one", "zwei"], ["connection", "close"], ["content-length", "9"]],
            "body": "0123456789", "repeat": 1000,
        }),
    );
    assert_eq!((status(&outcome), &outcome["body"]), (418, &json!("short")), "{outcome}");
    assert_eq!(header(&outcome, "content-length"), Some("5"));
    let two =
        outcome["headers"].as_array().expect("headers").iter().filter(|pair| pair[0] == "x-two").count();
    assert_eq!(two, 2);
    let seen = origin.last();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PUT", "/a/b?c={d}|e"));
    assert_eq!((seen.header("host"), seen.headers("x-one")), (Some("api.example:81"), vec!["eins", "zwei"]));
    assert_eq!((seen.header("connection"), seen.header("content-length")), (None, Some("10000")));
    assert_eq!(seen.body, "0123456789".repeat(1000).as_bytes());
}

#[test]
fn every_callback_makes_calls() {
    let origin = Origin::start(|_| Reply::text("called"));
    let order = json!([{"upstream": origin.address().to_string()}]);
    for isolation in ["stream", "none"] {
        let nginx = Nginx::start(conf(&format!("proxy_wasm_isolation {isolation};")));
        for when in ["reqh", "reqb", "resh"] {
            let outcomes = outcomes(&nginx, when, &order);
            assert_eq!(status(&outcomes[0]), 200, "{when}: {outcomes:?}");
        }
        for when in ["resb", "done"] {
            let mark = nginx.mark();
            let request = Request::get("/").header("x-calls", &order.to_string()).header("x-when", when);
            assert_eq!(nginx.send(request).text(), "answered", "{when}");
            nginx.wait_for_log_since(
                mark,
                "calls: stream [{\"refused\":null,\"error\":null,\"headers\":[[\":status\",\"200\"]",
            );
        }
    }
}

/// A report of what became of a request: nobody waits for what the other side says to it, nor is told.
#[test]
fn a_call_at_the_end_of_a_request_is_finished() {
    let origin = Origin::start(|_| Reply::text("thanks"));
    let order = json!([{"upstream": origin.address().to_string(), "method": "POST", "body": "a report"}]);
    for isolation in ["stream", "none"] {
        let nginx = Nginx::start(conf(&format!("proxy_wasm_isolation {isolation};")));
        for count in 1..=3 {
            let before = origin.count();
            let request = Request::get("/").header("x-calls", &order.to_string()).header("x-when", "log");
            assert_eq!(nginx.send(request).text(), "answered");
            let came = wait::poll(|| (origin.count() == before + 1).then_some(()));
            assert!(came.is_some(), "{isolation} {count}: {}", nginx.log());
        }
        let log = nginx.stop();
        assert!(!log.contains("calls: stream ["), "{log}");
    }
}

/// The same, where the filter lets the response go at once.
#[test]
fn a_call_made_while_the_response_comes_is_finished() {
    let origin = Origin::start(|_| Reply::text("thanks"));
    let address = origin.address().to_string();
    let conf = Conf::new()
        .guest("reports")
        .workers(1)
        .http(&format!("upstream named {{ server {address}; keepalive 4; }}"))
        .server(&format!(
            "location /address {{ proxy_wasm reports '{address}'; return 200 answered; }}
             location /named {{ proxy_wasm reports named; return 200 answered; }}
             location /shared {{ proxy_wasm_isolation none; proxy_wasm reports named; return 200 answered; }}"
        ));
    let nginx = Nginx::start(conf);
    for path in ["/address", "/named", "/shared"] {
        for when in ["resh", "resb"] {
            let before = origin.count();
            let request = Request::get(path).header("x-when", when);
            assert_eq!(nginx.send(request).text(), "answered");
            let came = wait::poll(|| (origin.count() == before + 1).then_some(()));
            assert!(came.is_some(), "{path} {when}: {}", nginx.log());
        }
    }
}

#[test]
fn calls_are_made_at_once_and_from_each_other_s_callbacks() {
    let origin = Origin::start(|seen| Reply::text(seen.target.clone()));
    let nginx = Nginx::start(conf(""));
    let address = origin.address().to_string();
    let order = |path: &str| json!({"upstream": address, "path": path});
    let mut last = order("/last");
    last["then"] = json!([order("/then"), order("/more")]);
    let mut all: Vec<_> = (0..20).map(|number| order(&format!("/{number}"))).collect();
    all.push(last);
    let outcomes = outcomes(&nginx, "reqh", &json!(all));
    let bodies: Vec<_> = outcomes.iter().map(|outcome| outcome["body"].as_str().expect("a body")).collect();
    assert_eq!(bodies.len(), 23, "{bodies:?}");
    assert_eq!((bodies[7], bodies[20], bodies[21], bodies[22]), ("/7", "/last", "/then", "/more"));
}

#[test]
fn a_root_context_calls_on_its_ticks() {
    let origin = Origin::start(|_| Reply::text("tock"));
    let configuration = json!({"every": 10, "calls": [{"upstream": origin.address().to_string()}]});
    let conf = Conf::new()
        .guest("calls")
        .workers(1)
        .server(&format!("location / {{ proxy_wasm calls '{configuration}'; return 200; }}"));
    let nginx = Nginx::start(conf);
    for _ in 0..3 {
        let line = nginx.wait_for_log_since(nginx.mark(), "calls: root ");
        assert!(line.contains("tock"), "{line}");
    }
}

#[test]
fn a_root_context_calls_when_a_message_comes() {
    let origin = Origin::start(|_| Reply::text("by message"));
    let conf = Conf::new()
        .guest("calls")
        .workers(1)
        .wasm("shm_queue * 512k;")
        .server("location / { proxy_wasm calls '{\"queue\": \"messages\"}'; return 200 answered; }");
    let nginx = Nginx::start(conf);
    let order = json!([{"upstream": origin.address().to_string()}]);
    for _ in 0..3 {
        let mark = nginx.mark();
        let request = Request::get("/").header("x-calls", &order.to_string()).header("x-when", "queue");
        assert_eq!(nginx.send(request).text(), "answered");
        let line = nginx.wait_for_log_since(mark, "calls: root ");
        assert!(line.contains("by message"), "{line}");
    }
}

#[test]
fn trailers_and_chunks_pass_both_ways() {
    let origin = Listener::start();
    let nginx = Nginx::start(conf(""));
    let order = json!({
        "upstream": origin.address().to_string(), "method": "POST", "body": "sent", "trailers": [["x-sum", "7"]],
    });
    let outcome = thread::scope(|scope| {
        let called = scope.spawn(|| outcome(&nginx, order));
        let mut connection = origin.accept();
        // The body comes in chunks, and trailers behind the last one.
        assert_eq!(connection.read(24), b"4\r\nsent\r\n0\r\nx-sum: 7\r\n\r\n");
        // Extensions of chunks say nothing that anybody has to know.
        connection.write(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n\
             5;a=b;c=\"d;e\"\r\nfirst\r\n0006 \r\nsecond\r\n0;last\r\nX-End: yes\r\n\r\n",
        );
        called.join().expect("the client")
    });
    assert_eq!((status(&outcome), &outcome["body"]), (200, &json!("firstsecond")), "{outcome}");
    assert_eq!(outcome["trailers"], json!([["x-end", "yes"]]));
}

/// The body does not wait for the 100 that a guest asks for (RFC 9110, 10.1.1: a client need not), and what comes before
/// the response is passed over.
#[test]
fn informational_responses_are_passed_over() {
    let origin = Listener::start();
    let nginx = Nginx::start(conf(""));
    let order = json!({
        "upstream": origin.address().to_string(), "method": "PUT", "body": "sent",
        "headers": [["Expect", "100-continue"]],
    });
    let outcome = thread::scope(|scope| {
        let called = scope.spawn(|| outcome(&nginx, order));
        let mut connection = origin.accept();
        assert_eq!(connection.read(4), b"sent");
        connection.write(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        );
        called.join().expect("the client")
    });
    assert_eq!((status(&outcome), &outcome["body"]), (200, &json!("ok")), "{outcome}");
    assert_eq!(header(&outcome, "link"), None);
}

#[test]
fn redirects_are_not_followed() {
    let origin = Origin::start(|_| Reply::status(302).header("location", "/elsewhere").body("there"));
    let nginx = Nginx::start(conf(""));
    let outcome = outcome(&nginx, json!({"upstream": origin.address().to_string()}));
    assert_eq!((status(&outcome), header(&outcome, "location")), (302, Some("/elsewhere")), "{outcome}");
    assert_eq!(origin.count(), 1);
}

/// What a peer does, byte by byte, and the word for it.
#[test]
fn responses_that_are_none_fail() {
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-one-of-many: 0123456789\r\n".repeat(60));
    let cases: [(&str, &str); 9] = [
        ("", "reset"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "reset"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "reset"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho", "reset"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk", "protocol"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", "too_large"),
        (&long, "too_large"),
        (&many, "too_large"),
    ];
    let nginx = Nginx::start(conf("").wasm("call_response_limit 1k;"));
    for (answer, word) in cases {
        let origin = Listener::start();
        let order = json!({"upstream": origin.address().to_string(), "method": "POST"});
        let outcome = thread::scope(|scope| {
            let called = scope.spawn(|| outcome(&nginx, order));
            // nginx closes as soon as it has seen enough, which the listener may notice while it writes.
            origin.accept().try_write(answer);
            called.join().expect("the client")
        });
        let answer = &answer[..answer.len().min(60)];
        assert_eq!(outcome["error"], json!(word), "{answer:?}: {outcome}");
        assert_failed(&nginx, &outcome, word);
    }
}

/// What counts is how long they are.
#[test]
fn responses_may_have_many_headers_and_long_ones() {
    let nginx = Nginx::start(conf(""));
    let answer = |fields: &str| {
        let origin = Listener::start();
        let order = json!({"upstream": origin.address().to_string()});
        thread::scope(|scope| {
            let called = scope.spawn(|| outcome(&nginx, order));
            origin.accept().try_write(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"));
            called.join().expect("the client")
        })
    };
    for count in [101, 300, 1000] {
        let fields: String = (0..count).map(|number| format!("x-{number}: {number}\r\n")).collect();
        let many = answer(&fields);
        assert_eq!((status(&many), &many["body"]), (200, &json!("ok")), "{count}");
        let last = count - 1;
        assert_eq!(header(&many, &format!("x-{last}")), Some(last.to_string().as_str()));
        assert_eq!(many["headers"].as_array().map(Vec::len), Some(count + 2));
    }
    let long = "x".repeat(1_000_000);
    let one = answer(&format!("x-long: {long}\r\n"));
    assert_eq!(header(&one, "x-long").map(str::len), Some(long.len()));
    let too_long = answer(&format!("x-long: {long}\r\nx-more: {}\r\n", "x".repeat(60_000)));
    assert_failed(&nginx, &too_long, "too_large");
}

/// A guest that fails when it is told of its call: in an instance of the request's own, and in one that others use.
#[test]
fn a_callback_that_fails_is_reported_once() {
    let origin = Origin::start(|_| Reply::text("called"));
    let order = json!([{"upstream": origin.address().to_string(), "trap": true}]);
    for isolation in ["stream", "none"] {
        for (policy, expected) in [("closed", 500), ("open", 200)] {
            let nginx = Nginx::start(conf(&format!(
                "proxy_wasm_isolation {isolation}; proxy_wasm_failure {policy};"
            )));
            let response = nginx.send(Request::get("/").header("x-calls", &order.to_string()));
            assert_eq!(response.status, expected, "{isolation} {policy}");
            let log = nginx.stop();
            let said = log.lines().filter(|line| line.contains("[error]") && line.contains("weir")).count();
            assert_eq!(
                log.matches("proxy_on_http_call_response failed: ").count(),
                1,
                "{isolation} {policy}: {log}"
            );
            // The panic of the guest's is a line, too.
            assert!(!log.contains("has failed in another one") && said <= 2, "{isolation} {policy}: {log}");
        }
    }
}

#[test]
fn bodies_have_a_bound() {
    let origin = Origin::start(|seen| {
        let size: usize = seen.target[1..].parse().expect("a size");
        Reply::chunks(vec![vec![b'x'; 1024]; size / 1024])
    });
    let nginx = Nginx::start(conf("").wasm("call_response_limit 64k;"));
    let call = |path: &str| outcome(&nginx, json!({"upstream": origin.address().to_string(), "path": path}));
    let whole = call("/65536");
    assert_eq!((status(&whole), &whole["size"]), (200, &json!(65536)));
    assert_failed(&nginx, &call("/66560"), "too_large");
}

#[test]
fn time_has_a_bound() {
    let silent = Listener::start();
    let nginx = Nginx::start(conf("").wasm("call_timeout 100ms;"));
    for timeout in [50, 0] {
        let order = json!({"upstream": silent.address().to_string(), "timeout": timeout});
        let outcome = thread::scope(|scope| {
            let called = scope.spawn(|| outcome(&nginx, order));
            let connection = silent.accept();
            let outcome = called.join().expect("the client");
            drop(connection);
            outcome
        });
        assert_failed(&nginx, &outcome, "timeout");
    }
    let line = nginx.wait_for_log("a call to ");
    assert!(line.contains("has failed: timeout: 127.0.0.1:"), "{line}");
}

#[test]
fn nobody_listens() {
    let nginx = Nginx::start(conf(""));
    let mark = nginx.mark();
    for _ in 0..5 {
        assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "127.0.0.1:1"})), "connect");
    }
    let missing = json!({"upstream": format!("unix:{}/no.sock", nginx.prefix().display())});
    assert_failed(&nginx, &outcome(&nginx, missing), "connect");
    let log = nginx.log_since(mark);
    assert_eq!(log.matches("a call to \"127.0.0.1:1\" has failed").count(), 1, "once in a burst: {log}");
    assert!(log.contains("connect: 127.0.0.1:1: Connection refused"), "{log}");
}

#[test]
fn a_socket_of_the_machine_is_called() {
    let nginx = Nginx::start(conf("").server("listen unix:@PREFIX@/s.sock; return 200 inside;"));
    let order = json!({"upstream": format!("unix:{}/s.sock", nginx.prefix().display())});
    assert_eq!(outcome(&nginx, order)["body"], json!("inside"));
}

#[test]
fn connections_are_kept_until_they_have_done_enough() {
    let conf =
        conf("").server("keepalive_requests 3; location / { return 200 $connection/$connection_requests; }");
    let place = |nginx: &Nginx| {
        let outcome = outcome(nginx, json!({"upstream": nginx.address_of(1).to_string()}));
        outcome["body"].as_str().expect("a body").to_owned()
    };
    let requests = |nginx: &Nginx, count: usize| {
        let places: Vec<_> = (0..count).map(|_| place(nginx)).collect();
        places.iter().map(|place| place.split('/').nth(1).expect("a number").to_owned()).collect::<Vec<_>>()
    };
    let nginx = Nginx::start(conf.clone());
    // The other side ends each third one.
    assert_eq!(requests(&nginx, 7), ["1", "2", "3", "1", "2", "3", "1"]);
    drop(nginx);
    let nginx = Nginx::start(conf.clone().wasm("call_keepalive 1 requests=2;"));
    assert_eq!(requests(&nginx, 5), ["1", "2", "1", "2", "1"]);
    drop(nginx);
    let nginx = Nginx::start(conf.wasm("call_keepalive off;"));
    assert_eq!(requests(&nginx, 3), ["1", "1", "1"]);
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_not_used() {
    let origin = Listener::start();
    let nginx = Nginx::start(conf(""));
    let order = json!({"upstream": origin.address().to_string(), "method": "POST"});
    for _ in 0..3 {
        let outcome = thread::scope(|scope| {
            let called = scope.spawn(|| outcome(&nginx, order.clone()));
            let mut connection = origin.accept();
            connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            let outcome = called.join().expect("the client");
            // Now it rests; and is closed by the other side.
            drop(connection);
            outcome
        });
        assert_eq!(status(&outcome), 200, "{outcome}");
    }
}

#[test]
fn a_connection_that_rests_too_long_is_closed() {
    let origin = Listener::start();
    let nginx = Nginx::start(conf("").wasm("call_keepalive 4 timeout=50ms;"));
    let order = json!({"upstream": origin.address().to_string()});
    thread::scope(|scope| {
        let called = scope.spawn(|| outcome(&nginx, order));
        let mut connection = origin.accept();
        connection.write("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&called.join().expect("the client")), 204);
        // Which fails if it is not closed.
        assert_eq!(connection.read_to_end(), b"");
    });
}
