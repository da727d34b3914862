//! Encrypted calls: who is trusted, who is asked for a certificate, what is used again.

use serde_json::{Value, json};
use weir_tests::{Conf, Nginx, authority::Authority};

use super::{assert_failed, outcome, status};

/// nginx that calls itself over TLS: at a socket, behind `upstream` block `up`. The server has a certificate for
/// `service.test` and 127.0.0.1; `wasm` and `server` are what else is said.
fn conf(authority: &Authority, wasm: &str, server: &str) -> Conf {
    let issued = authority.issue(&["service.test", "127.0.0.1"]);
    Conf::new()
        .guest("calls")
        .workers(1)
        .wasm(wasm)
        .file("ca.pem", authority.pem())
        .file("server.pem", issued.certificate)
        .file("server.key", issued.key)
        .http("upstream up { server unix:@PREFIX@/tls.sock; keepalive 4; } upstream plain { server 127.0.0.1:@PORT0@; }")
        .server("location / { proxy_wasm calls; return 200 plain; }")
        .server(&format!(
            "listen unix:@PREFIX@/tls.sock ssl; ssl_certificate server.pem; ssl_certificate_key server.key;
             ssl_session_cache shared:s:64k; {server}
             location / {{ return 200 '$ssl_server_name $ssl_protocol $ssl_session_reused $ssl_client_verify'; }}"
        ))
}

const TRUSTED: &str = "call_ssl_trusted_certificate ca.pem;";

fn call(nginx: &Nginx, upstream: &str, authority: &str) -> Value {
    outcome(nginx, json!({"upstream": upstream, "authority": authority, "scheme": "https"}))
}

#[test]
fn the_other_side_proves_its_name() {
    let authority = Authority::new();
    let nginx = Nginx::start(conf(&authority, TRUSTED, ""));
    let good = call(&nginx, "up", "Service.Test:8443");
    assert_eq!(good["body"], json!("service.test TLSv1.3 . NONE"), "{good}");
    let address = call(&nginx, "up", "127.0.0.1");
    assert_eq!(status(&address), 200, "an address is a name too: {address}");
    assert_failed(&nginx, &call(&nginx, "up", "other.test"), "tls");
    nginx.wait_for_log("its certificate is not for \"other.test\"");
    assert_failed(&nginx, &call(&nginx, "up", "127.0.0.2"), "tls");
}

#[test]
fn nobody_is_trusted_without_a_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let nginx = Nginx::start(conf(&authority, "", ""));
    assert_failed(&nginx, &call(&nginx, "up", "service.test"), "tls");
    nginx.wait_for_log("its certificate is not trusted: unable to verify the first certificate");
    drop(nginx);
    let nginx = Nginx::start(conf(&authority, TRUSTED, "").file("ca.pem", other.pem()));
    assert_failed(&nginx, &call(&nginx, "up", "service.test"), "tls");
    drop(nginx);
    let nginx = Nginx::start(conf(&authority, "call_ssl_verify off;", ""));
    assert_eq!(status(&call(&nginx, "up", "anybody.test")), 200);
}

#[test]
fn chains_have_a_longest_length() {
    let root = Authority::new();
    let middle = root.subordinate();
    for (depth, word) in [("1", None), ("0", Some("tls"))] {
        let wasm = format!("{TRUSTED} call_ssl_verify_depth {depth};");
        let issued = middle.issue(&["service.test"]);
        let chain = [issued.certificate.as_bytes(), middle.pem().as_bytes()].concat();
        let nginx =
            Nginx::start(conf(&root, &wasm, "").file("server.pem", chain).file("server.key", issued.key));
        let called = call(&nginx, "up", "service.test");
        match word {
            None => assert_eq!(status(&called), 200, "{called}: {}", nginx.log()),
            Some(word) => assert_failed(&nginx, &called, word),
        }
    }
}

#[test]
fn the_other_side_may_ask_for_a_certificate() {
    let authority = Authority::new();
    let server = "ssl_verify_client on; ssl_client_certificate ca.pem;";
    let ours = authority.issue(&["filter.test"]);
    let wasm = format!("{TRUSTED} call_ssl_certificate ours.pem; call_ssl_certificate_key ours.key;");
    let conf_with =
        conf(&authority, &wasm, server).file("ours.pem", ours.certificate).file("ours.key", ours.key);
    let nginx = Nginx::start(conf_with);
    let called = call(&nginx, "up", "service.test");
    assert_eq!(called["body"], json!("service.test TLSv1.3 . SUCCESS"), "{called}");
    drop(nginx);
    let nginx = Nginx::start(conf(&authority, TRUSTED, server));
    assert_eq!(
        status(&call(&nginx, "up", "service.test")),
        400,
        "nginx answers so that a client can be told"
    );
}

#[test]
fn plain_and_encrypted_are_not_mixed_up() {
    let authority = Authority::new();
    let nginx = Nginx::start(conf(&authority, TRUSTED, ""));
    // A plain call leaves a connection in the block's `keepalive`, which an encrypted one must not use.
    let plain = outcome(&nginx, json!({"upstream": "up", "authority": "service.test"}));
    assert_eq!(status(&plain), 400, "{plain}");
    for _ in 0..2 {
        assert_eq!(status(&call(&nginx, "up", "service.test")), 200);
    }
    assert_failed(&nginx, &call(&nginx, "plain", "service.test"), "tls");
    nginx.wait_for_log("wrong version number");
}

#[test]
fn connections_and_sessions_are_used_again() {
    let authority = Authority::new();
    for (keepalive, reused) in [("call_keepalive off;", "r"), ("", ".")] {
        for protocol in ["TLSv1.2", "TLSv1.3"] {
            let conf =
                conf(&authority, &format!("{TRUSTED} {keepalive}"), &format!("ssl_protocols {protocol};"));
            let nginx = Nginx::start(conf);
            assert_eq!(
                call(&nginx, "up", "service.test")["body"],
                json!(format!("service.test {protocol} . NONE"))
            );
            let again = json!(format!("service.test {protocol} {reused} NONE"));
            assert_eq!(call(&nginx, "up", "service.test")["body"], again, "{keepalive}");
            // Not with somebody of another name.
            assert_eq!(call(&nginx, "up", "127.0.0.1")["body"], json!(format!(" {protocol} . NONE")));
        }
    }
}

#[test]
fn files_that_are_not_good_are_refused_at_the_start() {
    let authority = Authority::new();
    let conf = |wasm: &str| conf(&authority, wasm, "");
    let cases = [
        ("call_ssl_trusted_certificate missing.pem;", "missing.pem"),
        (
            "call_ssl_certificate server.pem;",
            "\"call_ssl_certificate\" is of no use without \"call_ssl_certificate_key\"",
        ),
        ("call_ssl_certificate_key server.key;", "add it in"),
        ("call_ssl_certificate server.pem; call_ssl_certificate_key ca.pem;", "ca.pem"),
    ];
    for (wasm, message) in cases {
        let ended = Nginx::check(&conf(wasm));
        assert!(!ended.status.success(), "{wasm}");
        assert!(ended.stderr.contains(message), "{wasm}: {}", ended.stderr);
    }
}
