//! The gate, from one end to the other: a slowdown that is planted makes it fail, and without one it passes.
#![allow(missing_docs, reason = "a test")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

/// A commit whose bench runs a loop of so many turns.
fn commit(folder: &Path, turns: u32) {
    fs::create_dir_all(folder).expect("a folder");
    let program = folder.join("planted");
    let text = format!("#!/bin/sh\nWEIR_PLANTED={turns} exec {} \"$@\"\n", env!("CARGO_BIN_EXE_planted"));
    fs::write(&program, text).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("made a program");
}

/// Runs the gate; whether it passes, and what it reports.
fn gate(base: Option<u32>, head: u32, relation: &str) -> (Option<i32>, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let budgets = format!(
        "[against_base]\ntime = 0.3\n[[run]]\nbench = \"planted\"\nfilter = \"planted/loop\"\n{relation}"
    );
    fs::write(path("budgets.toml"), budgets).expect("written");
    commit(&path("head"), head);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-gate"));
    command.arg("--head").arg(path("head")).arg("--out").arg(path("out"));
    command.arg("--budgets").arg(path("budgets.toml")).args(["--rounds", "4", "--seconds", "0.1"]);
    command.arg("--history").arg(path("history.jsonl"));
    if let Some(base) = base {
        commit(&path("base"), base);
        command.arg("--base").arg(path("base"));
    }
    let output = command.output().expect("the gate runs");
    let report = fs::read_to_string(path("out/gate.json")).expect("a report");
    assert!(path("out/gate.md").exists() && path("history.jsonl").exists());
    (output.status.code(), serde_json::from_str(&report).expect("JSON"))
}

#[test]
fn a_planted_slowdown_fails() {
    let (code, report) = gate(Some(20_000), 60_000, "");
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["failed"], true);
    assert_eq!(report["findings"][0]["name"], "planted/loop");
}

#[test]
fn what_has_not_changed_passes() {
    let (code, report) = gate(Some(20_000), 20_000, "");
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["failed"], false);
}

#[test]
fn budgets_for_benches_that_do_not_exist_are_an_error() {
    let relation = "[[relation]]\nbench = \"planted/loop\"\nof = \"planted/other\"\nmost = 2.0\n";
    assert_eq!(gate(None, 100, relation).0, Some(2));
}
