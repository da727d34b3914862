//! Root contexts that live on: ticks in each worker, what requests learn from them, and what all instances begin with.

use std::collections::BTreeSet;

use weir_tests::{Conf, Nginx, wait};

fn conf(directives: &str) -> Conf {
    let location = format!("location / {{ {directives} return 200 x; }}");
    Conf::new().guest("ticks").workers(1).server(&location)
}

fn nginx(directives: &str) -> Nginx {
    Nginx::start(conf(directives))
}

fn number(nginx: &Nginx, name: &str) -> u64 {
    nginx.get("/").header(name).and_then(|number| number.parse().ok()).expect("a number")
}

/// The worker that has logged a line.
fn pid(line: &str) -> u32 {
    let pid = line.split_once("] ").and_then(|(_, rest)| rest.split_once('#'));
    pid.and_then(|(pid, _)| pid.parse().ok()).expect("a line of nginx's")
}

/// Waits until `count` more ticks have been logged, and answers who has ticked.
fn tickers(nginx: &Nginx, count: usize) -> BTreeSet<u32> {
    let lines = nginx.wait_for_lines(nginx.mark(), "[ticks] ticks", count);
    lines.iter().map(|line| pid(line)).collect()
}

#[test]
fn one_worker_ticks_for_all_until_it_dies() {
    let directives = "proxy_wasm_ticks singleton; proxy_wasm ticks '5 log';";
    let mut nginx = Nginx::start(conf(directives).workers(4));
    nginx.tolerate("exited on signal 9");
    nginx.tolerate("sendmsg() failed");
    for _ in 0..3 {
        let ticking = tickers(&nginx, 20);
        assert_eq!(ticking.len(), 1, "{}", nginx.log());
        let killed = ticking.into_iter().next().expect("one");
        assert!(nginx.worker_pids().contains(&killed));
        nginx.kill(killed);
        let other = wait::poll(|| (!tickers(&nginx, 1).contains(&killed)).then_some(()));
        assert!(other.is_some(), "{}", nginx.log());
    }
    // After a reload it is a worker of the new configuration, though an old one still has a connection.
    let _kept = nginx.connect(weir_tests::Protocol::Http1);
    let before = nginx.worker_pids();
    nginx.reload(conf(directives).workers(4));
    let new = wait::poll(|| tickers(&nginx, 5).is_disjoint(&before.iter().copied().collect()).then_some(()));
    assert!(new.is_some(), "{}", nginx.log());
}

#[test]
fn all_workers_tick_unless_one_is_to() {
    let nginx = Nginx::start(conf("proxy_wasm ticks '5 log';").workers(3));
    let all = wait::poll(|| (tickers(&nginx, 30).len() == 3).then_some(()));
    assert!(all.is_some(), "{}", nginx.log());
}

fn configured(nginx: &Nginx) -> usize {
    nginx.log().matches("configured with").count()
}

#[test]
fn requests_learn_what_ticks_have_found_out() {
    for isolation in ["auto", "none"] {
        let nginx = nginx(&format!("proxy_wasm_isolation {isolation}; proxy_wasm ticks 5;"));
        let ticked = wait::poll(|| (number(&nginx, "x-ticks") >= 3).then_some(()));
        assert!(ticked.is_some(), "{isolation}");
        nginx.wait_for_log("one instance for each worker");
    }
}

/// The root context ticks on in an instance of its own; requests begin where it was after its configuration.
#[test]
fn requests_with_instances_of_their_own_see_nothing_of_it() {
    let nginx = nginx("proxy_wasm_isolation stream; proxy_wasm ticks 5;");
    nginx.wait_for_log("an instance for each request");
    for _ in 0..50 {
        assert_eq!(number(&nginx, "x-ticks"), 0);
    }
}

#[test]
fn ticks_do_not_hold_up_a_graceful_stop_and_go_on_after_a_reload() {
    let mut nginx = nginx("proxy_wasm ticks 5;");
    for _ in 0..3 {
        nginx.reload(conf("proxy_wasm ticks 5;"));
        let ticked = wait::poll(|| (number(&nginx, "x-ticks") >= 3).then_some(()));
        assert!(ticked.is_some());
    }
    assert!(!nginx.stop().contains("alert"));
}

#[test]
fn a_filter_is_configured_once_in_the_master() {
    let nginx = nginx("proxy_wasm ticks;");
    let seed = number(&nginx, "x-seed");
    for _ in 0..20 {
        assert_eq!(number(&nginx, "x-seed"), seed, "the same for all instances");
    }
    assert_eq!(configured(&nginx), 1);
    nginx.wait_for_log("it drew random numbers while it was configured");
}

#[test]
fn without_a_snapshot_each_request_has_an_instance_that_was_configured_for_it() {
    let nginx = nginx("proxy_wasm_snapshot off; proxy_wasm ticks;");
    nginx.wait_for_log("\"proxy_wasm_snapshot off\" is set");
    let mut seeds: Vec<_> = (0..20).map(|_| number(&nginx, "x-seed")).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 20);
    assert!(configured(&nginx) > 20);
}

/// However instances are put back, requests find the same.
#[test]
fn every_way_to_reset_instances() {
    for (way, said) in [
        ("protect", "found by write protection"),
        ("scan", "found by scanning page tables"),
        ("off", "made anew from the image"),
    ] {
        let nginx = Nginx::start(
            Conf::new()
                .guest("leak")
                .guest("add_headers_go")
                .workers(1)
                .wasm(&format!("instance_reset {way};"))
                .server("location / { proxy_wasm leak; proxy_wasm add_headers_go; return 200 x; }"),
        );
        nginx.wait_for_log(said);
        for _ in 0..200 {
            let response = nginx.get("/");
            assert_eq!((response.status, response.header("x-count")), (200, Some("1")), "{way}");
        }
    }
}
