//! A filter that fails ends its own request and nothing else.

use std::time::{Duration, Instant};

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request};

const FAULTS: [(&str, &str); 5] = [
    // What the guest says, or what Weir says of it.
    ("panic", "faults: told to panic"),
    ("unreachable", "unreachable"),
    ("loop", "ran longer than its limit"),
    ("oom", "unreachable"),
    ("stack", "overflowed its stack"),
];

fn conf(isolation: &str) -> Conf {
    Conf::new()
        .guest("faults")
        .workers(1)
        .timeout("callback_timeout 200ms;")
        // Filling the default of 64 MiB could take longer than that on a busy machine.
        .wasm("memory_limit 8m; failure_limit off;")
        .http("http2 on;")
        .server(&format!(
            "proxy_wasm_isolation {isolation}; location / {{ proxy_wasm faults; return 200 fine; }}"
        ))
}

fn fault(name: &str) -> Request {
    Request::get("/").header("x-fault", name)
}

#[track_caller]
fn assert_fine(nginx: &Nginx) {
    let response = nginx.get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "fine"));
    assert_eq!(response.headers("x-fault"), ["none"]);
}

#[test]
fn each_fault_ends_one_request() {
    for isolation in ["stream", "none"] {
        let nginx = Nginx::start(conf(isolation));
        let worker = nginx.worker_pid();
        assert_fine(&nginx);
        for (name, cause) in FAULTS {
            for at in ["request", "response"] {
                let mark = nginx.mark();
                let start = Instant::now();
                let response = nginx.send(fault(name).header("x-fault-at", at));
                assert_eq!(response.status, 500, "{isolation}, {name} at {at}");
                assert!(
                    start.elapsed() < Duration::from_secs(5),
                    "{name} at {at} took {:?}",
                    start.elapsed()
                );
                nginx.wait_for_log_since(mark, cause);
                // Once, with filter, callback and the guest's own functions.
                let log = nginx.log_since(mark);
                let callback =
                    if at == "request" { "proxy_on_request_headers" } else { "proxy_on_response_headers" };
                let says: Vec<&str> = log
                    .lines()
                    .filter(|line| line.contains("[error]") && line.contains("filter \"faults\": "))
                    .filter(|line| {
                        line.contains("on_request_headers") || line.contains("on_response_headers")
                    })
                    .filter(|line| {
                        line.contains("failed") || line.contains("ran longer") || line.contains("overflowed")
                    })
                    .collect();
                assert_eq!(says.len(), 1, "{isolation}, {name} at {at}: {log}");
                assert!(says[0].contains(callback) || says[0].contains(&callback[6..]), "{says:?}");
                assert_fine(&nginx);
                assert_eq!(nginx.worker_pid(), worker, "{name}");
            }
        }
    }
}

#[test]
fn a_trap_is_logged_with_the_names_of_the_functions() {
    let nginx = Nginx::start(conf("stream"));
    let _ = nginx.send(fault("unreachable"));
    nginx.wait_for_log("unreachable");
    let log = nginx.stop();
    assert!(log.contains("wasm backtrace"), "{log}");
    assert!(log.contains("faults::fail") || log.contains("on_http_request_headers"), "{log}");
}

/// In one line: each function by the name that it has in the source, with its place where the guest has debugging
/// information.
#[test]
fn a_trap_is_logged_with_its_place_in_the_sources() {
    let nginx = Nginx::start(
        Conf::new().guest("trap_dwarf").server("location / { proxy_wasm trap_dwarf; return 200 fine; }"),
    );
    assert_eq!(nginx.get("/").status, 500);
    let line = nginx.wait_for_log("filter \"trap_dwarf\": proxy_on_request_headers failed: ");
    let source = include_str!("../guests/cpp/trap_dwarf.cc");
    let number =
        source.lines().position(|line| line.ends_with("// here")).expect("the line that calls it") + 1;
    let place = format!("tests/guests/cpp/trap_dwarf.cc:{number}:");
    let frames: Vec<&str> = line.split("wasm backtrace: ").nth(1).expect("a backtrace").split(", ").collect();
    // Of the function that only traps the compiler tells no line.
    assert!(frames[0].starts_with("0: 0x") && frames[0].ends_with("deep::Diver::bottom()"), "{line}");
    assert!(frames[1].starts_with("1: 0x") && frames[1].contains(&place), "{line}");
    for frame in &frames[1..3] {
        assert!(frame.contains(" deep::Diver::dive(unsigned int) ("), "{line}");
    }
    assert!(frames[3].contains("proxy_on_request_headers"), "{line}");
}

/// The other requests of the same worker, of the same connection even, go on.
#[test]
fn other_requests_go_on() {
    let origin = Origin::start(|_| Reply::text("fine"));
    for isolation in ["stream", "none"] {
        let nginx = Nginx::start(
            Conf::new()
                .guest("faults")
                .workers(1)
                .http("http2 on;")
                .proxy(&origin, &format!("proxy_wasm_isolation {isolation}; proxy_wasm faults;")),
        );
        let requests: Vec<Request> = (0..40)
            .map(|n| match n % 4 {
                1 => fault("panic"),
                3 => fault("unreachable").header("x-fault-at", "response"),
                _ => Request::get("/"),
            })
            .collect();
        let responses = nginx.connect(Protocol::Http2).send_all(requests);
        for (n, response) in responses.iter().enumerate() {
            if n % 2 == 1 {
                assert_eq!(response.status, 500, "{isolation} {n}");
            } else if isolation == "stream" {
                assert_eq!((response.status, response.text().as_str()), (200, "fine"), "{n}");
            } else {
                // Requests that were in flight in the instance that died die with it.
                assert!([200, 500].contains(&response.status), "{n}");
            }
        }
        assert_eq!(nginx.get("/").text(), "fine");
    }
}

#[test]
fn keep_alive_survives_a_failed_request() {
    let nginx = Nginx::start(conf("stream"));
    let mut connection = nginx.connect(Protocol::Http1);
    for _ in 0..3 {
        assert_eq!(connection.send(fault("panic")).status, 500);
        // A connection may be closed after an error, but not in the middle of a response.
        connection = nginx.connect(Protocol::Http1);
        assert_eq!(connection.get("/").text(), "fine");
    }
    let mut http2 = nginx.connect(Protocol::Http2);
    for _ in 0..3 {
        assert_eq!(http2.send(fault("panic")).status, 500);
        assert_eq!(http2.get("/").text(), "fine");
    }
}

#[test]
fn a_fault_with_a_body_on_its_way() {
    let origin = Origin::start(|_| Reply::text("x".repeat(100_000)));
    let nginx = Nginx::start(Conf::new().guest("faults").proxy(&origin, "proxy_wasm faults;"));
    for at in ["request", "response"] {
        let request =
            Request::post("/", "y".repeat(100_000)).header("x-fault", "panic").header("x-fault-at", at);
        assert_eq!(nginx.send(request).status, 500, "{at}");
        assert_eq!(nginx.get("/").body.len(), 100_000);
    }
}

/// nginx's own page for the error, or the one that is configured.
#[test]
fn error_page_applies() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("faults")
            .file("html/500.html", "custom")
            .server("root html; error_page 500 /500.html; location / { proxy_wasm faults; return 200 fine; } location = /500.html { }"),
    );
    let response = nginx.send(fault("panic"));
    assert_eq!((response.status, response.text().as_str()), (500, "custom"));
}

/// Faults one after another neither use up the pool nor make the worker grow.
#[test]
fn many_faults_leave_nothing_behind() {
    let nginx = Nginx::start(conf("stream").wasm("instances 8;"));
    let mut connection = nginx.connect(Protocol::Http2);
    let round = |connection: &mut weir_tests::Connection| {
        for _ in 0..10 {
            let responses = connection.send_all((0..5).map(|_| fault("panic")));
            assert!(responses.iter().all(|response| response.status == 500));
        }
    };
    round(&mut connection);
    let before = nginx.worker_rss()[0];
    round(&mut connection);
    round(&mut connection);
    let after = nginx.worker_rss()[0];
    assert!(after < before + (2 << 20), "{before} bytes, then {after}");
    assert_fine(&nginx);
}

#[test]
fn limits_are_those_of_the_configuration() {
    let conf = conf("stream");
    for (directive, least) in [("", 29), ("callback_timeout 300ms;", 290), ("callback_timeout 10ms;", 10)] {
        let nginx = Nginx::start(conf.clone().timeout(directive).wasm("stack_limit 64k;"));
        let start = Instant::now();
        assert_eq!(nginx.send(fault("loop")).status, 500);
        let took = start.elapsed();
        assert!((least..5000).contains(&took.as_millis()), "{directive:?}: {took:?}");
        assert_eq!(nginx.send(fault("stack")).status, 500);
        assert_fine(&nginx);
    }
}
