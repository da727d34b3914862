use std::{path::Path, sync::Arc, thread};

use super::{
    Kind, LEAST_SIZE, MetricError, Metrics, Options, Origin, Own, Unit, Words,
    catalog::{Catalog, Reading, workers},
    layout::MOST_ROWS,
    snapshot::{ReadError, Snapshot},
    text::{Format, Text},
};

fn nameless() -> Metrics {
    Metrics::nameless(Options::default()).expect("memory")
}

fn open(path: &Path) -> (Metrics, Origin) {
    Metrics::open(path, Options::default()).expect("a metrics file")
}

/// Everything as text, and one line of it for each sample.
fn text(words: &impl Words, format: Format) -> String {
    let mut catalog = Catalog::new();
    assert!(catalog.learn(words, usize::MAX));
    let mut text = Text::new(format, catalog.series());
    while !text.write(words, 10) {}
    text.into_text()
}

#[track_caller]
fn assert_shows(words: &impl Words, line: &str) {
    let text = text(words, Format::Prometheus);
    assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
}

const LEVEL: Own<'_> =
    Own { kind: Kind::Level, unit: Unit::None, family: "weir_level", transient: false, help: "A level." };

const TIME: Own<'_> = Own {
    kind: Kind::Histogram,
    unit: Unit::Nanoseconds,
    family: "weir_time_seconds",
    transient: true,
    help: "A time.",
};

#[test]
fn a_metric_has_one_number_and_belongs_to_its_filter() {
    let metrics = nameless();
    let (a, b) = (metrics.scope("a"), metrics.scope("b"));
    let id = metrics.define("a", Kind::Counter, b"hits").expect("a counter");
    assert_eq!(metrics.define("a", Kind::Counter, b"hits"), Ok(id));
    let others = [("a", Kind::Gauge), ("b", Kind::Counter), ("a", Kind::Histogram)];
    let others = others.map(|(filter, kind)| metrics.define(filter, kind, b"hits").expect("a metric"));
    assert!(!others.contains(&id) && others[0] != others[1] && others[1] != others[2]);
    assert_eq!(metrics.increment(a, id, 2), Ok(()));
    assert_eq!(metrics.get(a, id), Ok(2));
    for unknown in [0, id, others[2] + 1, u32::MAX] {
        assert_eq!(metrics.increment(b, unknown, 1), Err(MetricError::NotFound), "{unknown}");
        assert_eq!(metrics.record(b, unknown, 1), Err(MetricError::NotFound));
        assert_eq!(metrics.get(b, unknown), Err(MetricError::NotFound));
    }
}

#[test]
fn kinds_do_what_envoys_do() {
    let metrics = nameless();
    let scope = metrics.scope("f");
    let [counter, gauge, histogram] = [Kind::Counter, Kind::Gauge, Kind::Histogram]
        .map(|kind| metrics.define("f", kind, b"m").expect("a metric"));
    metrics.increment(scope, counter, 1).expect("more");
    metrics.record(scope, counter, 3).expect("more");
    assert_eq!(metrics.increment(scope, counter, -1), Err(MetricError::BadArgument));
    assert_eq!(metrics.get(scope, counter), Ok(4));
    metrics.record(scope, gauge, 10).expect("set");
    metrics.increment(scope, gauge, -12).expect("less");
    assert_eq!(metrics.get(scope, gauge), Ok((-2_i64).cast_unsigned()));
    assert_eq!(metrics.increment(scope, histogram, 1), Err(MetricError::BadArgument));
    assert_eq!(metrics.get(scope, histogram), Err(MetricError::BadArgument));
    metrics.record(scope, histogram, u64::MAX).expect("a value");
    assert_shows(metrics.words(), "m_total{filter=\"f\"} 4");
    assert_shows(metrics.words(), "m_gauge{filter=\"f\"} -2");
    assert_shows(metrics.words(), "m_histogram_bucket{filter=\"f\",le=\"4294967295.0\"} 0");
    assert_shows(metrics.words(), "m_histogram_count{filter=\"f\"} 1");
}

#[test]
fn names_have_a_limit_and_memory_an_end() {
    let options = Options { size: LEAST_SIZE, name_length: 8, ..Options::default() };
    let metrics = Metrics::nameless(options).expect("memory");
    let scope = metrics.scope("f");
    assert_eq!(metrics.define("f", Kind::Counter, b"123456789"), Err(MetricError::NameTooLong(8)));
    let first = metrics.define("f", Kind::Counter, b"00000000").expect("a counter");
    let fits = (1..10_000_u32)
        .take_while(|n| metrics.define("f", Kind::Counter, format!("{n:08}").as_bytes()).is_ok())
        .count();
    assert!((50..5000).contains(&fits), "{fits}");
    let used = metrics.usage();
    for n in 0..100 {
        assert_eq!(metrics.define("f", Kind::Gauge, format!("x{n}").as_bytes()), Err(MetricError::Full));
    }
    assert_eq!(metrics.usage(), used, "an attempt that fails takes nothing");
    // What is there goes on, in a row of its own or in everybody's.
    metrics.claim_row(7, |_| false);
    metrics.increment(scope, first, 5).expect("more");
    assert_eq!(metrics.get(scope, first), Ok(5));
    // Weir's own metrics still find room.
    assert!(metrics.define_own(&LEVEL, &[]).is_some());
}

#[test]
fn values_without_memory_for_a_bucket_are_counted_all_the_same() {
    let options = Options { size: LEAST_SIZE, ..Options::default() };
    let metrics = Metrics::nameless(options).expect("memory");
    let scope = metrics.scope("f");
    let id = metrics.define("f", Kind::Histogram, b"h").expect("a histogram");
    for n in 0..1000 {
        if metrics.define_own(&LEVEL, &[("n", &format!("{n:0100}"))]).is_none() {
            break;
        }
    }
    for power in 0..64 {
        metrics.record(scope, id, 1 << power).expect("a value");
    }
    assert_shows(metrics.words(), "h_count{filter=\"f\"} 64");
    assert_shows(metrics.words(), "h_bucket{filter=\"f\",le=\"+Inf\"} 64");
}

#[test]
fn workers_count_in_rows_of_their_own_that_outlive_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let (master, origin) = open(&path);
    assert_eq!(origin, Origin::Made);
    let id = master.define("f", Kind::Counter, b"c").expect("a counter");
    let worker = |pid: u32, dead: u32| {
        // As after a fork or an upgrade: another process that has the file.
        let (worker, origin) = open(&path);
        assert_eq!(origin, Origin::Joined);
        worker.claim_row(pid, |other| other != dead);
        assert_eq!(worker.define("f", Kind::Counter, b"c"), Ok(id), "a number is the same everywhere");
        let scope = worker.scope("f");
        worker.increment(scope, id, i64::from(pid)).expect("more");
        (worker, scope)
    };
    let (first, _) = worker(100, 0);
    let (second, scope) = worker(200, 0);
    assert_eq!(
        workers(master.words()).map(|worker| (worker.row, worker.pid)).collect::<Vec<_>>(),
        [(1, 100), (2, 200)]
    );
    first.release_row(100);
    // The second is killed, and its row becomes free although the third takes the first's.
    let (third, _) = worker(300, 200);
    let rows = || workers(master.words()).map(|worker| (worker.row, worker.pid)).collect::<Vec<_>>();
    assert_eq!(rows(), [(1, 300)]);
    let (fourth, _) = worker(400, 0);
    assert_eq!(rows(), [(1, 300), (2, 400)]);
    for metrics in [&master, &first, &second, &third, &fourth] {
        assert_eq!(metrics.get(scope, id), Ok(1000));
    }
}

#[test]
fn levels_are_of_workers_that_run() {
    let metrics = nameless();
    let id = metrics.define_own(&LEVEL, &[("a", "b")]).expect("a level");
    metrics.claim_row(1, |_| true);
    metrics.set(id, 7);
    assert_shows(metrics.words(), "weir_level{a=\"b\",worker=\"1\"} 7");
    let slot = metrics.slot(&LEVEL, &[("a", "b")]);
    metrics.shift(slot, 5);
    metrics.shift(slot, -3);
    assert_shows(metrics.words(), "weir_level{a=\"b\",worker=\"1\"} 9");
    metrics.put(slot, 4);
    assert_shows(metrics.words(), "weir_level{a=\"b\",worker=\"1\"} 4");
    metrics.release_row(1);
    assert!(!text(metrics.words(), Format::Prometheus).contains("worker="));
    metrics.claim_row(2, |_| true);
    assert_shows(metrics.words(), "weir_level{a=\"b\",worker=\"1\"} 0");
}

#[test]
fn more_workers_than_rows_share_one() {
    let metrics = nameless();
    let id = metrics.define("f", Kind::Counter, b"c").expect("a counter");
    let scope = metrics.scope("f");
    for pid in 1..=300 {
        metrics.claim_row(pid, |_| true);
        metrics.increment(scope, id, 1).expect("more");
    }
    assert_eq!(metrics.get(scope, id), Ok(300));
    assert_eq!(workers(metrics.words()).count(), MOST_ROWS - 1);
}

#[test]
fn a_file_that_nobody_uses_is_made_anew_and_one_in_use_grows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let (first, _) = open(&path);
    let id = first.define("f", Kind::Counter, b"c").expect("a counter");
    let scope = first.scope("f");
    first.increment(scope, id, 1).expect("more");
    let options = Options { size: 32 << 20, ..Options::default() };
    let (larger, origin) = Metrics::open(&path, options).expect("the file");
    assert_eq!((origin, larger.usage().1), (Origin::Joined, 32 << 20));
    assert_eq!(larger.define("f", Kind::Counter, b"c"), Ok(id));
    larger.increment(larger.scope("f"), id, 1).expect("more");
    first.increment(scope, id, 1).expect("more");
    assert_eq!(larger.get(scope, id), Ok(3));
    // What only the larger mapping reaches is not there for the smaller one, and harms nothing.
    let fill =
        (0..).take_while(|n| larger.define("f", Kind::Histogram, format!("{n:0200}").as_bytes()).is_ok());
    assert!(fill.count() > 10_000);
    assert_eq!(first.get(scope, id), Ok(3));
    let (smaller, origin) = open(&path);
    assert_eq!((origin, smaller.usage().1), (Origin::Joined, 32 << 20), "a file never shrinks");
    drop((first, larger, smaller));
    let (fresh, origin) = open(&path);
    assert_eq!((origin, fresh.usage().1), (Origin::Made, 16 << 20));
    assert_eq!(fresh.get(scope, id), Err(MetricError::NotFound));
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/nowhere", &link).expect("a link");
    assert!(Metrics::open(&link, Options::default()).is_err());
    assert!(Metrics::open(folder.path(), Options::default()).is_err());
    assert!(Metrics::open(&folder.path().join("no/such/folder"), Options::default()).is_err());
    let path = folder.path().join("metrics");
    assert!(Metrics::check(&path).is_ok());
    assert!(!path.exists(), "a check makes nothing");
    assert!(Metrics::check(&folder.path().join("no/such/folder")).is_err());
}

#[test]
fn what_a_configuration_no_longer_defines_is_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let (old, _) = open(&path);
    old.begin_generation();
    let [gone, stays] = ["1", "2"].map(|line| old.define_own(&TIME, &[("line", line)]).expect("a histogram"));
    old.observe(gone, 1000);
    old.observe(stays, 1_500_000_000);
    let (new, _) = open(&path);
    assert_eq!(new.define_own(&TIME, &[("line", "2")]), Some(stays));
    assert_shows(new.words(), "weir_time_seconds_count{line=\"1\"} 1");
    new.begin_generation();
    let text = text(new.words(), Format::Prometheus);
    assert!(!text.contains("line=\"1\""), "{text}");
    assert_shows(new.words(), "weir_time_seconds_sum{line=\"2\"} 1.5");
    assert_shows(new.words(), "weir_time_seconds_bucket{line=\"2\",le=\"1.073741824\"} 0");
    assert_shows(new.words(), "weir_time_seconds_bucket{line=\"2\",le=\"1.610612736\"} 1");
}

#[test]
fn both_formats_are_whole() {
    let metrics = nameless();
    metrics.define_own(&TIME, &[("a", "x\"\\\n")]).expect("a histogram");
    metrics.define("f", Kind::Counter, b"c_total").expect("a counter");
    // Names that differ only in what cannot be exported.
    metrics.define("f", Kind::Counter, b"a.b").expect("a counter");
    metrics.define("f", Kind::Counter, b"a-b").expect("a counter");
    let text = [Format::Prometheus, Format::OpenMetrics].map(|format| text(metrics.words(), format));
    let expected = "\
# HELP a_b_total Defined by a filter.
# TYPE a_b_total counter
a_b_total{filter=\"f\"} 0
a_b_total{filter=\"f\",metric=\"4\"} 0
# HELP c_total Defined by a filter.
# TYPE c_total counter
c_total{filter=\"f\"} 0
# HELP weir_time_seconds A time.
# TYPE weir_time_seconds histogram
weir_time_seconds_bucket{a=\"x\\\"\\\\\\n\",le=\"0.000000128\"} 0
";
    assert!(text[0].starts_with(expected), "{}", text[0]);
    assert!(text[1].contains("# TYPE c counter\nc_total{filter=\"f\"} 0\n"), "{}", text[1]);
    assert!(text[1].contains("# TYPE weir_time_seconds histogram\n# UNIT weir_time_seconds seconds\n"));
    assert!(text[1].ends_with("\n# EOF\n") && !text[0].contains("# EOF"));
}

#[test]
fn a_snapshot_reads_the_file_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let (metrics, _) = open(&path);
    let id = metrics.define("f", Kind::Histogram, b"h").expect("a histogram");
    let scope = metrics.scope("f");
    (1..=100).for_each(|value| metrics.record(scope, id, value).expect("a value"));
    let snapshot = Snapshot::read(&path).expect("a snapshot");
    assert_eq!(text(&snapshot, Format::OpenMetrics), text(metrics.words(), Format::OpenMetrics));
    assert_eq!(snapshot.usage(), metrics.usage());
    let mut catalog = Catalog::new();
    catalog.learn(&snapshot, usize::MAX);
    let series = catalog.series();
    let Reading::Histogram(values) = series[0].read(&snapshot) else { panic!("{series:?}") };
    assert_eq!(
        (values.count(), values.sum(), values.least(), values.most()),
        (100, 5050, Some(1), Some(100))
    );
    assert_eq!(values.quantile(0.5), Some(50));
}

#[test]
fn damaged_files_are_told_or_read_as_far_as_they_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let options = Options { size: 192 << 10, ..Options::default() };
    let (metrics, _) = Metrics::open(&path, options).expect("a metrics file");
    for n in 0..50 {
        metrics.define("f", Kind::Histogram, format!("h{n}").as_bytes()).expect("a histogram");
    }
    drop(metrics);
    let whole = std::fs::read(&path).expect("the file");
    let copy = folder.path().join("copy");
    let read = |bytes: &[u8]| {
        std::fs::write(&copy, bytes).expect("a copy");
        Snapshot::read(&copy)
    };
    assert!(matches!(read(b""), Err(ReadError::NotMetrics { .. })));
    assert!(matches!(read(&[0; 4096]), Err(ReadError::NotMetrics { .. })));
    assert!(matches!(read(&whole[..8192]), Err(ReadError::Truncated { .. })));
    let mut other = whole.clone();
    other[8] ^= 1;
    assert!(matches!(read(&other), Err(ReadError::OtherVersion { .. })));
    // Every word in turn is what it should never be: nothing panics, and nothing outside is read.
    let used = Snapshot::read(&path).expect("a snapshot").usage().0;
    for at in (64..usize::try_from(used).expect("small")).step_by(8 * 61) {
        for garbage in [u64::MAX, 1, 1 << 40] {
            let mut damaged = whole.clone();
            damaged[at..at + 8].copy_from_slice(&garbage.to_ne_bytes());
            let snapshot = read(&damaged).expect("a whole header");
            text(&snapshot, Format::Prometheus);
        }
    }
}

#[test]
fn threads_and_readers_at_once_lose_nothing() {
    const THREADS: usize = 4;
    const TIMES: usize = 2000;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics");
    let (master, _) = open(&path);
    let master = Arc::new(master);
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (worker, _) = open(&path);
            worker.claim_row(u32::try_from(number).expect("small") + 1, |_| true);
            thread::spawn(move || {
                let scope = worker.scope("f");
                for n in 0..TIMES {
                    // All define the same ones, in the same order, at the same time.
                    let name = format!("m{}", n / 10);
                    let id = worker.define("f", Kind::Counter, name.as_bytes()).expect("a counter");
                    worker.increment(scope, id, 1).expect("more");
                    let id = worker.define("f", Kind::Histogram, b"h").expect("a histogram");
                    worker.record(scope, id, n as u64).expect("a value");
                }
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        text(master.words(), Format::Prometheus);
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let scope = master.scope("f");
    for n in 0..TIMES / 10 {
        let id = master.define("f", Kind::Counter, format!("m{n}").as_bytes()).expect("a counter");
        assert_eq!(master.get(scope, id), Ok(10 * THREADS as u64));
    }
    let total = THREADS * TIMES;
    assert_shows(master.words(), &format!("h_count{{filter=\"f\"}} {total}"));
    let mut catalog = Catalog::new();
    catalog.learn(master.words(), usize::MAX);
    assert_eq!(catalog.series().len(), TIMES / 10 + 1, "no metric is there twice");
}
