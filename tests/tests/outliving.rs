//! What was counted outlives whatever becomes of processes: upgrades of the binary, other numbers of workers, kills, and
//! all of that at once under load.
#![allow(missing_docs, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};

use weir_tests::{Conf, Nginx, Protocol, Request, wait};

fn conf() -> Conf {
    Conf::new().daemon().guest("counts").guest("shared").server(
        "location / { proxy_wasm counts my_; return 200 ok; }
         location /set/ { proxy_wasm shared jobs; return 200; }
         location = /metrics { weir_metrics; }",
    )
}

/// The value of a line of the metrics.
fn value(nginx: &Nginx, series: &str) -> Option<u64> {
    let text = nginx.get("/metrics").expect_status(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok())
}

const REQUESTS: &str = r#"my_requests_total{filter="counts",kind="http"}"#;
const VALUES: &str = r#"my_values_count{filter="counts"}"#;

/// Lines of the metrics that begin so, one for each worker.
fn of_workers(nginx: &Nginx, start: &str) -> usize {
    let text = nginx.get("/metrics").expect_status(200).text();
    text.lines().filter(|line| line.starts_with(start) && line.contains("worker=\"")).count()
}

/// Sends `count` requests on connections of their own, so that all workers get some.
fn count(nginx: &Nginx, count: u64) {
    for _ in 0..count {
        let _ =
            nginx.connect(Protocol::Http1).send(Request::get("/").header("x-value", "7")).expect_status(200);
    }
}

/// Kills a worker and waits until another one has taken its place.
fn kill(nginx: &Nginx, worker: u32) {
    let count = nginx.worker_pids().len();
    nginx.kill(worker);
    let replaced = wait::poll(|| {
        let now = nginx.worker_pids();
        (now.len() == count && !now.contains(&worker)).then_some(())
    });
    assert!(replaced.is_some(), "{}", nginx.log());
}

#[test]
fn upgrades_and_other_numbers_of_workers_lose_nothing() {
    let mut nginx = Nginx::start(conf().workers(2));
    count(&nginx, 6);
    nginx.upgrade();
    assert_eq!(value(&nginx, REQUESTS), Some(6), "the new binary goes on");
    count(&nginx, 4);
    nginx.reload(conf().workers(4));
    nginx.wait_for_old_workers();
    count(&nginx, 8);
    assert_eq!((value(&nginx, REQUESTS), value(&nginx, VALUES)), (Some(18), Some(18)));
    assert_eq!(of_workers(&nginx, "weir_pool_capacity"), 4);
    nginx.reload(conf().workers(1));
    nginx.wait_for_old_workers();
    count(&nginx, 2);
    nginx.upgrade();
    assert_eq!((value(&nginx, REQUESTS), value(&nginx, VALUES)), (Some(20), Some(20)));
    // Of three workers more there is nothing left but what they have counted.
    assert_eq!(of_workers(&nginx, "weir_pool_capacity"), 1);
    count(&nginx, 1);
    let start = "weir_callback_duration_seconds_count{filter=\"counts\"";
    let text = nginx.get("/metrics").text();
    let calls = text.lines().find(|line| line.starts_with(start) && line.contains("on_request_headers"));
    assert!(calls.is_some_and(|line| line.ends_with(" 21")), "{calls:?}");
}

#[test]
fn a_killed_worker_leaves_its_counts_and_nothing_else() {
    let mut nginx = Nginx::start(conf().workers(3));
    nginx.tolerate("exited on signal 9");
    nginx.tolerate("sendmsg() failed");
    for round in 1..=4 {
        count(&nginx, 6);
        let workers = nginx.worker_pids();
        kill(&nginx, workers[round % workers.len()]);
        assert_eq!(value(&nginx, REQUESTS), Some(6 * round as u64));
        let rows = wait::poll(|| (of_workers(&nginx, "weir_pool_in_use{") == 3).then_some(()));
        assert!(rows.is_some(), "{}", nginx.get("/metrics").text());
    }
}

/// Clients go on whatever happens. What they had an answer to was counted; what they had none to may have been.
#[test]
fn all_of_it_at_once_under_load() {
    let mut nginx = Nginx::start(conf().workers(2));
    nginx.tolerate("exited on signal 9");
    nginx.tolerate("sendmsg() failed");
    let (answered, lost, end) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let address = nginx.address();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while end.load(Ordering::Relaxed) == 0 {
                    let sum = if ask(address) { &answered } else { &lost };
                    sum.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for workers in [4, 1, 3] {
            nginx.reload(conf().workers(workers));
            for worker in nginx.worker_pids() {
                kill(&nginx, worker);
            }
            nginx.upgrade();
        }
        end.store(1, Ordering::Relaxed);
    });
    let (answered, lost) = (answered.into_inner(), lost.into_inner());
    for series in [REQUESTS, VALUES] {
        let counted = value(&nginx, series).expect("a count");
        assert!(
            (answered..=answered + lost).contains(&counted),
            "{counted}: {answered} answered, {lost} lost"
        );
    }
    assert!(answered > 100, "{answered}");
}

/// Asks on a connection of its own; false when that breaks.
fn ask(address: std::net::SocketAddr) -> bool {
    use std::io::{Read, Write};
    let asked = std::net::TcpStream::connect(address).and_then(|mut stream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nx-value: 7\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    });
    asked.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok"))
}

#[test]
fn what_filters_share_is_shown() {
    let nginx = Nginx::start(conf().wasm("shm_kv * 1m;"));
    for path in ["/set/a/1", "/set/b/2"] {
        assert_eq!(nginx.get(path).expect_status(200).text(), "Ok(())");
    }
    let shown = wait::poll(|| {
        let entries = value(&nginx, r#"weir_zone_entries{zone="*",kind="shm_kv"}"#)?;
        let taken = value(&nginx, r#"weir_queue_dequeued_total{zone="*",vm_id="shared",queue="jobs"}"#)?;
        let size = value(&nginx, r#"weir_zone_size_bytes{zone="*",kind="shm_kv"}"#)?;
        // A worker tells how large it is a moment after it has begun.
        let resident = value(&nginx, r#"weir_worker_resident_bytes{worker="1"}"#)?;
        (entries >= 2 && taken == 0 && size == 1 << 20 && resident > 0).then_some(())
    });
    assert!(shown.is_some(), "{}", nginx.get("/metrics").text());
}
