//! Faults of every kind, in every callback, isolation and policy, for each way in which instances are put back, thousands
//! of times under load: each ends its own request as its policy says, another location does not notice, and the worker
//! stays as large as it was.
//!
//! `WEIR_STORM=N` tries each fault N times in each callback of each location, however long that takes.

use std::{
    collections::BTreeSet,
    env,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use weir_tests::{
    Conf, Nginx, Protocol, Request, Response,
    wasm::{
        faulty::{self, CALLBACKS, CHATTER, FAULTS, FLOOD, Fault},
        hostile,
    },
};

/// Failing requests that are sent in all, if the machine is fast enough.
const REQUESTS: usize = 6_000;

/// How long the storm may last; a slow machine sends fewer requests.
const LONGEST: Duration = Duration::from_secs(10);

/// How often a round tries each fault in each callback.
const TIMES: usize = 4;

/// How often each is to be tried; `None` for as often as there is time for.
fn wanted() -> Option<usize> {
    let times = env::var("WEIR_STORM").ok()?;
    Some(times.parse().expect("WEIR_STORM has a number"))
}

/// Requests at once over HTTP/2.
const AT_ONCE: usize = 12;

/// A location in which filters fail.
#[derive(Debug, Clone, Copy)]
struct Place {
    isolation: &'static str,
    policy: &'static str,
}

const PLACES: [Place; 6] = [
    Place { isolation: "stream", policy: "closed" },
    Place { isolation: "stream", policy: "open" },
    Place { isolation: "filter", policy: "closed" },
    Place { isolation: "filter", policy: "open" },
    Place { isolation: "none", policy: "closed" },
    Place { isolation: "none", policy: "open" },
];

/// What a request is sent for.
#[derive(Debug, Clone, Copy)]
struct Case {
    fault: &'static Fault,
    callback: char,
}

impl Case {
    fn request(self, path: &str) -> Request {
        Request::post(path, "a body").header("x-fault", &self.fault.at(self.callback))
    }

    /// Whether the client is to see that the filter has failed.
    fn is_seen(self, place: Place) -> bool {
        // At the end of a request its response has been sent.
        place.policy == "closed" && self.fault.is_fatal && !"DLX".contains(self.callback)
    }

    /// Checks the response; `alone`: nobody else was in the same instance meanwhile.
    fn check(self, place: Place, alone: bool, response: &Response) {
        let what = || format!("{place:?} {} at {}: {response:?}", self.fault.name, self.callback);
        let dies_with_others = !alone && place.isolation == "none" && place.policy == "closed";
        match response.status {
            200 => {
                assert!(!self.is_seen(place), "{}", what());
                assert_eq!(response.text(), "fine", "{}", what());
            }
            500 => assert!(self.is_seen(place) || dies_with_others, "{}", what()),
            _ => panic!("{}", what()),
        }
    }
}

/// Every fault that is quick, in every callback.
fn quick() -> Vec<Case> {
    let faults = FAULTS.iter().filter(|fault| !fault.is_slow);
    faults
        .flat_map(|fault| CALLBACKS.iter().map(move |(callback, ..)| Case { fault, callback: *callback }))
        .collect()
}

/// What takes as long as a callback may, and log lines by the thousand: now and then.
fn slow() -> Vec<Case> {
    let endless = FAULTS.iter().find(|fault| fault.is_slow).expect("an endless loop");
    let mut cases = Vec::new();
    for callback in ['H', 'b', 'L'] {
        cases.extend([endless, &FLOOD, &CHATTER].map(|fault| Case { fault, callback }));
    }
    cases
}

fn conf(reset: &str) -> Conf {
    let locations = PLACES.iter().enumerate().map(|(n, place)| {
        let Place { isolation, policy } = place;
        format!(
            "location /{n} {{ proxy_wasm_isolation {isolation}; proxy_wasm_failure {policy};
                proxy_wasm faulty; return 200 fine; }}
             location /table/{n} {{ proxy_wasm_isolation {isolation}; proxy_wasm_failure {policy};
                proxy_wasm bomb; return 200 fine; }}\n"
        )
    });
    Conf::new()
        .file("faulty.wasm", faulty::module(false))
        .file("bomb.wasm", faulty::module(true))
        .guest("add_headers")
        .wasm("module faulty faulty.wasm; module bomb bomb.wasm; memory_limit 2m; table_limit 20000;")
        .wasm(&format!("failure_limit off; log_limit 200; instance_reset {reset};"))
        .timeout("callback_timeout 100ms;")
        .workers(1)
        .log_level("warn")
        .http("http2 on; keepalive_requests 1000000;")
        .server(&format!(
            "location /calm {{ proxy_wasm add_headers; proxy_wasm faulty; return 200 calm; }} {}",
            locations.collect::<String>()
        ))
}

/// Sends every quick fault to one place, over both protocols; `path` is that place's.
fn round(nginx: &Nginx, place: Place, path: &str) -> usize {
    let mut sent = 0;
    let mut http1 = nginx.connect(Protocol::Http1);
    let cases: Vec<Case> = quick();
    let cases = cases.iter().filter(|case| path.starts_with("/table") || case.fault.name != "table bomb");
    for case in cases.clone() {
        let response = http1.send(case.request(path));
        case.check(place, true, &response);
        if response.status == 500 {
            // nginx may close a connection after an error.
            http1 = nginx.connect(Protocol::Http1);
        }
        sent += 1;
    }
    let mut http2 = nginx.connect(Protocol::Http2);
    let cases: Vec<&Case> = cases.collect();
    for cases in cases.chunks(AT_ONCE) {
        let responses = http2.send_all(cases.iter().map(|case| case.request(path)));
        for (case, response) in cases.iter().zip(&responses) {
            case.check(place, false, response);
        }
        sent += cases.len();
    }
    sent
}

/// Sends rounds to all places at once until `requests` have been sent or `end` has come, or until each fault has been
/// tried as often as is wanted.
fn storm(nginx: &Nginx, requests: usize, end: Instant) -> usize {
    thread::scope(|scope| {
        let senders: Vec<_> = PLACES
            .iter()
            .enumerate()
            .map(|(n, place)| {
                scope.spawn(move || {
                    let (mut sent, mut times) = (0, 0);
                    loop {
                        sent += round(nginx, *place, &format!("/{n}"));
                        sent += round(nginx, *place, &format!("/table/{n}"));
                        times += TIMES;
                        let is_over = match wanted() {
                            Some(wanted) => times >= wanted,
                            None => sent >= requests / PLACES.len() || Instant::now() > end,
                        };
                        if is_over {
                            return sent;
                        }
                    }
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("every answer was right")).sum()
    })
}

/// Runs `storm` while others use `/calm`, whom nothing happens to.
fn beside_others<T>(nginx: &Nginx, storm: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let calm = scope.spawn(|| {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut connection = nginx.connect([Protocol::Http1, Protocol::Http2][served % 2]);
                for _ in 0..50 {
                    let response = connection.send(Request::post("/calm", "x"));
                    assert_eq!((response.status, response.text().as_str()), (200, "calm"));
                    assert_eq!(response.header("x-weir"), Some("response"));
                }
                served += 1;
            }
            served
        });
        // Also where the storm has found something wrong.
        let result = panic::catch_unwind(AssertUnwindSafe(storm));
        is_over.store(true, Ordering::Relaxed);
        let result = result.unwrap_or_else(|found| panic::resume_unwind(found));
        let served = calm.join().expect("the other location has not noticed");
        assert!(served > 0);
        println!("{} other requests", served * 50);
        result
    })
}

#[test]
fn faults_under_load_where_memory_is_protected() {
    faults_of_every_kind_under_load("protect");
}

#[test]
fn faults_under_load_where_memory_is_scanned() {
    faults_of_every_kind_under_load("scan");
}

#[test]
fn faults_under_load_where_instances_are_new() {
    faults_of_every_kind_under_load("off");
}

fn faults_of_every_kind_under_load(reset: &str) {
    let nginx = Nginx::start(conf(reset));
    let worker = nginx.worker_pid();
    beside_others(&nginx, || {
        // Until the pool has been through it all: what slots keep resident is bounded.
        storm(&nginx, REQUESTS / 2, Instant::now() + LONGEST);
        let before = nginx.worker_rss()[0];
        let sent = storm(&nginx, REQUESTS, Instant::now() + LONGEST);
        let after = nginx.worker_rss()[0];
        for (n, place) in PLACES.iter().enumerate() {
            for case in slow() {
                let response = nginx.send(case.request(&format!("/{n}")));
                case.check(*place, true, &response);
            }
        }
        assert!(after < before + (4 << 20), "{before} bytes, then {after}, with {sent} requests");
        println!("{sent} failing requests, {before} bytes, then {after}");
    });
    assert_eq!(nginx.worker_pid(), worker);
    let log = nginx.stop();
    // Each fault in each callback has been told of, by its name.
    let mut missing = BTreeSet::new();
    let cases = quick().into_iter().chain(slow()).filter(|case| case.fault.is_fatal);
    for case in cases {
        let (_, name, ..) =
            CALLBACKS.iter().find(|(letter, ..)| *letter == case.callback).expect("a callback");
        let told =
            log.lines().any(|line| line.contains(&format!("\": {name} ")) && line.contains(case.fault.says));
        if !told {
            missing.insert(format!("{} at {name}", case.fault.name));
        }
    }
    assert!(missing.is_empty(), "not in the log: {missing:#?}");
    assert!(
        log.contains("lines of its own were dropped: \"log_limit\" allows 200 a second"),
        "no note of the flood"
    );
    let lines = log.lines().filter(|line| line.contains("[faulty] flood")).count();
    assert!(lines < 20_000, "{lines} lines of the floods have been written");
}

/// Requests whose filter calls every host function in every callback with numbers that mean trouble: whatever comes of
/// them, others do not notice, and nothing is kept.
#[test]
fn hostile_calls_under_load() {
    const LOCATIONS: [&str; 4] = ["stream", "filter", "none", "off"];
    let locations = LOCATIONS.map(|way| {
        let (isolation, snapshot) = if way == "off" { ("stream", "off") } else { (way, "on") };
        format!(
            "location /{way} {{ proxy_wasm_isolation {isolation}; proxy_wasm_snapshot {snapshot};
                proxy_wasm hostile; proxy_wasm faulty; return 200 fine; }}\n"
        )
    });
    let nginx = Nginx::start(
        Conf::new()
            .file("hostile.wasm", hostile::module())
            .file("faulty.wasm", faulty::module(false))
            .guest("add_headers")
            .wasm("module hostile hostile.wasm; module faulty faulty.wasm; memory_limit 2m;")
            .wasm("failure_limit off; log_limit 200; calls_limit 20;")
            .workers(1)
            .log_level("alert")
            .http("http2 on; keepalive_requests 1000000; client_header_timeout 5s;")
            .server(&format!(
                "location /calm {{ proxy_wasm add_headers; return 200 calm; }} {}",
                locations.concat()
            )),
    );
    let worker = nginx.worker_pid();
    let hail = |requests: usize| {
        let end = Instant::now() + LONGEST;
        let mut answered = BTreeSet::new();
        for (n, location) in LOCATIONS.iter().cycle().enumerate().take(requests) {
            let request =
                Request::post(&format!("/{location}"), "a body").header("x-seed", &format!("{n:04}"));
            // It may close the stream, or answer with whatever it likes.
            let response = nginx.connect([Protocol::Http1, Protocol::Http2][n / 4 % 2]).try_send(request);
            answered.extend(response.ok().map(|response| response.status));
            if wanted().is_none() && Instant::now() > end {
                break;
            }
        }
        answered
    };
    beside_others(&nginx, || {
        let requests = wanted().map_or(1000, |times| times * LOCATIONS.len());
        hail(requests);
        let before = nginx.worker_rss()[0];
        let answered = hail(requests);
        let after = nginx.worker_rss()[0];
        assert!(answered.len() > 1, "{answered:?}");
        assert!(after < before + (8 << 20), "{before} bytes, then {after}");
        println!("statuses {answered:?}, {before} bytes, then {after}");
    });
    assert_eq!(nginx.worker_pid(), worker);
}

/// Ticks that fail in every way, each in an instance that requests share: the filter rests, and requests are served.
#[test]
fn ticks_that_fail() {
    let faults: Vec<&Fault> = FAULTS.iter().chain([&FLOOD]).filter(|fault| fault.is_fatal).collect();
    let mut conf = Conf::new()
        .guest("add_headers")
        .workers(1)
        .log_level("warn")
        .timeout("callback_timeout 100ms;")
        .http("http2 on;");
    let mut locations = String::new();
    for (n, fault) in faults.iter().enumerate() {
        if fault.needs_request() {
            continue;
        }
        conf =
            conf.file(&format!("t{n}.wasm"), faulty::ticking(fault)).wasm(&format!("module t{n} t{n}.wasm;"));
        locations.push_str(&format!("location /{n} {{ proxy_wasm t{n}; return 200 fine; }}\n"));
    }
    let nginx = Nginx::start(
        conf.wasm(
            "memory_limit 2m; table_limit 20000; failure_limit 3 10s; failure_backoff 20ms 50ms; log_limit 50;",
        )
        .server(&format!("location /calm {{ proxy_wasm add_headers; return 200 calm; }} {locations}")),
    );
    let worker = nginx.worker_pid();
    beside_others(&nginx, || {
        for (n, fault) in faults.iter().enumerate() {
            if !locations.contains(&format!("/{n} ")) {
                continue;
            }
            let failed = nginx.wait_for_log(&format!("filter \"t{n}\": proxy_on_tick "));
            assert!(failed.contains(fault.says), "{}: {failed}", fault.name);
            // Twice in a row: it rests, is tried, and rests for longer.
            nginx.wait_for_log(&format!("filter \"t{n}\": suspended for 0.02 s: 3 failures"));
            nginx.wait_for_log(&format!("filter \"t{n}\": suspended for 0.05 s: it has failed again"));
        }
    });
    assert_eq!(nginx.worker_pid(), worker);
}
