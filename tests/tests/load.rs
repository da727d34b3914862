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

fn number(report: &serde_json::Value, pointer: &str) -> f64 {
    report
        .pointer(pointer)
        .and_then(serde_json::Value::as_f64)
        .unwrap_or_else(|| panic!("{pointer} of {report:#}"))
}

#[test]
fn the_rate_is_the_one_that_another_tool_has() {
    let (passes, report, said) = load(PROFILE, &[]);
    assert!(passes, "{said}");
    let theirs = {
        let nginx = Nginx::start(Conf::new().server("location = /static { return 200 ok; }"));
        h2load(nginx.address().port())
    };
    for server in 0..2 {
        let ours = number(&report, &format!("/servers/{server}/rate"));
        assert!((ours / theirs - 1.0).abs() < 0.1, "{ours} against {theirs} requests a second");
        assert!(number(&report, &format!("/servers/{server}/latency/p99")) > 0.0);
        assert!(number(&report, &format!("/servers/{server}/cpu_us")) > 0.0);
    }
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
