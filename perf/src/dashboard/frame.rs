//! What one look at the metrics file has found, as browsers are told it.
//!
//! A *catalog* is a list of metrics, each with name, kind, unit and labels. A *frame* has their values in the order of
//! the catalog, which only grows, so that a frame is small. A value is `null` where a metric is not there, and else
//!
//! | kind | value |
//! |---|---|
//! | `counter` | `[in all, since the last frame]` |
//! | `gauge` | a number |
//! | `level` | `[[worker, number], …]`, one for each worker that runs |
//! | `histogram` | `[in all, since the last frame, their sum, p50, p90, p99, p99.9]`, quantiles of what is new |
//!
//! In the first frame of a file nothing is known to be new: there it is `null`. Callbacks' times are there once for each
//! directive, and *merged*: for each filter, and for all of them, since quantiles cannot be put together afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use serde_json::{Map, Value, json};
use weir_core::metrics::{
    Kind, Unit,
    catalog::{Reading, Series, workers},
    histogram::Distribution,
    snapshot::{ReadError, Snapshot},
    tags::parse_labels,
};

use crate::metrics::current;

/// The family that is merged.
const TIMES: &str = "weir_callback_duration_seconds";

/// What a browser is told.
#[derive(Debug)]
pub(super) struct Look {
    /// The catalog, if it has grown.
    pub(super) catalog: Option<String>,
    /// The frame.
    pub(super) frame: String,
}

/// Family, labels, filter that defined it.
type Key = (String, String, String);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    catalog: Vec<Value>,
    numbers: HashMap<Key, usize>,
    /// What was read last, by key.
    last: HashMap<Key, Last>,
    /// When the file was made that was read last, and when it was read; `None` when there was none.
    file: Option<(u64, Instant)>,
}

#[derive(Debug)]
enum Last {
    Counter(u64),
    Histogram(Box<Distribution>),
}

/// A histogram's values: all, and those since the last look.
#[derive(Debug, Default)]
struct Pair {
    all: Distribution,
    new: Distribution,
}

impl Tracker {
    /// What is in `snapshot`.
    pub(super) fn look(&mut self, snapshot: &Snapshot) -> Look {
        let now = Instant::now();
        let created = snapshot.created();
        let before = self.file.replace((created, now));
        if before.is_none_or(|(made, _)| made != created) {
            self.last.clear();
        }
        let gap = before.map(|(_, then)| now.duration_since(then).as_secs_f64().max(1e-3));
        let known = self.catalog.len();
        let mut values = vec![Value::Null; known];
        let mut merged = BTreeMap::new();
        for series in &current(snapshot) {
            let value = self.value(series, snapshot, gap.is_some(), &mut merged);
            let key = (series.family.name.clone(), series.labels.clone(), series.scope.clone());
            let at = self.number(key, || entry(series));
            put(&mut values, at, value);
        }
        for ((filter, callback), pair) in merged {
            let labels = json!({"filter": filter, "callback": callback});
            let entry =
                json!({"name": TIMES, "kind": "histogram", "unit": "ns", "labels": labels, "merged": true});
            let at = self.number((TIMES.to_owned(), labels.to_string(), String::new()), || entry);
            put(&mut values, at, histogram(&pair.all, gap.map(|_| &pair.new)));
        }
        let workers: Vec<_> =
            workers(snapshot).map(|worker| (worker.row, worker.pid, lives(worker.pid))).collect();
        let state = if workers.iter().any(|(_, _, lives)| *lives) { "live" } else { "still" };
        let (used, size) = snapshot.usage();
        let frame = json!({
            "at": milliseconds(),
            "gap": gap,
            "state": state,
            "generation": snapshot.generation(),
            "used": used,
            "size": size,
            "workers": workers,
            "values": values,
        });
        let grown = self.catalog.len() > known;
        Look { catalog: grown.then(|| json!(self.catalog).to_string()), frame: frame.to_string() }
    }

    /// There was nothing to look at.
    pub(super) fn nothing(&mut self, error: &ReadError) -> Look {
        self.file = None;
        let frame = json!({
            "at": milliseconds(),
            "gap": null,
            "state": "gone",
            "trouble": error.to_string(),
            "workers": [],
            "values": [],
        });
        Look { catalog: None, frame: frame.to_string() }
    }

    /// The number of a metric in the catalog.
    fn number(&mut self, key: Key, entry: impl FnOnce() -> Value) -> usize {
        let catalog = &mut self.catalog;
        *self.numbers.entry(key).or_insert_with(|| {
            catalog.push(entry());
            catalog.len() - 1
        })
    }

    /// What `series` says; `since` tells whether there was a look before.
    fn value(
        &mut self,
        series: &Series,
        snapshot: &Snapshot,
        since: bool,
        merged: &mut BTreeMap<(String, String), Pair>,
    ) -> Value {
        let key = || (series.family.name.clone(), series.labels.clone(), series.scope.clone());
        match series.read(snapshot) {
            Reading::Gauge(value) => value.into(),
            Reading::Levels(levels) => json!(levels),
            Reading::Counter(value) => {
                let old = match self.last.insert(key(), Last::Counter(value)) {
                    Some(Last::Counter(old)) => old,
                    _ => 0,
                };
                json!([value, since.then(|| value.saturating_sub(old))])
            }
            Reading::Histogram(all) => {
                let old = match self.last.insert(key(), Last::Histogram(all.clone())) {
                    Some(Last::Histogram(old)) => Some(old),
                    _ => None,
                };
                let new = old.map_or_else(|| (*all).clone(), |old| all.since(&old));
                if series.family.name == TIMES && series.scope.is_empty() {
                    merge(series, &all, &new, merged);
                }
                histogram(&all, since.then_some(&new))
            }
        }
    }
}

/// Adds a callback's times to those of its filter, and to those of all filters.
fn merge(
    series: &Series,
    all: &Distribution,
    new: &Distribution,
    merged: &mut BTreeMap<(String, String), Pair>,
) {
    let labels = parse_labels(&series.labels);
    let label = |name: &str| {
        let found = labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    for filter in [label("filter"), String::new()] {
        let pair = merged.entry((filter, label("callback"))).or_default();
        pair.all.include(all);
        pair.new.include(new);
    }
}

fn histogram(all: &Distribution, new: Option<&Distribution>) -> Value {
    let Some(new) = new else { return json!([all.count(), null]) };
    let quantile = |quantile| new.quantile(quantile);
    match new.count() {
        0 => json!([all.count(), 0]),
        made => json!([
            all.count(),
            made,
            new.sum(),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999)
        ]),
    }
}

/// What the catalog says of a metric.
fn entry(series: &Series) -> Value {
    let unit = match series.family.unit {
        Unit::None => "",
        Unit::Nanoseconds => "ns",
        Unit::Bytes => "bytes",
    };
    let kind = match series.family.kind {
        Kind::Level => "level",
        kind => kind.name(),
    };
    let labels: Map<_, _> =
        parse_labels(&series.labels).into_iter().map(|(label, value)| (label, value.into())).collect();
    let family = &series.family;
    json!({
        "name": family.name,
        "kind": kind,
        "unit": unit,
        "labels": labels,
        "help": family.help,
        "guest": !series.scope.is_empty(),
    })
}

fn put(values: &mut Vec<Value>, at: usize, value: Value) {
    if at >= values.len() {
        values.resize(at + 1, Value::Null);
    }
    values[at] = value;
}

/// Whether process `pid` is there. One of another user's is, too.
fn lives(pid: u64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// Milliseconds since 1970.
fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use weir_core::metrics::{Kind, Metrics, Options, Own, Unit, snapshot::Snapshot};

    use super::{Look, Tracker};

    fn open(path: &Path) -> Metrics {
        let (metrics, _) = Metrics::open(path, Options::default()).expect("a file");
        metrics.begin_generation();
        metrics
    }

    fn define(
        metrics: &Metrics,
        kind: Kind,
        family: &str,
        labels: &[(&str, &str)],
    ) -> weir_core::metrics::Id {
        let unit = if kind == Kind::Histogram { Unit::Nanoseconds } else { Unit::None };
        let own = Own { kind, unit, family, transient: true, help: "" };
        metrics.define_own(&own, labels).expect("room")
    }

    fn parse(look: &Look) -> (Option<Value>, Value) {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        (look.catalog.as_deref().map(parse), parse(&look.frame))
    }

    /// The value of the metric that has all of `wanted` in the catalog.
    fn value<'a>(catalog: &Value, frame: &'a Value, wanted: &Value) -> &'a Value {
        let fits = |entry: &Value| wanted.as_object().expect("an object").iter().all(|(k, v)| entry[k] == *v);
        let at = catalog.as_array().expect("a list").iter().position(fits);
        &frame["values"][at.unwrap_or_else(|| panic!("no {wanted} in {catalog}"))]
    }

    #[test]
    fn a_frame_has_what_is_new_since_the_last_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics");
        let metrics = open(&path);
        metrics.claim_row(std::process::id(), |_| true);
        let labels = |place| [("filter", "f"), ("directive", place), ("callback", "on_log")];
        let times = ["a:1", "a:2"]
            .map(|place| define(&metrics, Kind::Histogram, "weir_callback_duration_seconds", &labels(place)));
        let failures = define(&metrics, Kind::Counter, "weir_failures", &[("cause", "trap")]);
        metrics.observe(times[0], 50);
        let mut tracker = Tracker::default();
        let mut look = || parse(&tracker.look(&Snapshot::read(&path).expect("a snapshot")));

        let (catalog, first) = look();
        let catalog = catalog.expect("a catalog");
        let counter = json!({"name": "weir_failures", "labels": {"cause": "trap"}, "kind": "counter"});
        assert_eq!(value(&catalog, &first, &counter), &json!([0, null]), "nothing is known to be new");
        assert_eq!((&first["state"], &first["gap"]), (&json!("live"), &json!(null)));

        (0..3).for_each(|_| metrics.observe(times[0], 1000));
        metrics.observe(times[1], 100_000);
        metrics.add(failures, 2);
        let (none, second) = look();
        assert!(none.is_none(), "the catalog is the same");
        assert_eq!(value(&catalog, &second, &counter), &json!([2, 2]));
        let merged = json!({"labels": {"filter": "", "callback": "on_log"}, "merged": true});
        let values = value(&catalog, &second, &merged);
        assert_eq!((&values[0], &values[1], &values[2]), (&json!(5), &json!(4), &json!(103_000)));
        let p999 = values[6].as_u64().expect("a number");
        assert!(p999.abs_diff(100_000) < 1600, "{values}");
        assert!(second["gap"].as_f64().expect("a number") > 0.0);
        let (_, third) = look();
        assert_eq!(value(&catalog, &third, &merged), &json!([5, 0]));
    }

    #[test]
    fn a_file_that_is_made_anew_begins_at_0() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics");
        let mut tracker = Tracker::default();
        let counter = json!({"name": "weir_failures"});
        let mut catalog = None;
        for (count, expected) in [(5, json!([5, null])), (7, json!([7, 7]))] {
            let metrics = open(&path);
            let failures = define(&metrics, Kind::Counter, "weir_failures", &[]);
            metrics.add(failures, count);
            let (new, frame) = parse(&tracker.look(&Snapshot::read(&path).expect("a snapshot")));
            catalog = new.or(catalog);
            assert_eq!(value(catalog.as_ref().expect("a catalog"), &frame, &counter), &expected);
            assert_eq!(frame["state"], "still", "no worker lives");
            drop(metrics);
            std::fs::remove_file(&path).expect("removed");
        }
        let error = Snapshot::read(&path).expect_err("no file");
        let (_, frame) = parse(&tracker.nothing(&error));
        assert_eq!(frame["state"], "gone");
        assert!(frame["trouble"].as_str().expect("a sentence").contains("cannot read"));
    }
}
