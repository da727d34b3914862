//! `weir compare`: two runs of load beside one another.

use std::{error::Error, fs, path::Path};

use super::{
    report::{Report, Server},
    text::layout,
};

/// Prints what each server of the run in `second` needs of what it needed in that of `first`.
///
/// # Errors
/// What is wrong with a file.
pub(crate) fn run(first: &Path, second: &Path) -> Result<(), Box<dyn Error>> {
    let (first, second) = (read(first)?, read(second)?);
    if first.profile != second.profile {
        eprintln!("weir: these are runs of two profiles, {} and {}", first.profile, second.profile);
    }
    if first.machine != second.machine {
        eprintln!("weir: these are runs on two kinds of machines, {} and {}", first.machine, second.machine);
    }
    print!("{}", table(&first, &second));
    Ok(())
}

fn read(file: &Path) -> Result<Report, Box<dyn Error>> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let report = serde_json::from_str(&text);
    Ok(report.map_err(|error| format!("{} is no report of weir load: {error}", file.display()))?)
}

/// What is compared: its name, and where it is.
type Measure = (&'static str, fn(&Server) -> f64);

const MEASURES: [Measure; 6] = [
    ("answered/s", |server| server.rate),
    ("p50 µs", |server| server.latency.p50),
    ("p99 µs", |server| server.latency.p99),
    ("p99.9 µs", |server| server.latency.p999),
    ("CPU µs", |server| server.cpu_us),
    ("MiB", |server| server.memory_mib),
];

fn table(first: &Report, second: &Report) -> String {
    let head = ["", "first", "second", "ratio"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for server in &first.servers {
        let Some(other) = second.servers.iter().find(|other| other.name == server.name) else { continue };
        for (name, measure) in MEASURES {
            let (before, after) = (measure(server), measure(other));
            let numbers = [before, after].map(|value| format!("{value:.2}"));
            let [before_text, after_text] = numbers;
            let ratio = format!("{:.3}", after / before);
            rows.push(vec![format!("{}, {name}", server.name), before_text, after_text, ratio]);
        }
    }
    layout(&rows)
}
