//! Each example, with exactly the configuration that is beside it; only its ports are replaced by free ones.

use std::fs;

use weir_tests::{Conf, Connection, Nginx, Protocol, Request, limiter::Limiter, paths, wait};

/// Starts an nginx.conf of this repository.
fn start(path: &str) -> Nginx {
    start_with(path, |text| text)
}

/// The same with something changed.
fn start_with(path: &str, change: impl FnOnce(String) -> String) -> Nginx {
    let text = change(fs::read_to_string(paths::repository(path)).expect("an nginx.conf"));
    let mut ports = 0;
    let mut replaced = text.clone();
    for (index, address) in ["127.0.0.1:8080", "127.0.0.1:8081"].iter().enumerate() {
        assert!(
            index == 0 && text.contains("8081") || text.contains(address) || index == 1,
            "{path} uses {address}"
        );
        if text.contains(address) {
            replaced = replaced.replace(address, &format!("127.0.0.1:@PORT{index}@"));
            ports += 1;
        }
    }
    let mime_types =
        fs::read(paths::edge().join("conf/mime.types")).expect("mime.types; run scripts/build first");
    Nginx::start(Conf::verbatim(&replaced, ports).file("mime.types", mime_types))
}

#[test]
fn headers() {
    let nginx = start("examples/headers/nginx.conf");
    let request = Request::get("/").header("user-agent", "test").header("x-debug", "1");
    let response = nginx.send(request.clone()).expect_status(200);
    assert_eq!(response.text(), "x-edge: 1\nx-debug: \nuser-agent: weir\n");
    assert_eq!(response.headers("x-served-by"), ["weir"]);
    assert_eq!(response.headers("cache-control"), ["public, max-age=60"]);
    assert_eq!(response.header("x-powered-by"), None);
    nginx.wait_for_log("headers: request: 1 removed, 1 replaced, 1 added");
    nginx.wait_for_log("headers: response: 1 removed, 1 replaced, 1 added");

    // The origin itself, to know that the filter did it.
    let direct = Connection::open(nginx.address_of(1), Protocol::Http1).send(request);
    assert_eq!(direct.text(), "x-edge: \nx-debug: 1\nuser-agent: test\n");
    assert_eq!(direct.header("x-powered-by"), Some("origin"));
}

#[test]
fn local_reply() {
    let nginx = start("examples/local-reply/nginx.conf");
    let health = nginx.get("/health").expect_status(200);
    assert_eq!(health.text(), "ok");
    let shop = nginx.get("/shop/cart?id=1").expect_status(503);
    assert_eq!(shop.headers("content-type"), ["text/html; charset=utf-8"]);
    assert_eq!(shop.headers("retry-after"), ["120"]);
    assert!(shop.text().contains("back in two minutes"), "{}", shop.text());
    assert_eq!(nginx.get("/other").expect_status(200).text(), "the origin answers /other\n");
    nginx.wait_for_log("local-reply: /shop/cart answered with 503");
}

/// The JSON that the example logs for a request.
fn logged(nginx: &Nginx, mark: usize) -> serde_json::Value {
    let line = nginx.wait_for_log_since(mark, "access-log: {");
    let json = line.split_once("access-log: ").expect("a line of the example").1;
    let end = json.find('}').expect("the end of the object") + 1;
    serde_json::from_str(&json[..end]).expect("JSON")
}

#[test]
fn access_log() {
    let nginx = start("examples/access-log/nginx.conf");
    let mark = nginx.mark();
    let request = Request::get("/page?x=1").header("user-agent", "test/1").header("host", "h.example");
    assert_eq!(nginx.send(request).text(), "the origin answers /page?x=1\n");
    let fields = logged(&nginx, mark);
    for (name, value) in [
        ("method", "GET"),
        ("path", "/page?x=1"),
        ("host", "h.example"),
        ("protocol", "HTTP/1.1"),
        ("agent", "test/1"),
    ] {
        assert_eq!(fields[name], value, "{fields}");
    }
    assert_eq!(fields["status"], 200);
    assert!(fields["duration_ms"].as_f64().is_some_and(|ms| (0.0..20_000.0).contains(&ms)), "{fields}");
    assert!(fields["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{fields}");

    let mark = nginx.mark();
    let response = nginx.send(Request::get("/api/x").header("user-agent", "test/2"));
    let fields = logged(&nginx, mark);
    assert_eq!(fields["status"], 200);
    assert_eq!(fields["type"], "text/plain");
    assert_eq!(fields["agent"], "test/2");
    assert_eq!(fields["bytes"].as_u64(), Some(response.body.len() as u64), "{fields}");
}

#[test]
fn auth_call() {
    let nginx = start("examples/auth-call/nginx.conf");
    let get = |path: &str, token: &str| nginx.send(Request::get(path).header("authorization", token));
    let mark = nginx.mark();
    // Enough for both workers to have had some: one has asked, the others remember.
    for _ in 0..10 {
        assert_eq!(get("/page", "Bearer good").expect_status(200).text(), "the origin answers /page\n");
    }
    nginx.wait_for_log_since(mark, "remembered: 204");
    assert_eq!(nginx.log_since(mark).matches("the service says 204").count(), 1);
    let mark = nginx.mark();
    for _ in 0..10 {
        assert_eq!(get("/page", "Bearer bad").expect_status(403).text(), "you may not\n");
    }
    assert_eq!(nginx.log_since(mark).matches("the service says 403").count(), 1);
    let without = nginx.get("/page").expect_status(401);
    assert_eq!(without.headers("www-authenticate"), ["Bearer"]);

    // The service is not there.
    let open = get("/open/page", "Bearer any").expect_status(200);
    assert_eq!(open.text(), "the origin answers /open/page\n");
    nginx.wait_for_log("the service did not answer");
}

#[test]
fn grpc_ratelimit() {
    let limiter = Limiter::start(2);
    let nginx = start_with("examples/grpc-ratelimit/nginx.conf", |text| {
        text.replace("127.0.0.1:8082", &limiter.address().to_string())
    });
    for _ in 0..2 {
        assert_eq!(nginx.get("/page?x=1").expect_status(200).text(), "the origin answers /page?x=1\n");
    }
    let limited = nginx.get("/page?x=2").expect_status(429);
    assert_eq!(limited.text(), "too many requests\n");
    assert_eq!(limited.headers("x-ratelimit-limit"), ["2"]);
    assert_eq!(nginx.get("/other").expect_status(200).text(), "the origin answers /other\n");
    let asked = [("/page", 3), ("/other", 1)]
        .map(|(path, count)| (format!("edge path={path} remote_address=127.0.0.1"), count));
    assert_eq!(limiter.hits(), asked.into());

    // The service has gone: requests pass.
    drop(limiter);
    assert_eq!(nginx.get("/page").expect_status(200).text(), "the origin answers /page\n");
    nginx.wait_for_log("the service did not answer");
}

/// A token of ES256 with these claims.
fn token(key: &rcgen::KeyPair, claims: &serde_json::Value) -> String {
    let header = base64url(br#"{"alg":"ES256","kid":"test"}"#);
    let signed = format!("{header}.{}", base64url(claims.to_string().as_bytes()));
    let der = rcgen::SigningKey::sign(key, signed.as_bytes()).expect("signed");
    // A sequence of two integers, each of which may have zeros before it or lack some of its own.
    let mut signature = Vec::new();
    let mut rest = &der[2..];
    for _ in 0..2 {
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        let number = &number[number.len().saturating_sub(32)..];
        signature.extend_from_slice(&vec![0; 32 - number.len()]);
        signature.extend_from_slice(number);
        rest = after;
    }
    format!("{signed}.{}", base64url(&signature))
}

/// The same of RS256, with the key of `tests/rsa.pem`.
fn rsa_token(key: &rcgen::KeyPair, claims: &serde_json::Value) -> String {
    let header = base64url(br#"{"alg":"RS256","kid":"rsa"}"#);
    let signed = format!("{header}.{}", base64url(claims.to_string().as_bytes()));
    let signature = rcgen::SigningKey::sign(key, signed.as_bytes()).expect("signed");
    format!("{signed}.{}", base64url(&signature))
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .enumerate()
            .fold(0_usize, |bits, (at, byte)| bits | usize::from(*byte) << (16 - 8 * at));
        for at in 0..=chunk.len() {
            text.push(char::from(LETTERS[bits >> (18 - 6 * at) & 63]));
        }
    }
    text
}

#[test]
fn jwks() {
    let [key, other] = [(); 2].map(|()| rcgen::KeyPair::generate().expect("a key"));
    // The point in uncompressed form: a byte, x, y.
    let point = rcgen::PublicKeyData::der_bytes(&key);
    let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
    let rsa = rcgen::KeyPair::from_pem_and_sign_algo(include_str!("rsa.pem"), &rcgen::PKCS_RSA_SHA256);
    let rsa = rsa.expect("a key");
    // A sequence of two integers: the modulus, after a zero, and the exponent.
    let modulus = base64url(&rcgen::PublicKeyData::der_bytes(&rsa)[9..265]);
    let nginx = start_with("examples/jwks/nginx.conf", |text| {
        let keys = format!(r#""keys": [ {{ "kty": "RSA", "kid": "rsa", "n": "{modulus}", "e": "AQAB" }}, "#);
        let text = text.replace(r#""keys": [ "#, &keys);
        let text = text.replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", &x);
        let text = text.replace("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", &y);
        text.replace(r#""kid": "1""#, r#""kid": "test""#)
    });
    nginx.wait_for_lines(0, "2 keys fetched", 2);
    let claims = |change: &[(&str, serde_json::Value)]| {
        let mut claims = serde_json::json!({
            "iss": "https://issuer.example", "aud": ["shop", "other"], "sub": "somebody", "exp": 4_102_444_800_u64,
        });
        change.iter().for_each(|(name, value)| claims[*name] = value.clone());
        claims
    };
    let get = |token: &str| nginx.send(Request::get("/").header("authorization", &format!("Bearer {token}")));
    let good = token(&key, &claims(&[]));
    assert_eq!(get(&good).expect_status(200).text(), "the origin answers somebody\n");
    let good_too = rsa_token(&rsa, &claims(&[]));
    assert_eq!(get(&good_too).expect_status(200).text(), "the origin answers somebody\n");
    let header_of = |header: &str, token: &str| {
        let (_, rest) = token.split_once('.').expect("parts");
        format!("{}.{rest}", base64url(header.as_bytes()))
    };
    for (bad, why) in [
        (token(&other, &claims(&[])), "the token's signature is wrong"),
        (good_too.replace(&good_too[good_too.len() - 9..], "AAAAAAAAA"), "the token's signature is wrong"),
        (
            header_of(r#"{"alg":"RS256","kid":"test"}"#, &good),
            "the token's key is for another kind of signature",
        ),
        (
            header_of(r#"{"alg":"none","kid":"rsa"}"#, &good_too),
            "the token's key is for another kind of signature",
        ),
        (token(&key, &claims(&[("exp", 1.into())])), "the token has expired"),
        (token(&key, &claims(&[("nbf", 4_102_444_800_u64.into())])), "the token does not hold yet"),
        (token(&key, &claims(&[("iss", "me".into())])), "the token is another issuer's"),
        (token(&key, &claims(&[("aud", "you".into())])), "the token is for another audience"),
        (good.replacen('.', "", 1), "the token has the wrong form"),
    ] {
        assert_eq!(get(&bad).expect_status(401).text(), format!("{why}\n"));
    }
    assert_eq!(nginx.get("/").expect_status(401).text(), "there is no token\n");
}

#[test]
fn rate_limit() {
    let nginx = start("examples/rate-limit/nginx.conf");
    let ask = |key: &str| {
        let request = Request::get("/page").header("x-api-key", key);
        // A connection of its own, so in whichever worker.
        nginx.connect(Protocol::Http1).send(request)
    };
    let answers = |key: &str, count: usize| (0..count).map(|_| ask(key).status).collect::<Vec<_>>();
    // A window may end in between: then another client finds out.
    let mut keys = 0..;
    let limited = wait::poll(|| {
        let key = format!("client-{}", keys.next()?);
        (answers(&key, 6) == [200, 200, 200, 200, 200, 429]).then_some(key)
    });
    let key = limited.unwrap_or_else(|| panic!("{}", nginx.log()));
    assert_eq!(ask("another").status, 200, "each client has its own");
    let refused = ask(&key);
    assert!(matches!(refused.status, 200 | 429), "200 where the next minute has begun");
    let seconds = refused.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(
        refused.status == 200 || seconds.is_some_and(|seconds| (1..=60).contains(&seconds)),
        "{seconds:?}"
    );
    // The root context was told, in one of the workers, and has counted.
    nginx.wait_for_log(&format!("rate-limit: {key} has used up its 5 requests in 60 s"));
    let metrics = nginx.get("/metrics").expect_status(200).text();
    for line in [
        r#"rate_limit_requests_total{filter="rate-limit",decision="allowed"} "#,
        r#"rate_limit_requests_total{filter="rate-limit",decision="refused"} "#,
        r#"rate_limit_reports_total{filter="rate-limit"} "#,
        r#"rate_limit_report_delay_microseconds_count{filter="rate-limit"} "#,
        r#"weir_zone_refusals_total{zone="clients",kind="shm_kv"} 0"#,
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    assert!(!metrics.contains(r#"decision="refused"} 0"#), "{metrics}");
}

/// An example that nobody has written a test for is an error.
#[test]
fn every_example_has_a_test() {
    let mut with_conf: Vec<String> = fs::read_dir(paths::repository("examples"))
        .expect("the examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("nginx.conf").exists())
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    with_conf.sort();
    assert_eq!(
        with_conf,
        ["access-log", "auth-call", "grpc-ratelimit", "headers", "jwks", "local-reply", "rate-limit"]
    );
}

/// The configuration that is installed with nginx, to start from.
#[test]
fn the_configuration_to_start_from() {
    let text = fs::read_to_string(paths::repository("ngx-glue/conf/nginx.conf")).expect("an nginx.conf");
    assert!(text.contains("127.0.0.1:8080"));
    let one_worker = text.replace("worker_processes auto;", "worker_processes 2;");
    assert_ne!(one_worker, text);
    let mime_types =
        fs::read(paths::edge().join("conf/mime.types")).expect("mime.types; run scripts/build first");
    let conf = Conf::verbatim(&one_worker.replace("127.0.0.1:8080", "127.0.0.1:@PORT0@"), 1);
    let nginx = Nginx::start(conf.file("mime.types", mime_types));
    let served = wait::poll(|| (nginx.get("/").text() == "nginx with Weir\n").then_some(()));
    assert!(served.is_some());
}
