//! Workers: one that dies is replaced by one that filters, and how nginx is started makes no difference.

use std::{
    collections::HashSet,
    fs,
    os::unix::process::CommandExt,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};
use weir_tests::{Conf, Connection, Nginx, Protocol, Request, wait, wasm};

fn conf() -> Conf {
    Conf::new().guest("leak").server("location / { proxy_wasm leak; return 200 x; }")
}

#[track_caller]
fn assert_filters(nginx: &Nginx) {
    // Enough for all workers to have had some.
    for _ in 0..20 {
        let response = nginx.get("/");
        assert_eq!((response.status, response.headers("x-count")), (200, vec!["1"]));
    }
}

/// Workers die one after the other under load: what is lost is what they had in flight, and nothing else.
#[test]
fn a_hundred_killed_workers() {
    const KILLS: usize = 100;
    const CLIENTS: usize = 3;
    let mut nginx = Nginx::start(conf().log_level("warn"));
    nginx.tolerate("exited on signal 9");
    // Workers of one master talk over sockets that the dead one leaves closed.
    nginx.tolerate("sendmsg() failed");
    let address = nginx.address();
    let stopped = AtomicBool::new(false);
    let lost = AtomicUsize::new(0);
    let client = || {
        let mut served = 0_u32;
        while !stopped.load(Ordering::Relaxed) {
            // A connection for each request: one that is kept might be the dead worker's.
            match Connection::open(address, Protocol::Http1).try_send(Request::get("/")) {
                Ok(response) => {
                    assert_eq!((response.status, response.headers("x-count")), (200, vec!["1"]));
                    served += 1;
                }
                Err(_) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        served
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for kill in 0..KILLS {
            let before = nginx.worker_pids();
            let killed = before[kill % before.len()];
            nginx.kill(killed);
            let replaced = wait::poll(|| {
                let now = nginx.worker_pids();
                (now.len() == 2 && !now.contains(&killed)).then_some(())
            });
            assert!(replaced.is_some(), "{}", nginx.log());
            let lost = lost.load(Ordering::Relaxed);
            assert!(lost <= (kill + 1) * CLIENTS, "{lost} requests lost by {} kills", kill + 1);
        }
        stopped.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("all that is answered is right") > 0);
        }
    });
    assert_filters(&nginx);
}

#[test]
fn in_the_background() {
    let mut nginx = Nginx::start(conf().daemon());
    assert_filters(&nginx);
    let again = conf().daemon().guest("noop").server("return 204;");
    nginx.reload(again);
    assert_filters(&nginx);
}

#[test]
fn one_worker_or_many() {
    for workers in [1, 5] {
        assert_filters(&Nginx::start(conf().workers(workers)));
    }
}

/// Workers log who they are: what one filter writes is in the error log of its own location.
#[test]
fn a_location_has_its_own_error_log() {
    let nginx = Nginx::start(Conf::new().guest("trace").server(
        "location / { proxy_wasm trace A; error_log own.log info; return 200 x; }
         location /quiet { proxy_wasm trace B; error_log quiet.log error; return 200 x; }",
    ));
    let _ = (nginx.get("/"), nginx.get("/quiet"));
    let prefix = nginx.prefix().to_owned();
    let own = wait::poll(|| {
        let text = fs::read_to_string(prefix.join("own.log")).ok()?;
        text.contains("A trace: on_delete").then_some(text)
    });
    let own = own.expect("the lines of A in its own log");
    assert!(own.contains("A trace: on_request_headers"), "{own}");
    let log = nginx.log();
    assert!(
        !log.contains("A trace: on_request_headers") && !log.contains("B trace: on_request_headers"),
        "{log}"
    );
    assert_eq!(fs::read_to_string(prefix.join("quiet.log")).expect("the log"), "");
}

/// A filter that draws sixteen random bytes, in its configuration and for each request, which sees them in a header.
const DRAWS: &str = r#"(module
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "x-drawn")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
    (func $draw (local $at i32)
        (if (call $random (i32.const 32) (i32.const 16)) (then unreachable))
        ;; As letters.
        (loop $next
            (i32.store8 offset=64 (local.get $at)
                (i32.add (i32.const 65) (i32.and (i32.load8_u offset=32 (local.get $at)) (i32.const 15))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $at) (i32.const 16)))))
    (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $draw) (i32.const 1))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
        (call $draw)
        (drop (call $add (i32.const 2) (i32.const 0) (i32.const 7) (i32.const 64) (i32.const 16)))
        (i32.const 0)))"#;

/// The master draws some while it reads the configuration, and each worker holds some ready: nobody has another one's.
#[test]
fn workers_draw_different_random_numbers() {
    let server = |isolation| {
        format!("proxy_wasm_isolation {isolation}; location / {{ proxy_wasm draws; return 200 x; }}")
    };
    let conf = Conf::new().file("draws.wasm", wasm::assemble(DRAWS)).wasm("module draws draws.wasm;");
    let nginx = Nginx::start(conf.workers(4).server(&server("stream")).server(&server("none")));
    let mut drawn = HashSet::new();
    for request in 0..300 {
        let address = nginx.address_of(request % 2);
        let response = Connection::open(address, Protocol::Http1).get("/");
        let letters = response.header("x-drawn").expect("the header").to_owned();
        assert_eq!(letters.len(), 16);
        assert!(drawn.insert(letters), "drawn twice");
    }
}

/// A worker that gets no thread serves what passes no filter, fails the rest by its policy, and filters as soon as it can.
#[test]
fn a_worker_without_a_thread() {
    // A user that nothing else runs as: it has two processes or threads at most, one of which is not the worker's.
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let user =
        users.lines().find_map(|line| line.strip_prefix("games:")?.split(':').nth(1)?.parse::<u32>().ok());
    // Only root can have workers of another user.
    let Some(user) = user.filter(|_| geteuid().is_root()) else { return };
    let mut nginx = Nginx::start(
        Conf::new()
            .guest("leak")
            .workers(1)
            .main("user games;")
            .log_level("warn")
            .environment("WEIR_PANIC_IN", "another start")
            .server(
                "location / { proxy_wasm leak; return 200 x; }
                 location /status { proxy_wasm_failure closed status=418; proxy_wasm leak; return 200 x; }
                 location /open { proxy_wasm_failure open; proxy_wasm leak; return 200 x; }
                 location /plain { return 200 plain; }",
            ),
    );
    nginx.tolerate("[alert]");
    nginx.tolerate("exited on signal 9");
    let mut other = Command::new("sleep").arg("1000").uid(user).spawn().expect("another process");
    let master = i32::try_from(nginx.master_pid()).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(2), ..getrlimit(Resource::Nproc) };
    prlimit(master, Resource::Nproc, limit).expect("a limit, which workers inherit");
    let mark = nginx.mark();
    nginx.kill(nginx.worker_pid());
    let said = nginx.wait_for_log_since(mark, "this worker cannot run filters; ");
    assert!(said.contains("[alert]") && said.contains("raise the limit of processes"), "{said}");
    let status = |target: &str| nginx.get(target).status;
    assert_eq!(nginx.get("/plain").text(), "plain");
    assert_eq!([status("/"), status("/status"), status("/open")], [503, 418, 200]);
    assert_eq!(nginx.get("/open").header("x-count"), None);
    nginx.wait_for_log_since(mark, "this worker cannot run filters now");
    // A bug is in the way when it tries again; then a request has it try.
    nginx.wait_for_log_since(mark, "weir: bug in another start");
    assert_eq!(status("/"), 503);
    let worker = nginx.worker_pid();
    other.kill().and_then(|()| other.wait()).expect("the other process ends");
    nginx.wait_for_log_since(mark, "this worker runs filters now");
    assert_filters(&nginx);
    assert_eq!((nginx.get("/open").header("x-count"), nginx.worker_pid()), (Some("1"), worker));
    assert_eq!(nginx.log_since(mark).matches("it tries again each second").count(), 1);
}
