//! Clients that leave while calls are under way: nothing of a call stays behind.
//!
//! A connection that stays is seen in the worker's descriptors, a timer or a question to a resolver when the worker does
//! not end in time: calls here may take an hour.

use std::{any::Any, fs, thread, time::Duration};

use serde_json::{Value, json};
use weir_tests::{
    Conf, Nginx, Origin, Reply,
    dns::{Answer, Dns},
    raw::Listener,
    wait,
};

/// How many descriptors the worker has open.
fn descriptors(nginx: &Nginx) -> usize {
    fs::read_dir(format!("/proc/{}/fd", nginx.worker_pid())).expect("a worker").count()
}

/// Waits until the worker has as many as `before`.
fn assert_back(nginx: &Nginx, before: usize, point: &str) {
    let back = wait::poll(|| (descriptors(nginx) == before).then_some(()));
    assert!(back.is_some(), "{point}: {} of {before} descriptors: {}", descriptors(nginx), nginx.log());
}

/// An hour, in milliseconds.
const LONG: u32 = 3_600_000;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";

/// Where the client leaves: a name, how the call is made, in which callback, and what the peer has said by then.
fn points(listener: &str) -> Vec<(&'static str, Value, &'static str, Option<&'static str>)> {
    let call = json!({"upstream": listener, "timeout": LONG});
    let with = |name: &str, value: Value| {
        let mut call = call.clone();
        call[name] = value;
        call
    };
    let through = |upstream: &str| with("upstream", json!(upstream));
    let tls = with("scheme", json!("https"));
    let large = json!({
        "upstream": listener, "timeout": LONG, "method": "POST", "body": "x".repeat(1000), "repeat": 400,
    });
    vec![
        ("before the peer has read anything", call.clone(), "reqh", None),
        ("before the peer has answered", call.clone(), "reqh", Some("")),
        ("within the status", call.clone(), "reqh", Some("HTTP/1.1 2")),
        ("within a header", call.clone(), "reqh", Some("HTTP/1.1 200 OK\r\nContent-Le")),
        ("after the headers", call.clone(), "reqh", Some(HEAD)),
        ("within the body", call.clone(), "reqh", Some("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")),
        (
            "within a chunk",
            call.clone(),
            "reqh",
            Some("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        ),
        (
            "between chunks",
            call.clone(),
            "reqh",
            Some("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"),
        ),
        ("before the end of the connection", call.clone(), "reqh", Some("HTTP/1.0 200 OK\r\n\r\nab")),
        ("after an informational response", call.clone(), "reqh", Some("HTTP/1.1 103 Early Hints\r\n\r\n")),
        ("while a body is sent", large, "reqh", Some("")),
        ("in the body callback", call.clone(), "reqb", Some("")),
        ("in the response's headers", call.clone(), "resh", Some("")),
        ("in the response's body", call.clone(), "resb", Some("")),
        ("through an upstream", through("up"), "reqh", Some("")),
        ("through an upstream with keepalive", through("kept"), "reqh", Some(HEAD)),
        ("through an upstream with a zone", through("shared"), "reqh", Some("")),
        ("within the handshake", tls, "reqh", None),
        ("while a name is looked up", through("silent.test"), "reqh", None),
        (
            "before the second call",
            with("then", json!([call])),
            "reqh",
            Some("HTTP/1.1 204 No Content\r\n\r\n"),
        ),
    ]
}

#[test]
fn nothing_stays_behind_at_any_of_twenty_points() {
    let dns = Dns::start(|_| Answer::Silence);
    for isolation in ["stream", "none"] {
        for protocol in ["", "http2"] {
            let listener = Listener::start();
            let address = listener.address().to_string();
            let conf = Conf::new()
                .guest("calls")
                .workers(1)
                .wasm(&format!("resolver {}; resolver_timeout 1h;", dns.address()))
                .http(&format!(
                    "upstream up {{ server {address}; }}
                     upstream kept {{ server {address}; keepalive 4; }}
                     upstream shared {{ zone shared 64k; server {address}; }}
                     http2 on;"
                ))
                .server(&format!(
                    "location / {{ proxy_wasm calls; proxy_wasm_isolation {isolation}; return 200 answered; }}"
                ));
            let nginx = Nginx::start(conf);
            // What a worker opens once is open: the resolver's socket.
            let warm = json!([{"upstream": "silent.test", "timeout": 1}]).to_string();
            assert_eq!(nginx.send(weir_tests::Request::get("/").header("x-calls", &warm)).status, 200);
            nginx.wait_for_log("closed keepalive connection");
            // nginx says so before it closes it, but closes it before it answers anybody else, whose connection is one more.
            let mut other = nginx.connect(weir_tests::Protocol::Http1);
            assert_eq!(other.get("/").status, 200);
            let before = descriptors(&nginx) - 1;
            drop(other);
            let points = points(&address);
            assert_eq!(points.len(), 20);
            for (point, order, when, said) in points {
                let client = leave_later(&nginx, protocol, &order, when);
                let peer = match said {
                    Some(said) => {
                        let mut peer = listener.accept();
                        peer.write(said);
                        Some(peer)
                    }
                    None if point.contains("looked up") => {
                        let asked = || (dns.questions("silent.test", "A") > 0).then_some(());
                        wait::poll(asked).expect("a question");
                        None
                    }
                    None => Some(listener.accept_raw()),
                };
                drop(client);
                // Which fails if the connection stays.
                drop(peer.map(weir_tests::Raw::read_to_end));
                assert_back(&nginx, before, &format!("{point} ({isolation} {protocol})"));
            }
            assert_eq!(nginx.get("/").status, 200, "and the worker lives");
        }
    }
}

/// A client that has asked for a call, and leaves when it is dropped.
fn leave_later(nginx: &Nginx, protocol: &str, order: &Value, when: &str) -> Box<dyn Any> {
    let orders = json!([order]).to_string();
    if protocol == "http2" {
        let mut connection = nginx.connect(weir_tests::Protocol::Http2);
        connection.send_and_forget(
            weir_tests::Request::post("/", "body").header("x-calls", &orders).header("x-when", when),
        );
        return Box::new(connection);
    }
    let mut raw = nginx.raw();
    raw.write(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nx-when: {when}\r\nx-calls: {orders}\r\n\r\nbody"
    ));
    Box::new(raw)
}

#[test]
fn a_context_that_waits_for_its_call_gets_it_after_its_client_has_left() {
    let origin = Origin::start(|_| {
        thread::sleep(Duration::from_millis(50));
        Reply::text("late")
    });
    let nginx = Nginx::start(super::conf(""));
    let order = json!({"upstream": origin.address().to_string()});
    let client = leave_later(&nginx, "", &order, "done");
    wait::poll(|| (origin.count() > 0).then_some(())).expect("a call");
    drop(client);
    nginx.wait_for_log("calls: stream [{\"refused\":null,\"error\":null,\"headers\":[[\":status\",\"200\"]");
}

#[test]
fn a_worker_that_shuts_down_waits_for_the_calls_of_requests() {
    let listener = Listener::start();
    let nginx = Nginx::start(super::conf(""));
    let order = json!([{"upstream": listener.address().to_string(), "timeout": 60000}]);
    let response = thread::scope(|scope| {
        let request = weir_tests::Request::get("/").header("x-calls", &order.to_string());
        let client = scope.spawn(|| nginx.send(request));
        let mut peer = listener.accept();
        nginx.begin_to_stop();
        nginx.wait_for_log("gracefully shutting down");
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        client.join().expect("the client")
    });
    assert!(response.text().contains("late"), "{response:?}");
}

/// A root context that calls again whenever it has been answered would keep a worker that shuts down for ever.
#[test]
fn a_filter_that_calls_again_and_again_does_not_keep_old_workers() {
    let module = weir_tests::wasm::calling(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
                (drop (call $tick (i32.const 1))) (i32.const 1))
            (func (export "proxy_on_tick") (param i32) (drop (call $tick (i32.const 0))) (call $call))
            (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32) (call $call))"#,
    );
    let origin = Origin::start(|_| Reply::text("again"));
    let conf = || {
        Conf::new()
            .workers(1)
            .file("again.wasm", module.clone())
            .wasm("module again again.wasm;")
            .set("ORIGIN", origin.address())
            .http("upstream up { server @ORIGIN@; keepalive 4; }")
            .server("location / { proxy_wasm again; return 200 x; }")
    };
    let mut nginx = Nginx::start(conf());
    let calls = |more: usize| {
        let before = origin.count();
        wait::poll(|| (origin.count() >= before + more).then_some(())).expect("calls");
    };
    calls(3);
    nginx.reload(conf());
    nginx.wait_for_old_workers();
    calls(3);
    assert!(!nginx.stop().contains("[alert]"));
}
