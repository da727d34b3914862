//! gRPC calls to a server that is tonic's.

use std::thread;

use serde_json::{Value, json};
use weir_tests::{Conf, Nginx, Origin, Reply, Request, authority::Authority, grpc::Service, wait};

fn conf() -> Conf {
    Conf::new().guest("grpc").workers(1).server("location / { proxy_wasm grpc; return 200; }")
}

/// What has come of a call to `method` of the service at `upstream`; `order` has the rest.
fn call(nginx: &Nginx, upstream: &str, method: &str, mut order: Value) -> Value {
    order["upstream"] = json!(upstream);
    order["service"] = json!("weir.test.Talk");
    order["method"] = json!(method);
    let response = nginx.send(Request::get("/").header("x-grpc", &order.to_string()));
    serde_json::from_str(&response.text())
        .unwrap_or_else(|error| panic!("{error}: {response:?}\n{}", nginx.log()))
}

fn value<'o>(fields: &'o Value, name: &str) -> Option<&'o str> {
    fields.as_array()?.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}

#[test]
fn unary_calls_are_answered() {
    let service = Service::start();
    let nginx = Nginx::start(conf());
    let upstream = service.address().to_string();
    for _ in 0..3 {
        let said = call(&nginx, &upstream, "Say", json!({"message": "hello", "metadata": [["x-in", "1"]]}));
        assert_eq!(
            (&said["status"], &said["messages"]),
            (&json!(0), &json!(["hello"])),
            "{said} {}",
            nginx.log()
        );
    }
    assert_eq!(service.connections(), 1, "calls share a connection");
    let seen = service.last();
    assert_eq!(seen.get("x-in").map(String::as_str), Some("1"));
    assert_eq!(seen.get("te").map(String::as_str), Some("trailers"));
    let large = call(&nginx, &upstream, "Say", json!({"message": "0123456789", "repeat": 80_000}));
    assert_eq!(
        (&large["status"], &large["sizes"]),
        (&json!(0), &json!([800_004])),
        "beyond every window: {large}"
    );
}

#[test]
fn a_status_that_is_not_good_comes_with_its_message() {
    let service = Service::start();
    let nginx = Nginx::start(conf());
    let said = call(&nginx, &service.address().to_string(), "Fail", json!({"message": "7 no % at all"}));
    assert_eq!((&said["status"], &said["detail"]), (&json!(7), &json!("no % at all")), "{said}");
    let unknown = call(&nginx, &service.address().to_string(), "Nothing", json!({"message": ""}));
    assert_eq!(unknown["status"], json!(12), "{unknown}");
}

#[test]
fn streams_go_one_way_the_other_and_both() {
    let service = Service::start();
    let nginx = Nginx::start(conf());
    let upstream = service.address().to_string();
    let many = call(&nginx, &upstream, "Repeat", json!({"messages": ["5"], "close": true}));
    assert_eq!(
        (&many["status"], &many["messages"]),
        (&json!(0), &json!(["1", "2", "3", "4", "5"])),
        "{many}"
    );
    assert_eq!(value(&many["initial"], "content-type"), Some("application/grpc"));
    assert_eq!(value(&many["trailing"], "x-end"), Some("yes"), "{many}");
    let joined = call(&nginx, &upstream, "Join", json!({"messages": ["a", "b", "c"], "close": true}));
    assert_eq!((&joined["status"], &joined["messages"]), (&json!(0), &json!(["abc"])), "{joined}");
    let chat = json!({"messages": ["one"], "replies": ["two", "three"], "close": true});
    let chat = call(&nginx, &upstream, "Echo", chat);
    assert_eq!((&chat["status"], &chat["messages"]), (&json!(0), &json!(["one", "two", "three"])), "{chat}");
    let flood = call(&nginx, &upstream, "Repeat", json!({"messages": ["3000"], "close": true}));
    assert_eq!(flood["messages"].as_array().map(Vec::len), Some(3000));
}

#[test]
fn calls_that_are_not_wanted_are_reset() {
    let service = Service::start();
    let nginx = Nginx::start(conf());
    let upstream = service.address().to_string();
    let cancelled = call(&nginx, &upstream, "Echo", json!({"messages": ["one"], "cancel": 1}));
    assert_eq!(
        (&cancelled["status"], &cancelled["messages"]),
        (&json!(null), &json!(["one"])),
        "{cancelled}"
    );
    wait::poll(|| (service.live() == 0).then_some(())).expect("the server is told");
    // A client that leaves resets its calls as well.
    let order = json!({"upstream": upstream, "service": "weir.test.Talk", "method": "Wait"});
    let mut client = nginx.raw();
    client.write(format!("GET / HTTP/1.1\r\nHost: a\r\nx-grpc: {order}\r\n\r\n"));
    wait::poll(|| (service.live() == 1).then_some(())).expect("a call");
    drop(client);
    wait::poll(|| (service.live() == 0).then_some(())).expect("the server is told");
    let said = call(&nginx, &upstream, "Say", json!({"message": "still"}));
    assert_eq!((said["status"].clone(), service.connections()), (json!(0), 1), "the connection goes on");
}

#[test]
fn time_has_a_bound_that_the_server_is_told() {
    let service = Service::start();
    let nginx = Nginx::start(conf());
    let late = call(&nginx, &service.address().to_string(), "Wait", json!({"message": "", "timeout": 200}));
    assert_eq!((&late["status"], &late["error"]), (&json!(4), &json!("timeout")), "{late}");
    assert_eq!(service.last().get("grpc-timeout").map(String::as_str), Some("200m"));
    wait::poll(|| (service.live() == 0).then_some(())).expect("the server is told");
}

#[test]
fn an_upstream_block_is_called_in_clear_text_and_encrypted() {
    let (service, authority) = (Service::start(), Authority::new());
    let issued = authority.issue(&["service.test", "up"]);
    let conf = conf()
        .wasm("call_ssl_trusted_certificate ca.pem;")
        .file("ca.pem", authority.pem())
        .file("server.pem", issued.certificate)
        .file("server.key", issued.key)
        .set("SERVICE", service.address())
        .http(
            "upstream talk { server 127.0.0.1:1; server @SERVICE@; keepalive 2; }
             upstream up { server unix:@PREFIX@/tls.sock; }
             upstream http1 { server unix:@PREFIX@/http1.sock; }",
        )
        .server(
            "listen unix:@PREFIX@/tls.sock ssl; http2 on; ssl_certificate server.pem; ssl_certificate_key server.key;
             location / { grpc_pass grpc://@SERVICE@; }",
        )
        .server(
            "listen unix:@PREFIX@/http1.sock ssl; http2 off; ssl_certificate server.pem;
             ssl_certificate_key server.key;",
        );
    let nginx = Nginx::start(conf);
    for upstream in ["talk", "grpc://talk", "grpcs://up"] {
        let said = call(&nginx, upstream, "Say", json!({"message": "hello"}));
        assert_eq!(said["status"], json!(0), "{upstream}: {said} {}", nginx.log());
        let chat =
            call(&nginx, upstream, "Echo", json!({"messages": ["a"], "replies": ["b"], "close": true}));
        assert_eq!(chat["messages"], json!(["a", "b"]), "{upstream}: {chat} {}", nginx.log());
    }
    let wrong = call(&nginx, "grpcs://http1", "Say", json!({"message": "hello"}));
    assert_eq!((&wrong["status"], &wrong["error"]), (&json!(14), &json!("tls")), "{wrong}");
}

#[test]
fn what_is_no_grpc_has_a_status_all_the_same() {
    let nginx = Nginx::start(conf());
    let cases = [(503, 14), (404, 12), (401, 16), (403, 7), (400, 13), (429, 14), (500, 2), (200, 2)];
    for (http, status) in cases {
        let origin = Origin::start_http2(move |_| Reply::status(http).body("<html>"));
        let said = call(&nginx, &origin.address().to_string(), "Say", json!({"message": ""}));
        assert_eq!(said["status"], json!(status), "{http}: {said}");
    }
    // A compressed message; one that is cut; one that is longer than allowed.
    let cases: [(&[u8], u32, &str); 3] = [
        (b"\x01\0\0\0\x01a", 13, "protocol"),
        (b"\0\0\0\0\x09a", 13, "protocol"),
        (b"\0\x7f\0\0\0a", 8, "too_large"),
    ];
    for (bytes, status, word) in cases {
        let body = bytes.to_vec();
        let origin = Origin::start_http2(move |_| {
            Reply::text(body.clone()).header("content-type", "application/grpc").trailer("grpc-status", "0")
        });
        let said = call(&nginx, &origin.address().to_string(), "Say", json!({"message": ""}));
        assert_eq!((&said["status"], &said["error"]), (&json!(status), &json!(word)), "{bytes:?}: {said}");
    }
    let nobody = call(&nginx, "127.0.0.1:1", "Say", json!({"message": ""}));
    assert_eq!((&nobody["status"], &nobody["error"]), (&json!(14), &json!("connect")), "{nobody}");
}

#[test]
fn many_streams_share_a_connection() {
    let service = Service::start();
    let nginx = Nginx::start(conf());
    let upstream = service.address().to_string();
    call(&nginx, &upstream, "Say", json!({"message": "first"}));
    thread::scope(|scope| {
        for client in 0..8 {
            let (nginx, upstream) = (&nginx, &upstream);
            scope.spawn(move || {
                for round in 0..20 {
                    let text = format!("{client}/{round}");
                    let said = call(nginx, upstream, "Say", json!({"message": text}));
                    assert_eq!(said["messages"], json!([text]), "{said}");
                }
            });
        }
    });
    assert_eq!(service.connections(), 1);
}

#[test]
fn a_connection_takes_so_many_streams_and_is_followed_by_another() {
    let service = Service::start();
    let nginx = Nginx::start(conf().wasm("call_keepalive 4 requests=5;"));
    let upstream = service.address().to_string();
    for round in 0..12 {
        let said = call(&nginx, &upstream, "Say", json!({"message": "a"}));
        assert_eq!(said["status"], json!(0), "{round}: {said}");
    }
    assert_eq!(service.connections(), 3);
}

/// What still comes for calls that have been cancelled is held against a connection: another one follows before it breaks.
#[test]
fn no_call_fails_because_many_others_were_cancelled() {
    let service = Service::start();
    let nginx = Nginx::start(conf().wasm("call_keepalive 4 requests=100000;").log_level("warn"));
    let upstream = service.address().to_string();
    call(&nginx, &upstream, "Say", json!({"message": "first"}));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let cancelled = call(
                        &nginx,
                        &upstream,
                        "Repeat",
                        json!({"messages": ["40"], "close": true, "cancel": 1}),
                    );
                    assert_eq!(cancelled["error"], json!(null), "{cancelled}");
                }
            });
        }
    });
    let said = call(&nginx, &upstream, "Say", json!({"message": "still"}));
    assert_eq!(said["status"], json!(0), "{said}");
    let connections = service.connections();
    // One for each 100 calls; those that find none at the same moment make one each.
    assert!((20..200).contains(&connections), "{connections} connections");
    assert!(!nginx.log().contains("has failed"), "{}", nginx.log());
}
