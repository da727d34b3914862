//! `proxy_increment_metric`, `proxy_record_metric`, `proxy_get_metric`: what they do to which kind is Envoy's rule.

use weir_core::{abi::Status, filter::Callback, plan::Isolation};

use super::define_metric::shown;
use crate::support::{END, Guest, OUT, Step, bad_pointers, call, case, check, plugin, u64_at};

const INCREMENT: &str = "proxy_increment_metric";
const RECORD: &str = "proxy_record_metric";
const GET: &str = "proxy_get_metric";

/// Defines a counter, a gauge and a histogram, with the numbers 1, 2 and 3, when it is configured.
fn guest() -> Guest {
    let define = |kind| {
        Step::Wat(format!(
            "(drop (call $proxy_define_metric (i32.const {kind}) (i32.const 64) (i32.const 1) (i32.const {OUT})))"
        ))
    };
    let import = "(import \"env\" \"proxy_define_metric\" (func $proxy_define_metric (param i32 i32 i32 i32) (result i32)))";
    Guest::new().import(import).data(64, "m").on(Callback::Configure, [0, 1, 2].map(define))
}

fn get(metric: i64) -> [Step; 2] {
    [call(GET, [metric, OUT]), u64_at(OUT)]
}

#[test]
fn counters_gauges_and_histograms() {
    let steps = [call(INCREMENT, [1, 2]), call(RECORD, [1, 3]), call(INCREMENT, [1, 0])]
        .into_iter()
        .chain(get(1))
        .chain([call(RECORD, [2, 10]), call(INCREMENT, [2, -3]), call(INCREMENT, [2, 1])])
        .chain(get(2))
        .chain([call(RECORD, [3, 0]), call(RECORD, [3, 6]), call(RECORD, [3, -1])]);
    let bench = guest().on(Callback::RequestHeaders, steps).bench();
    assert_eq!(bench.run(), ["0", "0", "0", "0", "5", "0", "0", "0", "0", "8", "0", "0", "0"]);
    assert_eq!(shown(&bench, "m_total"), ["m_total{filter=\"guest\"} 5"]);
    assert_eq!(shown(&bench, "m_gauge"), ["m_gauge{filter=\"guest\"} 8"]);
    assert_eq!(shown(&bench, "m_histogram_count"), ["m_histogram_count{filter=\"guest\"} 3"]);
    let bucket = |le| shown(&bench, &format!("m_histogram_bucket{{filter=\"guest\",le=\"{le}\"}}"));
    assert_eq!(bucket("0.0"), ["m_histogram_bucket{filter=\"guest\",le=\"0.0\"} 1"]);
    assert_eq!(bucket("7.0"), ["m_histogram_bucket{filter=\"guest\",le=\"7.0\"} 2"]);
    assert_eq!(bucket("+Inf"), ["m_histogram_bucket{filter=\"guest\",le=\"+Inf\"} 3"]);
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(GET, &[1, OUT], &[], &[(1, 8)]);
    cases.extend([
        case(INCREMENT, [1, -1], Status::BadArgument),
        case(INCREMENT, [1, i64::MIN], Status::BadArgument),
        case(INCREMENT, [2, i64::MIN], Status::Ok),
        case(INCREMENT, [3, 1], Status::BadArgument),
        case(GET, [3, OUT], Status::BadArgument),
        case(GET, [1, END - 8], Status::Ok),
    ]);
    for unknown in [0, 4, 16_385, 0x7fff_ffff] {
        cases.push(case(INCREMENT, [unknown, 1], Status::NotFound));
        cases.push(case(RECORD, [unknown, 1], Status::NotFound));
        cases.push(case(GET, [unknown, OUT], Status::NotFound));
    }
    check(guest(), |_| (), &cases);
}

#[test]
fn metrics_outlive_the_instance_that_counts() {
    let steps = || [call(INCREMENT, [1, 1])].into_iter().chain(get(1));
    let bench = guest().on(Callback::RequestHeaders, steps()).bench_with(Isolation::Stream);
    for count in ["1", "2", "3"] {
        assert_eq!(bench.run(), ["0", "0", count]);
    }
}

#[test]
fn a_filter_reaches_its_own_metrics_only() {
    let owner = guest().on(Callback::RequestHeaders, [call(INCREMENT, [1, 1])]).named("owner").load();
    let thief = Guest::new()
        .on(Callback::RequestHeaders, [call(INCREMENT, [1, 1]), call(RECORD, [2, 1]), call(GET, [1, OUT])])
        .named("thief")
        .load();
    let plugins = [owner, thief].map(|filter| plugin(&filter, "", Isolation::Stream));
    let bench = crate::support::Bench::new(plugins.into());
    assert_eq!(bench.run(), ["0", "1", "1", "1"]);
}
