//! The metrics file under the same as zones: processes that define and count in it, and are killed.
//!
//! `WEIR_TORTURE_SECONDS` makes it longer, as for zones.

use std::{
    collections::HashMap,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, test_kill_process};
use weir_core::metrics::{
    Kind, Metrics, Options,
    catalog::{Catalog, Reading, workers},
    snapshot::Snapshot,
};

use super::torture::{Dice, START, Torture};

const CHILDREN: usize = 8;
const ENV: &str = "WEIR_COUNTERS_CHILD";
/// Numbers that are acknowledged: which counter was increased, or `COUNTERS` for a value of the histogram.
const COUNTERS: u64 = 40;

fn open(path: &Path) -> Metrics {
    Metrics::open(path, Options::default()).expect("the file").0
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    test_kill_process(pid).is_ok()
}

/// Not a test of its own: what each of the processes does, until it is killed.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(ENV) else { return };
    let (path, birth) = arguments.split_once(' ').expect("two arguments");
    let metrics = open(Path::new(path));
    metrics.claim_row(std::process::id(), is_alive);
    let scope = metrics.scope("f");
    let mut dice = Dice(birth.parse::<u64>().expect("a number").wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    rustix::io::write(std::io::stdout(), START).expect("the pipe");
    loop {
        let number = dice.roll(COUNTERS + 1);
        if number == COUNTERS {
            let id = metrics.define("f", Kind::Histogram, b"values").expect("room");
            metrics.record(scope, id, dice.roll(1 << 40)).expect("a histogram");
        } else {
            let id = metrics.define("f", Kind::Counter, format!("c{number}").as_bytes()).expect("room");
            metrics.increment(scope, id, 1).expect("a counter");
        }
        let number = u8::try_from(number).expect("small");
        rustix::io::write(std::io::stdout(), &[number]).expect("the pipe");
    }
}

/// Adds what a child has acknowledged, which is dead.
fn hear(child: &mut Child, heard: &mut HashMap<u64, u64>) {
    let mut all = Vec::new();
    child.stdout.take().expect("a pipe").read_to_end(&mut all).expect("read");
    let start = all.windows(START.len()).position(|window| window == START);
    for number in &all[start.map_or(all.len(), |start| start + START.len())..] {
        *heard.entry(u64::from(*number)).or_default() += 1;
    }
}

#[test]
fn killed_processes_lose_no_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let master = open(&path);
    let mut births = 0_u64;
    let mut bear = || {
        births += 1;
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "counters::child", "--nocapture", "--test-threads=1"])
            .env(ENV, format!("{} {births}", path.to_str().expect("text")))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process")
    };
    let mut children: Vec<_> = (0..CHILDREN).map(|_| bear()).collect();
    let mut heard = HashMap::new();
    let mut dice = Dice(u64::from(std::process::id()) << 20 | 1);
    let mut kills = 0_u64;
    let mut bury = |child: &mut Child, heard: &mut HashMap<u64, u64>| {
        assert!(child.try_wait().expect("asked").is_none(), "a child ended by itself");
        child.kill().expect("killed");
        child.wait().expect("dead");
        hear(child, heard);
        kills += 1;
    };
    for _ in Torture::new(300) {
        let place = usize::try_from(dice.roll(CHILDREN as u64)).expect("small");
        bury(&mut children[place], &mut heard);
        children[place] = bear();
        // Readers need only the file, whatever goes on in it.
        let snapshot = Snapshot::read(&path).expect("a snapshot");
        let mut catalog = Catalog::new();
        assert!(catalog.learn(&snapshot, usize::MAX));
    }
    for child in &mut children {
        bury(child, &mut heard);
    }

    let mut catalog = Catalog::new();
    assert!(catalog.learn(master.words(), usize::MAX));
    let series = catalog.series();
    assert!(series.len() <= usize::try_from(COUNTERS).expect("small") + 1, "no metric is there twice");
    let mut more = 0;
    let mut all = 0;
    for one in series.iter() {
        let (number, counted) = match one.read(master.words()) {
            Reading::Counter(value) => (one.family.name[1..].parse().expect("a number"), value),
            Reading::Histogram(values) => (COUNTERS, values.count()),
            other => panic!("{other:?}"),
        };
        let acknowledged = heard.remove(&number).unwrap_or(0);
        assert!(counted >= acknowledged, "{number}: {counted} of {acknowledged}");
        more += counted - acknowledged;
        all += acknowledged;
    }
    assert!(heard.is_empty(), "{heard:?}");
    assert!(more <= kills, "{more} more than was acknowledged, with {kills} kills");
    assert!(all > kills, "the children had time to do something");

    // Whoever comes next has the rows of the dead at its disposal.
    let next = open(&path);
    next.claim_row(std::process::id(), is_alive);
    let left: Vec<_> = workers(master.words()).map(|worker| worker.pid).collect();
    assert_eq!(left, [u64::from(std::process::id())]);
    println!("{kills} kills, {all} acknowledged, {more} more");
}
