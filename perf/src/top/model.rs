//! What `weir top` shows: the difference between two looks at the file.

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use weir_core::metrics::{
    catalog::{Reading, Worker, workers},
    histogram::Distribution,
    snapshot::{ReadError, Snapshot},
    tags::parse_labels,
};

use crate::metrics::current;

/// One look at the file.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    generation: u64,
    bytes: (u64, u64),
    workers: Vec<Worker>,
    /// Weir's levels, by family, labels and worker.
    levels: Vec<(String, String, usize, u64)>,
    /// Its gauges, by family and labels.
    gauges: Vec<(String, String, i64)>,
    /// Histograms of callbacks, by their labels.
    times: HashMap<String, Distribution>,
    /// Weir's counters, by family and labels.
    counters: HashMap<(String, String), u64>,
}

impl Sample {
    /// Looks at `file`.
    pub(crate) fn read(file: &Path) -> Result<Self, ReadError> {
        let snapshot = Snapshot::read(file)?;
        let mut sample = Self {
            at: Instant::now(),
            generation: snapshot.generation(),
            bytes: snapshot.usage(),
            workers: workers(&snapshot).collect(),
            levels: Vec::new(),
            gauges: Vec::new(),
            times: HashMap::new(),
            counters: HashMap::new(),
        };
        for series in current(&snapshot).iter().filter(|series| series.scope.is_empty()) {
            let (family, labels) = (series.family.name.clone(), series.labels.clone());
            match series.read(&snapshot) {
                Reading::Histogram(values) if family == "weir_callback_duration_seconds" => {
                    sample.times.insert(labels, *values);
                }
                // They grow all the time, whatever happens.
                Reading::Counter(_) if family.starts_with("weir_epoch") => {}
                Reading::Counter(value) => {
                    sample.counters.insert((family, labels), value);
                }
                Reading::Levels(levels) => {
                    let all = levels.into_iter();
                    sample
                        .levels
                        .extend(all.map(|(row, value)| (family.clone(), labels.clone(), row, value)));
                }
                Reading::Gauge(value) => sample.gauges.push((family, labels, value)),
                Reading::Histogram(_) => {}
            }
        }
        Ok(sample)
    }

    /// How long ago that was.
    pub(crate) fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// There was nothing to look at: the next look is an interval away.
    pub(crate) fn touch(&mut self) {
        self.at = Instant::now();
    }
}

/// One callback of one directive.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) filter: String,
    pub(crate) directive: String,
    pub(crate) callback: String,
    /// Calls a second.
    pub(crate) rate: f64,
    /// Nanoseconds that half of the calls do not exceed, then 99 of a hundred; `None` without calls.
    pub(crate) p50: Option<u64>,
    pub(crate) p99: Option<u64>,
    /// Share of one worker's time.
    pub(crate) share: f64,
    /// Calls since the file was made.
    pub(crate) total: u64,
}

/// One of Weir's counters, by what it counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Count {
    pub(crate) what: String,
    pub(crate) filter: String,
    pub(crate) detail: String,
    /// Each second.
    pub(crate) rate: f64,
    pub(crate) total: u64,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) pid: u64,
    /// Instances that requests have, that wait for one, that ever were in use at once, and that there may be.
    pub(crate) in_use: u64,
    pub(crate) idle: u64,
    pub(crate) most: u64,
    pub(crate) capacity: u64,
    /// Contexts of requests, and those that have outlived theirs.
    pub(crate) contexts: u64,
    pub(crate) deferred: u64,
    /// Bytes in RAM.
    pub(crate) resident: u64,
    /// Filters that it does not run for now.
    pub(crate) suspended: Vec<String>,
}

/// A zone or a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Keys, or messages.
    pub(crate) count: Option<i64>,
    /// Bytes that are used, and that there are, of a zone.
    pub(crate) bytes: Option<(i64, i64)>,
}

/// What is shown.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) generation: u64,
    pub(crate) bytes: (u64, u64),
    pub(crate) workers: Vec<Workload>,
    /// Zones, then queues.
    pub(crate) stores: Vec<Store>,
    /// Those that took most time first.
    pub(crate) calls: Vec<Call>,
    /// Those that grew most first.
    pub(crate) counts: Vec<Count>,
}

impl Model {
    /// What has happened from `before` to `now`.
    pub(crate) fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let mut calls: Vec<_> = now
            .times
            .iter()
            .map(|(labels, values)| {
                let since = before.times.get(labels).map_or_else(|| values.clone(), |old| values.since(old));
                call(labels, values, &since, seconds)
            })
            .collect();
        calls.sort_by(|a, b| {
            let key = |call: &Call| (call.filter.clone(), call.directive.clone(), call.callback.clone());
            b.share.total_cmp(&a.share).then_with(|| key(a).cmp(&key(b)))
        });
        let mut counts: Vec<_> = now
            .counters
            .iter()
            .map(|((family, labels), value)| {
                let old = before.counters.get(&(family.clone(), labels.clone()));
                // A file that was made anew begins at 0.
                let grown = value.checked_sub(old.copied().unwrap_or(*value)).unwrap_or(*value);
                count(family, labels, *value, per_second(grown, seconds))
            })
            .collect();
        counts.sort_by(|a, b| {
            let key = |count: &Count| (count.what.clone(), count.filter.clone(), count.detail.clone());
            b.rate.total_cmp(&a.rate).then_with(|| key(a).cmp(&key(b)))
        });
        let workers = now.workers.iter().map(|worker| workload(now, *worker)).collect();
        let (generation, bytes) = (now.generation, now.bytes);
        Self { generation, bytes, workers, stores: stores(now), calls, counts }
    }
}

fn workload(now: &Sample, worker: Worker) -> Workload {
    let mut load = Workload { pid: worker.pid, ..Workload::default() };
    for (family, labels, _, value) in now.levels.iter().filter(|(_, _, row, _)| *row == worker.row) {
        match family.as_str() {
            "weir_pool_in_use" => load.in_use = *value,
            "weir_pool_idle" => load.idle = *value,
            "weir_pool_in_use_most" => load.most = *value,
            "weir_pool_capacity" => load.capacity = *value,
            "weir_contexts" => load.contexts = *value,
            "weir_contexts_deferred" => load.deferred = *value,
            "weir_worker_resident_bytes" => load.resident = *value,
            "weir_filter_suspended" if *value > 0 => {
                load.suspended.push(label(&parse_labels(labels), "filter"));
            }
            _ => {}
        }
    }
    load
}

fn stores(now: &Sample) -> Vec<Store> {
    let gauge = |family: &str, wanted: &str| {
        let found = now.gauges.iter().find(|(name, labels, _)| name == family && labels == wanted);
        found.map(|(_, _, value)| *value)
    };
    let of = |wanted: &'static str| now.gauges.iter().filter(move |(family, ..)| family == wanted);
    let zones = of("weir_zone_size_bytes").map(|(_, labels, size)| {
        let pairs = parse_labels(labels);
        Store {
            name: label(&pairs, "zone"),
            kind: label(&pairs, "kind"),
            count: gauge("weir_zone_entries", labels),
            bytes: Some((gauge("weir_zone_used_bytes", labels).unwrap_or(0), *size)),
        }
    });
    let queues = of("weir_queue_depth").map(|(_, labels, depth)| {
        let pairs = parse_labels(labels);
        let name = format!("{} {}", label(&pairs, "vm_id"), label(&pairs, "queue"));
        Store { name, kind: "queue".to_owned(), count: Some(*depth), bytes: None }
    });
    zones.chain(queues).collect()
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

fn call(labels: &str, all: &Distribution, since: &Distribution, seconds: f64) -> Call {
    let pairs = parse_labels(labels);
    let made = since.count();
    let quantile = |quantile| since.quantile(quantile).filter(|_| made > 0);
    Call {
        filter: label(&pairs, "filter"),
        directive: label(&pairs, "directive"),
        callback: label(&pairs, "callback"),
        rate: per_second(made, seconds),
        p50: quantile(0.5),
        p99: quantile(0.99),
        share: per_second(since.sum(), seconds) / 1e9,
        total: all.count(),
    }
}

fn count(family: &str, labels: &str, total: u64, rate: f64) -> Count {
    let pairs = parse_labels(labels);
    let detail = pairs.iter().filter(|(name, _)| !matches!(name.as_str(), "filter" | "directive"));
    let detail: Vec<_> = detail.map(|(_, value)| value.as_str()).collect();
    Count {
        what: family.strip_prefix("weir_").unwrap_or(family).replace('_', " "),
        filter: label(&pairs, "filter"),
        detail: detail.join(" "),
        rate,
        total,
    }
}

fn label(pairs: &[(String, String)], name: &str) -> String {
    pairs.iter().find(|(label, _)| label == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use weir_core::metrics::{Kind, Metrics, Options, Own, Unit};

    use super::{Model, Sample, Store, Workload};

    /// Two looks at a file, between which a callback took 1 ms three times and failed once.
    pub(crate) fn sampled() -> Model {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics");
        let (metrics, _) = Metrics::open(&path, Options::default()).expect("a file");
        metrics.begin_generation();
        metrics.claim_row(7, |_| true);
        let own = |kind, unit, family| Own { kind, unit, family, transient: true, help: "" };
        let labels = [("filter", "f"), ("directive", "nginx.conf:3"), ("callback", "on_log")];
        let time = own(Kind::Histogram, Unit::Nanoseconds, "weir_callback_duration_seconds");
        let time = metrics.define_own(&time, &labels).expect("a histogram");
        let failures = own(Kind::Counter, Unit::None, "weir_failures");
        let failures =
            metrics.define_own(&failures, &[&labels[..], &[("cause", "trap")]].concat()).expect("a counter");
        for (family, value) in
            [("weir_pool_in_use", 3), ("weir_pool_capacity", 500), ("weir_filter_suspended", 1)]
        {
            let level = metrics.slot(&Own::new(Kind::Level, family, ""), &labels[..1]);
            metrics.put(level, value);
        }
        for (family, value) in
            [("weir_zone_size_bytes", 8192), ("weir_zone_used_bytes", 2048), ("weir_zone_entries", 9)]
        {
            let labels = [("zone", "sessions"), ("kind", "shm_kv")];
            let gauge = metrics.define_own(&Own::new(Kind::Gauge, family, ""), &labels).expect("a gauge");
            metrics.publish(gauge, value);
        }
        metrics.observe(time, 50);
        let before = Sample::read(&path).expect("a look");
        (0..3).for_each(|_| metrics.observe(time, 1_000_000));
        metrics.add(failures, 1);
        Model::between(&before, &Sample::read(&path).expect("a look"))
    }

    #[test]
    fn only_what_is_new_counts() {
        let model = sampled();
        assert_eq!((model.generation, model.calls.len()), (1, 1));
        let worker =
            Workload { pid: 7, in_use: 3, capacity: 500, suspended: vec!["f".into()], ..Workload::default() };
        assert_eq!(model.workers, [worker]);
        let zone = Store {
            name: "sessions".into(),
            kind: "shm_kv".into(),
            count: Some(9),
            bytes: Some((2048, 8192)),
        };
        assert_eq!(model.stores, [zone]);
        let call = &model.calls[0];
        assert_eq!((call.filter.as_str(), call.callback.as_str(), call.total), ("f", "on_log", 4));
        let p50 = call.p50.expect("calls");
        assert!(p50.abs_diff(1_000_000) < 16_000, "{p50}");
        assert!(call.rate > 0.0 && call.share > 0.0);
        let count = &model.counts[0];
        assert_eq!((count.what.as_str(), count.detail.as_str(), count.total), ("failures", "on_log trap", 1));
    }
}
