//! What profilers are told of guests.
#![allow(missing_docs, reason = "a test")]

use std::{fs, path::PathBuf};

use weir_tests::{Conf, Nginx};

fn map(pid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/perf-{pid}.map"))
}

#[test]
fn a_worker_writes_where_guests_functions_are_as_long_as_it_lives() {
    let location = "location / { proxy_wasm noop; proxy_wasm add_headers; return 200 ok; }";
    let conf = Conf::new().guest("noop").guest("add_headers").workers(1).server(location);
    let nginx = Nginx::start(conf.clone().wasm("perf_map on;"));
    let path = map(nginx.worker_pid());
    let text = fs::read_to_string(&path).expect("a map");
    let mut code = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let mut number = || usize::from_str_radix(parts.next().expect("a number"), 16).expect("a number");
        code.push((number(), number()));
        assert!(parts.next().is_some_and(|name| !name.is_empty()), "{line}");
    }
    // Each of the two modules has one.
    assert_eq!(text.lines().filter(|line| line.ends_with(" proxy_on_request_headers")).count(), 2);
    code.sort_unstable();
    assert!(code.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "pieces of code do not overlap");
    // It is code that the worker runs.
    let maps = fs::read_to_string(format!("/proc/{}/maps", nginx.worker_pid())).expect("maps");
    let is_code = |at: usize| {
        maps.lines().any(|line| {
            let (range, rest) = line.split_once(' ').expect("a range");
            let (from, to) = range.split_once('-').expect("a range");
            let number = |text: &str| usize::from_str_radix(text, 16).expect("a number");
            rest.starts_with("r-x") && (number(from)..number(to)).contains(&at)
        })
    };
    assert!(code.iter().all(|(at, _)| is_code(*at)), "{maps}");
    let _ = nginx.get("/").expect_status(200);
    let _ = nginx.stop();
    assert!(!path.exists());

    let nginx = Nginx::start(conf.clone());
    assert!(!map(nginx.worker_pid()).exists(), "off by default");
    let ended = Nginx::check(&conf.wasm("perf_map perhaps;"));
    assert!(ended.stderr.contains("it must be \"on\" or \"off\""), "{}", ended.stderr);
}
