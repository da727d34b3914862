//! What benches, load tests and profilers leave for the dashboard.

use std::{fs, path::Path};

use serde_json::json;

/// Lines of a history as the gate appends them: in the last run one bench has become slower.
fn history() -> String {
    let run = |commit: &str, time: u64, slow: f64| {
        let result = |name: &str, value: f64| json!({"name": name, "unit": "ns", "value": value, "low": value * 0.98, "high": value * 1.02});
        let counted = json!({"name": "instructions/request/noop", "unit": "instructions", "value": 8109.0,
            "low": 8109.0, "high": 8110.0, "budget": {"most": 8000.0, "why": "15 % over the committed 6957"}});
        let results = [result("pairs/decode/10", 700.0 * slow), result("requests/noop/own", 900.0), counted];
        json!({"commit": commit, "time": time, "machine": "2 × a processor", "results": results}).to_string()
    };
    [
        run("aaaaaaaa11", 1_790_000_000, 1.0),
        run("bbbbbbbb22", 1_790_090_000, 1.01),
        run("cccccccc33", 1_790_180_000, 1.4),
    ]
    .join("\n")
}

/// A picture whose script says that it runs, and tries to read the page around it.
const PICTURE: &str = r##"<?xml version="1.0" standalone="no"?>
<!-- weir
command: perf record
commit: abc123
-->
<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="120" onload="init()">
<script>function init() {
  let found = "alone";
  try { found = parent.document.title; } catch {}
  parent.postMessage(found, "*");
}</script>
<rect width="100%" height="40" fill="orange"/><text x="8" y="24">all</text></svg>"##;

/// A result as `weir load` writes it: with filters, requests take `times` as long.
fn load(profile: &str, time: u64, times: f64) -> String {
    let latency = |times: f64| {
        let at = |percentile: f64| 100.0 * times / (1.001 - percentile / 100.0).sqrt();
        let curve =
            [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0].map(|percentile| [percentile, at(percentile)]);
        json!({"p50": at(50.0), "p90": at(90.0), "p99": at(99.0), "p999": at(99.9), "max": at(100.0), "curve": curve})
    };
    let server = |name: &str, times: f64| {
        let part = json!({"requests": 900, "failed": 1, "bytes": 2_000_000, "latency": latency(times)});
        json!({"name": name, "requests": 1000, "rate": 500.0, "cpu_us": 10.0 * times, "memory_mib": 20.0, "again": 0,
            "latency": latency(times), "errors": {"reset": 1}, "traffic": {"static": part}})
    };
    let ratio = json!({"name": "on", "cpu": times, "p50": times, "p99": times, "throughput": 1.0, "memory_mib": 12.5});
    let failed =
        if times > 1.5 { vec!["CPU time is 1.6 times that of nginx without filters"] } else { vec![] };
    json!({"profile": profile, "about": "what an edge node sees", "offered": 500.0, "time": time,
        "machine": "2 × a processor", "servers": [server("off", 1.0), server("on", times)], "ratios": [ratio],
        "failed": failed})
    .to_string()
}

/// Leaves what benches, load tests and profilers would.
pub(super) fn leave_records(folder: &Path) {
    for (name, text) in [
        ("history/main.jsonl", history()),
        ("loads/smoke.json", load("smoke", 1_790_000_000, 1.2)),
        ("loads/later.json", load("smoke", 1_790_100_000, 1.6)),
        ("flamegraphs/shared.svg", PICTURE.to_owned()),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
}
