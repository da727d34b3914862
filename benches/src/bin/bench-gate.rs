//! `bench-gate`: runs benches of head and base in turns, and fails when head is too slow. `scripts/bench-gate` builds
//! them and calls this.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use weir_benches::gate::{
    Budgets, Measured, Programs, judge,
    judge::forgotten,
    measure::Effort,
    report::{Origin, append, table, write},
};

/// Runs benches in turns, and fails when they are too slow.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of bench programs of the commit that is judged, each by its target's name.
    #[arg(long)]
    head: PathBuf,
    /// The same of the commit that it is compared with.
    #[arg(long)]
    base: Option<PathBuf>,
    /// What is run, and what it may cost.
    #[arg(long)]
    budgets: PathBuf,
    /// Where gate.md and gate.json are written.
    #[arg(long)]
    out: PathBuf,
    /// How often everything is run.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that a bench is measured in a round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The folder of gungraun's runner; without it instructions are not counted.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Name of the commit that is judged.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// A file to which what was measured is appended.
    #[arg(long)]
    history: Option<PathBuf>,
}

/// How often instructions are counted.
const COUNTS: usize = 2;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Measures and judges; whether all is well.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let budgets = Budgets::read(&arguments.budgets)?;
    let work = |name: &str| arguments.out.join("work").join(name);
    let head = Programs { folder: arguments.head.clone(), work: work("head") };
    let base = arguments.base.clone().map(|folder| Programs { folder, work: work("base") });
    let mut measured = (Measured::new(), Measured::new());
    let effort = Effort { warm_up: arguments.seconds / 3.0, measure: arguments.seconds };
    for round in 0..arguments.rounds {
        eprintln!("==> round {} of {}", round + 1, arguments.rounds);
        for run in &budgets.run {
            let mut turns: Vec<(&Programs, &mut Measured)> = vec![(&head, &mut measured.0)];
            turns.extend(base.as_ref().map(|base| (base, &mut measured.1)));
            // Whoever comes second may find a warmer machine: they take turns in that too.
            if round % 2 == 1 {
                turns.reverse();
            }
            for (programs, measured) in turns {
                programs.time(run, effort, measured)?;
            }
        }
    }
    if let Some(tools) = &arguments.tools {
        eprintln!("==> counting instructions");
        for _ in 0..COUNTS {
            head.count(tools, &mut measured.0)?;
            if let Some(base) = &base {
                base.count(tools, &mut measured.1)?;
            }
        }
    }
    let findings = judge(&budgets, &measured.0, base.as_ref().map(|_| &measured.1));
    let origin = Origin { commit: arguments.commit.clone(), time: now(), machine: machine() };
    let io = |error: std::io::Error| format!("the report cannot be written: {error}");
    write(&arguments.out, &origin, &findings).map_err(io)?;
    if let Some(history) = &arguments.history {
        append(history, &origin, &measured.0, &budgets).map_err(io)?;
    }
    print!("{}", table(&findings));
    let missing = forgotten(&budgets, &measured.0, arguments.tools.is_some());
    if !missing.is_empty() {
        return Err(format!("the budgets name benches that do not exist: {}", missing.join(", ")));
    }
    let failed = findings.iter().filter(|finding| finding.failed).count();
    if failed > 0 {
        eprintln!("error: {failed} of {} comparisons are beyond their budget", findings.len());
    }
    Ok(failed == 0)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The processor's name, as Linux has it, and how many of them this process may use.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} × {}", model.map_or("unknown processor", |(_, name)| name))
}
