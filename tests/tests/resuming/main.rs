//! What a filter holds goes on, is answered or is closed from a callback of another request; or nginx's timers end it.

mod surroundings;

use std::thread;

use weir_tests::{
    Conf, Connection, Nginx, Origin, Protocol, Reply, Request, Response, client::Broken, raw::Listener,
    trace::stream_calls,
};

/// Callbacks that can pause, with the type of their stream.
const PLACES: [(&str, u32); 4] = [("reqh", 0), ("reqb", 0), ("resh", 1), ("resb", 1)];

const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// nginx with three filters, the middle one of which follows `orders`; `/order` is where other requests give orders.
fn start(origin: &str, orders: &str, settings: &str) -> Nginx {
    Nginx::start(Conf::new().guest("trace").guest("edits").workers(1).http("http2 on;").server(&format!(
        "location / {{
             proxy_wasm_isolation none;
             proxy_wasm trace A; proxy_wasm edits '{orders}'; proxy_wasm trace B;
             {settings}
             proxy_http_version 1.1; proxy_pass_trailers on; proxy_pass http://{origin};
         }}
         location /order {{ proxy_wasm_isolation none; proxy_wasm edits; return 200; }}"
    )))
}

/// Number of the context that pauses in the callback `when`, once it does.
fn context(nginx: &Nginx, mark: usize, when: &str) -> String {
    nginx.wait_for_log_since(mark, &format!("edits: {when} size="));
    let line = nginx.wait_for_log_since(mark, "edits: context ");
    let rest = line.split("edits: context ").nth(1).expect("a context");
    rest.split(',').next().expect("its number").to_owned()
}

/// Lets another request give an order: `resume`, `close`, `change` or `answer`.
fn order(nginx: &Nginx, verb: &str, context: &str, kind: u32) {
    let request = Request::get("/order").header(&format!("x-{verb}"), &format!("{context} {kind}"));
    assert_eq!(nginx.send(request).status, 200);
}

/// Sends `request`, and gives an order when the callback `when` has paused.
fn exchange(
    nginx: &Nginx,
    protocol: Protocol,
    request: Request,
    (when, kind): (&str, u32),
    verb: &str,
) -> Result<Response, Broken> {
    let mark = nginx.mark();
    let result = thread::scope(|scope| {
        let held = scope.spawn(|| nginx.connect(protocol).try_send(request));
        let context = context(nginx, mark, when);
        // It may let the first parts of a body go.
        nginx.wait_for_log_since(mark, " Pause");
        order(nginx, verb, &context, kind);
        held.join().expect("the client")
    });
    nginx.wait_for_log_since(mark, "A trace: on_log");
    nginx.wait_for_log_since(mark, "B trace: on_log");
    result
}

#[test]
fn it_goes_on_at_the_next_filter() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for (when, kind) in PLACES {
        let nginx = start(&origin.address().to_string(), &format!("{when}.pause"), "");
        for protocol in PROTOCOLS {
            let mark = nginx.mark();
            let response = exchange(&nginx, protocol, Request::post("/", "body"), (when, kind), "resume");
            let response = response.expect("a response");
            assert_eq!(response.text(), "body", "{when} {protocol:?}");
            assert_eq!(response.headers("x-trace"), ["B", "A"], "{when} {protocol:?}");
            let log = nginx.log_since(mark);
            let calls = stream_calls(&log);
            for callback in
                ["on_request_headers", "on_request_body", "on_response_headers", "on_done", "on_log"]
            {
                let names: Vec<&str> = calls
                    .iter()
                    .filter(|call| call.callback == callback)
                    .map(|call| call.name.as_str())
                    .collect();
                assert_eq!(names.len(), 2, "{when} {protocol:?} {callback}: {log}");
            }
            // Between the filter that was called before the pause and the one called after it the order was given.
            let (first, second) = if kind == 0 { ("A trace", "B trace") } else { ("B trace", "A trace") };
            let callback = match when {
                "reqh" => "on_request_headers",
                "reqb" => "on_request_body",
                "resh" => "on_response_headers",
                _ => "on_response_body",
            };
            let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?} in {log}"));
            let ordered = place("edits: resume ");
            assert!(place(&format!("{first}: {callback}")) < ordered, "{when}: {log}");
            assert!(place(&format!("{second}: {callback}")) > ordered, "{when}: {log}");
        }
    }
}

#[test]
fn it_is_answered() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for (when, kind) in PLACES {
        for settings in ["", "proxy_request_buffering off;"] {
            let nginx = start(&origin.address().to_string(), &format!("{when}.pause"), settings);
            for protocol in PROTOCOLS {
                let request = Request::post("/", "body");
                let response =
                    exchange(&nginx, protocol, request, (when, kind), "answer").expect("a response");
                assert_eq!(
                    (response.status, response.text().as_str()),
                    (418, "answered"),
                    "{when} {protocol:?}"
                );
                assert_eq!(response.header("content-length"), Some("8"));
                assert_eq!(response.headers("x-local"), ["elsewhere"]);
                // Not through the filter that answers, nor again through one that has seen the other response.
                let seen: &[&str] = match when {
                    "resh" => &["A"],
                    "resb" => &[],
                    _ => &["B", "A"],
                };
                assert_eq!(response.headers("x-trace"), seen, "{when} {protocol:?}");
            }
            let log = nginx.stop();
            assert_eq!(log.matches("A trace: on_log").count(), PROTOCOLS.len(), "{when}: {log}");
        }
    }
}

#[test]
fn it_is_closed() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for (when, kind) in PLACES {
        for buffering in ["", "proxy_buffering off;"] {
            let nginx = start(&origin.address().to_string(), &format!("{when}.pause"), buffering);
            for protocol in PROTOCOLS {
                let result = exchange(&nginx, protocol, Request::post("/", "body"), (when, kind), "close");
                assert!(result.is_err(), "{when} {protocol:?}: {result:?}");
            }
            let log = nginx.stop();
            assert_eq!(log.matches("A trace: on_log").count(), PROTOCOLS.len(), "{when}: {log}");
        }
    }
}

/// Asks for a response with trailers, and gives an order when their callback has paused.
fn exchange_with_trailers(
    nginx: &Nginx,
    origin: &Listener,
    protocol: Protocol,
    verb: &str,
) -> Result<Response, Broken> {
    let mark = nginx.mark();
    thread::scope(|scope| {
        let held = scope.spawn(|| nginx.connect(protocol).try_send(Request::get("/")));
        origin.accept().write(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n",
        );
        order(nginx, verb, &context(nginx, mark, "rest"), 1);
        held.join().expect("the client")
    })
}

/// Trailers, and the end of the body with them.
#[test]
fn trailers_go_on() {
    let origin = Listener::start();
    let nginx = start(&origin.address().to_string(), "rest.pause", "");
    for verb in ["resume", "close"] {
        for protocol in PROTOCOLS {
            let result = exchange_with_trailers(&nginx, &origin, protocol, verb);
            if verb == "close" {
                assert!(result.is_err(), "{protocol:?}: {result:?}");
                continue;
            }
            let response = result.expect("a response");
            assert_eq!(response.text(), "hello");
            assert_eq!(response.trailers, [("x-sum".to_owned(), "42".to_owned())], "{protocol:?}");
        }
    }
}

/// A request that no filter holds, and whose origin says nothing: that is not waited for.
#[test]
fn a_request_on_its_way_is_answered() {
    let origin = Listener::start();
    for settings in ["", "proxy_request_buffering off;", "proxy_buffering off;"] {
        let nginx = start(&origin.address().to_string(), "", settings);
        for protocol in PROTOCOLS {
            let mark = nginx.mark();
            let mut connection = nginx.connect(protocol);
            let (response, server) = thread::scope(|scope| {
                let held = scope.spawn(|| connection.send(Request::post("/", "body")));
                let server = origin.accept();
                order(&nginx, "answer", &context(&nginx, mark, "reqh"), 0);
                (held.join().expect("the client"), server)
            });
            assert_eq!((response.status, response.text().as_str()), (418, "answered"), "{protocol:?}");
            assert_eq!(response.headers("x-trace"), ["B", "A"]);
            // The origin is asked no longer, and the client's connection serves others.
            drop(server.read_to_end());
            assert_eq!(connection.get("/order").status, 200, "{protocol:?}");
        }
        let log = nginx.stop();
        assert_eq!(log.matches("A trace: on_log").count(), PROTOCOLS.len(), "{log}");
    }
}

/// The same while its body is on its way, too.
#[test]
fn a_request_whose_body_comes_slowly_is_answered() {
    let origin = Listener::start();
    let nginx = start(&origin.address().to_string(), "", "proxy_request_buffering off;");
    for rest in ["bytes", ""] {
        let mark = nginx.mark();
        let mut client = nginx.raw();
        client.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfirst");
        let server = origin.accept_raw();
        order(&nginx, "answer", &context(&nginx, mark, "reqh"), 0);
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (418, "answered"));
        client.write(rest);
        drop(client);
        drop(server.read_to_end());
        nginx.wait_for_log_since(mark, "A trace: on_delete");
    }
}

/// Once headers have left it is too late for an answer. What is held ends all the same, and does not look complete.
#[test]
fn a_response_on_its_way_is_closed_by_an_answer() {
    let origin = Origin::start(|_| Reply::chunks(["held"]));
    let nginx = start(&origin.address().to_string(), "resb.pause", "");
    let mark = nginx.mark();
    let mut client = nginx.raw();
    client.write("GET / HTTP/1.0\r\n\r\n");
    let context = context(&nginx, mark, "resb");
    order(&nginx, "answer", &context, 0);
    nginx.wait_for_log_since(mark, "local response with status 418 dropped");
    nginx.wait_for_log_since(mark, "whose headers have left: it is closed");
    let got = client.read_to_end();
    assert!(!String::from_utf8_lossy(&got).contains("held"), "{got:?}");
    nginx.wait_for_log_since(mark, "A trace: on_delete");
}

/// nginx's own timers go on while a filter holds what they watch.
#[test]
fn timers_end_what_nobody_resumes() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let settings = "client_body_timeout 200ms; send_timeout 200ms;";
    for (when, status) in [("reqb", Some(408)), ("resh", None), ("resb", None)] {
        let nginx = start(&origin.address().to_string(), &format!("{when}.pause"), settings);
        for protocol in PROTOCOLS {
            let mark = nginx.mark();
            let result = nginx.connect(protocol).try_send(Request::post("/", "body"));
            match status {
                Some(_) if protocol == Protocol::Http1 => {
                    // nginx closes without a word, as it does when a client is slow.
                    assert!(result.is_err() || result.is_ok_and(|response| Some(response.status) == status));
                }
                _ => assert!(result.is_err() || result.is_ok_and(|response| Some(response.status) == status)),
            }
            nginx.wait_for_log_since(mark, "A trace: on_log");
        }
        let log = nginx.stop();
        assert_eq!(log.matches("A trace: on_log").count(), PROTOCOLS.len(), "{when}: {log}");
    }
}

/// An upstream that waits for a slow client meanwhile is ended with what it waits for.
#[test]
fn a_held_response_is_ended_while_its_upstream_waits() {
    let origin = Origin::start(|_| Reply::chunks(vec!["0123456789".repeat(2000); 100]));
    let settings = "send_timeout 200ms; limit_rate 1k; proxy_wasm_response_body_buffer 4k stream;
                    proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_max_temp_file_size 0;";
    for buffering in ["on", "off"] {
        let settings = format!("{settings} proxy_buffering {buffering};");
        let nginx = start(&origin.address().to_string(), "resb.pause", &settings);
        for protocol in PROTOCOLS {
            let mark = nginx.mark();
            assert!(nginx.connect(protocol).try_send(Request::get("/")).is_err(), "{protocol:?} {buffering}");
            nginx.wait_for_log_since(
                mark,
                "a filter has held the response for \"send_timeout\": it is closed",
            );
            nginx.wait_for_log_since(mark, "A trace: on_delete");
        }
    }
}

/// Headers wait until their filter has seen all of the body, and then go on before it.
#[test]
fn bodies_while_headers_are_held() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()).header("x-seen", "1"));
    let body = "0123456789".repeat(20_000);
    for orders in [
        "reqh.pause reqb.collect reqb.append=!",
        "resh.pause resb.collect resb.append=!",
        "reqh.pause reqb.collect resh.pause resb.collect resb.append=!",
    ] {
        let nginx = start(&origin.address().to_string(), orders, "proxy_wasm_body_while_paused on;");
        for protocol in PROTOCOLS {
            for request in
                [Request::post("/", body.clone()), Request::post_chunks("/", body.as_bytes().chunks(9999))]
            {
                let mark = nginx.mark();
                let response = nginx.connect(protocol).send(request);
                assert_eq!((response.status, response.header("x-seen")), (200, Some("1")), "{orders}");
                assert!(response.text() == format!("{body}!"), "{orders} {protocol:?}");
                nginx.wait_for_log_since(mark, "A trace: on_log");
                let log = nginx.log_since(mark);
                let place = |text: &str| log.rfind(text).unwrap_or_else(|| panic!("no {text:?} in {log}"));
                if orders.starts_with("reqh") {
                    assert!(place("B trace: on_request_headers") > place("edits: reqb size="), "{log}");
                } else {
                    assert!(place("A trace: on_response_headers") > place("edits: resb size="), "{log}");
                }
            }
        }
    }
}

/// A filter may read and change what it holds in callbacks that are not about the body: those of its calls, or, as here,
/// of another request.
#[test]
fn what_is_held_is_changed_from_elsewhere() {
    let origin = Origin::start(|seen| {
        let length = seen.header("content-length").unwrap_or_default();
        Reply::text(format!("got {length}: {}", String::from_utf8_lossy(&seen.body)))
    });
    for (place, expected) in [(("reqb", 0), "got 3: (8)"), (("resb", 1), "(15)")] {
        let nginx = start(&origin.address().to_string(), &format!("{}.pause", place.0), "");
        for protocol in PROTOCOLS {
            let result = exchange(&nginx, protocol, Request::post("/", "a body.."), place, "change");
            let response = result.expect("a response");
            assert_eq!((response.status, response.text().as_str()), (200, expected), "{protocol:?}");
        }
    }
}

/// The body that a filter holds while trailers come is still that.
#[test]
fn what_is_held_is_changed_while_trailers_wait() {
    let origin = Listener::start();
    let nginx = start(&origin.address().to_string(), "resb.pause rest.pause", "");
    for protocol in PROTOCOLS {
        let result = exchange_with_trailers(&nginx, &origin, protocol, "change");
        let response = result.expect("a response");
        assert_eq!(response.text(), "(5)");
        assert_eq!(response.trailers, [("x-sum".to_owned(), "42".to_owned())], "{protocol:?}");
    }
}

/// A body that is too large does not let go what is held before it.
#[test]
fn held_headers_do_not_leave_with_a_body_that_is_too_large() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for (orders, status) in [("reqh.pause reqb.collect", 413), ("resh.pause resb.collect", 502)] {
        for beyond in ["", "stream"] {
            let settings = format!(
                "proxy_wasm_body_while_paused on; proxy_wasm_request_body_buffer 20k {beyond};
                 proxy_wasm_response_body_buffer 20k {beyond};"
            );
            let nginx = start(&origin.address().to_string(), orders, &settings);
            for protocol in PROTOCOLS {
                let before = origin.count();
                let response = nginx.connect(protocol).send(Request::post("/", vec![b'x'; 200_000]));
                assert_eq!(response.status, status, "{orders} {beyond} {protocol:?}");
                assert!(!response.text().contains("xxx"));
                assert_eq!(origin.count() - before, usize::from(status == 502));
                let small = nginx.connect(protocol).send(Request::post("/", "small"));
                assert_eq!(small.text(), "small");
            }
        }
    }
}

/// The error takes the place of a response that a filter has held, and no filter that has seen that one holds it.
#[test]
fn an_error_in_place_of_a_response_that_is_too_large_gets_through() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = start(
        &origin.address().to_string(),
        "resb.pause",
        "proxy_wasm_request_body_buffer 1m; proxy_wasm_response_body_buffer 20k;",
    );
    for protocol in PROTOCOLS {
        let mark = nginx.mark();
        let response = nginx.connect(protocol).send(Request::post("/", vec![b'x'; 200_000]));
        assert_eq!(response.status, 502, "{protocol:?}");
        nginx.wait_for_log_since(mark, "A trace: on_delete");
        let log = nginx.log_since(mark);
        assert!(log.contains("A trace: on_response_headers"), "{log}");
        assert!(!log.contains("A trace: on_response_body"), "of the page: {log}");
    }
}

/// Without held headers the rest streams through where the operator says so, else the request fails.
#[test]
fn bodies_beyond_the_limit() {
    let origin = Origin::start(|seen| {
        if seen.target == "/chunks" {
            Reply::chunks(["x".repeat(200_000)])
        } else {
            Reply::text(seen.body.clone())
        }
    });
    let limits = |beyond: &str| {
        format!("proxy_wasm_request_body_buffer 20k {beyond}; proxy_wasm_response_body_buffer 20k {beyond};")
    };
    let body = "x".repeat(200_000);
    for orders in ["reqb.collect", "resb.collect"] {
        let nginx = start(&origin.address().to_string(), orders, &limits("stream"));
        for protocol in PROTOCOLS {
            let response = nginx.connect(protocol).send(Request::post("/", body.clone()));
            assert_eq!((response.status, response.text() == body), (200, true), "{orders} {protocol:?}");
        }
    }
    for (orders, status) in [("reqb.collect", 413), ("resb.collect", 502)] {
        let nginx = start(&origin.address().to_string(), orders, &limits(""));
        for protocol in PROTOCOLS {
            let response = nginx.connect(protocol).send(Request::post("/", body.clone()));
            assert_eq!(response.status, status, "{orders} {protocol:?}");
        }
        nginx.wait_for_log("_body_buffer\" allows");
    }
    // The headers have left.
    let nginx = start(&origin.address().to_string(), "resb.collect", &limits(""));
    for protocol in PROTOCOLS {
        assert!(Connection::open(nginx.address(), protocol).try_send(Request::get("/chunks")).is_err());
    }
}
