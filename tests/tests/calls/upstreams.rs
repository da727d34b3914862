//! Calls through `upstream` blocks: their balancers, failures, and connections.

use std::{collections::HashMap, thread};

use serde_json::{Value, json};
use weir_tests::{Conf, Nginx, Origin, Reply, Request, raw::Listener};

use super::{assert_failed, conf, outcome, status};

fn named(name: &'static str) -> Origin {
    Origin::start(move |_| Reply::text(name))
}

fn body(outcome: &Value) -> &str {
    outcome["body"].as_str().expect("a body")
}

/// nginx with an `upstream` block `up` of `text`, where `@A@`, `@B@` and `@C@` are the addresses of origins.
fn start(text: &str, origins: &[&Origin]) -> Nginx {
    let mut conf = conf("").http(&format!("upstream up {{ {text} }}"));
    for (name, origin) in ["A", "B", "C"].iter().zip(origins) {
        conf = conf.set(name, origin.address());
    }
    Nginx::start(conf)
}

fn answers(nginx: &Nginx, count: usize) -> HashMap<String, usize> {
    let mut answers = HashMap::new();
    for _ in 0..count {
        let outcome = outcome(nginx, json!({"upstream": "up"}));
        *answers.entry(body(&outcome).to_owned()).or_default() += 1;
    }
    answers
}

#[test]
fn weights_and_backups_are_kept() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    for zone in ["", "zone up 64k;"] {
        let text = format!("{zone} server @A@ weight=3; server @B@; server @C@ backup;");
        let nginx = start(&text, &[&a, &b, &c]);
        assert_eq!(answers(&nginx, 8), HashMap::from([("a".to_owned(), 6), ("b".to_owned(), 2)]));
    }
    let nginx = start("server 127.0.0.1:1; server @C@ backup;", &[&a, &b, &c]);
    assert_eq!(answers(&nginx, 3), HashMap::from([("c".to_owned(), 3)]));
}

#[test]
fn every_balancer_chooses() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    for method in
        ["least_conn;", "random;", "random two least_conn;", "ip_hash;", "hash $request_uri consistent;"]
    {
        let nginx = start(&format!("{method} server @A@; server @B@; server @C@;"), &[&a, &b, &c]);
        assert_eq!(answers(&nginx, 6).values().sum::<usize>(), 6, "{method}");
    }
}

#[test]
fn a_hash_sees_the_request_that_makes_the_call() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let nginx = start("hash $arg_user$http_x_user; server @A@; server @B@; server @C@;", &[&a, &b, &c]);
    let call = |target: &str, user: &str| {
        let request =
            Request::get(target).header("x-calls", r#"[{"upstream": "up"}]"#).header("x-user", user);
        // What came back has a date, too.
        let outcomes: Vec<Value> = serde_json::from_str(&nginx.send(request).text()).expect("outcomes");
        body(&outcomes[0]).to_owned()
    };
    let mut seen = HashMap::new();
    for user in 0..20 {
        let answer = call(&format!("/?user={user}"), "");
        assert_eq!(call(&format!("/?user={user}"), ""), answer);
        assert_eq!(call("/", &user.to_string()), answer, "the same value of another variable");
        *seen.entry(answer).or_insert(0) += 1;
    }
    assert!(seen.len() > 1, "{seen:?}");
}

#[test]
fn a_root_context_calls_through_every_balancer() {
    let a = named("called");
    for method in
        ["", "least_conn;", "random;", "ip_hash;", "hash $arg_a$http_b$cookie_c$remote_addr$request_id$host;"]
    {
        let configuration = json!({"every": 10, "calls": [{"upstream": "up"}]});
        let conf = Conf::new()
            .guest("calls")
            .workers(1)
            .set("A", a.address())
            .http(&format!("upstream up {{ {method} server @A@; keepalive 2; }}"))
            .server(&format!("location / {{ proxy_wasm calls '{configuration}'; return 200; }}"));
        let nginx = Nginx::start(conf);
        let line = nginx.wait_for_log("calls: root ");
        assert!(line.contains("called"), "{method}: {line}");
    }
}

#[test]
fn peers_that_fail_are_left_out_for_a_while() {
    let a = named("a");
    let nginx = start("zone up 64k; server @A@; server 127.0.0.1:1 max_fails=2 fail_timeout=1h;", &[&a]);
    assert_eq!(answers(&nginx, 10), HashMap::from([("a".to_owned(), 10)]));
    let disabled = nginx.log().matches("upstream server temporarily disabled").count();
    assert_eq!(disabled, 1, "{}", nginx.log());
    let nginx = start("server 127.0.0.1:1 fail_timeout=1h; server 127.0.0.1:2 fail_timeout=1h;", &[]);
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "up"})), "connect");
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "up"})), "unavailable");
}

#[test]
fn what_may_have_been_done_is_not_done_twice() {
    for (method, twice) in [("GET", true), ("PUT", true), ("POST", false), ("PATCH", false)] {
        let (breaks, answers) = (Listener::start(), named("answered"));
        let conf = conf("")
            .http("upstream up { server @A@; server @B@ backup; }")
            .set("A", breaks.address())
            .set("B", answers.address());
        let nginx = Nginx::start(conf);
        let outcome = thread::scope(|scope| {
            let called = scope.spawn(|| outcome(&nginx, json!({"upstream": "up", "method": method})));
            drop(breaks.accept());
            called.join().expect("the client")
        });
        if twice {
            assert_eq!(body(&outcome), "answered", "{method}");
        } else {
            assert_failed(&nginx, &outcome, "reset");
            assert_eq!(answers.count(), 0, "{method}");
        }
    }
}

#[test]
fn connections_are_shared_with_proxy_pass() {
    let conf = Conf::new()
        .guest("calls")
        .workers(1)
        .http("upstream up { server unix:@PREFIX@/up.sock; keepalive 4; }")
        .server(
            "location / { proxy_wasm calls; return 200; }
             location /pass { proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://up; }",
        )
        .server("listen unix:@PREFIX@/up.sock; location / { return 200 $connection; }");
    let nginx = Nginx::start(conf);
    let called = outcome(&nginx, json!({"upstream": "up"}));
    let passed = nginx.get("/pass").text();
    assert_eq!(body(&called), passed);
    assert_eq!(body(&outcome(&nginx, json!({"upstream": "up"}))), passed);
}

#[test]
fn max_conns_counts_calls() {
    let silent = Listener::start();
    let conf =
        conf("").http("upstream up { zone up 64k; server @A@ max_conns=1; }").set("A", silent.address());
    let nginx = Nginx::start(conf);
    thread::scope(|scope| {
        let first = scope.spawn(|| outcome(&nginx, json!({"upstream": "up"})));
        let mut connection = silent.accept();
        assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "up"})), "unavailable");
        connection.write("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&first.join().expect("the client")), 204);
    });
}
