//! A real Prometheus scrapes nginx and answers: rates, quantiles, selections, and every query of docs/monitoring.
#![allow(missing_docs, reason = "a test")]

use std::{fs, path::PathBuf};

use weir_tests::{Conf, Nginx, Protocol, Request, prometheus::Prometheus, wait};

fn monitoring(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(file)
}

fn count(nginx: &Nginx) {
    for _ in 0..5 {
        let request = Request::get("/").header("x-value", "100");
        let _ = nginx.connect(Protocol::Http1).send(request).expect_status(200);
    }
}

/// Waits until `promql` gives something, with requests meanwhile, and returns it.
#[track_caller]
fn until(nginx: &Nginx, prometheus: &Prometheus, promql: &str) -> String {
    let found = wait::poll(|| {
        count(nginx);
        Some(prometheus.query(promql)).filter(|result| result != "[]")
    });
    found.unwrap_or_else(|| panic!("{promql} gives nothing; {}", prometheus.words()))
}

#[test]
fn prometheus_answers_with_what_was_counted() {
    let nginx = Nginx::start(Conf::new().guest("counts").server(
        "location / { proxy_wasm counts my_; return 200 ok; }
         location = /metrics { weir_metrics; }",
    ));
    count(&nginx);
    let prometheus = Prometheus::start(&nginx, &monitoring("alerts.yml"));

    // What a filter counts.
    until(&nginx, &prometheus, r#"rate(my_requests_total{filter="counts", kind="http"}[1m]) > 0"#);
    assert_eq!(prometheus.query(r#"my_requests_total{filter!="counts"}"#), "[]");
    let p99 =
        until(&nginx, &prometheus, "histogram_quantile(0.99, sum by (le) (rate(my_values_bucket[1m]))) > 0");
    assert!(p99.contains("\"12"), "between 63 and 127, near the end: {p99}");
    // What Weir counts.
    let time = "histogram_quantile(0.99, sum by (filter, callback, le) (rate(weir_callback_duration_seconds_bucket\
                {callback=\"on_request_headers\"}[1m]))) > 0 < 1";
    assert!(until(&nginx, &prometheus, time).contains("on_request_headers"));

    // The dashboard: each query is one, and those of what has happened have an answer.
    let dashboard = fs::read_to_string(monitoring("dashboard.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    assert_eq!(queries.len(), 30);
    for query in queries {
        let query = query.replace("$filter", ".*").replace("$__rate_interval", "1m");
        let seen = [
            "callback_duration",
            "pool_in_use",
            "pool_idle",
            "_made",
            "_reset",
            "resident",
            "image",
            "contexts)",
            "zone_used",
        ];
        if seen.iter().any(|name| query.contains(name)) {
            until(&nginx, &prometheus, &query);
        } else {
            let _ = prometheus.query(&query);
        }
    }

    // The alerts: Prometheus has read and evaluated all of them, and nothing here calls for one.
    let evaluated = wait::poll(|| {
        let rules = prometheus.api("rules", &[]);
        let healthy = rules.matches(r#""health":"ok""#).count();
        (healthy == 10 && !rules.contains(r#""state":"firing""#)).then_some(())
    });
    assert!(evaluated.is_some(), "{}", prometheus.api("rules", &[]));

    // The text is what Prometheus takes it for, in the format that it asks for.
    let targets = prometheus.api("targets", &[]);
    assert!(targets.contains(r#""health":"up""#) && targets.contains(r#""lastError":"""#), "{targets}");
    assert!(!prometheus.words().contains("level=warn"), "{}", prometheus.words());
}
