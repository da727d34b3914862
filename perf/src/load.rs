//! `weir load`: what filters cost under the load that a profile describes.
//!
//! ```text
//!  profile ──► servers: nginx with filters, the same without, an origin, whatever --against starts
//!                 │
//!                 ▼ in turns, so that all of them meet the same disturbances
//!              drive: requests at the times they are due, whether or not earlier ones have been answered
//!                 │
//!                 ▼ record: latencies from the time a request was due, errors, CPU time, memory
//!              report: a table, JSON, Markdown; ratios, and whether they keep to the profile's budgets
//! ```

use std::{error::Error, fs, path::PathBuf, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) mod compare;

mod client;
mod conf;
mod drive;
mod process;
mod profile;
mod record;
mod report;
mod server;
mod text;

use client::Target;
use drive::Pace;
use profile::Profile;
use report::{Report, Side, Turn};
use server::{Places, Server, Stage};

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A profile: a file, or the name of one that is built in (smoke, edge-mix, soak, faults, reload).
    profile: String,
    /// Another server that is put beside ours: a command that listens on 127.0.0.1, port $WEIR_LOAD_PORT, and
    /// answers the same paths.
    #[arg(long, value_name = "COMMAND")]
    against: Option<String>,
    /// Writes NAME.json and NAME.md into this folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Requests a second, in place of the profile's.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds of each turn, in place of the profile's; it takes no longer to warm up then.
    #[arg(long)]
    seconds: Option<f64>,
    /// What `scripts/build` has made: sbin/nginx, modules/; found beside this program.
    #[arg(long, value_name = "FOLDER")]
    edge: Option<PathBuf>,
    /// The built filters; found beside the former.
    #[arg(long, value_name = "FOLDER")]
    guests: Option<PathBuf>,
}

/// Runs a profile and prints what it cost; false when it is more than its budgets allow.
///
/// # Errors
/// What kept it from running, in one sentence.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let mut profile = Profile::find(&arguments.profile)?;
    profile.rate = arguments.rate.unwrap_or(profile.rate);
    if let Some(seconds) = arguments.seconds {
        profile.seconds = seconds;
        profile.ramp = profile.ramp.min(seconds);
    }
    profile.check()?;
    let places = Places::find(arguments.edge.clone(), arguments.guests.clone())?;
    let stage = Stage::new(&profile, &places)?;
    let mut servers = vec![stage.nginx("off", false)?, stage.nginx("on", true)?];
    if let Some(command) = &arguments.against {
        servers.push(stage.other(command)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(measure(&profile, &stage, &servers))?;
    drop(servers);
    print!("{}", report.table());
    if let Some(folder) = &arguments.out {
        fs::create_dir_all(folder)?;
        let file = |extension: &str| folder.join(&report.profile).with_extension(extension);
        fs::write(file("json"), serde_json::to_string_pretty(&report)? + "\n")?;
        fs::write(file("md"), report.markdown())?;
    }
    for sentence in &report.failed {
        eprintln!("weir: {sentence}");
    }
    Ok(report.failed.is_empty())
}

/// Lets all servers have their turns.
async fn measure(profile: &Profile, stage: &Stage<'_>, servers: &[Server]) -> Result<Report, Box<dyn Error>> {
    let mut sides: Vec<_> = servers.iter().map(|server| Side::new(server.name())).collect();
    let targets: Vec<_> = servers
        .iter()
        .map(|server| Target::new(profile, server.addresses(), stage.certificate()).map(Arc::new))
        .collect::<Result<_, _>>()?;
    let bar = progress(profile, servers.len());
    for (server, target) in servers.iter().zip(&targets) {
        bar.set_message(format!("{} warms up", server.name()));
        drive::drive(profile, target, Pace::Ramp, 1, &bar, None).await;
    }
    for turn in 0..profile.turns {
        for at in 0..servers.len() {
            // Each is first as often as the others.
            let at = (at + turn) % servers.len();
            let (Some(server), Some(target), Some(side)) =
                (servers.get(at), targets.get(at), sides.get_mut(at))
            else {
                continue;
            };
            bar.set_message(format!("{}, turn {} of {}", server.name(), turn + 1, profile.turns));
            let before = server.cpu();
            // The same requests at the same times for all of them.
            let seed = turn as u64 + 2;
            let driven = drive::drive(profile, target, Pace::Steady, seed, &bar, Some(server)).await;
            let cpu = server.cpu().saturating_sub(before);
            side.add(Turn { cpu, memory: server.memory() }, driven);
            server.check()?;
        }
    }
    bar.finish_and_clear();
    Ok(Report::new(profile, sides, stage.versions()))
}

fn progress(profile: &Profile, servers: usize) -> ProgressBar {
    let all = (profile.ramp + profile.seconds * profile.turns as f64) * servers as f64;
    let steps = u64::try_from(Duration::from_secs_f64(all).as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {bar:40} {percent:>3} % {msg}") {
        bar.set_style(style);
    }
    bar
}
