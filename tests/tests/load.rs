//! The command `weir load`: what it reports is what others see too, and budgets fail it.
#![allow(missing_docs, reason = "a test")]

use std::{fs, path::Path, process::Command};

use weir_tests::{Conf, Nginx, paths};

/// A profile with one kind of requests, at a rate that a busy machine keeps.
const PROFILE: &str = r#"
about = "A test."
rate = 200
seconds = 2
turns = 2
ramp = 0.5
modules = ["add_headers", "faults"]

[[traffic]]
name = "static"
weight = 1
location = "alias FILES/1k;"
filters = "proxy_wasm add_headers;"
"#;

/// Runs a profile; whether it passes, its report and what it has said.
fn load(profile: &str, arguments: &[&str]) -> (bool, serde_json::Value, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("test.toml");
    fs::write(&file, profile).expect("written");
    let output = Command::new(paths::weir())
        .arg("load")
        .arg(&file)
        .arg("--out")
        .arg(folder.path())
        .args(arguments)
        .arg("--edge")
        .arg(paths::edge())
        .arg("--guests")
        .arg(paths::guests())
        .output()
        .expect("weir runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = fs::read_to_string(folder.path().join("test.json"));
    let report = report.unwrap_or_else(|error| panic!("no report ({error}): {said}"));
    (output.status.success(), serde_json::from_str(&report).expect("JSON"), said)
}

/// Requests a second that h2load counts, when it is to send 200 a second to a port of the machine.
fn h2load(port: u16) -> f64 {
    let output = Command::new("h2load")
        .args(["--h1", "--clients=2", "--rps=100", "--duration=3", "--warm-up-time=1"])
        .arg(format!("http://127.0.0.1:{port}/static"))
        .output()
        .expect("the tool h2load; scripts/setup installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("finished in ")?.split(", ").nth(1));
    let rate = rate.and_then(|rate| rate.strip_suffix(" req/s")?.parse().ok());
    rate.unwrap_or_else(|| panic!("h2load has reported: {text}"))
}

/// Requests a second that wrk counts, when four connections to a port of the machine send one every 20 ms.
fn wrk(port: u16) -> f64 {
    let script = paths::repository("tests/tests").join("load/paced.lua");
    let output = Command::new("wrk")
        .args(["--threads=1", "--connections=4", "--duration=3s", "--script"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}/static"))
        .output()
        .expect("the tool wrk; scripts/setup installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("wrk has reported: {text}"))
}

fn number(report: &serde_json::Value, pointer: &str) -> f64 {
    report
        .pointer(pointer)
        .and_then(serde_json::Value::as_f64)
        .unwrap_or_else(|| panic!("{pointer} of {report:#}"))
}

#[test]
fn the_rate_is_the_one_that_other_tools_have() {
    let (passes, report, said) = load(PROFILE, &[]);
    assert!(passes, "{said}");
    let nginx = Nginx::start(Conf::new().server("location = /static { return 200 ok; }"));
    let port = nginx.address().port();
    let ours = [0, 1].map(|server| number(&report, &format!("/servers/{server}/rate")));
    // They run at other times: on a busy machine one of them may miss the rate once.
    for tool in ["h2load", "wrk"] {
        let mut seen = Vec::new();
        let same = (0..3).any(|_| {
            let theirs = if tool == "wrk" { wrk(port) } else { h2load(port) };
            seen.push(theirs);
            ours.iter().all(|ours| (ours / theirs - 1.0).abs() < 0.1)
        });
        assert!(same, "{ours:?} against {tool}'s {seen:?} requests a second");
    }
    for server in 0..2 {
        assert!(number(&report, &format!("/servers/{server}/latency/p99")) > 0.0);
        assert!(number(&report, &format!("/servers/{server}/cpu_us")) > 0.0);
    }
}

/// Runs a built-in profile for a short time, at a rate that a busy machine keeps; its report.
fn shortened(profile: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(paths::weir())
        .args(["load", profile, "--seconds", "1", "--rate", "100", "--out"])
        .arg(folder.path())
        .arg("--edge")
        .arg(paths::edge())
        .arg("--guests")
        .arg(paths::guests())
        .output()
        .expect("weir runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = fs::read_to_string(folder.path().join(profile).with_extension("json"));
    let report = report.unwrap_or_else(|error| panic!("no report ({error}): {said}"));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
    assert!(text("versions").starts_with("nginx/") && text("versions").contains(", weir "), "{report:#}");
    assert!(text("machine").contains(" × ") && number(&report, "/time") > 1e9, "{report:#}");
    for (at, name) in ["off", "on"].into_iter().enumerate() {
        assert_eq!(report.pointer(&format!("/servers/{at}/name")).and_then(|name| name.as_str()), Some(name));
        assert!(number(&report, &format!("/servers/{at}/requests")) > 50.0, "{report:#}");
        assert!(number(&report, &format!("/servers/{at}/memory_mib")) > 0.0, "{report:#}");
    }
    report
}

/// The share of requests to nginx with filters that failed.
fn failed(report: &serde_json::Value) -> f64 {
    let errors = report.pointer("/servers/1/errors").and_then(serde_json::Value::as_object);
    let failed: f64 = errors.into_iter().flatten().filter_map(|(_, count)| count.as_f64()).sum();
    failed / number(report, "/servers/1/requests")
}

#[test]
fn smoke_is_served() {
    let report = shortened("smoke");
    assert!(failed(&report) == 0.0, "{report:#}");
}

#[test]
fn the_mix_of_an_edge_node_is_served() {
    let report = shortened("edge-mix");
    assert!(failed(&report) == 0.0, "{report:#}");
    for kind in ["static-h2-tls", "proxied", "api", "call-out", "local-reply"] {
        assert!(number(&report, &format!("/servers/1/traffic/{kind}/requests")) > 0.0, "{report:#}");
    }
}

#[test]
fn a_soak_is_served() {
    let report = shortened("soak");
    assert!(failed(&report) == 0.0, "{report:#}");
}

#[test]
fn a_filter_that_fails_does_not_disturb_others() {
    let report = shortened("faults");
    assert!(number(&report, "/servers/1/traffic/panics/requests") > 0.0, "{report:#}");
    assert!(number(&report, "/servers/1/traffic/healthy/failed") == 0.0, "{report:#}");
}

#[test]
fn reloads_and_kills_lose_next_to_nothing() {
    let report = shortened("reload");
    // What a killed worker had in hand is lost; the budget of the whole profile is 1 %.
    assert!(failed(&report) < 0.05, "{report:#}");
}

#[test]
fn budgets_that_are_not_kept_to_fail_it() {
    let failing = PROFILE.replace("proxy_wasm add_headers;", "proxy_wasm faults;")
        + "headers = { x-fault = \"panic\" }\n[budgets]\nerrors = 0.1\ncpu = 0.01\n";
    let (passes, report, said) = load(&failing, &["--seconds", "0.5"]);
    assert!(!passes, "{said}");
    assert!(said.contains("share of requests that failed") && said.contains("CPU time"), "{said}");
    let errors = report.pointer("/servers/1/errors").expect("errors by kind").to_string();
    assert!(errors.contains("status 500"), "{errors}");
}

#[test]
fn another_server_runs_beside_ours_and_runs_are_compared() {
    let script = paths::repository("tests/tests").join("load/other.sh");
    let command = format!("exec sh {} {}", script.display(), paths::nginx().display());
    let (passes, report, said) = load(PROFILE, &["--seconds", "0.5", "--against", &command]);
    assert!(passes, "{said}");
    assert_eq!(report.pointer("/servers/2/name").and_then(serde_json::Value::as_str), Some("other"));
    assert!(number(&report, "/servers/2/requests") > 0.0);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("one.json");
    fs::write(&file, report.to_string()).expect("written");
    let compare = |second: &Path| Command::new(paths::weir()).arg("compare").arg(&file).arg(second).output();
    let output = compare(&file).expect("weir runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("on, p99 µs") && text.contains("1.000"), "{text}");
    assert!(!compare(Path::new("/nonexistent")).expect("weir runs").status.success());
}
