//! What a run has shown: for programs, and against the profile's budgets.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    profile::{Budgets, Profile},
    record::{Kind, Record},
};

/// What a server needed for one turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) cpu: Duration,
    /// Bytes.
    pub(super) memory: u64,
}

/// One server's turns.
#[derive(Debug)]
pub(super) struct Side {
    name: &'static str,
    turns: Vec<(Turn, Record)>,
}

impl Side {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, turns: Vec::new() }
    }

    pub(super) fn add(&mut self, turn: Turn, record: Record) {
        self.turns.push((turn, record));
    }

    /// CPU time of a request in each turn, in µs.
    fn cpu(&self) -> Vec<f64> {
        let per_request = |(turn, record): &(Turn, Record)| {
            turn.cpu.as_secs_f64() * 1e6 / (record.all().sent.max(1) as f64)
        };
        self.turns.iter().map(per_request).collect()
    }

    /// That latency of all requests in each turn, in µs.
    fn latency(&self, of: fn(&Latency) -> f64) -> Vec<f64> {
        self.turns.iter().map(|(_, record)| of(&Latency::of(&record.all()))).collect()
    }

    fn result(&self) -> Server {
        let mut record = Record::default();
        self.turns.iter().for_each(|(_, turn)| record.add(turn));
        let all = record.all();
        let memory = self.turns.iter().map(|(turn, _)| turn.memory).max().unwrap_or(0);
        Server {
            name: self.name.to_owned(),
            requests: all.sent,
            rate: all.answered as f64 / record.time.as_secs_f64(),
            cpu_us: median(&self.cpu()),
            memory_mib: memory as f64 / f64::from(1 << 20),
            again: record.again,
            latency: Latency::of(&all),
            errors: all.errors.clone(),
            traffic: record.kinds.iter().map(|(name, kind)| (name.clone(), Part::of(kind))).collect(),
        }
    }
}

/// Everything, as it is written to a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Name of the profile.
    pub(crate) profile: String,
    /// What it is for.
    pub(crate) about: String,
    /// Requests a second that were due.
    pub(crate) offered: f64,
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// The processor, and how many of it.
    pub(crate) machine: String,
    /// The versions of nginx and of this program, and so of the module that was built with it.
    #[serde(default)]
    pub(crate) versions: String,
    /// The commit that is checked out where this program runs, with `+` where files have been changed since; empty
    /// elsewhere.
    #[serde(default)]
    pub(crate) commit: String,
    /// The servers, that without filters first.
    pub(crate) servers: Vec<Server>,
    /// What the others need of what that one does.
    pub(crate) ratios: Vec<Ratio>,
    /// Sentences: what is beyond the budgets.
    pub(crate) failed: Vec<String>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Server {
    /// `off`, `on` or `other`.
    pub(crate) name: String,
    /// Requests that were sent.
    pub(crate) requests: u64,
    /// Requests answered a second.
    pub(crate) rate: f64,
    /// CPU time of a request, in µs: the median over turns.
    pub(crate) cpu_us: f64,
    /// Memory of its workers, in MiB: the most after any turn.
    pub(crate) memory_mib: f64,
    /// Requests that were sent again since a kept connection had just been closed.
    pub(crate) again: u64,
    /// Of all requests.
    pub(crate) latency: Latency,
    /// How many failed, by what went wrong.
    pub(crate) errors: BTreeMap<String, u64>,
    /// By kind of request.
    pub(crate) traffic: BTreeMap<String, Part>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Requests that were sent.
    pub(crate) requests: u64,
    /// Of these, those that failed.
    pub(crate) failed: u64,
    /// Bytes of bodies that came.
    pub(crate) bytes: u64,
    /// Their latency.
    pub(crate) latency: Latency,
}

impl Part {
    fn of(kind: &Kind) -> Self {
        Self { requests: kind.sent, failed: kind.failed(), bytes: kind.bytes, latency: Latency::of(kind) }
    }
}

/// Latencies in µs, from the time that a request was due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// The median.
    pub(crate) p50: f64,
    /// Nine of ten are shorter.
    pub(crate) p90: f64,
    /// 99 of 100.
    pub(crate) p99: f64,
    /// 999 of 1000.
    pub(crate) p999: f64,
    /// The longest.
    pub(crate) max: f64,
    /// Pairs of a percentile and its latency, for a curve.
    pub(crate) curve: Vec<(f64, f64)>,
}

/// Percentiles of the curve.
const CURVE: [f64; 14] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0];

impl Latency {
    fn of(kind: &Kind) -> Self {
        let at = |percentile| kind.latencies.value_at_percentile(percentile) as f64 / 1000.0;
        Self {
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: at(100.0),
            curve: CURVE.map(|percentile| (percentile, at(percentile))).to_vec(),
        }
    }
}

/// What a server needs, in units of what the one without filters does. CPU time and latencies are medians over turns that
/// followed one another: a machine that stands still for half a second has one turn's 99th percentile, not that of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    /// The server.
    pub(crate) name: String,
    /// CPU time of a request.
    pub(crate) cpu: f64,
    /// Median latency.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// Requests answered a second.
    pub(crate) throughput: f64,
    /// Memory beyond, in MiB.
    pub(crate) memory_mib: f64,
}

impl Report {
    pub(super) fn new(profile: &Profile, sides: Vec<Side>, versions: String) -> Self {
        let servers: Vec<_> = sides.iter().map(Side::result).collect();
        let mut ratios = Vec::new();
        if let (Some((off, others)), Some((off_side, other_sides))) =
            (servers.split_first(), sides.split_first())
        {
            for (server, side) in others.iter().zip(other_sides) {
                let ratio = |on: Vec<f64>, off: Vec<f64>| {
                    let turns: Vec<_> = on.into_iter().zip(off).map(|(on, off)| on / off).collect();
                    median(&turns)
                };
                let latency = |of| ratio(side.latency(of), off_side.latency(of));
                ratios.push(Ratio {
                    name: server.name.clone(),
                    cpu: ratio(side.cpu(), off_side.cpu()),
                    p50: latency(|latency| latency.p50),
                    p99: latency(|latency| latency.p99),
                    throughput: server.rate / off.rate,
                    memory_mib: server.memory_mib - off.memory_mib,
                });
            }
        }
        let mut report = Self {
            profile: profile.name.clone(),
            about: profile.about.clone(),
            offered: profile.rate,
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            machine: machine(),
            versions,
            commit: commit(),
            servers,
            ratios,
            failed: Vec::new(),
        };
        report.failed = report.beyond(&profile.budgets);
        report
    }

    /// What is beyond `budgets`, one sentence each. Only nginx with filters has any.
    fn beyond(&self, budgets: &Budgets) -> Vec<String> {
        let mut sentences = Vec::new();
        let (Some(on), Some(ratio)) = (
            self.servers.iter().find(|server| server.name == "on"),
            self.ratios.iter().find(|ratio| ratio.name == "on"),
        ) else {
            return sentences;
        };
        let mut bound = |value: f64, most: Option<f64>, what: &str| {
            // What is not a number is beyond every bound.
            if let Some(most) = most
                && (value.is_nan() || value > most)
            {
                sentences.push(format!("{what} is {value:.3}; the budget is {most}"));
            }
        };
        bound(ratio.cpu, budgets.cpu, "CPU time of a request, with filters to without,");
        bound(ratio.p50, budgets.p50, "median latency, with filters to without,");
        bound(ratio.p99, budgets.p99, "99th percentile of latency, with filters to without,");
        bound(ratio.memory_mib, budgets.memory, "memory of workers beyond that without filters, in MiB,");
        let failed: u64 = on.errors.values().sum();
        let share = failed as f64 / on.requests.max(1) as f64;
        bound(share, budgets.errors, "share of requests that failed");
        if let Some(least) = budgets.throughput
            && (ratio.throughput.is_nan() || ratio.throughput < least)
        {
            let value = ratio.throughput;
            sentences.push(format!(
                "requests answered a second, with filters to without, is {value:.3}; the budget is {least}"
            ));
        }
        sentences
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} × {}", model.map_or("unknown processor", |(_, name)| name))
}

/// What git says of the folder that this runs in; nothing where that is no repository.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let changed = git(&["status", "--porcelain"]).is_none_or(|files| !files.is_empty());
    if changed { commit + "+" } else { commit }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Report, Side, Turn};
    use crate::load::{
        profile::Profile,
        record::{Fate, Record},
    };

    fn side(name: &'static str, micros: u64, failed: u64) -> Side {
        side_of(name, [micros; 3], failed)
    }

    /// Turns in which requests take so many microseconds.
    fn side_of(name: &'static str, turns: [u64; 3], failed: u64) -> Side {
        let mut side = Side::new(name);
        for micros in turns {
            let mut record = Record { time: Duration::from_secs(1), ..Record::default() };
            for number in 0..100 {
                let fate =
                    if number < failed { Fate::Failed("status 500".into()) } else { Fate::Answered(1) };
                record.kind("static").note(Duration::from_micros(micros), fate);
            }
            side.add(Turn { cpu: Duration::from_micros(micros * 100), memory: 5 << 20 }, record);
        }
        side
    }

    #[test]
    fn what_filters_cost_beyond_the_budgets_is_said() {
        let mut profile = Profile::find("smoke").expect("well-formed");
        profile.budgets.cpu = Some(2.0);
        profile.budgets.errors = Some(0.0);
        let good = Report::new(&profile, vec![side("off", 100, 0), side("on", 150, 0)], "nginx/1".to_owned());
        assert_eq!(good.failed, Vec::<String>::new());
        assert!((good.ratios[0].cpu - 1.5).abs() < 1e-9);
        let bad = Report::new(&profile, vec![side("off", 100, 0), side("on", 250, 1)], "nginx/1".to_owned());
        assert!(
            bad.failed.iter().any(|sentence| sentence.contains("CPU") && sentence.contains("2.5")),
            "{bad:?}"
        );
        assert!(bad.failed.iter().any(|sentence| sentence.contains("share")), "{bad:?}");
        assert!(bad.table().contains("3 × status 500"), "{}", bad.table());
    }

    #[test]
    fn one_turn_of_a_machine_that_stood_still_is_no_failure() {
        let profile = Profile::find("smoke").expect("well-formed");
        let failed = |turns| {
            let sides = vec![side("off", 100, 0), side_of("on", turns, 0)];
            Report::new(&profile, sides, "nginx/1".to_owned()).failed
        };
        assert_eq!(failed([150, 5000, 150]), Vec::<String>::new());
        let slow = failed([150, 5000, 5000]);
        assert!(slow.iter().any(|sentence| sentence.contains("99th percentile")), "{slow:?}");
    }

    #[test]
    fn a_report_is_read_back() {
        let profile = Profile::find("smoke").expect("well-formed");
        let report =
            Report::new(&profile, vec![side("off", 100, 0), side("on", 150, 0)], "nginx/1".to_owned());
        let text = serde_json::to_string(&report).expect("JSON");
        let read: Report = serde_json::from_str(&text).expect("a report");
        assert_eq!(read.servers.len(), 2);
        let text = report.markdown();
        assert!(text.contains("| on ") && text.contains("; nginx/1"), "{text}");
    }
}
