//! The matrix of faults: every kind of fault, in every callback, isolation and policy, so many times each, with the
//! answers, the metrics, the worker's memory and the users of another location checked.
//!
//! ```sh
//! WEIR_MATRIX=10000 cargo nextest run --release --workspace -E 'binary(matrix)' --no-capture
//! ```
//!
//! `WEIR_MATRIX_FIRST` leaves out rows before that one, from 0. `WEIR_MATRIX` says how often each fault is tried in each cell,
//! `WEIR_MATRIX_SLOW` how often those that take as long as a callback may: that is 1 ms if they are tried more than ten times,
//! and 50 ms otherwise. The tests of `storms.rs` send the faults of all callbacks mixed, over HTTP/2 too, and for each way in
//! which instances are put back.

mod beside;
mod cells;

use std::{env, time::Instant};

use beside::{Weather, beside};
use cells::{Cell, FAILED, PLACES, Part, changes_tables, failures};
use weir_tests::{
    Conf, Nginx,
    grpc::Service,
    wait,
    wasm::faulty::{self, Fault, calling},
};

/// What a worker's memory may grow by after it has been through all faults: what the pool keeps is bounded, and the
/// allocator's pieces move a little.
const GROWTH: u64 = 16 << 20;

/// How often each cell is tried before memory is looked at.
const WARM: u64 = 4;

/// Requests without faults that others' waits are compared with, for each location.
const FAIR: u64 = 400;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} has a number")))
}

/// How often a fault is tried in each cell.
fn times(fault: &Fault) -> u64 {
    if fault.is_slow { number("WEIR_MATRIX_SLOW", 1) } else { number("WEIR_MATRIX", 4) }
}

/// One worker, and for each fault its way to be quick: memories and tables are small, and callbacks may run for a short time
/// only, where those that never end are tried often; else for so long that no other fault takes it, when another process
/// has the worker's core for a while. No filter is suspended, so each fault reaches its guest.
fn conf() -> Conf {
    let time = if number("WEIR_MATRIX_SLOW", 1) > 10 { 1 } else { 50 };
    Conf::new()
        .guest("add_headers")
        .workers(1)
        .timeout(&format!("callback_timeout {time}ms;"))
        .wasm("memory_limit 2m; table_limit 20000; failure_limit off; log_limit 200;")
        // All is written, but only what is nobody's fault is kept: millions of failures have a line each.
        .http("error_log error.log alert; error_log /dev/null warn; keepalive_requests 100000000;")
        .http("keepalive_timeout 600s;")
}

/// The locations of `part`, each with the directives `more`.
fn locations(part: Part, more: &str) -> String {
    let mut text = String::new();
    for (n, place) in PLACES.iter().enumerate() {
        for (prefix, module) in [("", "faulty"), ("/table", "bomb")] {
            text.push_str(&format!(
                "location {prefix}/{}/{n} {{ proxy_wasm_isolation {}; proxy_wasm_failure {}{};
                    proxy_wasm {module}; {more} }}\n",
                part.path(),
                place.isolation,
                place.policy,
                if place.policy == "closed" { format!(" status={FAILED}") } else { String::new() },
            ));
        }
    }
    text
}

const OTHERS: &str = "location = /metrics { weir_metrics; }
    location /calm { proxy_wasm add_headers; proxy_wasm faulty; return 200 calm; }\n";

#[test]
fn in_callbacks_of_requests() {
    let conf = conf()
        .file("faulty.wasm", faulty::module(false))
        .file("bomb.wasm", faulty::module(true))
        .wasm("module faulty faulty.wasm; module bomb bomb.wasm;")
        .server(&format!("{OTHERS}{}", locations(Part::Requests, "return 200 fine;")));
    walk(&Nginx::start(conf), Part::Requests);
}

#[test]
fn in_the_callback_of_trailers() {
    let more = "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass_trailers on;
        proxy_pass http://origin;";
    let conf = conf()
        .file("faulty.wasm", faulty::module(false))
        .file("bomb.wasm", faulty::module(true))
        .wasm("module faulty faulty.wasm; module bomb bomb.wasm;")
        .http("upstream origin { server 127.0.0.1:@PORT1@; keepalive 8; keepalive_requests 100000000; }")
        .server(&format!("{OTHERS}{}", locations(Part::Trailers, more)))
        .server("location / { add_trailer x-sum 42; return 200 fine; }");
    walk(&Nginx::start(conf), Part::Trailers);
}

#[test]
fn in_callbacks_of_calls() {
    let service = Service::start();
    let (tame, all): (Vec<_>, Vec<_>) =
        (cells::faults().filter(|fault| !changes_tables(fault)).collect(), cells::faults().collect());
    let conf = conf()
        .file("faulty.wasm", calling::module(&tame))
        .file("bomb.wasm", calling::module(&all))
        .wasm("module faulty faulty.wasm; module bomb bomb.wasm; call_keepalive 8 requests=100000000;")
        .http(&format!(
            "upstream {} {{ server 127.0.0.1:@PORT1@; }} upstream {} {{ server {}; }}",
            calling::HTTP,
            calling::GRPC,
            service.address()
        ))
        .server(&format!("{OTHERS}{}", locations(Part::Calls, "return 200 fine;")))
        .server("location / { return 204; }");
    walk(&Nginx::start(conf), Part::Calls);
}

/// Tries all cells of `part`.
fn walk(nginx: &Nginx, part: Part) {
    let worker = nginx.worker_pid();
    let first = usize::try_from(number("WEIR_MATRIX_FIRST", 0)).expect("a small number");
    for (n, place) in PLACES.iter().enumerate().skip(first) {
        let (begin, cells) = (Instant::now(), Cell::all(part, n));
        let (mut sent, mut failed, mut memory, mut told) = (0, 0, [0; 2], failures(nginx));
        let waits = beside(nginx, |vane| {
            vane.turn(Weather::Fair);
            cells[0].spare(nginx, FAIR);
            let mut pass = |slow: bool, times: &dyn Fn(&Fault) -> u64| {
                vane.turn(if slow { Weather::Slow } else { Weather::Stormy });
                for cell in cells.iter().filter(|cell| cell.fault.is_slow == slow) {
                    sent += times(cell.fault);
                    failed += cell.run(nginx, times(cell.fault), &mut told);
                }
            };
            pass(false, &|_| WARM);
            memory[0] = nginx.worker_rss()[0];
            pass(false, &times);
            pass(true, &times);
            memory[1] = nginx.worker_rss()[0];
        });
        println!(
            "{part:?}, isolation {}, policy {}: {} cells, {sent} requests, {failed} failures in {:.0?}; memory {} KiB, then {} KiB; beside them 0 errors{waits}",
            place.isolation,
            place.policy,
            cells.len(),
            begin.elapsed(),
            memory[0] >> 10,
            memory[1] >> 10,
        );
        assert!(memory[1] < memory[0] + GROWTH, "{place:?}: {memory:?} bytes, with {sent} requests");
        assert_eq!(nginx.worker_pid(), worker, "the worker lives");
    }
}

/// Root contexts: each tick fails, and each message of a queue, until there have been enough failures.
#[test]
fn in_callbacks_of_root_contexts() {
    for (callback, make) in [
        ("on_tick", faulty::ticking as fn(&Fault) -> Vec<u8>),
        ("on_queue_ready", faulty::queueing as fn(&Fault) -> Vec<u8>),
    ] {
        for fault in cells::faults().filter(|fault| fault.is_fatal && !fault.needs_request()) {
            let nginx = Nginx::start(
                conf()
                    .file("faulty.wasm", make(fault))
                    .file("calm.wasm", faulty::module(false))
                    .wasm("module root faulty.wasm; module faulty calm.wasm; shm_queue * 1m;")
                    .server(&format!("{OTHERS} location /root {{ proxy_wasm root; return 200 fine; }}")),
            );
            let worker = nginx.worker_pid();
            let count = || failures(&nginx).into_values().sum::<u64>();
            let reach = |wanted: u64| {
                while count() < wanted {
                    let more = count();
                    let goes_on = wait::poll(|| (count() > more).then_some(()));
                    assert!(goes_on.is_some(), "{} in {callback}: it fails no more after {more}", fault.name);
                }
            };
            let mut memory = [0; 2];
            let waits = beside(&nginx, |vane| {
                vane.turn(if fault.is_slow { Weather::Slow } else { Weather::Stormy });
                reach(WARM);
                memory[0] = nginx.worker_rss()[0];
                reach(WARM + times(fault));
                memory[1] = nginx.worker_rss()[0];
            });
            let failures = failures(&nginx);
            assert!(failures.keys().all(|(name, _)| name == callback), "{failures:?}");
            println!(
                "{} in {callback}: {failures:?}; memory {} KiB, then {} KiB; beside them 0 errors{waits}",
                fault.name,
                memory[0] >> 10,
                memory[1] >> 10
            );
            assert!(memory[1] < memory[0] + GROWTH, "{} in {callback}: {memory:?} bytes", fault.name);
            assert_eq!(nginx.worker_pid(), worker, "the worker lives");
        }
    }
}
