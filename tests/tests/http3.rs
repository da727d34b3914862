//! HTTP/3: what filters see and do is what they see and do over the older protocols.

use weir_tests::{
    Conf, Connection, Nginx, Origin, Protocol, Reply, Request, Response, conf::quote, digest, raw::Listener,
    tls::Certificate,
};

const NAME: &str = "weir.example";

/// A running nginx that speaks HTTP/3, and its certificate.
struct Server {
    nginx: Nginx,
    certificate: Certificate,
}

impl Server {
    fn start(conf: Conf, text: &str) -> Self {
        let certificate = Certificate::new(NAME);
        let nginx = Nginx::start(conf.quic_server(&certificate, text));
        Self { nginx, certificate }
    }

    fn connect(&self) -> Connection {
        Connection::open_quic(self.nginx.address(), &self.certificate)
    }

    fn send(&self, request: Request) -> Response {
        self.connect().send(request)
    }
}

fn conf(origin: &Origin) -> Conf {
    Conf::new().set("ORIGIN", origin.address()).http("client_max_body_size 20m;")
}

#[test]
fn headers_in_both_directions() {
    let origin = Origin::start(|seen| Reply::text(format!("{} {}", seen.method, seen.target)));
    let server = Server::start(
        conf(&origin).guest("add_headers").guest("properties"),
        "location / {
             proxy_wasm add_headers;
             proxy_wasm properties 'request.protocol request.scheme connection.tls_version
                 connection.requested_server_name request.host';
             proxy_pass http://@ORIGIN@;
         }",
    );
    let mut connection = server.connect();
    for request in [Request::get("/a?b"), Request::head("/a?b"), Request::post("/a?b", "x")] {
        let is_head = format!("{request:?}").contains("HEAD");
        let response = connection.send(request);
        assert_eq!((response.status, response.headers("x-weir")), (200, vec!["response"]));
        let seen = origin.last();
        assert_eq!((seen.target.as_str(), seen.headers("x-weir")), ("/a?b", vec!["request"]));
        let body = if is_head { String::new() } else { format!("{} /a?b", seen.method) };
        assert_eq!(response.text(), body);
        let host = format!("{NAME}:{}", server.nginx.address().port());
        for (index, value) in ["HTTP/3.0", "https", "TLSv1.3", NAME, &host].iter().enumerate() {
            let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(response.header(&format!("x-prop-{index}")), Some(hex.as_str()), "{value}");
        }
    }
    let many = connection.send_all((0..50).map(|n| Request::get(&format!("/{n}"))));
    for (n, response) in many.iter().enumerate() {
        assert_eq!((response.text(), response.headers("x-weir")), (format!("GET /{n}"), vec!["response"]));
    }
}

#[test]
fn bodies_in_both_directions() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for setting in ["", "proxy_request_buffering off; proxy_http_version 1.1;", "proxy_buffering off;"] {
        let server = Server::start(
            conf(&origin).guest("body_reader"),
            &format!("location / {{ proxy_wasm body_reader; {setting} proxy_pass http://@ORIGIN@; }}"),
        );
        let mut connection = server.connect();
        for size in [1, 4096, 100_001, 2 << 20] {
            let body = digest::bytes(size, 3);
            for request in
                [Request::post("/", body.clone()), Request::post_chunks("/", body.chunks(size.div_ceil(3)))]
            {
                let mark = server.nginx.mark();
                let response = connection.send(request);
                assert!(response.body == body, "{setting} {size}: {} bytes came", response.body.len());
                for direction in ["request", "response"] {
                    let text = format!("body_reader: {direction} total={size} ");
                    let line = server.nginx.wait_for_log_since(mark, &text);
                    assert!(line.contains(&digest::fnv(&body)), "{line}");
                }
            }
        }
    }
}

#[test]
fn files() {
    let body = digest::bytes(1 << 20, 4);
    let server = Server::start(
        Conf::new().guest("body_reader").file("html/file", body.clone()).http("sendfile on;"),
        "root html; location / { proxy_wasm body_reader; }",
    );
    assert!(server.send(Request::get("/file")).body == body);
    let range = server.send(Request::get("/file").header("range", "bytes=100-199"));
    assert_eq!((range.status, range.body.as_slice()), (206, &body[100..200]));
    server.nginx.wait_for_log("body_reader: response total=100 ");
}

/// Held until they are whole, then made longer and shorter.
#[test]
fn changed_bodies() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let orders =
        "reqb.collect reqb.prepend=<up: reqb.append=:up> resb.collect resb.prepend=<down: resb.append=:down>";
    let cut = "reqb.collect reqb.cut resb.collect resb.cut";
    let server = Server::start(
        conf(&origin).guest("edits"),
        &format!(
            "location / {{ proxy_wasm edits {}; proxy_pass http://@ORIGIN@; }}
             location /cut {{ proxy_wasm edits {}; proxy_pass http://@ORIGIN@; }}
             location /stream {{ proxy_wasm edits 'reqb.prepend=+ resh.nolength resb.prepend=-';
                 proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }}",
            quote(orders),
            quote(cut)
        ),
    );
    let mut connection = server.connect();
    let body = "0123456789".repeat(2000);
    for request in [
        |target: &str, body: &str| Request::post(target, body),
        |target: &str, body: &str| Request::post_chunks(target, body.as_bytes().chunks(7000)),
    ] {
        let response = connection.send(request("/", &body));
        assert_eq!(origin.last().body, format!("<up:{body}:up>").into_bytes());
        assert_eq!(response.text(), format!("<down:<up:{body}:up>:down>"));
        assert_eq!(response.header("content-length"), Some(format!("{}", response.body.len()).as_str()));

        let response = connection.send(request("/cut", &body));
        assert_eq!((origin.last().body.as_slice(), response.text().as_str()), (&b"09"[..], "09"));

        let response = connection.send(request("/stream", &body));
        let sent = String::from_utf8(origin.last().body).expect("text");
        assert_eq!(sent.replace('+', ""), body);
        assert!(sent.starts_with('+') && response.text().starts_with('-'));
        assert_eq!(response.text().replace('-', ""), sent);
    }
}

#[test]
fn trailers() {
    let origin = Listener::start();
    let server = Server::start(
        Conf::new().guest("trailers").set("ORIGIN", origin.address()),
        &format!(
            "location / {{ proxy_wasm trailers {}; proxy_http_version 1.1; proxy_pass_trailers on;
                 proxy_pass http://@ORIGIN@; }}",
            quote("headers add X-Own 1\ntrailers dump\ntrailers replace X-Sum 43"),
        ),
    );
    std::thread::scope(|scope| {
        let response = scope.spawn(|| server.send(Request::get("/")));
        origin.accept().write(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n",
        );
        let response = response.join().expect("a response");
        assert_eq!(response.text(), "hello");
        let mut trailers = response.trailers;
        trailers.sort();
        assert_eq!(trailers, [("x-own", "1"), ("x-sum", "43")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    });
    server.nginx.wait_for_log(r#"trailers: trailers [["x-own","1"],["x-sum","42"]]"#);
}

#[test]
fn local_responses() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let places: String = ["reqh", "reqb", "resh", "resb"]
        .iter()
        .map(|when| {
            format!(
                "location /{when} {{ proxy_wasm edits '{when}.local=no'; proxy_pass http://@ORIGIN@; }}\n"
            )
        })
        .collect();
    let server = Server::start(conf(&origin).guest("edits"), &places);
    let mut connection = server.connect();
    for when in ["reqh", "reqb", "resh", "resb"] {
        for size in [4, 500_000] {
            let response = connection.send(Request::post(&format!("/{when}"), vec![b'x'; size]));
            assert_eq!((response.status, response.header("x-local")), (418, Some(when)));
            assert_eq!((response.text().as_str(), response.header("content-length")), ("no", Some("2")));
        }
    }
    let head = connection.send(Request::head("/resh"));
    assert_eq!((head.status, head.text().as_str(), head.header("content-length")), (418, "", Some("2")));
}

/// What a filter holds goes on when another request of the worker says so, and ends with its stream.
#[test]
fn pauses() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for (when, kind) in [("reqh", 0), ("reqb", 0), ("resh", 1), ("resb", 1)] {
        let server = Server::start(
            conf(&origin).guest("edits").workers(1),
            &format!(
                "location / {{ proxy_wasm_isolation none; proxy_wasm edits '{when}.pause';
                     proxy_pass http://@ORIGIN@; }}"
            ),
        );
        let nginx = &server.nginx;
        let context = |mark: usize| -> String {
            nginx.wait_for_log_since(mark, &format!("edits: {when} size="));
            let line = nginx.wait_for_log_since(mark, "edits: context ");
            let rest = line.split("edits: context ").nth(1).expect("a context");
            rest.split(',').next().expect("its number").to_owned()
        };
        let mark = nginx.mark();
        std::thread::scope(|scope| {
            let held = scope.spawn(|| server.send(Request::post("/", "body")));
            let context = context(mark);
            let mut other = server.connect();
            other.send_and_forget(Request::get("/").header("x-resume", &format!("{context} {kind}")));
            assert_eq!(held.join().expect("a response").text(), "body", "{when}");
        });
        // And one that nobody resumes.
        let mark = nginx.mark();
        let mut connection = server.connect();
        connection.send_and_forget(Request::post("/", "body"));
        nginx.wait_for_log_since(mark, &format!("edits: {when} size="));
        drop(connection);
    }
}

/// A filter that closes a stream resets it; others of the connection go on.
#[test]
fn closed_streams() {
    let close = weir_tests::wasm::assemble(
        "(module
            (import \"env\" \"proxy_close_stream\" (func $close (param i32) (result i32)))
            (memory (export \"memory\") 1)
            (func (export \"malloc\") (param i32) (result i32) (i32.const 8))
            (func (export \"proxy_abi_version_0_2_1\"))
            (func (export \"proxy_on_context_create\") (param i32 i32))
            (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
                (drop (call $close (i32.const 0))) (i32.const 1)))",
    );
    let server = Server::start(
        Conf::new().file("close.wasm", close).wasm("module close close.wasm;"),
        "location / { return 200 ok; } location /close { proxy_wasm close; return 200 no; }",
    );
    let mut connection = server.connect();
    assert!(connection.try_send(Request::get("/close")).is_err());
    assert_eq!(connection.get("/").text(), "ok");
    let other = Connection::open(server.nginx.address(), Protocol::Http1);
    drop(other);
}
