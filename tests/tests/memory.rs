//! A worker's memory stays where it is, however many requests it serves with fresh instances.

use std::thread;

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request};

/// Connections at once.
const CONNECTIONS: usize = 4;

/// Requests that are on their way together on a connection.
const PIPELINED: usize = 50;

/// Sends `requests` requests over several connections, and checks that each was filtered.
fn load(nginx: &Nginx, requests: usize) {
    let batches = requests / CONNECTIONS / PIPELINED;
    assert_eq!(batches * CONNECTIONS * PIPELINED, requests);
    let batch = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(PIPELINED);
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut raw = nginx.raw();
                for _ in 0..batches {
                    raw.write(&batch);
                    for _ in 0..PIPELINED {
                        let response = raw.response();
                        assert_eq!((response.status, response.header("x-weir")), (200, Some("response")));
                    }
                }
            });
        }
    });
}

#[track_caller]
fn assert_steady(before: u64, after: u64) {
    let change = (i128::from(after) - i128::from(before)) * 1000 / i128::from(before);
    assert!(change.abs() <= 50, "{before} bytes, then {after}: {change} per mille");
}

fn conf(directives: &str) -> Conf {
    Conf::new()
        .guest("add_headers")
        .workers(1)
        .log_level("warn")
        .http("keepalive_requests 1000000;")
        .server(&format!("location / {{ {directives} proxy_wasm add_headers; return 200 x; }}"))
}

#[test]
fn a_hundred_thousand_requests_with_fresh_instances() {
    let nginx = Nginx::start(conf("proxy_wasm_isolation stream;"));
    load(&nginx, 10_000);
    let before = nginx.worker_rss()[0];
    load(&nginx, 90_000);
    assert_steady(before, nginx.worker_rss()[0]);
}

#[test]
fn fifty_thousand_requests_in_one_instance() {
    let nginx = Nginx::start(conf("proxy_wasm_isolation none;"));
    load(&nginx, 10_000);
    let before = nginx.worker_rss()[0];
    load(&nginx, 40_000);
    assert_steady(before, nginx.worker_rss()[0]);
}

/// Bodies that a filter holds and rewrites leave nothing behind, and never take much.
#[test]
fn ten_thousand_rewritten_bodies() {
    const BODY: usize = 16 * 1024;
    let origin = Origin::start(|_| Reply::text(vec![b'x'; BODY]));
    let nginx = Nginx::start(
        Conf::new()
            .guest("edits")
            .workers(1)
            .log_level("warn")
            .http("keepalive_requests 1000000; upstream kept { server @ORIGIN@; keepalive 4; }")
            .set("ORIGIN", origin.address())
            .server(
                "location / { proxy_wasm edits 'resb.collect resb.prepend=< resb.append=>';
                     proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://kept; }",
            ),
    );
    let round = |requests: usize| {
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut raw = nginx.raw();
                    for _ in 0..requests / CONNECTIONS {
                        raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                        let body = raw.response().body;
                        assert_eq!((body.len(), body[0], body[BODY + 1]), (BODY + 2, b'<', b'>'));
                    }
                });
            }
        });
    };
    round(1000);
    let before = nginx.worker_rss()[0];
    round(9000);
    let after = nginx.worker_rss()[0];
    assert!(after < 48 << 20, "{after} bytes");
    assert_steady(before, after);
}

/// Bodies, many instances at once, and connections that come and go.
#[test]
fn requests_at_once_with_bodies() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .guest("local")
            .workers(1)
            .log_level("warn")
            .http("http2 on;")
            .proxy(&origin, r#"proxy_wasm body_reader; proxy_wasm local '{"when": "response_headers", "status": 201, "body": "local"}';"#),
    );
    let round = |rounds: usize| {
        for _ in 0..rounds {
            let mut connection = nginx.connect(Protocol::Http2);
            let responses = connection.send_all((0..50).map(|n| Request::post("/", vec![b'x'; n * 100])));
            assert!(responses.iter().all(|response| response.status == 201 && response.text() == "local"));
        }
    };
    round(20);
    let before = nginx.worker_rss()[0];
    round(60);
    assert_steady(before, nginx.worker_rss()[0]);
}
