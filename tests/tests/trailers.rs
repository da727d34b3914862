//! Trailers of responses: an origin's, a filter's, and both, in chunks and in frames.

use weir_tests::{Conf, Nginx, conf::quote, raw::Listener};

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n";
const TRAILERS: &str = "X-Sum: 42\r\nX-Two: a\r\nX-Two: b\r\n\r\n";

/// nginx with one filter that follows `orders`, before an origin that `proxy` asks.
fn start(orders: &[&str], proxy: &str) -> Nginx {
    let filters: String =
        orders.iter().map(|orders| format!("proxy_wasm trailers {};\n", quote(orders))).collect();
    Nginx::start(Conf::new().guest("trailers").server(&format!(
        "location / {{ {filters} proxy_http_version 1.1; proxy_pass_trailers on; {proxy} }}"
    )))
}

/// What a client that speaks `version` gets after the head, where an origin answers `answer`.
fn body(orders: &[&str], answer: &str, version: &str) -> (String, String, Nginx) {
    let origin = Listener::start();
    let nginx = start(orders, &format!("proxy_pass http://{};", origin.address()));
    let mut client = nginx.raw();
    client.write(format!("GET / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"));
    origin.accept().write(answer);
    let text = String::from_utf8(client.read_to_end()).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned(), nginx)
}

#[test]
fn those_of_an_origin_are_read_and_changed() {
    let orders =
        "trailers dump\ntrailers add X-More yes\ntrailers replace X-Two c\ntrailers remove X-Sum\nlog dump";
    let (_, body, nginx) = body(&[orders], &format!("{CHUNKED}{TRAILERS}"), "1.1");
    assert_eq!(body, "b\r\nhello world\r\n0\r\nX-Two: c\r\nX-More: yes\r\n\r\n");
    nginx.wait_for_log(r#"trailers: trailers [["x-sum","42"],["x-two","a"],["x-two","b"]]"#);
    nginx.wait_for_log(r#"trailers: log [["x-two","c"],["x-more","yes"]]"#);
    // As in Envoy, trailers are what ends the stream.
    assert!(!nginx.log().lines().any(|line| line.contains("on_response_body") && line.contains("true")));
}

#[test]
fn without_a_body() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: none\r\n\r\n";
    let (_, body, nginx) = body(&["trailers add X-More yes"], answer, "1.1");
    assert_eq!(body, "0\r\nX-Sum: none\r\nX-More: yes\r\n\r\n");
    nginx.wait_for_log("on_response_trailers 1");
}

#[test]
fn a_filter_adds_the_first_ones() {
    for orders in ["headers add X-Own 1", "body add X-Own 1", "headers set X-Own=1"] {
        let (_, body, _) = body(&[orders], &format!("{CHUNKED}\r\n"), "1.1");
        assert!(body.ends_with("0\r\nX-Own: 1\r\n\r\n"), "{orders}: {body}");
    }
    // The length is dropped for them.
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let (head, body, _) = body(&["headers add X-Own 1"], answer, "1.1");
    assert!(!head.to_ascii_lowercase().contains("content-length"), "{head}");
    assert_eq!(body, "5\r\nhello\r\n0\r\nX-Own: 1\r\n\r\n");
}

#[test]
fn where_there_is_no_place_for_them() {
    let (head, rest, nginx) = body(&["trailers add X-More yes"], &format!("{CHUNKED}{TRAILERS}"), "1.0");
    assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
    assert_eq!(rest, "hello world");
    nginx.wait_for_log("no place for trailers");
    let orders = "headers add Transfer-Encoding chunked\nheaders add Content-Length 3\nheaders add X-Own 1";
    let (_, rest, nginx) = body(&[orders], &format!("{CHUNKED}\r\n"), "1.1");
    assert_eq!(rest, "b\r\nhello world\r\n0\r\nX-Own: 1\r\n\r\n");
    nginx.wait_for_log("it can be no trailer");
}

#[test]
fn held_bodies_go_with_them() {
    let (pauses, resumes) = ("every-body pause\ntrailers add X-Own 1", "every-body pause\ntrailers resume");
    let all = format!("{CHUNKED}{TRAILERS}");
    for orders in
        [&[pauses][..], &[resumes], &[resumes, pauses], &[pauses, resumes], &[resumes, resumes, pauses]]
    {
        let (_, body, _) = body(orders, &all, "1.1");
        assert!(body.starts_with("b\r\nhello world\r\n0\r\nX-Sum: 42\r\n"), "{orders:?}: {body}");
        assert_eq!(body.contains("X-Own: 1\r\n"), orders.contains(&pauses), "{orders:?}: {body}");
        assert!(body.ends_with("\r\n\r\n"), "{orders:?}: {body}");
    }
}
