//! `weir metrics`: everything in a file, as text.

use std::{
    error::Error,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use weir_core::metrics::{
    Unit,
    catalog::{Catalog, Reading, Series, workers},
    histogram::{Distribution, least_of, most_of},
    snapshot::Snapshot,
    tags::parse_labels,
    text::{self, Text},
};

/// How metrics are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Prometheus' text format, as `weir_metrics` answers.
    #[default]
    Prometheus,
    /// One JSON object, with quantiles and all buckets of histograms.
    Json,
}

/// Prints what is in `file`.
pub(crate) fn print(file: &Path, format: Format) -> Result<(), Box<dyn Error>> {
    let snapshot = Snapshot::read(file)?;
    let text = match format {
        Format::Prometheus => prometheus(&snapshot),
        Format::Json => format!("{:#}\n", object(&snapshot)),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// The metrics of `snapshot` that are to be shown.
pub(crate) fn current(snapshot: &Snapshot) -> Vec<Arc<Series>> {
    let mut catalog = Catalog::new();
    catalog.learn(snapshot, usize::MAX);
    catalog.series().iter().filter(|series| series.is_current(snapshot)).cloned().collect()
}

fn prometheus(snapshot: &Snapshot) -> String {
    let mut text = Text::new(text::Format::Prometheus, current(snapshot).into());
    while !text.write(snapshot, usize::MAX) {}
    text.into_text()
}

fn object(snapshot: &Snapshot) -> Value {
    let (used, bytes) = snapshot.usage();
    let workers = workers(snapshot);
    let workers: Vec<_> = workers
        .map(|worker| json!({"number": worker.row, "pid": worker.pid, "started_ns": worker.started}))
        .collect();
    let metrics: Vec<_> = current(snapshot).iter().map(|series| metric(series, snapshot)).collect();
    json!({
        "generation": snapshot.generation(),
        "bytes": {"used": used, "all": bytes},
        "workers": workers,
        "metrics": metrics,
    })
}

fn metric(series: &Series, snapshot: &Snapshot) -> Value {
    let labels: Map<_, _> =
        parse_labels(&series.labels).into_iter().map(|(label, value)| (label, value.into())).collect();
    let value = match series.read(snapshot) {
        Reading::Counter(value) => value.into(),
        Reading::Gauge(value) => value.into(),
        Reading::Histogram(values) => histogram(&values),
        Reading::Levels(levels) => {
            levels.into_iter().map(|(worker, value)| json!({"worker": worker, "value": value})).collect()
        }
    };
    let unit = match series.family.unit {
        Unit::None => Value::Null,
        Unit::Nanoseconds => "nanoseconds".into(),
        Unit::Bytes => "bytes".into(),
    };
    let family = &series.family;
    json!({"name": family.name, "kind": family.kind.name(), "unit": unit, "labels": labels, "value": value})
}

fn histogram(values: &Distribution) -> Value {
    let buckets = values.counts().iter().enumerate().filter(|(_, count)| **count > 0);
    let buckets: Vec<_> = buckets
        .map(|(bucket, count)| json!({"least": least_of(bucket), "most": most_of(bucket), "count": count}))
        .collect();
    json!({
        "count": values.count(),
        "sum": values.sum(),
        "least": values.least(),
        "most": values.most(),
        "p50": values.quantile(0.5),
        "p90": values.quantile(0.9),
        "p99": values.quantile(0.99),
        "p999": values.quantile(0.999),
        "buckets": buckets,
    })
}

#[cfg(test)]
mod tests {
    use weir_core::metrics::{Kind, Metrics, Options, snapshot::Snapshot};

    use super::{object, prometheus};

    #[test]
    fn both_formats_tell_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics");
        let (metrics, _) = Metrics::open(&path, Options::default()).expect("a file");
        metrics.claim_row(7, |_| true);
        let scope = metrics.scope("f");
        let define = |kind, name: &str| metrics.define("f", kind, name.as_bytes()).expect("a metric");
        let (counter, gauge) = (define(Kind::Counter, "hits_kind=a"), define(Kind::Gauge, "level"));
        let histogram = define(Kind::Histogram, "sizes");
        metrics.increment(scope, counter, 3).expect("more");
        metrics.increment(scope, gauge, -3).expect("less");
        (1..=100).for_each(|value| metrics.record(scope, histogram, value).expect("a value"));
        let snapshot = Snapshot::read(&path).expect("a snapshot");
        let text = prometheus(&snapshot);
        assert!(text.contains("hits_total{filter=\"f\",kind=\"a\"} 3\n"), "{text}");
        let object = object(&snapshot);
        let metrics = object["metrics"].as_array().expect("metrics");
        assert_eq!(metrics.len(), 3);
        assert_eq!(metrics[0]["labels"], serde_json::json!({"filter": "f", "kind": "a"}));
        assert_eq!((&metrics[0]["value"], &metrics[1]["value"]), (&3.into(), &(-3).into()));
        let values = &metrics[2]["value"];
        assert_eq!(
            (&values["count"], &values["sum"], &values["p50"]),
            (&100.into(), &5050.into(), &50.into())
        );
        assert_eq!(object["workers"][0]["pid"], 7);
    }
}
