//! What the gate has found, for people and for programs.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use serde_json::json;

use super::{
    Budgets,
    judge::{Finding, most, typical},
    measure::{INSTRUCTIONS, Measured},
};

/// What was measured, where.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The commit; with `+` where files have been changed since.
    pub commit: String,
    /// Seconds since 1970.
    pub time: u64,
    /// The processor, and how many of it.
    pub machine: String,
}

/// A table of `findings` in Markdown; what has failed comes first.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let mut text = String::from(
        "| bench | | compared with | | ratio | range | at most | |\n|---|---|---|---|---|---|---|---|\n",
    );
    let (failed, passed): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.failed);
    for finding in failed.into_iter().chain(passed) {
        let Finding { name, than, value, other, ratio, range: (low, high), most, failed } = finding;
        let verdict = if *failed { "**TOO MUCH**" } else { "ok" };
        let (value, other) = (amount(name, *value), amount(name, *other));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {value} | {than} | {other} | {ratio:.3} | {low:.2}–{high:.2} | {most:.2} | {verdict} |"
        );
    }
    text
}

/// A value with its unit.
fn amount(name: &str, value: f64) -> String {
    if name.starts_with(INSTRUCTIONS) {
        return format!("{value:.0} instructions");
    }
    match value {
        value if value >= 1e6 => format!("{:.2} ms", value / 1e6),
        value if value >= 1e3 => format!("{:.2} µs", value / 1e3),
        value => format!("{value:.1} ns"),
    }
}

/// Writes `gate.md` and `gate.json` into `folder`.
///
/// # Errors
/// What the system said.
pub fn write(folder: &Path, origin: &Origin, findings: &[Finding]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let Origin { commit, machine, .. } = origin;
    let text = format!("# Benches of {commit}\n\n{machine}\n\n{}", table(findings));
    fs::write(folder.join("gate.md"), text)?;
    let object = json!({
        "commit": commit,
        "time": origin.time,
        "machine": machine,
        "failed": findings.iter().any(|finding| finding.failed),
        "findings": findings,
    });
    fs::write(folder.join("gate.json"), format!("{object:#}\n"))
}

/// Appends one line to the history in `file`: commit, time, machine, how much slower than base a bench may be, and for
/// each bench its name, unit, value, the lowest and highest round, and the most that it may take by `budgets`.
///
/// # Errors
/// What the system said.
pub fn append(file: &Path, origin: &Origin, measured: &Measured, budgets: &Budgets) -> std::io::Result<()> {
    let results = measured.iter().map(|(name, rounds)| {
        let unit = if name.starts_with(INSTRUCTIONS) { "instructions" } else { "ns" };
        let low = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = rounds.iter().copied().fold(0.0, f64::max);
        let mut result =
            json!({"name": name, "unit": unit, "value": typical(name, rounds), "low": low, "high": high});
        if let Some((most, why)) = most(budgets, measured, name) {
            result["budget"] = json!({"most": most, "why": why});
        }
        result
    });
    let results: Vec<_> = results.collect();
    let line = json!({
        "commit": origin.commit,
        "time": origin.time,
        "machine": origin.machine,
        "tolerance": {"ns": budgets.against_base.time, "instructions": budgets.against_base.instructions},
        "results": results,
    });
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "{line}")
}

#[cfg(test)]
mod tests {
    use super::{Origin, append, table};
    use crate::gate::{Budgets, budgets::Relation, judge::Finding};

    #[test]
    fn what_has_failed_comes_first() {
        let finding = |name: &str, value, failed| Finding {
            name: name.to_owned(),
            than: "base".to_owned(),
            value,
            other: 100.0,
            ratio: value / 100.0,
            range: (1.0, 2.0),
            most: 1.15,
            failed,
        };
        let text = table(&[finding("a", 100.0, false), finding("instructions/b", 2000.0, true)]);
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert!(
            rows[0].starts_with("| instructions/b | 2000 instructions") && rows[0].contains("TOO MUCH"),
            "{text}"
        );
        assert!(rows[1].contains("| 100.0 ns |") && rows[1].ends_with("| ok |"), "{text}");
    }

    #[test]
    fn each_run_is_a_line_of_the_history() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history.jsonl");
        let origin = Origin { commit: "abc".to_owned(), time: 7, machine: "2 × x".to_owned() };
        let measured = [("a".to_owned(), vec![3.0, 1.0, 2.0])].into();
        let budgets = Budgets {
            relation: vec![Relation { bench: "a".to_owned(), of: "a".to_owned(), most: 1.5 }],
            ..Budgets::default()
        };
        for _ in 0..2 {
            append(&file, &origin, &measured, &budgets).expect("written");
        }
        let text = std::fs::read_to_string(&file).expect("a file");
        assert_eq!(text.lines().count(), 2);
        let line: serde_json::Value =
            serde_json::from_str(text.lines().next().unwrap_or_default()).expect("JSON");
        assert_eq!(
            line["results"][0],
            serde_json::json!({"name": "a", "unit": "ns", "value": 2.0, "low": 1.0, "high": 3.0,
                "budget": {"most": 1.5, "why": "1.5 times a"}})
        );
        assert_eq!(line["tolerance"], serde_json::json!({"ns": 0.15, "instructions": 0.05}));
    }
}
