//! Reloads: a bad configuration changes nothing, a good one switches without loss, and nothing is compiled twice.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        mpsc::{self, TryRecvError},
    },
    thread,
};

use weir_tests::{Conf, Connection, Nginx, Protocol, Request, Response, raw::Listener, wait, wasm::Minimal};

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

/// Every client of these asks again and again, over connections of its own, until it is told to stop.
struct Clients {
    stop: mpsc::Sender<()>,
    threads: Vec<thread::JoinHandle<u32>>,
}

impl Clients {
    /// `count` clients; `check` is what each response has to stand.
    fn start(nginx: &Nginx, count: usize, target: &'static str, check: fn(&Response)) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let stopped = Arc::new(Mutex::new(stopped));
        let address = nginx.address();
        let client = |_| {
            let stopped = Arc::clone(&stopped);
            thread::spawn(move || {
                let mut served = 0_u32;
                while stopped.lock().expect("no client panics with it").try_recv() == Err(TryRecvError::Empty)
                {
                    let mut connection = Connection::open(address, Protocol::Http1);
                    check(&connection.send(Request::get(target)));
                    served += 1;
                }
                served
            })
        };
        Self { stop, threads: (0..count).map(client).collect() }
    }

    /// Ends them, and makes sure that each has been served, always.
    fn stop(self) {
        drop(self.stop);
        for thread in self.threads {
            assert!(thread.join().expect("every request was answered as it should be") > 0);
        }
    }
}

/// Requests that come while nginx reloads, again and again, all get an answer of one configuration or the other; and
/// nothing of a configuration is left when its last request has ended.
#[test]
fn fifty_reloads_under_load() {
    // Every other generation has an engine of its own, for other settings.
    let conf = |n: usize| {
        with(&format!("r{n}")).wasm(["memory_limit 32m;", "memory_limit 48m;"][n % 2]).log_level("warn")
    };
    let mut nginx = Nginx::start(conf(0));
    let clients = Clients::start(&nginx, 2, "/", |response| {
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-trace"), Some(response.text().as_str()), "of one configuration");
    });
    let master = nginx.master_pid();
    let look = |nginx: &mut Nginx, reloads: std::ops::Range<usize>| {
        for n in reloads {
            nginx.reload(conf(n));
        }
        nginx.wait_for_old_workers();
        (descriptors(master), nginx.master_rss(), nginx.master_address_space(), nginx.worker_rss())
    };
    let before = look(&mut nginx, 1..11);
    let after = look(&mut nginx, 11..51);
    clients.stop();
    // A worker is gone once the master's signal handler has asked for its status; what led to it is closed a little later.
    let closed = wait::poll(|| (descriptors(master) <= before.0).then_some(()));
    assert!(closed.is_some(), "the master had {} descriptors, then {}", before.0, descriptors(master));
    // Its allocator takes memory in large pieces, and gives it back late; forty filters left behind would be 20 MB.
    assert!(after.1 < before.1 + (8 << 20), "the master had {} bytes, then {}", before.1, after.1);
    // An engine reserves some terabytes.
    assert!(after.2 < before.2 + (1 << 30), "address space of {} bytes, then {}", before.2, after.2);
    for (before, after) in before.3.iter().zip(&after.3) {
        assert!(*after < before + (8 << 20), "a worker had {before} bytes, then {after}");
    }
    assert_serves(&nginx, "r50");
}

/// A new binary takes over, twice, under load.
#[test]
fn an_upgrade_of_the_binary_loses_nothing() {
    let mut nginx = Nginx::start(with("one").daemon());
    let clients = Clients::start(&nginx, 2, "/", |response| {
        assert_eq!((response.status, response.header("x-trace")), (200, Some(response.text().as_str())));
    });
    let (master, mark) = (nginx.master_pid(), nginx.mark());
    nginx.upgrade();
    assert_ne!(nginx.master_pid(), master);
    assert_serves(&nginx, "one");
    assert!(!nginx.log_since(mark).contains("module compiled in"), "{}", nginx.log_since(mark));
    nginx.upgrade();
    assert_serves(&nginx, "one");
    // The new master is one like any other.
    nginx.reload(with("two").daemon());
    assert_serves(&nginx, "two");
    clients.stop();
}

/// A request that is held when nginx is told to stop gracefully: its contexts end with it.
#[test]
fn quitting_ends_the_contexts_of_held_requests() {
    let origin = Listener::start();
    let pauses = Minimal {
        more: r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))"#
            .to_owned(),
        ..Minimal::default()
    };
    let mut nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .file("pauses.wasm", pauses.assemble())
            .wasm("module pauses pauses.wasm;")
            .workers(1)
            .set("ORIGIN", origin.address())
            .main("worker_shutdown_timeout 300ms;")
            .server(
                "location / { proxy_wasm trace A; proxy_pass http://@ORIGIN@; }
                 location /held { proxy_wasm trace B; proxy_wasm pauses; return 200 x; }",
            ),
    );
    // One waits for its origin, one is held by its filter.
    let mut waits = nginx.raw();
    waits.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let _slow = origin.accept();
    nginx.wait_for_log("A trace: on_request_headers");
    let mut held = nginx.raw();
    held.write("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_for_log("B trace: on_request_headers");
    nginx.begin_to_stop();
    assert!(nginx.wait_for_end().success());
    let log = nginx.log();
    for name in ["A", "B"] {
        for callback in ["on_done", "on_log", "on_delete"] {
            let line = format!("{name} trace: {callback}");
            assert!(log.contains(&line), "{line} is not in {log}");
        }
    }
}
