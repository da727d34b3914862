//! HTTPS, with curl: filters work, and see what the handshake has found out.

use weir_tests::{Conf, Nginx, Response, tls::Certificate};

const NAME: &str = "weir.example";

fn property(response: &Response, index: usize) -> Option<String> {
    let hex = response.header(&format!("x-prop-{index}")).expect("the property was asked for");
    let byte = |at: usize| char::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"));
    (hex != "NONE").then(|| (0..hex.len()).step_by(2).map(byte).collect())
}

#[test]
fn filters_work_over_tls() {
    let certificate = Certificate::new(NAME);
    let nginx =
        Nginx::start(Conf::new().guest("add_headers").guest("properties").http("http2 on;").tls_server(
            &certificate,
            "location / {
             proxy_wasm add_headers;
             proxy_wasm properties 'request.scheme request.protocol connection.tls_version
                 connection.requested_server_name connection.mtls request.host';
             return 200 'over $server_protocol $ssl_protocol';
         }",
        ));
    for (option, protocol) in [("--http2", "HTTP/2.0"), ("--http1.1", "HTTP/1.1")] {
        let response = certificate.curl(nginx.address(), "/", &[option, "--tlsv1.3"]);
        assert_eq!((response.status, response.text()), (200, format!("over {protocol} TLSv1.3")));
        assert_eq!(response.headers("x-weir"), ["response"]);
        let values: Vec<Option<String>> = (0..6).map(|index| property(&response, index)).collect();
        let host = format!("{NAME}:{}", nginx.address().port());
        let expected = ["https", protocol, "TLSv1.3", NAME, "\0", &host].map(|value| Some(value.to_owned()));
        assert_eq!(values, expected, "{option}");
    }
    let older = certificate.curl(nginx.address(), "/", &["--http1.1", "--tls-max", "1.2"]);
    assert_eq!(property(&older, 2).as_deref(), Some("TLSv1.2"));
}

#[test]
fn large_bodies_over_tls() {
    let body = weir_tests::digest::bytes(2 << 20, 11);
    let certificate = Certificate::new(NAME);
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .file("html/file", body.clone())
            .http("http2 on; sendfile on;")
            .tls_server(&certificate, "root html; location / { proxy_wasm body_reader; }"),
    );
    for option in ["--http2", "--http1.1"] {
        let mark = nginx.mark();
        let response = certificate.curl(nginx.address(), "/file", &[option]);
        assert!(response.body == body, "{option}: {} bytes", response.body.len());
        let line = nginx.wait_for_log_since(mark, "body_reader: response total=2097152 ");
        assert!(line.contains(&weir_tests::digest::fnv(&body)), "{line}");
    }
}
