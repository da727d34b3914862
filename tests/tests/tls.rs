//! HTTPS, with curl: filters work, and see what the handshake and the certificates of both sides say.

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

/// Asks for properties over HTTPS, with or without a certificate of the client's.
fn properties(
    nginx: &Nginx,
    server: &Certificate,
    client: Option<&Certificate>,
    count: usize,
) -> Vec<Option<String>> {
    let arguments = client.map(Certificate::as_client);
    let arguments: Vec<&str> = arguments.iter().flatten().map(String::as_str).collect();
    let response = server.curl(nginx.address(), "/", &arguments).expect_status(200);
    (0..count).map(|index| property(&response, index)).collect()
}

const PATHS: [&str; 9] = [
    "connection.mtls",
    "connection.subject_peer_certificate",
    "connection.dns_san_peer_certificate",
    "connection.uri_san_peer_certificate",
    "connection.sha256_peer_certificate_digest",
    "connection.subject_local_certificate",
    "connection.dns_san_local_certificate",
    "connection.uri_san_local_certificate",
    "connection.requested_server_name",
];

#[test]
fn certificates_of_clients() {
    let server = Certificate::with_names(NAME, &[&format!("DNS:{NAME}"), "URI:spiffe://weir/server"]);
    let client =
        Certificate::with_names("client", &["DNS:c.example", "DNS:d.example", "URI:spiffe://weir/client"]);
    let stranger = Certificate::new("stranger");
    let nginx = Nginx::start(Conf::new().guest("properties").file("clients.pem", client.pem()).tls_server(
        &server,
        &format!(
            "ssl_client_certificate clients.pem; ssl_verify_client optional_no_ca;
                 location / {{ proxy_wasm properties '{}'; return 200; }}",
            PATHS.join(" ")
        ),
    ));
    let some = |text: &str| Some(text.to_owned());
    let local = [some("CN=weir.example,O=Weir"), some(NAME), some("spiffe://weir/server"), some(NAME)];
    let none = [some("\0"), None, None, None, None];
    let known = [
        some("\u{1}"),
        some("CN=client,O=Weir"),
        some("c.example"),
        some("spiffe://weir/client"),
        Some(client.digest()),
    ];
    let unknown = [some("\0"), some("CN=stranger,O=Weir"), some("stranger"), None, Some(stranger.digest())];
    for (who, peer) in [(None, none), (Some(&client), known), (Some(&stranger), unknown)] {
        let expected = [&peer[..], &local[..]].concat();
        assert_eq!(properties(&nginx, &server, who, PATHS.len()), expected);
    }
}

/// Two servers of one port: each has its certificate and its filters, and the name that was asked for is seen.
#[test]
fn two_names() {
    let (first, second) = (Certificate::new(NAME), Certificate::new("other.example"));
    let location = |name: &str| {
        format!(
            "location / {{ proxy_wasm trace {name};
                 proxy_wasm properties 'connection.requested_server_name connection.subject_local_certificate';
                 return 200 {name}; }}"
        )
    };
    let nginx = Nginx::start(
        Conf::new()
            .guest("properties")
            .guest("trace")
            .http("http2 on;")
            .file("cert1.pem", second.pem())
            .file("key1.pem", second.key())
            .tls_server(
                &first,
                &format!(
                    "server_name {NAME}; {} }}
                     server {{ listen 127.0.0.1:@PORT0@ ssl; server_name other.example;
                     ssl_certificate cert1.pem; ssl_certificate_key key1.pem; {}",
                    location("one"),
                    location("two")
                ),
            ),
    );
    for (certificate, name, text) in [(&first, NAME, "one"), (&second, "other.example", "two")] {
        for option in ["--http2", "--http1.1"] {
            let response = certificate.curl(nginx.address(), "/", &[option]);
            assert_eq!((response.text().as_str(), response.headers("x-trace")), (text, vec![text]));
            assert_eq!(property(&response, 0).as_deref(), Some(name));
            assert_eq!(property(&response, 1), Some(format!("CN={name},O=Weir")));
        }
    }
}

/// What is known of an upstream that speaks TLS.
#[test]
fn certificates_of_upstreams() {
    let server = Certificate::with_names(NAME, &[&format!("DNS:{NAME}"), "URI:spiffe://weir/upstream"]);
    let own = Certificate::with_names("edge", &["DNS:edge.example", "URI:spiffe://weir/edge"]);
    let paths = [
        "upstream.tls_version",
        "upstream.subject_peer_certificate",
        "upstream.dns_san_peer_certificate",
        "upstream.uri_san_peer_certificate",
        "upstream.sha256_peer_certificate_digest",
        "upstream.subject_local_certificate",
        "upstream.dns_san_local_certificate",
        "upstream.uri_san_local_certificate",
    ];
    let nginx = Nginx::start(
        Conf::new()
            .guest("properties")
            .file("own.pem", own.pem())
            .file("own.key", own.key())
            .tls_server(
                &server,
                "ssl_client_certificate own.pem; ssl_verify_client on; location / { return 200 up; }",
            )
            .server(&format!(
                "location / {{ proxy_wasm properties '{}'; proxy_pass https://127.0.0.1:@PORT0@;
                     proxy_ssl_certificate own.pem; proxy_ssl_certificate_key own.key; proxy_ssl_name {NAME};
                     proxy_ssl_server_name on; }}",
                paths.join(" ")
            )),
    );
    let response = weir_tests::Connection::open(nginx.address_of(1), weir_tests::Protocol::Http1).get("/");
    assert_eq!(response.text(), "up");
    let values: Vec<Option<String>> = (0..paths.len()).map(|index| property(&response, index)).collect();
    let digest = server.digest();
    let expected = [
        "TLSv1.3",
        "CN=weir.example,O=Weir",
        NAME,
        "spiffe://weir/upstream",
        &digest,
        "CN=edge,O=Weir",
        "edge.example",
        "spiffe://weir/edge",
    ];
    assert_eq!(values, expected.map(|value| Some(value.to_owned())));
}
