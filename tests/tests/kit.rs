//! The test kit itself, with an nginx that has no Weir: what it notices, and that its clients and origins are right.

use std::time::Duration;

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, digest};

fn plain() -> Conf {
    Conf::without_module().server("location / { return 200 'hello $request_method $server_protocol'; }")
}

#[test]
fn nginx_starts_serves_and_stops() {
    let nginx = Nginx::start(plain());
    let response = nginx.get("/").expect_status(200);
    assert_eq!(response.text(), "hello GET HTTP/1.1");
    assert_eq!(nginx.worker_pids().len(), 2);
    assert!(nginx.worker_rss().iter().all(|rss| *rss > 500 * 1024), "{:?}", nginx.worker_rss());
    let prefix = nginx.prefix().to_owned();
    let log = nginx.stop();
    assert!(log.contains("start worker process"), "{log}");
    assert!(!prefix.exists());
}

#[test]
fn both_protocols_and_raw_bytes_reach_it() {
    let nginx = Nginx::start(
        Conf::without_module()
            .server("http2 on; location / { return 200 'hello $request_method $server_protocol'; }"),
    );
    let mut http2 = nginx.connect(Protocol::Http2);
    assert_eq!(http2.get("/").text(), "hello GET HTTP/2.0");
    let all = http2.send_all((0..10).map(|_| Request::get("/")));
    assert_eq!(all.len(), 10);
    let mut http1 = nginx.connect(Protocol::Http1);
    assert_eq!(http1.get("/").text(), "hello GET HTTP/1.1");
    assert_eq!(http1.send(Request::head("/")).text(), "");

    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.response().text(), "hello GET HTTP/1.1");
    assert_eq!(raw.head().header("content-length"), Some("19"));
    assert!(raw.is_silent_for(Duration::from_millis(20)));
    raw.write("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(raw.response().text(), "hello GET HTTP/1.0");
    assert!(raw.is_closed());
}

#[test]
fn origins_record_what_they_are_asked() {
    let body = digest::bytes(100_000, 1);
    let sent = body.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/chunks" => Reply::chunks(sent.chunks(1000)),
        _ => Reply::text(sent.clone()).header("x-a", "1").header("x-a", "2"),
    });
    let nginx = Nginx::start(
        Conf::without_module()
            .set("ORIGIN", origin.address())
            .server("location / { proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }"),
    );
    let response = nginx.send(Request::post("/?q=1", body.clone()).header("x-b", "ü"));
    assert_eq!(response.headers("x-a"), ["1", "2"]);
    assert_eq!(response.body, body);
    let seen = origin.last();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/?q=1"));
    assert_eq!((seen.header("x-b"), seen.body == body), (Some("ü"), true));

    let chunked = nginx.send(Request::post_chunks("/chunks", body.chunks(7000)));
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert!(chunked.body == body && origin.last().body == body);
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_reload_switches_and_a_bad_one_does_not() {
    let mut nginx = Nginx::start(plain());
    let before = nginx.worker_pids();
    let line = nginx.reload_refused(plain().http("nonsense on;"));
    assert!(line.contains("unknown directive \"nonsense\""), "{line}");
    assert_eq!(nginx.get("/").text(), "hello GET HTTP/1.1");
    nginx.reload(Conf::without_module().workers(1).server("return 204;"));
    assert_eq!(nginx.get("/").status, 204);
    assert!(!before.contains(&nginx.worker_pid()));
}

#[test]
fn a_check_reports_file_and_line() {
    let ended = Nginx::check(&plain().http("nonsense on;"));
    assert!(!ended.status.success());
    assert!(ended.stderr.contains(&ended.place("nonsense")), "{}", ended.stderr);
    assert!(Nginx::check(&plain()).status.success());
}

#[test]
fn a_start_that_fails_says_why() {
    let ended = Nginx::try_start(plain().http("nonsense on;")).expect_err("it cannot start");
    assert!(ended.stderr.contains("unknown directive"), "{}", ended.stderr);
}

#[test]
fn a_crashed_worker_fails_the_test() {
    let nginx = Nginx::start(plain());
    let victim = nginx.worker_pids()[0].to_string();
    let killed = std::process::Command::new("kill").args(["-SEGV", &victim]).status().expect("kill");
    assert!(killed.success());
    nginx.wait_for_log("exited on signal 11");
    let panic = std::panic::catch_unwind(|| drop(nginx)).expect_err("a crash is a fault");
    let text = panic.downcast_ref::<String>().expect("a message");
    assert!(text.contains("exited on signal 11"), "{text}");
}
