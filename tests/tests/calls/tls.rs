//! Encrypted calls: who is trusted, who is asked for a certificate, what is used again.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use serde_json::{Value, json};
use weir_tests::{Conf, Nginx, Origin, Reply, authority::Authority, raw::Listener};

use super::{assert_failed, header, outcome, outcomes, status};

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
fn whom_the_system_trusts_is_trusted() {
    // Of another name: issuers are looked up by that.
    let (authority, other) = (Authority::new(), Authority::new().subordinate());
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name| folder.path().join(name).display().to_string();
    let empty = path("empty");
    fs::create_dir(&empty).expect("a folder");
    // What is no certificate is passed over.
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(path("all.pem"), [&other.pem(), broken, &authority.pem(), "words\n"].concat()).expect("a file");
    let conf = |file: &str, folder: &str| {
        conf(&authority, "", "").environment("SSL_CERT_FILE", file).environment("SSL_CERT_DIR", folder)
    };

    let nginx = Nginx::start(conf(&path("all.pem"), &empty));
    // It was read with the configuration, by the master: workers may not enter the folder.
    fs::remove_file(path("all.pem")).expect("removed");
    for turn in 0..2 {
        assert_eq!(status(&call(&nginx, "up", "service.test")), 200, "{turn}: {}", nginx.log());
        assert_failed(&nginx, &call(&nginx, "up", "other.test"), "tls");
    }
    drop(nginx);

    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
    let named = path("named");
    fs::create_dir(&named).expect("a folder");
    fs::write(format!("{named}/authority.pem"), authority.pem()).expect("a file");
    let made = Command::new("openssl").args(["rehash", &named]).status().expect("openssl");
    assert!(made.success(), "openssl rehash: {made}");
    let nginx = Nginx::start(conf(&path("missing"), &named));
    assert_eq!(status(&call(&nginx, "up", "service.test")), 200, "{}", nginx.log());
    drop(nginx);

    // A server that vouches for itself, and one that nobody in the file vouches for.
    fs::write(path("other.pem"), other.pem()).expect("a file");
    let nginx = Nginx::start(conf(&path("other.pem"), &empty));
    for _ in 0..2 {
        assert_failed(&nginx, &call(&nginx, "up", "service.test"), "tls");
    }
    nginx.wait_for_log("its certificate is not trusted: unable to verify the first certificate");
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
fn http2_is_spoken_where_both_sides_can() {
    let authority = Authority::new();
    for (server, protocol) in [("http2 on;", "HTTP/2.0"), ("", "HTTP/1.1")] {
        let origin = Origin::start(|seen| {
            let length = seen.body.len();
            Reply::chunks(vec![vec![b'x'; 10_000]; 20]).header("x-seen", &format!("{} {length}", seen.method))
        });
        let server = format!(
            "{server} location /to/ {{ proxy_set_header Host $http_host; proxy_set_header X-Host $host;
             proxy_pass http://@ORIGIN@; }}
             location /connection {{ return 200 '$server_protocol $host $connection'; }}"
        );
        let nginx = Nginx::start(conf(&authority, TRUSTED, &server).set("ORIGIN", origin.address()));
        let order = |path: &str| json!({"upstream": "up", "authority": "service.test:81", "scheme": "https", "path": path});
        let first = outcome(&nginx, order("/connection"));
        let said = first["body"].as_str().expect("a body");
        assert!(said.starts_with(&format!("{protocol} service.test ")), "{first}");
        assert_eq!(outcome(&nginx, order("/connection"))["body"], first["body"], "the same connection");
        let at_once = outcomes(&nginx, "reqh", &json!(vec![order("/connection"); 5]));
        let shared = at_once.iter().filter(|outcome| outcome["body"] == first["body"]).count();
        assert_eq!(shared, if protocol == "HTTP/2.0" { 5 } else { 1 }, "{at_once:?}");
        let mut large = order("/to/them?a=b");
        (large["method"], large["body"], large["repeat"]) =
            (json!("PUT"), json!("0123456789"), json!(30_000));
        large["headers"] = json!([["X-One", "1"], ["te", "gzip"], ["connection", "close"]]);
        let large = outcome(&nginx, large);
        assert_eq!((status(&large), &large["size"]), (200, &json!(200_000)), "{large}");
        assert_eq!(header(&large, "x-seen"), Some("PUT 300000"));
        let seen = origin.last();
        assert_eq!((seen.target.as_str(), seen.header("x-one")), ("/to/them?a=b", Some("1")));
        assert_eq!(
            (seen.header("host"), seen.header("x-host")),
            (Some("service.test:81"), Some("service.test"))
        );
    }
}

/// Of what they have in common with calls over HTTP/1.1: bounds, and ends that come early.
#[test]
fn calls_over_http2_have_bounds() {
    let authority = Authority::new();
    let silent = Listener::start();
    let origin = Origin::start(|seen| {
        let long = "x".repeat(9000);
        if seen.target == "/long" { Reply::status(200).header("x-long", &long) } else { Reply::text(long) }
    });
    let wasm = format!("{TRUSTED} call_response_limit 8k;");
    let server = format!(
        "http2 on; proxy_buffer_size 32k; proxy_buffers 4 32k; location = /silent {{ proxy_pass http://{}; }}
         location ~ large|long {{ proxy_pass http://{}; }}",
        silent.address(),
        origin.address(),
    );
    let nginx = Nginx::start(conf(&authority, &wasm, &server));
    let order = |path: &str, timeout: u64| json!({"upstream": "up", "authority": "service.test", "scheme": "https", "path": path, "timeout": timeout});
    assert_failed(&nginx, &outcome(&nginx, order("/large", 0)), "too_large");
    assert_failed(&nginx, &outcome(&nginx, order("/long", 0)), "too_large");
    assert_failed(&nginx, &outcome(&nginx, order("/silent", 100)), "timeout");
    assert_eq!(status(&outcome(&nginx, order("/", 0))), 200, "the connection goes on");
}

#[test]
fn over_http2_what_may_have_been_done_is_not_done_twice() {
    let authority = Authority::new();
    let conf = conf(&authority, TRUSTED, "http2 on; location = /gone { return 444; }")
        .http(
            "upstream two { server unix:@PREFIX@/tls.sock max_fails=0; server unix:@PREFIX@/other.sock backup; }",
        )
        .server(
            "listen unix:@PREFIX@/other.sock ssl; http2 on; ssl_certificate server.pem;
             ssl_certificate_key server.key; location / { return 200 'answered over $server_protocol'; }",
        );
    let nginx = Nginx::start(conf);
    for (method, twice) in [("GET", true), ("PUT", true), ("POST", false), ("PATCH", false)] {
        let order = json!({"upstream": "two", "authority": "service.test", "scheme": "https", "path": "/gone", "method": method});
        let outcome = outcome(&nginx, order);
        if twice {
            assert_eq!(outcome["body"], json!("answered over HTTP/2.0"), "{method}: {outcome}");
        } else {
            assert_failed(&nginx, &outcome, "reset");
        }
    }
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

/// Filters that give no scheme, or one that is not meant for the peer: the configuration decides.
#[test]
fn the_configuration_says_what_is_encrypted() {
    let authority = Authority::new();
    let origin = Origin::start(|_| Reply::text("in clear"));
    let plain = origin.address().to_string();
    let wasm = format!("{TRUSTED} call_ssl on UP; call_ssl off {plain} other;");
    let nginx = Nginx::start(conf(&authority, &wasm, ""));
    for scheme in [json!(null), json!("http"), json!("https")] {
        let mut asked = json!({"upstream": "up", "authority": "service.test"});
        if !scheme.is_null() {
            asked["scheme"] = scheme.clone();
        }
        let called = outcome(&nginx, asked.clone());
        assert_eq!(called["body"], json!("service.test TLSv1.3 . NONE"), "{scheme}: {called}");
        asked["upstream"] = json!(plain);
        let called = outcome(&nginx, asked);
        assert_eq!(called["body"], json!("in clear"), "{scheme}: {called}");
    }
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "up", "authority": "other.test"})), "tls");
}
