//! A report for people: tables that are Markdown and read well in a terminal.

use std::fmt::Write as _;

use super::report::{Latency, Ratio, Report};

impl Report {
    /// A table of servers, one of kinds, and errors: Markdown that reads well in a terminal.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![row([
            "server",
            "requests",
            "answered/s",
            "p50 µs",
            "p90 µs",
            "p99 µs",
            "p99.9 µs",
            "CPU µs",
            "MiB",
            "failed",
        ])];
        for server in &self.servers {
            let Latency { p50, p90, p99, p999, .. } = server.latency;
            let failed: u64 = server.errors.values().sum();
            let numbers = [p50, p90, p99, p999].map(|value| format!("{value:.0}"));
            let mut cells =
                vec![server.name.clone(), server.requests.to_string(), format!("{:.0}", server.rate)];
            cells.extend(numbers);
            cells.extend([
                format!("{:.2}", server.cpu_us),
                format!("{:.1}", server.memory_mib),
                failed.to_string(),
            ]);
            rows.push(cells);
        }
        let mut text = layout(&rows);
        let mut rows = vec![row(["ratio to off", "CPU", "p50", "p99", "answered/s", "MiB more"])];
        for Ratio { name, cpu, p50, p99, throughput, memory_mib } in &self.ratios {
            let numbers = [cpu, p50, p99, throughput, memory_mib].map(|value| format!("{value:.2}"));
            rows.push([vec![name.clone()], numbers.to_vec()].concat());
        }
        let _ = write!(text, "\n{}", layout(&rows));
        let mut rows = vec![row(["traffic", "server", "requests", "p50 µs", "p99 µs", "p99.9 µs", "failed"])];
        let kinds: Vec<_> =
            self.servers.first().map(|server| server.traffic.keys()).into_iter().flatten().collect();
        for kind in kinds {
            for server in &self.servers {
                let Some(part) = server.traffic.get(kind) else { continue };
                let numbers = [part.latency.p50, part.latency.p99, part.latency.p999]
                    .map(|value| format!("{value:.0}"));
                let first = vec![kind.clone(), server.name.clone(), part.requests.to_string()];
                rows.push([first, numbers.to_vec(), vec![part.failed.to_string()]].concat());
            }
        }
        let _ = write!(text, "\n{}", layout(&rows));
        for server in &self.servers {
            for (reason, count) in &server.errors {
                let _ = writeln!(text, "\n{}: {count} × {reason}", server.name);
            }
            if server.again > 0 {
                let _ = writeln!(
                    text,
                    "\n{}: {} requests sent again on new connections",
                    server.name, server.again
                );
            }
        }
        text
    }

    pub(super) fn markdown(&self) -> String {
        let Self { profile, about, offered, machine, versions, commit, .. } = self;
        let commit = if commit.is_empty() { String::new() } else { format!("; commit {commit}") };
        let mut text = format!(
            "# Load profile {profile}\n\n{about} {offered} requests a second; {machine}; {versions}{commit}.\n\n{}",
            self.table()
        );
        for sentence in &self.failed {
            let _ = writeln!(text, "\n**Beyond its budget**: {sentence}.");
        }
        text
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Cells in columns; the first row is the head.
pub(super) fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} |")
            } else {
                write!(text, " {cell:>width$} |")
            };
        }
        text.push('\n');
        if at == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                let _ = if column == 0 { write!(text, "|-{line}-|") } else { write!(text, "-{line}:|") };
            }
            text.push('\n');
        }
    }
    text
}
