//! Which requests share an instance: told by a guest that counts its requests in a global.

use weir_tests::{Conf, Nginx, Protocol, Request, wasm::Minimal};

fn nginx(directives: &str) -> Nginx {
    Nginx::start(
        Conf::new()
            .guest("leak")
            .workers(1)
            .http("http2 on;")
            .server(&format!("location / {{ {directives} return 200 x; }}")),
    )
}

fn counts(nginx: &Nginx, requests: usize) -> Vec<String> {
    let mut connection = nginx.connect(Protocol::Http1);
    (0..requests).map(|_| connection.get("/").headers("x-count").join(",")).collect()
}

fn up_to(n: usize) -> Vec<String> {
    (1..=n).map(|n| n.to_string()).collect()
}

#[test]
fn stream_gives_each_request_a_fresh_instance() {
    let nginx = nginx("proxy_wasm_isolation stream; proxy_wasm leak;");
    assert_eq!(counts(&nginx, 50), vec!["1"; 50]);
    let at_once = nginx.connect(Protocol::Http2).send_all((0..100).map(|_| Request::get("/")));
    assert!(at_once.iter().all(|response| response.headers("x-count") == ["1"]));
}

#[test]
fn auto_is_the_default_and_gives_this_filter_a_fresh_instance() {
    assert_eq!(counts(&nginx("proxy_wasm leak;"), 10), vec!["1"; 10]);
    assert_eq!(counts(&nginx("proxy_wasm_isolation auto; proxy_wasm leak;"), 10), vec!["1"; 10]);
}

#[test]
fn none_shares_one_instance_in_a_worker() {
    let nginx = nginx("proxy_wasm_isolation none; proxy_wasm leak;");
    assert_eq!(counts(&nginx, 50), up_to(50));
    let mut more: Vec<usize> = nginx
        .connect(Protocol::Http2)
        .send_all((0..20).map(|_| Request::get("/")))
        .iter()
        .map(|response| response.header("x-count").and_then(|n| n.parse().ok()).expect("a count"))
        .collect();
    more.sort_unstable();
    assert_eq!(more, (51..=70).collect::<Vec<_>>());
}

#[test]
fn none_shares_across_locations_and_directives() {
    let nginx = Nginx::start(Conf::new().guest("leak").workers(1).http("proxy_wasm_isolation none;").server(
        "location /a { proxy_wasm leak a; return 200 x; } location /b { proxy_wasm leak b; return 200 x; }",
    ));
    let count = |path: &str| nginx.get(path).header("x-count").map(str::to_owned);
    assert_eq!([count("/a"), count("/b"), count("/a")], ["1", "2", "3"].map(|n| Some(n.to_owned())));
}

/// The same module twice in a chain: one instance for both with `stream`, one for each with `filter`.
#[test]
fn directives_of_a_module_share_an_instance_unless_told_otherwise() {
    let twice = "proxy_wasm leak a; proxy_wasm leak b;";
    // Responses pass the filters in reverse, so the second's count comes first.
    assert_eq!(counts(&nginx(&format!("proxy_wasm_isolation stream; {twice}")), 3), vec!["2,1"; 3]);
    assert_eq!(counts(&nginx(&format!("proxy_wasm_isolation filter; {twice}")), 3), vec!["1,1"; 3]);
}

/// Guests of four languages, with bodies, many at once, again and again: each request finds each guest as it was made.
#[test]
fn thousands_of_requests_through_several_guests() {
    let origin = weir_tests::Origin::start(|seen| weir_tests::Reply::text(seen.body.clone()));
    let guests =
        ["leak", "add_headers", "add_headers_cpp", "add_headers_as", "add_headers_go", "body_reader"];
    let conf = guests.iter().fold(Conf::new(), |conf, name| conf.guest(name));
    let chain: String = guests.iter().map(|name| format!("proxy_wasm {name};\n")).collect();
    let nginx = Nginx::start(
        conf.wasm("configuration_timeout 20s;")
            .workers(1)
            .log_level("warn")
            .http("http2 on; keepalive_requests 100000; upstream u { server @ORIGIN@; keepalive 50; }")
            .set("ORIGIN", origin.address())
            .server(&format!(
                "location / {{ {chain} proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://u; }}"
            )),
    );
    let mut connection = nginx.connect(Protocol::Http2);
    for round in 0..60_usize {
        let bodies: Vec<Vec<u8>> =
            (0..50).map(|n| weir_tests::digest::bytes(n * 37 * (1 + round % 5), n as u64 + 1)).collect();
        let responses = connection.send_all(bodies.iter().map(|body| Request::post("/", body.clone())));
        for (body, response) in bodies.iter().zip(&responses) {
            assert!(response.body == *body, "{} bytes of {}", response.body.len(), body.len());
            assert_eq!(response.headers("x-count"), ["1"]);
            for header in ["x-weir", "x-weir-cpp", "x-weir-as", "x-weir-go"] {
                assert_eq!(response.headers(header), ["response"], "{header}");
            }
        }
    }
    let log = nginx.stop();
    assert!(!log.contains("weir: "), "nothing is worth a warning");
}

/// More requests at once than the pool has instances are refused, not queued or crashed, and the worker recovers.
#[test]
fn an_exhausted_pool_fails_requests_and_recovers() {
    let origin = weir_tests::raw::Listener::start();
    let nginx = Nginx::start(
        Conf::new()
            .guest("leak")
            .workers(1)
            .wasm("instances 4 wait=0;")
            .set("ORIGIN", origin.address())
            .server("location /hold { proxy_wasm leak; proxy_pass http://@ORIGIN@; } location / { proxy_wasm leak; return 200 x; }"),
    );
    let mut held: Vec<_> = (0..4).map(|_| nginx.raw()).collect();
    let mut waiting = Vec::new();
    for raw in &mut held {
        raw.write("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        waiting.push(origin.accept());
    }
    let refused = nginx.get("/");
    assert_eq!(refused.status, 503);
    nginx.wait_for_log("no instance can be made");
    for connection in &mut waiting {
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    }
    for raw in &mut held {
        assert_eq!(raw.response().text(), "ok");
    }
    let recovered = weir_tests::wait::poll(|| (nginx.get("/").status == 200).then_some(()));
    assert!(recovered.is_some());
}

/// What an origin answers that has kept a request waiting.
const HELD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

#[test]
fn requests_wait_for_an_instance_that_comes_free() {
    let origin = weir_tests::raw::Listener::start();
    let nginx = Nginx::start(
        Conf::new()
            .guest("leak")
            .workers(1)
            .wasm("instances 2 wait=10s;")
            .set("ORIGIN", origin.address())
            .server("location /hold { proxy_wasm leak; proxy_pass http://@ORIGIN@; } location / { proxy_wasm leak; return 200 x; }"),
    );
    let mut held: Vec<_> = (0..2).map(|_| nginx.raw()).collect();
    let mut waiting = Vec::new();
    for raw in &mut held {
        raw.write("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        waiting.push(origin.accept());
    }
    let mut clients: Vec<_> = (0..3).map(|_| nginx.raw()).collect();
    for client in &mut clients {
        client.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    }
    // One leaves before its turn comes.
    drop(clients.remove(1));
    waiting.remove(0).write(HELD);
    for client in &mut clients {
        let response = client.response();
        assert_eq!((response.status, &*response.text()), (200, "x"));
    }
    waiting.remove(0).write(HELD);
    for raw in &mut held {
        assert_eq!(raw.response().text(), "ok");
    }
}

/// The worker learns of both in one turn of its loop: that an instance comes free, and that the client has left whose
/// turn it is. The one behind it gets the instance then.
#[test]
fn an_instance_is_passed_on_by_a_client_that_leaves_as_it_comes_free() {
    let origin = weir_tests::raw::Listener::start();
    let nginx = Nginx::start(
        Conf::new()
            .guest("leak")
            .workers(1)
            .wasm("instances 1 wait=300s;")
            .set("ORIGIN", origin.address())
            .server("location /hold { proxy_wasm leak; proxy_pass http://@ORIGIN@; } location / { proxy_wasm leak; return 200 x; } location = /metrics { weir_metrics; }"),
    );
    let waits = |count: &str| {
        let counted = weir_tests::wait::poll(|| {
            let shown = nginx.get("/metrics").text().contains(&format!("weir_pool_waits_total {count}\n"));
            shown.then_some(())
        });
        assert!(counted.is_some(), "{count} requests wait");
    };
    let mut held = nginx.raw();
    held.write("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut connection = origin.accept();
    let mut leaves = nginx.raw();
    leaves.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    waits("1");
    let mut stays = nginx.raw();
    stays.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    waits("2");
    let worker = nginx.worker_pid().to_string();
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill").args([name, &worker]).status().expect("kill");
        assert!(sent.success());
    };
    signal("-STOP");
    connection.write(HELD);
    drop(leaves);
    signal("-CONT");
    assert_eq!(held.response().text(), "ok");
    assert_eq!(stays.response().text(), "x");
}

#[test]
fn a_request_that_has_waited_long_enough_is_told_to_come_again() {
    let origin = weir_tests::raw::Listener::start();
    let nginx = Nginx::start(
        Conf::new()
            .guest("leak")
            .workers(1)
            .wasm("instances 1 wait=50ms;")
            .set("ORIGIN", origin.address())
            .server("location /hold { proxy_wasm leak; proxy_pass http://@ORIGIN@; } location / { proxy_wasm leak; return 200 x; }"),
    );
    let mut held = nginx.raw();
    held.write("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut connection = origin.accept();
    let refused = nginx.get("/");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    connection.write(HELD);
    assert_eq!(held.response().text(), "ok");
    assert_eq!(nginx.get("/").status, 200);
}

/// Fails if what its memory grows by holds anything, and leaves something in every third page of that.
const GROWS: &str = r#"
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (local $at i32) (local $end i32)
        (local.set $at (i32.mul (memory.grow (i32.const 24)) (i32.const 65536)))
        (local.set $end (i32.mul (memory.size) (i32.const 65536)))
        (loop $next
            (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (unreachable)))
            (if (i32.eqz (i32.rem_u (local.get $at) (i32.const 12288)))
                (then (i64.store (local.get $at) (i64.const -1))))
            (local.set $at (i32.add (local.get $at) (i32.const 4096)))
            (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
        (i32.const 0))"#;

/// A worker runs as another user than the master, and looks at page tables all the same.
#[test]
fn what_a_memory_grows_by_is_empty_in_the_next_request() {
    let module = Minimal { more: GROWS.to_owned(), ..Minimal::default() }.assemble();
    for reset in ["protect", "scan"] {
        let nginx = Nginx::start(
            Conf::new()
                .file("grows.wasm", module.clone())
                .wasm(&format!("module grows grows.wasm; instance_reset {reset};"))
                .workers(1)
                .server(
                    "location / { proxy_wasm grows; return 200 x; }
                     location = /metrics { weir_metrics; }",
                ),
        );
        for _ in 0..50 {
            let _ = nginx.get("/").expect_status(200);
        }
        let metrics = nginx.get("/metrics").text();
        let made: Vec<_> =
            metrics.lines().filter(|line| line.starts_with("weir_instances_made_total{")).collect();
        assert!(made.iter().all(|line| line.ends_with(" 1")) && made.len() == 1, "{made:?}");
    }
}
