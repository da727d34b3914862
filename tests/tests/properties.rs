//! Properties: which there are, and their bytes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, Response, http, wait};

/// A property that the guest has sent: its bytes, or that there is none.
fn property(response: &Response, index: usize) -> Option<Vec<u8>> {
    let hex = response.header(&format!("x-prop-{index}")).expect("the property was asked for");
    (hex != "NONE").then(|| bytes(hex))
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    http::latin1(bytes)
}

#[track_caller]
fn int(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// One location with the guest, asked for `paths`.
fn start(origin: &Origin, paths: &[&str], more: &str) -> Nginx {
    Nginx::start(
        Conf::new()
            .guest("properties")
            .http("http2 on;")
            .proxy(origin, &format!("proxy_wasm properties '{}'; {more}", paths.join(" "))),
    )
}

fn values(response: &Response, paths: &[&str]) -> Vec<Option<Vec<u8>>> {
    (0..paths.len()).map(|index| property(response, index)).collect()
}

#[test]
fn of_the_request() {
    let origin = Origin::start(|_| Reply::text("x"));
    let cases = [
        ("request.path", "/a%20b/c?d=e&f"),
        ("request.url_path", "/a b/c"),
        ("request.query", "d=e&f"),
        ("request.host", "example.com:81"),
        ("request.scheme", "http"),
        ("request.method", "PUT"),
        ("request.protocol", "HTTP/1.1"),
        ("request.useragent", "agent/1"),
        ("request.referer", "http://r/"),
        ("request.id", "id-1"),
        ("request.headers.x-a", "1"),
        ("request.headers.x-dotted.name", "2"),
        ("request.headers.host", "example.com:81"),
    ];
    let paths = cases.map(|(path, _)| path);
    let nginx = start(&origin, &paths, "");
    let mut raw = nginx.raw();
    raw.write(
        "PUT /a%20b/c?d=e&f HTTP/1.1\r\nHost: example.com:81\r\nUser-Agent: agent/1\r\nReferer: http://r/\r\n\
         X-Request-Id: id-1\r\nX-A: 1\r\nX-Dotted.Name: 2\r\nContent-Length: 4\r\n\r\nbody",
    );
    let response = raw.response();
    for ((path, expected), value) in cases.iter().zip(values(&response, &paths)) {
        // A header name with a dot is invalid to nginx by default.
        if !path.contains("dotted") {
            assert_eq!(value.map(|value| text(&value)).as_deref(), Some(*expected), "{path}");
        }
    }
}

#[test]
fn numbers_of_the_request() {
    let origin = Origin::start(|_| Reply::text("x"));
    let paths = [
        "request.time",
        "request.duration",
        "request.size",
        "request.total_size",
        "connection.id",
        "request.id",
    ];
    let nginx = start(&origin, &paths, "");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let before = i64::try_from(now()).expect("before 2262") - 1_000_000_000;
    let mut raw = nginx.raw();
    let request = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
    raw.write(request);
    let response = raw.response();
    let value = |index: usize| property(&response, index).unwrap_or_else(|| panic!("{}", paths[index]));
    let after = i64::try_from(now()).expect("before 2262");
    assert!((before..=after).contains(&int(&value(0))), "request.time {}", int(&value(0)));
    assert!((0..10_000_000_000).contains(&int(&value(1))), "request.duration {}", int(&value(1)));
    assert_eq!(int(&value(2)), 4, "request.size");
    assert_eq!(int(&value(3)), i64::try_from(request.len()).expect("short"), "request.total_size");
    assert!(int(&value(4)) > 0, "connection.id");
    // nginx's own: 32 hexadecimal digits.
    assert_eq!(value(5).len(), 32, "request.id without a header");
}

#[test]
fn of_the_response() {
    let origin = Origin::start(|_| Reply::status(202).body("12345").header("x-b", "1").header("x-b", "2"));
    let paths = ["response.code", "response.headers.x-b", "response.headers.x-none", "response.code_details"];
    let nginx = start(&origin, &paths, "");
    let response = nginx.get("/");
    assert_eq!(property(&response, 0).map(|value| int(&value)), Some(202));
    assert_eq!(property(&response, 1).as_deref(), Some(&b"1, 2"[..]));
    assert_eq!(property(&response, 2), None);
    assert_eq!(property(&response, 3).as_deref(), Some(&b"via_upstream"[..]));
    // Now there is none, and the response is nginx's own.
    drop(origin);
    let response = nginx.get("/").expect_status(502);
    assert_eq!(property(&response, 0).map(|value| int(&value)), Some(502));
    assert_eq!(property(&response, 3), None);
}

/// What is known only at the end is there in `on_log`.
#[test]
fn of_the_response_at_the_end() {
    let origin = Origin::start(|_| Reply::text("x".repeat(5000)));
    let paths = [
        "response.code",
        "response.size",
        "response.total_size",
        "request.duration",
        "response.backend_latency",
        "upstream.address",
        "upstream.port",
        "response.headers.content-length",
    ];
    let nginx = start(&origin, &paths, "");
    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.0\r\n\r\n");
    let received = raw.read_to_end().len();
    let value = |path: &str| {
        let line = nginx.wait_for_log(&format!("properties: {path}="));
        let hex = line.split(&format!("{path}=")).nth(1).and_then(|rest| rest.split([',', ' ']).next());
        bytes(hex.expect("a value"))
    };
    assert_eq!(int(&value("response.code")), 200);
    assert_eq!(int(&value("response.size")), 5000);
    assert_eq!(int(&value("response.total_size")), i64::try_from(received).expect("short"));
    assert!(int(&value("request.duration")) >= 0);
    assert!(int(&value("response.backend_latency")) >= 0);
    assert_eq!(text(&value("upstream.address")), origin.address().to_string());
    assert_eq!(int(&value("upstream.port")), i64::from(origin.address().port()));
    assert_eq!(value("response.headers.content-length"), b"5000");
}

#[test]
fn of_the_connection() {
    let origin = Origin::start(|_| Reply::text("x"));
    let paths = [
        "source.address",
        "source.port",
        "destination.address",
        "destination.port",
        "connection.mtls",
        "connection.tls_version",
        "connection.requested_server_name",
        "listener_direction",
    ];
    let nginx = start(&origin, &paths, "");
    let response = nginx.get("/");
    let value = |index: usize| property(&response, index).unwrap_or_else(|| panic!("{}", paths[index]));
    let (source, destination) = (text(&value(0)), text(&value(2)));
    assert_eq!(source, format!("127.0.0.1:{}", int(&value(1))));
    assert_eq!(destination, nginx.address().to_string());
    assert_eq!(int(&value(3)), i64::from(nginx.address().port()));
    assert_eq!(value(4), [0], "connection.mtls");
    assert_eq!((property(&response, 5), property(&response, 6)), (None, None), "no TLS");
    assert_eq!(int(&value(7)), 1, "inbound");
}

/// A module with several root contexts learns which one is meant before it makes it.
#[test]
fn the_root_id_of_a_directive() {
    let nginx = Nginx::start(Conf::new().guest("properties").server(
        "location / { proxy_wasm properties plugin_root_id root_id=one; return 200 x; }
         location /none { proxy_wasm properties plugin_root_id; return 200 x; }",
    ));
    let root_id = |target: &str| property(&nginx.get(target), 0).map(|value| text(&value));
    // An empty value has no bytes to point to, which the Rust SDK takes for none.
    assert_eq!([root_id("/"), root_id("/none")], [Some("one".to_owned()), None]);
}

/// nginx's own words are too short for it.
#[test]
fn a_configuration_in_a_file() {
    let long = |last: &str| format!("request.method{}{last}", " ".repeat(1 << 20));
    let conf = |last: &str| {
        Conf::new()
            .guest("properties")
            .file("long.txt", long(last))
            .server("location / { proxy_wasm properties '' root_id=one file=long.txt; return 200 x; }")
    };
    let mut nginx = Nginx::start(conf("request.path"));
    let last = |nginx: &Nginx| property(&nginx.get("/x"), 1).map(|value| text(&value));
    assert_eq!(last(&nginx).as_deref(), Some("/x"));
    nginx.reload(conf("plugin_root_id"));
    assert_eq!(last(&nginx).as_deref(), Some("one"));
}

#[test]
fn of_the_filter_and_of_nginx() {
    let origin = Origin::start(|_| Reply::text("x"));
    let cases = [
        ("plugin_name", Some("properties")),
        ("plugin_vm_id", Some("properties")),
        ("route_name", Some("/")),
        ("ngx.uri", Some("/x")),
        ("ngx.args", Some("a=1")),
        ("ngx.arg_a", Some("1")),
        ("ngx.server_protocol", Some("HTTP/1.1")),
        ("ngx.mine", Some("set by nginx")),
        ("ngx.upstream_status", Some("200")),
        ("ngx.no_such_variable", None),
        ("ngx.http_x_none", None),
        ("no.such.path", None),
        ("request.nonsense", None),
        ("request", None),
    ];
    let paths = cases.map(|(path, _)| path);
    let nginx = start(&origin, &paths, "set $mine 'set by nginx';");
    let response = nginx.get("/x?a=1");
    for ((path, expected), value) in cases.iter().zip(values(&response, &paths)) {
        assert_eq!(value.map(|value| text(&value)).as_deref(), *expected, "{path}");
    }
}

#[test]
fn over_http2() {
    let origin = Origin::start(|_| Reply::text("x"));
    let cases = [
        ("request.protocol", "HTTP/2.0"),
        ("request.method", "POST"),
        ("request.path", "/p?q"),
        ("request.host", "h.example"),
        ("request.headers.x-a", "1"),
    ];
    let paths = cases.map(|(path, _)| path);
    let nginx = start(&origin, &paths, "");
    let request = Request::post("/p?q", "body").header("host", "h.example").header("x-a", "1");
    let response = nginx.connect(Protocol::Http2).send(request);
    for ((path, expected), value) in cases.iter().zip(values(&response, &paths)) {
        assert_eq!(value.map(|value| text(&value)).as_deref(), Some(*expected), "{path}");
    }
}

#[test]
fn of_a_response_without_an_origin() {
    let nginx = Nginx::start(Conf::new().guest("properties").server(
        "location / { proxy_wasm properties 'response.code upstream.address upstream.port response.backend_latency \
         cluster_name'; return 404 x; }",
    ));
    let response = nginx.get("/");
    assert_eq!(property(&response, 0).map(|value| int(&value)), Some(404));
    for index in 1..5 {
        assert_eq!(property(&response, index), None, "{index}");
    }
}

#[test]
fn of_a_named_upstream() {
    let origin = Origin::start(|_| Reply::text("x"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("properties")
            .set("ORIGIN", origin.address())
            .http("upstream backend { server @ORIGIN@; }")
            .server("location / { proxy_wasm properties 'cluster_name upstream.address'; proxy_pass http://backend; }"),
    );
    let response = nginx.get("/");
    assert_eq!(property(&response, 0).as_deref(), Some(&b"backend"[..]));
    assert_eq!(property(&response, 1), Some(origin.address().to_string().into_bytes()));
}

/// The address is that of the client, as nginx's realip module has found it.
#[test]
fn the_source_follows_realip() {
    let nginx = Nginx::start(Conf::new().guest("properties").server(
        "set_real_ip_from 127.0.0.1; real_ip_header x-real-ip;
         location / { proxy_wasm properties 'source.address'; return 200 x; }",
    ));
    let response = nginx.send(Request::get("/").header("x-real-ip", "192.0.2.7"));
    let source = property(&response, 0).map(|value| text(&value)).expect("an address");
    assert!(source.starts_with("192.0.2.7"), "{source}");
}

/// Asking for everything at every phase of every kind of request neither fails nor crashes.
#[test]
fn all_of_them_in_odd_requests() {
    let origin = Origin::start(|_| Reply::text("x"));
    let all = std::fs::read_to_string(weir_tests::paths::repository("core/src/abi/properties.rs"))
        .expect("the table");
    let paths: Vec<&str> = all
        .split('"')
        .filter(|word| word.contains('.') || word.contains('_'))
        .filter(|word| {
            word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._".contains(&b))
        })
        .collect();
    assert!(paths.len() > 40, "{paths:?}");
    let nginx =
        start(&origin, &paths, "proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k;");
    let exchange = |bytes: &str| {
        let mut raw = nginx.raw();
        raw.write(bytes);
        raw.read_to_end()
    };
    assert!(exchange("GET / HTTP/1.0\r\n\r\n").starts_with(b"HTTP/1.1 200"));
    assert!(!exchange("GET /\r\n").is_empty(), "HTTP/0.9");
    assert!(exchange("OPTIONS * HTTP/1.0\r\n\r\n").starts_with(b"HTTP/1.1 "));
    assert!(
        exchange("GET http://h.example/abs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .starts_with(b"HTTP/1.1 200")
    );
    assert_eq!(nginx.connect(Protocol::Http2).get("/").status, 200);
    wait::poll(|| (nginx.log().matches("properties: response.code=").count() >= 4).then_some(()))
        .expect("logged");
}

/// nginx limits the rate of no response that it passes on as it comes: a limit that a filter sets then would hold it for
/// ever.
#[test]
fn no_rate_is_set_for_an_unbuffered_response() {
    let module = weir_tests::wasm::assemble(
        r#"(module
            (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "ngx\00limit_rate") (data (i32.const 96) "4000")
            (func (export "malloc") (param i32) (result i32) (i32.const 8))
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
                (drop (call $set (i32.const 64) (i32.const 14) (i32.const 96) (i32.const 4)))
                (i32.const 0)))"#,
    );
    let body = "0123456789".repeat(700);
    let sent = body.clone();
    let origin = Origin::start(move |_| Reply::text(sent.clone()));
    let nginx = Nginx::start(Conf::new().file("rate.wasm", module).wasm("module rate rate.wasm;").proxy(
        &origin,
        &format!(
            "proxy_wasm rate; location /unbuffered {{ proxy_buffering off; proxy_pass http://{}; }}",
            origin.address()
        ),
    ));
    assert!(nginx.get("/unbuffered").text() == body);
    nginx.wait_for_log("nginx cannot limit the rate of a response that it passes on as it comes");
    let began = Instant::now();
    assert!(nginx.get("/").text() == body);
    assert!(
        began.elapsed() >= Duration::from_millis(700),
        "7000 bytes at 4000 a second: {:?}",
        began.elapsed()
    );
}
