//! FastCGI, SCGI, uwsgi and gRPC upstreams: what filters change of requests and responses arrives there and at clients.

use weir_tests::{
    Conf, Nginx, Origin, Protocol, Reply, Request, Response,
    conf::quote,
    gateway::{Asked, Dialect, Gateway},
};

const DIALECTS: [Dialect; 3] = [Dialect::FastCgi, Dialect::Scgi, Dialect::Uwsgi];

fn start(dialect: Dialect, gateway: &Gateway, filters: &str) -> Nginx {
    let name = dialect.name();
    // What nginx's own files of parameters have of these.
    let parameters: String = [
        ("REQUEST_METHOD", "$request_method"),
        ("CONTENT_LENGTH", "$content_length"),
        ("CONTENT_TYPE", "$content_type"),
        ("REQUEST_URI", "$request_uri"),
        ("QUERY_STRING", "$query_string"),
        ("HTTP_HOST", "$http_host"),
    ]
    .iter()
    .map(|(parameter, value)| format!("{name}_param {parameter} {value};\n"))
    .collect();
    Nginx::start(
        Conf::new()
            .guest("edits")
            .guest("maps")
            .guest("trace")
            .http("http2 on;")
            .server(&format!("location / {{ {filters} {parameters} {name}_pass {}; }}", gateway.address())),
    )
}

fn answer(asked: &Asked) -> Vec<u8> {
    let head = format!(
        "Status: 201 Created\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Origin: yes\r\n\r\n",
        asked.body.len()
    );
    [head.as_bytes(), &asked.body].concat()
}

#[test]
fn headers_are_changed_in_both_directions() {
    for dialect in DIALECTS {
        let gateway = Gateway::start(dialect, answer);
        let orders = "request add x-up up\nrequest replace :path /new?query\nrequest replace :method PUT\n\
                      request replace :authority new.example\nrequest replace content-type text/new\n\
                      request remove x-gone\nresponse get x-origin\nresponse replace x-origin no\n\
                      response replace :status 202";
        let nginx = start(dialect, &gateway, &format!("proxy_wasm maps {};", quote(orders)));
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let request =
                Request::post("/old", "body").header("x-gone", "1").header("content-type", "text/old");
            let response = nginx.connect(protocol).send(request);
            assert_eq!((response.status, response.text().as_str()), (202, "body"), "{dialect:?}");
            assert_eq!(response.headers("x-origin"), ["no"]);
            let asked = gateway.next();
            for (name, value) in [
                ("HTTP_X_UP", "up"),
                ("HTTP_X_GONE", ""),
                ("REQUEST_URI", "/new?query"),
                ("QUERY_STRING", "query"),
                ("REQUEST_METHOD", "PUT"),
                ("HTTP_HOST", "new.example"),
                ("CONTENT_TYPE", "text/new"),
                ("CONTENT_LENGTH", "4"),
            ] {
                assert_eq!(asked.parameter(name), value, "{dialect:?} {protocol:?} {name}");
            }
        }
        nginx.wait_for_log(r#"response get x-origin = "yes""#);
    }
}

#[test]
fn bodies_are_changed_in_both_directions() {
    for dialect in DIALECTS {
        for (settings, body) in [("", "0123456789".to_owned()), ("", "x".repeat(100_000))] {
            let gateway = Gateway::start(dialect, answer);
            let filters = format!(
                "proxy_wasm edits 'reqb.collect reqb.prepend=<up: reqb.append=> resb.collect resb.prepend=[ resb.append=]';
                 {settings}"
            );
            let nginx = start(dialect, &gateway, &filters);
            for protocol in [Protocol::Http1, Protocol::Http2] {
                for request in [
                    Request::post("/", body.clone()),
                    Request::post_chunks("/", body.as_bytes().chunks(30_000)),
                ] {
                    let response = nginx.connect(protocol).send(request);
                    let sent = format!("<up:{body}>");
                    let asked = gateway.next();
                    assert!(asked.body == sent.as_bytes(), "{dialect:?}: {}", asked.body.len());
                    assert_eq!(asked.parameter("CONTENT_LENGTH"), sent.len().to_string());
                    assert!(response.text() == format!("[{sent}]"), "{dialect:?} {protocol:?}");
                }
            }
        }
    }
}

/// A body that is passed on while it is read keeps its length: these protocols have no other way to say where it ends.
#[test]
fn streamed_bodies_keep_their_length() {
    for dialect in DIALECTS {
        let gateway = Gateway::start(dialect, answer);
        let off = format!("{}_request_buffering off;", dialect.name());
        for (text, expected) in [("ab", Some("abab")), ("longer", None)] {
            let nginx = start(dialect, &gateway, &format!("proxy_wasm edits 'reqb.set={text}'; {off}"));
            let mut raw = nginx.raw();
            raw.write("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbo");
            nginx.wait_for_log("edits: reqb size=");
            let _ = raw.try_write("dy");
            let response = raw.response();
            let Some(expected) = expected else {
                assert_eq!(response.status, 500, "{dialect:?}");
                nginx.wait_for_log(
                    "has changed the size of a request's body after its headers have been passed",
                );
                continue;
            };
            assert_eq!(response.text(), expected, "{dialect:?}");
            assert_eq!(gateway.next().body, expected.as_bytes());
        }
    }
}

#[test]
fn local_responses_take_the_place_of_theirs() {
    for dialect in DIALECTS {
        for when in ["reqh", "reqb", "resh", "resb"] {
            let gateway = Gateway::start(dialect, answer);
            let nginx =
                start(dialect, &gateway, &format!("proxy_wasm trace A; proxy_wasm edits '{when}.local=no';"));
            let response = nginx.send(Request::post("/", "body"));
            assert_eq!((response.status, response.text().as_str()), (418, "no"), "{dialect:?} {when}");
        }
    }
}

fn grpc(orders: &str, guest: &str) -> (Origin, Nginx) {
    let origin = Origin::start_http2(|seen| {
        Reply::chunks([seen.body.clone()])
            .header("content-type", "application/grpc")
            .trailer("grpc-status", "5")
            .trailer("grpc-message", "not found")
    });
    let nginx = Nginx::start(
        Conf::new()
            .guest("edits")
            .guest("maps")
            .guest("faults")
            .guest("trailers")
            .guest("properties")
            .http("http2 on;")
            .server(&format!(
                "location / {{ proxy_wasm {guest} {}; grpc_pass grpc://{}; }}",
                quote(orders),
                origin.address()
            )),
    );
    (origin, nginx)
}

fn message(text: &str) -> Vec<u8> {
    let size = u32::try_from(text.len()).expect("a message's size").to_be_bytes();
    [&[0], &size[..], text.as_bytes()].concat()
}

fn call(nginx: &Nginx, text: &str) -> Response {
    let request = Request::post_chunks("/service/method", [message(text)])
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    nginx.connect(Protocol::Http2).send(request)
}

fn trailer<'a>(response: &'a Response, name: &str) -> Vec<&'a str> {
    weir_tests::http::headers(&response.trailers, name)
}

#[test]
fn the_status_of_a_grpc_call_is_read_and_changed() {
    let (origin, nginx) = grpc(
        "trailers dump\ntrailers replace grpc-status 0\ntrailers remove grpc-message\ntrailers add x-more 1",
        "trailers",
    );
    let response = call(&nginx, "hello");
    assert_eq!(response.body, message("hello"));
    assert_eq!(trailer(&response, "grpc-status"), ["0"]);
    assert_eq!(trailer(&response, "grpc-message"), [""; 0]);
    assert_eq!(trailer(&response, "x-more"), ["1"]);
    nginx.wait_for_log(r#"["grpc-status","5"]"#);
    assert_eq!(origin.last().body, message("hello"));
    assert_eq!(origin.last().header("te"), Some("trailers"));
}

#[test]
fn messages_and_headers_of_a_grpc_call_are_changed() {
    let (origin, nginx) = grpc("reqb.collect reqb.append=more resb.prepend=+", "edits");
    let response = call(&nginx, "hello");
    assert_eq!(origin.last().body, [message("hello"), b"more".to_vec()].concat());
    assert!(response.body.starts_with(b"+"), "{:?}", response.body);
    let rest: Vec<u8> = response.body.iter().copied().filter(|byte| *byte != b'+').collect();
    assert_eq!(rest, origin.last().body);
    assert_eq!(trailer(&response, "grpc-status"), ["5"]);

    let (origin, nginx) =
        grpc("request add x-up 1\nrequest replace :path /other/method\nresponse add x-down 2", "maps");
    let response = call(&nginx, "hello");
    assert_eq!(
        (origin.last().target.contains("/other/method"), origin.last().header("x-up")),
        (true, Some("1"))
    );
    assert_eq!(response.header("x-down"), Some("2"));
    assert_eq!(trailer(&response, "grpc-status"), ["5"]);
}

/// A call needs no length: one that its client has announced is not passed on, and filters may change it.
#[test]
fn the_length_of_a_grpc_call_may_change() {
    let (origin, nginx) = grpc("reqb.set=longer", "edits");
    let mut raw = nginx.raw();
    raw.write("POST /service/method HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\n");
    raw.write("Connection: close\r\nContent-Length: 4\r\n\r\nbo");
    nginx.wait_for_log("edits: reqb size=");
    raw.write("dy");
    assert_eq!(raw.response().status, 200);
    let call = origin.last();
    assert_eq!((call.body.as_slice(), call.header("content-length")), (&b"longerlonger"[..], None));
}

#[test]
fn the_status_of_a_grpc_call_is_a_property() {
    let (_origin, nginx) = grpc("response.grpc_status", "properties");
    let _ = call(&nginx, "hello");
    nginx.wait_for_log("properties: response.grpc_status=0500000000000000");
}

/// A filter's answer to a call of gRPC has the status where its clients look for it, whenever it is sent.
#[test]
fn local_responses_to_grpc_calls_are_headers_alone() {
    for when in ["reqh", "reqb", "resh"] {
        let (_origin, nginx) = grpc(&format!("{when}.local=no"), "edits");
        let response = call(&nginx, "hello");
        assert_eq!((response.status, response.text().as_str()), (200, ""), "{when}");
        assert_eq!(response.headers("content-type"), ["application/grpc"], "{when}");
        assert_eq!(response.headers("content-length"), [""; 0], "{when}");
        assert_eq!(response.headers("grpc-status"), ["2"], "{when}");
        assert_eq!(response.headers("grpc-message"), ["no"], "{when}");
        assert_eq!(response.header("x-local"), Some(when));
    }
}

/// So does what is put in place of a response when a filter fails.
#[test]
fn failures_of_filters_are_a_status_of_grpc() {
    let (_origin, nginx) = grpc("", "faults");
    let request = Request::post("/service/method", message("hello"))
        .header("content-type", "application/grpc")
        .header("x-fault", "panic")
        .header("x-fault-at", "response");
    let response = nginx.connect(Protocol::Http2).send(request);
    assert_eq!((response.status, response.headers("grpc-status")), (200, vec!["2"]));
    assert_eq!(response.headers("grpc-message"), ["Internal Server Error"]);
}
