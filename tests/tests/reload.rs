//! Reloads: a bad configuration changes nothing, a good one switches without loss, and nothing is compiled twice.

use std::{fs, time::Duration};

use weir_tests::{Conf, Nginx, Protocol, Request, raw::Listener, wait};

fn with(name: &str) -> Conf {
    Conf::new()
        .guest("trace")
        .server(&format!("location / {{ proxy_wasm trace {name}; return 200 {name}; }}"))
}

#[track_caller]
fn assert_serves(nginx: &Nginx, name: &str) {
    let response = nginx.get("/");
    assert_eq!(
        (response.status, response.text().as_str(), response.header("x-trace")),
        (200, name, Some(name))
    );
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").count()
}

#[test]
fn a_bad_configuration_keeps_the_old_one() {
    let mut nginx = Nginx::start(with("one"));
    let master = nginx.master_pid();
    let mut connection = nginx.connect(Protocol::Http1);
    let bad = [
        (with("two").server("location / { proxy_wasm nobody; }"), "nobody"),
        (with("two").wasm("module gone nowhere.wasm;"), "nowhere.wasm"),
        (with("two").file("x.wasm", "x").wasm("module text x.wasm;"), "not WebAssembly"),
        (with("two").guest("refuse").server("proxy_wasm refuse configure:false;"), "on_configure"),
        (with("two").guest("refuse").server("proxy_wasm refuse configure:panic;"), "on_configure"),
        (with("two").wasm("instances 0;"), "instances"),
        (with("two").wasm("memory_limit 64m; memory_reservation 1m;"), "memory_reservation"),
        (with("two").http("nonsense;"), "nonsense"),
    ];
    for (conf, word) in bad {
        let line = nginx.reload_refused(conf);
        assert!(line.contains(word), "{word}: {line}");
        assert_eq!(connection.get("/").header("x-trace"), Some("one"), "a connection from before");
        assert_serves(&nginx, "one");
    }
    nginx.reload(with("three"));
    assert_serves(&nginx, "three");
    assert_eq!(nginx.master_pid(), master);
}

#[test]
fn a_good_configuration_switches_and_compiles_nothing_again() {
    let mut nginx = Nginx::start(with("one").cache("cache off;"));
    assert_serves(&nginx, "one");
    let mark = nginx.mark();
    nginx.reload(with("two").cache("cache off;"));
    assert_serves(&nginx, "two");
    let log = nginx.log_since(mark);
    assert!(!log.contains("module compiled in"), "{log}");
    assert!(log.contains("in use already"), "{log}");

    // A filter more: only that one is compiled.
    let mark = nginx.mark();
    nginx.reload(with("three").guest("noop").cache("cache off;"));
    assert_serves(&nginx, "three");
    let log = nginx.log_since(mark);
    assert_eq!(log.matches("module compiled in").count(), 1, "{log}");

    // From filters to none and back.
    nginx.reload(Conf::new().server("return 200 plain;"));
    assert_eq!(nginx.get("/").header("x-trace"), None);
    nginx.reload(with("four").cache("cache off;"));
    assert_serves(&nginx, "four");
}

#[test]
fn requests_in_flight_end_with_the_filters_they_began_with() {
    let origin = Listener::start();
    let conf = |name: &str| {
        Conf::new()
            .guest("trace")
            .set("ORIGIN", origin.address())
            .server(&format!("location / {{ proxy_wasm trace {name}; proxy_pass http://@ORIGIN@; }}"))
    };
    let mut nginx = Nginx::start(conf("old"));
    let mut early = nginx.raw();
    early.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut slow = origin.accept();
    nginx.reload(conf("new"));
    let mut late = nginx.raw();
    late.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut quick = origin.accept();
    quick.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nquick");
    let response = late.response();
    assert_eq!((response.text().as_str(), response.header("x-trace")), ("quick", Some("new")));
    slow.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow");
    let response = early.response();
    assert_eq!((response.text().as_str(), response.header("x-trace")), ("slow", Some("old")));
    let log = nginx.stop();
    assert!(log.contains("old trace: on_delete") && log.contains("new trace: on_delete"), "{log}");
}

#[test]
fn many_reloads_leave_nothing_behind() {
    let mut nginx = Nginx::start(with("r"));
    let master = nginx.master_pid();
    let rss = |nginx: &Nginx| {
        let status =
            fs::read_to_string(format!("/proc/{}/statm", nginx.master_pid())).expect("the master lives");
        status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    };
    for n in 0..5 {
        nginx.reload(with(&format!("warm{n}")));
    }
    nginx.wait_for_old_workers();
    let (before_fds, before_rss) = (descriptors(master), rss(&nginx));
    for n in 0..15 {
        nginx.reload(with(&format!("r{n}")));
        assert_serves(&nginx, &format!("r{n}"));
    }
    nginx.wait_for_old_workers();
    assert_eq!(descriptors(master), before_fds);
    let after_rss = rss(&nginx);
    assert!(after_rss < before_rss + (4 << 20), "{before_rss} bytes, then {after_rss}");
}

/// wasmtime's and our threads do not survive a fork: the master has none but its first.
#[test]
fn the_master_has_one_thread() {
    let mut nginx = Nginx::start(with("one").guest("add_headers_go").wasm("configuration_timeout 20s;"));
    assert_eq!(threads(nginx.master_pid()), 1);
    nginx.reload(with("two").guest("add_headers_cpp"));
    assert_eq!(threads(nginx.master_pid()), 1);
    assert_serves(&nginx, "two");
    // A worker has the one that makes epochs pass.
    for pid in nginx.worker_pids() {
        assert!(threads(pid) <= 2, "{}", threads(pid));
    }
}

#[test]
fn signals_from_the_command_line_compile_nothing() {
    let mut nginx = Nginx::start(with("one").cache("cache off;"));
    let mark = nginx.mark();
    let compiled = |nginx: &Nginx| nginx.log_since(mark).matches("module compiled in").count();
    let ended = nginx.send_signal("reopen");
    assert!(ended.status.success() && !ended.stderr.contains("compiled"), "{}", ended.stderr);
    assert_eq!(compiled(&nginx), 0, "{}", nginx.log());

    // The process that sends the signal only reads the configuration; the master loads the new filter.
    nginx.rewrite(with("two").guest("noop").cache("cache off;"));
    let old = nginx.worker_pids();
    let ended = nginx.send_signal("reload");
    assert!(ended.status.success() && !ended.stderr.contains("compiled"), "{}", ended.stderr);
    let switched = wait::poll(|| {
        let now = nginx.worker_pids();
        (now.len() == 2 && now.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    assert!(switched.is_some(), "{}", nginx.log());
    assert_serves(&nginx, "two");
    assert_eq!(compiled(&nginx), 1, "{}", nginx.log());

    // Even where the filter is gone by now: it is not looked at.
    nginx.rewrite(with("three").wasm("module gone nowhere.wasm;"));
    let ended = nginx.send_signal("quit");
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(nginx.wait_for_end().success());
}

/// Requests that come while nginx reloads, again and again, all get an answer of one configuration or the other.
#[test]
fn nothing_is_lost_under_load() {
    let mut nginx = Nginx::start(with("a"));
    let address = nginx.address();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let client = std::thread::spawn(move || {
        let mut served = 0_u32;
        while stopped.recv_timeout(Duration::ZERO) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let response = weir_tests::Connection::open(address, Protocol::Http1).send(Request::get("/"));
            assert_eq!(response.status, 200);
            assert_eq!(response.header("x-trace"), Some(response.text().as_str()), "of one configuration");
            served += 1;
        }
        served
    });
    for name in ["b", "c", "d", "e"] {
        nginx.reload(with(name));
    }
    drop(stop);
    assert!(client.join().expect("every request was answered") > 0);
}
