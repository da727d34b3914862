//! Metrics of filters: one number in all workers, whatever becomes of workers and configurations, and a text of them.
#![allow(missing_docs, reason = "a test")]

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use weir_tests::{Conf, Nginx, Protocol, Request, paths, wait};

fn conf() -> Conf {
    Conf::new().guest("counts").server(
        "location / { proxy_wasm counts my_; return 200 ok; }
         location = /metrics { weir_metrics; }",
    )
}

/// The value of a line of the metrics.
fn value(nginx: &Nginx, series: &str) -> Option<f64> {
    let text = nginx.get("/metrics").expect_status(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok())
}

const REQUESTS: &str = r#"my_requests_total{filter="counts",kind="http"}"#;

/// Sends `count` requests on connections of their own, so that all workers get some.
fn count(nginx: &Nginx, count: usize) {
    for _ in 0..count {
        let _ = nginx.connect(Protocol::Http1).get("/").expect_status(200);
    }
}

#[test]
fn what_filters_count_is_shown_for_all_workers() {
    let nginx = Nginx::start(conf());
    count(&nginx, 20);
    let response = nginx.send(Request::get("/").header("x-add", "5").header("x-value", "100"));
    assert_eq!(response.header("x-count"), Some("25"));
    assert_eq!(value(&nginx, REQUESTS), Some(25.0));
    assert_eq!(value(&nginx, r#"my_values_bucket{filter="counts",le="63.0"}"#), Some(0.0));
    assert_eq!(value(&nginx, r#"my_values_bucket{filter="counts",le="127.0"}"#), Some(1.0));
    assert_eq!(value(&nginx, r#"my_values_sum{filter="counts"}"#), Some(100.0));
    // A request is logged after its response.
    let closed = wait::poll(|| (value(&nginx, r#"my_open_now{filter="counts"}"#)? == 0.0).then_some(()));
    assert!(closed.is_some());
}

#[test]
fn the_format_is_what_the_client_prefers() {
    let nginx = Nginx::start(conf());
    let plain = nginx.get("/metrics").expect_status(200);
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open =
        Request::get("/metrics").header("accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1");
    let open = nginx.send(open).expect_status(200);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type"), Some(kind));
    assert!(open.text().ends_with("# EOF\n"), "{}", open.text());
    let head = nginx.send(Request::head("/metrics")).expect_status(200);
    assert!(head.body.is_empty() && head.header("content-length").is_some());
    let _ = nginx.send(Request::post("/metrics", "x")).expect_status(405);
    let mut h2 = nginx.connect(Protocol::Http1);
    for _ in 0..3 {
        assert!(h2.get("/metrics").text().contains(REQUESTS));
    }
}

#[test]
fn values_outlive_reloads_and_workers() {
    let mut nginx = Nginx::start(conf());
    count(&nginx, 5);
    // More workers, and a filter more.
    nginx.reload(conf().workers(3).guest("noop"));
    assert_eq!(value(&nginx, REQUESTS), Some(5.0));
    count(&nginx, 5);
    // A larger file.
    nginx.reload(conf().wasm("metrics { slab_size 32m; }").workers(1));
    count(&nginx, 5);
    assert_eq!(value(&nginx, REQUESTS), Some(15.0));
    assert_eq!(fs::metadata(nginx.prefix().join("weir-metrics")).expect("the file").len(), 32 << 20);
    // A smaller one has to wait.
    let mark = nginx.mark();
    nginx.reload(conf().wasm("metrics { slab_size 1m; }"));
    assert!(nginx.log_since(mark).contains("keeps its 33554432 bytes"));
    assert_eq!(value(&nginx, REQUESTS), Some(15.0));
    // A reload that fails.
    let _ = nginx.reload_refused(conf().wasm("module gone nowhere.wasm;"));
    count(&nginx, 1);
    assert_eq!(value(&nginx, REQUESTS), Some(16.0));
    // Workers that are killed.
    nginx.tolerate("exited on signal 9");
    for pid in nginx.worker_pids() {
        let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(status.expect("kill runs").success());
        let replaced = wait::poll(|| {
            let pids = nginx.worker_pids();
            (pids.len() == 2 && !pids.contains(&pid)).then_some(())
        });
        assert!(replaced.is_some(), "{}", nginx.log());
    }
    count(&nginx, 4);
    assert_eq!(value(&nginx, REQUESTS), Some(20.0));
}

#[test]
fn the_file_is_the_starter_s_and_servers_that_run_share_it() {
    let nginx = Nginx::start(conf());
    count(&nginx, 3);
    let path = nginx.prefix().join("weir-metrics");
    let metadata = fs::metadata(&path).expect("the file");
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o640, 16 << 20));
    let other = Nginx::start(conf().wasm(&format!("metrics {{ path {}; }}", path.display())));
    assert_eq!(value(&other, REQUESTS), Some(3.0), "a file in use is joined");
    count(&other, 1);
    assert_eq!(value(&nginx, REQUESTS), Some(4.0));
}

#[test]
fn a_file_that_somebody_shortens_kills_workers_once() {
    for length in [0, 4096, 40_000] {
        let mut nginx = Nginx::start(conf().workers(1));
        count(&nginx, 3);
        nginx.tolerate("exited on signal 7");
        let (worker, mark) = (nginx.worker_pid(), nginx.mark());
        let file = fs::OpenOptions::new().write(true).open(nginx.prefix().join("weir-metrics"));
        file.and_then(|file| file.set_len(length)).expect("the file can be shortened");
        let another = wait::poll(|| (nginx.worker_pids() != [worker]).then_some(()));
        assert!(another.is_some(), "{}", nginx.log());
        count(&nginx, 3);
        let worker = nginx.worker_pid();
        let _ = nginx.get("/metrics").expect_status(200);
        nginx.reload(conf().workers(1));
        count(&nginx, 4);
        assert_eq!(value(&nginx, REQUESTS), Some(4.0), "a new file");
        let log = nginx.log_since(mark);
        assert!(log.contains("the file of metrics has been shortened"), "{log}");
        assert_eq!(log.matches("exited on signal 7").count(), 1, "{log}");
        assert_ne!(nginx.worker_pid(), worker);
    }
}

#[test]
fn without_a_file_metrics_are_shared_all_the_same() {
    let nginx = Nginx::start(conf().wasm("metrics { path off; }"));
    count(&nginx, 10);
    assert_eq!(value(&nginx, REQUESTS), Some(10.0));
    assert!(!nginx.prefix().join("weir-metrics").exists());
}

#[test]
fn names_that_others_put_labels_into_are_taken_apart_by_rules() {
    let metrics =
        r"metrics { slab_size 5m; max_metric_name_length 128; tag kind '(\.now())'; tag a 'my_(va)lues'; }";
    let nginx = Nginx::start(conf().wasm(metrics));
    count(&nginx, 1);
    assert_eq!(value(&nginx, r#"my_lues_count{filter="counts",a="va"}"#), Some(0.0));
    assert!(value(&nginx, r#"my_open{filter="counts",kind=""}"#).is_some());
}

#[test]
fn mistakes_are_told() {
    let cases = [
        ("metrics { slab_size 1k; }", "invalid value \"1k\" in \"slab_size\" directive"),
        ("metrics { max_metric_name_length 5; }", "it must be a number from 6 to 4096"),
        ("metrics { path nowhere/file; }", "nowhere/file\" for metrics"),
        ("metrics { tag x y; }", "has no group"),
        ("metrics { tag x '('; }", "is no regular expression"),
        ("metrics { } metrics { }", "\"metrics\" directive is duplicate"),
        ("metrics { path a; path b; }", "\"path\" directive is duplicate"),
        ("metrics { module a b; }", "is not allowed here"),
        ("slab_size 5m;", "is not allowed here"),
    ];
    for (text, message) in cases {
        let ended = Nginx::check(&Conf::new().wasm(text).server("return 200 ok;"));
        assert!(!ended.status.success() && ended.stderr.contains(message), "{text}: {}", ended.stderr);
        assert!(ended.stderr.contains("nginx.conf:"), "{}", ended.stderr);
    }
    let twice = Conf::new().server("location / { proxy_pass http://127.0.0.1:1; weir_metrics; }");
    assert!(Nginx::check(&twice).stderr.contains("has a handler already"));
}

#[test]
fn what_weir_counts_is_shown_by_directive() {
    let nginx = Nginx::start(conf());
    count(&nginx, 4);
    let start = "weir_callback_duration_seconds_count{filter=\"counts\",directive=\"";
    // The other worker writes down within a tenth of a second what it has measured.
    let end = "callback=\"on_request_headers\"} 4";
    let shown = wait::poll(|| {
        let text = nginx.get("/metrics").text();
        text.lines().any(|line| line.starts_with(start) && line.ends_with(end)).then_some(())
    });
    assert!(shown.is_some(), "{}", nginx.get("/metrics").text());
    let nginx = Nginx::start(conf().wasm("metrics { callbacks off; }"));
    count(&nginx, 1);
    assert!(!nginx.get("/metrics").text().contains("weir_callback"));
}

/// However many of them are timed.
#[test]
fn every_callback_counts() {
    const COUNT: usize = 3000;
    for callbacks in ["on", "all"] {
        let nginx = Nginx::start(
            Conf::new()
                .guest("counts")
                .workers(1)
                .wasm(&format!("metrics {{ callbacks {callbacks}; }}"))
                .server(
                    "keepalive_requests 100000; location / { proxy_wasm counts my_; return 200 ok; }
                     location = /metrics { weir_metrics; }",
                ),
        );
        let mut connection = nginx.connect(Protocol::Http1);
        for _ in 0..COUNT {
            let _ = connection.get("/").expect_status(200);
        }
        let text = nginx.get("/metrics").text();
        for callback in ["request_headers", "response_body", "log"] {
            let end = format!("callback=\"on_{callback}\"}} {COUNT}");
            let is_it =
                |line: &str| line.starts_with("weir_callback_duration_seconds_count") && line.ends_with(&end);
            assert!(text.lines().any(is_it), "{callbacks} {callback}: {text}");
        }
    }
}

/// What the command `weir` prints.
fn weir(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(paths::weir()).args(arguments).output().expect("run weir");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_command_reads_the_file_of_a_running_server() {
    let nginx = Nginx::start(conf());
    count(&nginx, 4);
    let file = nginx.prefix().join("weir-metrics");
    let file = file.to_str().expect("text");
    let (fine, text) = weir(&["metrics", file]);
    assert!(fine && text.contains(&format!("{REQUESTS} 4\n")), "{text}");
    let (fine, json) = weir(&["metrics", file, "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(fine);
    let pids: Vec<_> = nginx.worker_pids().into_iter().map(u64::from).collect();
    let workers = json["workers"].as_array().expect("workers").iter();
    let workers: Vec<_> = workers.filter_map(|worker| worker["pid"].as_u64()).collect();
    assert!(workers.len() == 2 && pids.iter().all(|pid| workers.contains(pid)), "{pids:?} {workers:?}");
    let (fine, view) = weir(&["top", file, "--once", "--interval", "0.1"]);
    assert!(fine && view.contains("on_request_headers") && view.contains("2 workers"), "{view}");

    let (fine, text) = weir(&["metrics", "/nowhere"]);
    assert!(!fine && text.starts_with("weir: cannot read \"/nowhere\""), "{text}");
    let conf = nginx.prefix().join("nginx.conf");
    let (fine, text) = weir(&["top", conf.to_str().expect("text")]);
    assert!(!fine && text.contains("is no metrics file"), "{text}");
}

#[test]
fn without_filters_there_is_nothing_to_show() {
    let nginx = Nginx::start(Conf::new().server("location / { weir_metrics; }"));
    let _ = nginx.get("/").expect_status(404);
}
