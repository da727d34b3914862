//! `weir`: what an operator reads of a running nginx with Weir's module, for which it needs nothing but the metrics file;
//! and what CI runs to see what filters cost under load.
//!
//! | room | duty |
//! |---|---|
//! | `metrics` | the file as Prometheus' text or as JSON |
//! | `top` | a view of filters in the terminal, refreshed |
//! | `flamegraph` | samples of Linux's `perf` as a picture |
//! | `profile` | what a worker that looks at itself has seen, as a picture or for other tools |
//! | `dashboard` | the same and more in a browser: live, and what benches, load tests and profilers have found |
//! | `load` | load profiles: nginx with filters beside the same without, and two such runs compared |
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

mod dashboard;
mod flamegraph;
mod load;
mod metrics;
mod profile;
mod top;
mod trust;

/// Reads the metrics of nginx with Weir's module, and measures what filters cost.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints all metrics in a file.
    Metrics {
        /// The file that `path` in the block `metrics` of nginx.conf names.
        file: PathBuf,
        /// How they are printed.
        #[arg(long, value_enum, default_value_t)]
        format: metrics::Format,
    },
    /// Shows what filters do, in the terminal; q ends it.
    Top {
        /// The file that `path` in the block `metrics` of nginx.conf names.
        file: PathBuf,
        /// Seconds between two looks.
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        /// Prints one view as text and ends, once a first interval has passed.
        #[arg(long)]
        once: bool,
    },
    /// Shows what filters do in a browser, beside what benches, load tests and profilers have found.
    Dashboard(dashboard::Arguments),
    /// Runs a load profile: nginx with filters and the same without, in turns. Fails when the profile's budgets are
    /// not kept to.
    Load(load::Arguments),
    /// Puts two runs of `weir load --out` beside one another.
    Compare {
        /// The report, JSON, of the first.
        first: PathBuf,
        /// That of the second.
        second: PathBuf,
    },
    /// Draws what `perf script` has printed: reads that, and writes an SVG.
    Flamegraph(flamegraph::Arguments),
    /// Has a worker of nginx look where its time goes, filters' functions included, and draws that. nginx needs a
    /// location with "weir_profile".
    Profile(profile::Arguments),
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.05..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "it must be a number from 0.05 to 3600".to_owned())
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Metrics { file, format } => metrics::print(&file, format).map(|()| true),
        Command::Top { file, interval, once } => {
            top::run(&file, Duration::from_secs_f64(interval), once).map(|()| true)
        }
        Command::Load(arguments) => load::run(&arguments),
        Command::Compare { first, second } => load::compare::run(&first, &second).map(|()| true),
        Command::Dashboard(arguments) => dashboard::run(arguments).map(|()| true),
        Command::Profile(arguments) => profile::run(&arguments).map(|()| true),
        Command::Flamegraph(arguments) => flamegraph::run(&arguments).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // What is wrong has been said.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::FAILURE
        }
    }
}
