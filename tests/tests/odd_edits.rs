//! Edits that make no sense: whatever a filter leaves behind, what leaves nginx is well-formed and in step.

use weir_tests::{Conf, Nginx, Origin, Protocol, Raw, Reply, Request, conf::maps};

/// One location for each order, `/0`, `/1` …, each proxied with the guest's order.
fn proxied(origin: &Origin, orders: &[&str]) -> Nginx {
    let location = |(n, order): (usize, &&str)| {
        format!(
            "location = /{n} {{ {} proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_pass http://@ORIGIN@; }}",
            maps(order)
        )
    };
    let locations: String = orders.iter().enumerate().map(location).collect();
    Nginx::start(
        Conf::new()
            .guest("maps")
            .http("http2 on;")
            .set("ORIGIN", origin.address())
            .server(&format!("{locations} location / {{ proxy_pass http://@ORIGIN@; }}")),
    )
}

/// No guest has trapped, and nothing of nginx's own broke.
#[track_caller]
fn assert_no_failure(nginx: Nginx) {
    let log = nginx.stop();
    let failures: Vec<&str> =
        log.lines().filter(|line| line.contains("[error]") || line.contains("[crit]")).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What would break the request line, or put another one into it.
#[test]
fn request_lines_stay_request_lines() {
    let orders = [
        "request replace :path /a b",
        "request replace :path /x HTTP/1.1",
        "request replace :path no-slash",
        "request replace :path",
        "request replace :path *",
        "request replace :path /%zz",
        "request replace :path /a%00b",
        "request replace :path /../../etc/passwd",
        "request replace :path http://elsewhere.example/x",
        "request replace :path /a#b",
        "request replace :path /\u{1}\u{7f}",
        "request replace :path /ü",
        "request replace :method GE T",
        "request replace :method GET / HTTP/1.1",
        "request replace :method",
        "request replace :method g",
        "request replace :authority a b",
        "request replace :authority a/b",
        "request replace :authority",
        "request replace :authority [::1",
        "request replace :scheme ftp x",
    ];
    let origin = Origin::start(|_| Reply::text("ok"));
    let nginx = proxied(&origin, &orders);
    for (n, order) in orders.iter().enumerate() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let before = origin.count();
            let response = nginx.connect(protocol).get(&format!("/{n}"));
            // Either the request is refused, or it arrives as one request of the same client.
            let arrived = origin.seen().split_off(before);
            assert!(arrived.len() <= 1, "{order}: {arrived:?}");
            for seen in arrived {
                assert!(!seen.target.contains([' ', '\u{1}', '\u{7f}']), "{order}: {seen:?}");
                assert!(seen.method.bytes().all(|b| b.is_ascii_alphabetic()), "{order}: {seen:?}");
                assert!(seen.headers("host").len() == 1, "{order}: {seen:?}");
            }
            assert!([200, 400, 404].contains(&response.status), "{order}: {}", response.status);
        }
    }
    assert_no_failure(nginx);
}

/// Headers that say how long a message is belong to nginx: the origin gets the body that the client has sent.
#[test]
fn the_framing_of_requests_is_nginx_s() {
    let orders = [
        "request replace content-length 3",
        "request replace content-length 300",
        "request replace content-length abc",
        "request add content-length 3",
        "request remove content-length",
        "request add transfer-encoding chunked",
        "request replace transfer-encoding identity",
        "request add connection close\nrequest add keep-alive x\nrequest add te trailers",
        "request replace expect 100-continue",
        "request replace upgrade websocket\nrequest replace connection upgrade",
    ];
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = proxied(&origin, &orders);
    for (n, order) in orders.iter().enumerate() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut connection = nginx.connect(protocol);
            let path = format!("/{n}");
            for request in [
                Request::post(&path, "1234567890"),
                Request::post_chunks(&path, ["12345", "67890"]),
                Request::post("/other", "1234567890"),
            ] {
                // A filter's `Connection: close` ends the connection, as a client's does.
                if order.contains("connection close") {
                    connection = nginx.connect(protocol);
                }
                let response = connection.send(request);
                assert_eq!(
                    (response.status, response.text().as_str()),
                    (200, "1234567890"),
                    "{order}, {protocol:?}"
                );
                assert_eq!(origin.last().body, b"1234567890", "{order}");
            }
            if order.contains("connection close") {
                connection = nginx.connect(protocol);
            }
            let without = connection.get(&path);
            assert_eq!(
                (without.status, without.text().as_str()),
                (200, ""),
                "{order}, {protocol:?}, no body"
            );
        }
    }
    assert_no_failure(nginx);
}

/// A response whose length a filter has got wrong does not spoil the next one on the connection.
#[test]
fn responses_stay_in_step() {
    let orders = [
        "response replace content-length 3",
        "response replace content-length 300",
        "response replace content-length abc",
        "response add content-length 3",
        "response add transfer-encoding chunked",
        "response replace transfer-encoding identity",
        "response remove content-length\nresponse add content-length 300",
        "response replace :status 204",
        "response replace :status 304",
        "response replace :status 206",
        "response replace connection close",
        "response replace content-range bytes 0-1/2",
        "response replace content-encoding gzip",
        "response replace accept-ranges bytes",
    ];
    let origin = Origin::start(|seen| match seen.header("x-kind") {
        Some("chunks") => Reply::chunks(["12345", "67890"]),
        Some("none") => Reply::status(204),
        _ => Reply::text("1234567890"),
    });
    let nginx = proxied(&origin, &orders);
    for (n, order) in orders.iter().enumerate() {
        for kind in ["sized", "chunks", "none"] {
            for method in ["GET", "HEAD"] {
                let mut raw = Raw::open(nginx.address());
                raw.write(format!("{method} /{n} HTTP/1.1\r\nHost: x\r\nX-Kind: {kind}\r\n\r\n"));
                let what = format!("{order:?}, {method} {kind}");
                let response =
                    if method == "HEAD" { raw.head() } else { raw.try_response().unwrap_or_else(|cut| cut) };
                assert!(response.headers("content-length").len() <= 1, "{what}: {:?}", response.headers);
                if response.header("transfer-encoding").is_some() {
                    assert_eq!(response.headers("transfer-encoding"), ["chunked"], "{what}");
                    assert_eq!(response.header("content-length"), None, "{what}: {:?}", response.headers);
                }
                // The next response is right, or the connection is closed: never something in between.
                if raw.try_write("GET /other HTTP/1.1\r\nHost: x\r\n\r\n") && !raw.is_closed() {
                    let next = raw.response();
                    assert_eq!((next.status, next.text().as_str()), (200, "1234567890"), "after {what}");
                }
            }
        }
    }
    // Other requests of an HTTP/2 connection go on, whatever becomes of the one.
    for (n, order) in orders.iter().enumerate() {
        let mut connection = nginx.connect(Protocol::Http2);
        let _ = connection.try_send(Request::get(&format!("/{n}")));
        assert_eq!(connection.get("/other").text(), "1234567890", "after {order}");
    }
}

/// The method that the client has used decides whether it waits for a body.
#[test]
fn changed_methods_do_not_confuse_the_client() {
    let origin = Origin::start(|_| Reply::text("1234567890"));
    let nginx = proxied(
        &origin,
        &["request replace :method GET", "request replace :method HEAD", "request replace :method POST"],
    );
    for (n, method) in [(0, "GET"), (1, "HEAD"), (2, "POST")] {
        for client in ["GET", "HEAD"] {
            let mut raw = Raw::open(nginx.address());
            raw.write(format!("{client} /{n} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let what = format!("{client} made {method}");
            let response =
                if client == "HEAD" { raw.head() } else { raw.try_response().unwrap_or_else(|cut| cut) };
            assert_eq!(response.status, 200, "{what}");
            // A client that waits for a body shall have one, so GET does not become HEAD.
            let expected = if client == "GET" && method == "HEAD" { "GET" } else { method };
            assert_eq!(origin.last().method, expected, "{what}");
            if client == "GET" {
                assert_eq!(response.text(), "1234567890", "{what}");
            }
            if raw.try_write("GET /other HTTP/1.1\r\nHost: x\r\n\r\n") && !raw.is_closed() {
                assert_eq!(raw.response().text(), "1234567890", "after {what}");
            }
            let mut http2 = nginx.connect(Protocol::Http2);
            let _ = http2.try_send(Request::new(client, &format!("/{n}")));
            assert_eq!(http2.get("/other").text(), "1234567890", "after {what}, HTTP/2");
        }
    }
}

#[test]
fn large_and_empty_values() {
    let origin = Origin::start(|seen| {
        let large =
            (0..20).filter(|n| seen.header(&format!("x-large-{n}")).map(str::len) == Some(4000)).count();
        Reply::text(format!("{large} {:?}", seen.header("x-empty")))
    });
    // A parameter of nginx.conf has at most 4096 bytes, so a large value takes several filters.
    let large = "v".repeat(4000);
    let chain = |direction: &str| -> String {
        let add = |n: usize| maps(&format!("{direction} add x-large-{n} {large}"));
        (0..20).map(add).collect()
    };
    let empty = |direction: &str| maps(&format!("{direction} add x-empty\n{direction} get x-empty"));
    let location = |path: &str, direction: &str| {
        let filters = chain(direction) + &empty(direction);
        format!("location = {path} {{ {filters} proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }}")
    };
    let nginx = Nginx::start(
        Conf::new().guest("maps").http("http2 on;").set("ORIGIN", origin.address()).server(&format!(
            "{}{}",
            location("/up", "request"),
            location("/down", "response")
        )),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        assert_eq!(nginx.connect(protocol).get("/up").text(), "20 Some(\"\")", "{protocol:?}");
    }
    let mut raw = nginx.raw();
    raw.write("GET /down HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = raw.response();
    for n in 0..20 {
        assert_eq!(response.header(&format!("x-large-{n}")).map(str::len), Some(4000), "{n}");
    }
    assert_eq!(response.header("x-empty"), Some(""));
    nginx.wait_for_log("request get x-empty = \"\"");
    nginx.wait_for_log("response get x-empty = \"\"");
    assert_no_failure(nginx);
}

/// When everything has been sent there is nothing to edit: that is no failure, and changes nothing.
#[test]
fn edits_in_the_log_phase_come_too_late() {
    let origin = Origin::start(|_| Reply::text("ok"));
    let orders = "log add x-late 1\nlog replace :path /late\nlog remove user-agent\nlog-response add x-late 1\n\
                  log-response replace :status 500\nlog get :path\nlog-response get :status";
    let nginx = proxied(&origin, &[orders]);
    let mut connection = nginx.connect(Protocol::Http1);
    for _ in 0..3 {
        let response = connection.get("/0");
        assert_eq!((response.status, response.header("x-late")), (200, None));
    }
    nginx.wait_for_lines(0, "log get :path = \"/0\"", 3);
    nginx.wait_for_lines(0, "log-response get :status = \"200\"", 3);
    assert_no_failure(nginx);
}
