//! Clients and origins that go away, at many points: nothing looks complete that is not, nobody waits for what will not
//! come, and every context ends once.

use std::{thread, time::Duration};

use weir_tests::{Conf, Connection, Nginx, Origin, Protocol, Reply, Request, digest, raw::Listener, trace};

const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// What the filter between two that log does.
const FILTERS: [&str; 6] = [
    "",
    "reqb.collect resb.collect",
    "resh.nolength resb.prepend=+",
    "resb.collect resb.append=more",
    "resh.pause",
    "resb.pause",
];

fn conf(filter: &str, settings: &str) -> Conf {
    Conf::new().guest("trace").guest("edits").workers(1).http("http2 on; client_max_body_size 20m;").server(
        &format!(
            "root html;
             location / {{
                 proxy_wasm trace A; proxy_wasm edits '{filter}'; proxy_wasm trace B;
                 proxy_wasm_request_body_buffer 20m; proxy_wasm_response_body_buffer 20m;
                 {settings}
             }}"
        ),
    )
}

/// Stops nginx, and checks that each context of a request that was made has ended once, and nothing went wrong.
#[track_caller]
fn assert_all_ended(nginx: Nginx, what: &str) {
    let log = nginx.stop();
    let calls = trace::stream_calls(&log);
    let count = |callback: &str| calls.iter().filter(|call| call.callback == callback).count();
    let made = count("on_context_create");
    assert!(made > 0, "{what}: no request was filtered");
    for callback in ["on_done", "on_log", "on_delete"] {
        assert_eq!(count(callback), made, "{what}: {callback}\n{log}");
    }
}

const REQUEST: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n";

#[test]
fn clients_that_leave_while_they_ask() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for filter in FILTERS.iter().chain(&["reqb.pause", "reqh.pause"]) {
        for buffering in ["on", "off"] {
            let settings = format!(
                "proxy_request_buffering {buffering}; proxy_http_version 1.1; proxy_pass http://{};",
                origin.address()
            );
            let nginx = Nginx::start(conf(filter, &settings));
            for sent in [1, 16, 49, 50, 1000, 20_000, 59_999] {
                let mut raw = nginx.raw();
                let head = REQUEST.as_bytes();
                raw.write(&head[..sent.min(head.len())]);
                if sent > head.len() {
                    raw.write(vec![b'x'; sent - head.len()]);
                }
                drop(raw);
            }
            // A connection that a worker has not yet taken when it is told to stop is nobody's.
            nginx.wait_for_lines(0, "A trace: on_request_headers", 3);
            assert_all_ended(nginx, &format!("{filter} {buffering}"));
        }
    }
}

#[test]
fn clients_that_leave_while_they_are_answered() {
    let body = digest::bytes(3 << 20, 1);
    let sent = body.clone();
    let origin = Origin::start(move |_| Reply::text(sent.clone()));
    let passes = [
        format!("proxy_pass http://{};", origin.address()),
        format!("proxy_pass http://{}; proxy_buffering off;", origin.address()),
        "sendfile on;".to_owned(),
        "sendfile off; output_buffers 1 8k;".to_owned(),
    ];
    for filter in &FILTERS[..4] {
        for pass in &passes {
            let nginx = Nginx::start(conf(filter, pass).file("html/index.html", body.clone()));
            for read in [1, 100, 5000, 500_000, 2 << 20] {
                let mut raw = nginx.raw();
                raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                let _ = raw.read(read);
                drop(raw);
            }
            // Over HTTP/2 without reading more than the window.
            let mut connection = nginx.connect(Protocol::Http2);
            connection.send_and_forget(Request::get("/"));
            drop(connection);
            assert_all_ended(nginx, &format!("{filter} {pass}"));
        }
    }
}

/// Clients that read nothing for a while: nginx waits for them, a worker's memory does not grow, and all of it comes.
#[test]
fn slow_clients() {
    let body = digest::bytes(30 << 20, 2);
    for filter in ["", "resh.nolength resb.append=more"] {
        let nginx = Nginx::start(conf(filter, "sendfile off;").file("html/index.html", body.clone()));
        let _ = nginx.send(Request::head("/index.html"));
        let before = nginx.worker_rss()[0];
        let mut raw = nginx.raw();
        raw.write("GET / HTTP/1.0\r\n\r\n");
        // It has begun to come, and stops when the connection is full.
        let head = raw.head();
        assert_eq!(head.status, 200);
        nginx.wait_for_log("B trace: on_response_body");
        let grown = nginx.worker_rss()[0].saturating_sub(before);
        assert!(grown < 8 << 20, "{filter}: {grown} bytes more");
        let came = raw.read_to_end();
        let expected = if filter.is_empty() { body.len() } else { body.len() + 4 };
        assert!(came.len() == expected && came.starts_with(&body), "{filter}: {} bytes", came.len());
        assert_all_ended(nginx, filter);
    }
}

/// Origins that break off: with an error where nothing has been sent, and else so that nobody takes it for the whole.
#[test]
fn origins_that_break_off() {
    let answers = [
        "",
        "HTTP/1.1 200 OK\r\nContent-",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf",
    ];
    for filter in FILTERS {
        for buffering in ["on", "off"] {
            let origin = Listener::start();
            let settings = format!(
                "proxy_buffering {buffering}; send_timeout {}; proxy_http_version 1.1; proxy_pass http://{};",
                // Nothing but this ends what nobody resumes.
                if filter.ends_with("pause") { "100ms" } else { "60s" },
                origin.address()
            );
            let nginx = Nginx::start(conf(filter, &settings));
            for answer in answers {
                for protocol in PROTOCOLS {
                    let result = thread::scope(|scope| {
                        let client = scope.spawn(|| {
                            Connection::open(nginx.address(), protocol).try_send(Request::get("/"))
                        });
                        origin.accept().write(answer);
                        client.join().expect("the client")
                    });
                    match result {
                        Ok(response) => {
                            assert_eq!(response.status, 502, "{filter} {buffering} {answer:?}: {response:?}")
                        }
                        Err(_) => {
                            let expected = answer.contains("\r\n\r\n") || filter.ends_with("pause");
                            assert!(expected, "{filter} {buffering} {answer:?}");
                        }
                    }
                }
            }
            assert_all_ended(nginx, &format!("{filter} {buffering}"));
        }
    }
}

/// An origin that takes too long is a timeout, whatever a filter holds meanwhile.
#[test]
fn origins_that_take_too_long() {
    for filter in ["", "resb.collect", "resh.nolength"] {
        let origin = Listener::start();
        let settings = format!("proxy_read_timeout 200ms; proxy_pass http://{};", origin.address());
        let nginx = Nginx::start(conf(filter, &settings));
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"] {
            for protocol in PROTOCOLS {
                thread::scope(|scope| {
                    let client = scope
                        .spawn(|| Connection::open(nginx.address(), protocol).try_send(Request::get("/")));
                    let mut server = origin.accept();
                    server.write(answer);
                    let result = client.join().expect("the client");
                    match result {
                        Ok(response) => assert_eq!((response.status, answer), (504, ""), "{filter}"),
                        Err(_) => assert!(!answer.is_empty(), "{filter}"),
                    }
                    assert!(server.is_closed() || server.is_silent_for(Duration::from_millis(1)));
                });
            }
        }
        assert_all_ended(nginx, filter);
    }
}
