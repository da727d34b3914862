//! Workers: one that dies is replaced by one that filters, and how nginx is started makes no difference.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

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
        let text = std::fs::read_to_string(prefix.join("own.log")).ok()?;
        text.contains("A trace: on_delete").then_some(text)
    });
    let own = own.expect("the lines of A in its own log");
    assert!(own.contains("A trace: on_request_headers"), "{own}");
    let log = nginx.log();
    assert!(
        !log.contains("A trace: on_request_headers") && !log.contains("B trace: on_request_headers"),
        "{log}"
    );
    assert_eq!(std::fs::read_to_string(prefix.join("quiet.log")).expect("the log"), "");
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
