//! `proxy_increment_metric`, `proxy_record_metric`, `proxy_get_metric`: what they do to which kind is Envoy's rule.

use weir_core::{abi::Status, filter::Callback, plan::Isolation};

use super::define_metric::shown;
use crate::support::{Bench, END, Guest, OUT, Step, bad_pointers, call, case, check, plugin, u32_at, u64_at};

const INCREMENT: &str = "proxy_increment_metric";
const RECORD: &str = "proxy_record_metric";
const GET: &str = "proxy_get_metric";

/// The number that a guest's first metric gets in a worker with so many filters: Weir's own come before.
fn first(filters: usize) -> i64 {
    let define = call("proxy_define_metric", [0, 64, 1, OUT]);
    let probe = Guest::new().data(64, "m").on(Callback::Configure, [define, u32_at(OUT)]);
    let load = |at| plugin(&probe.clone().named(&format!("probe{at}")).load(), "", Isolation::Stream);
    let numbers = Bench::new((0..filters).map(load).collect()).run();
    numbers[1].parse().expect("a number")
}

/// Defines a counter, a gauge and a histogram, with the numbers [`first`], the next and the one after it, when it is
/// configured.
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
    let counter = first(1);
    let (gauge, histogram) = (counter + 1, counter + 2);
    let steps = [call(INCREMENT, [counter, 2]), call(RECORD, [counter, 3]), call(INCREMENT, [counter, 0])]
        .into_iter()
        .chain(get(counter))
        .chain([call(RECORD, [gauge, 10]), call(INCREMENT, [gauge, -3]), call(INCREMENT, [gauge, 1])])
        .chain(get(gauge))
        .chain([0, 6, -1].map(|value| call(RECORD, [histogram, value])));
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
    let counter = first(1);
    let (gauge, histogram) = (counter + 1, counter + 2);
    let mut cases = bad_pointers(GET, &[counter, OUT], &[], &[(1, 8)]);
    cases.extend([
        case(INCREMENT, [counter, -1], Status::BadArgument),
        case(INCREMENT, [counter, i64::MIN], Status::BadArgument),
        case(INCREMENT, [gauge, i64::MIN], Status::Ok),
        case(INCREMENT, [histogram, 1], Status::BadArgument),
        case(GET, [histogram, OUT], Status::BadArgument),
        case(GET, [counter, END - 8], Status::Ok),
    ]);
    // Number 1 is Weir's own.
    for unknown in [0, 1, histogram + 1, 16_385, 0x7fff_ffff] {
        cases.push(case(INCREMENT, [unknown, 1], Status::NotFound));
        cases.push(case(RECORD, [unknown, 1], Status::NotFound));
        cases.push(case(GET, [unknown, OUT], Status::NotFound));
    }
    check(guest(), |_| (), &cases);
}

#[test]
fn metrics_outlive_the_instance_that_counts() {
    let counter = first(1);
    let steps = || [call(INCREMENT, [counter, 1])].into_iter().chain(get(counter));
    let bench = guest().on(Callback::RequestHeaders, steps()).bench_with(Isolation::Stream);
    for count in ["1", "2", "3"] {
        assert_eq!(bench.run(), ["0", "0", count]);
    }
}

#[test]
fn a_filter_reaches_its_own_metrics_only() {
    let counter = first(2);
    let owner = guest().on(Callback::RequestHeaders, [call(INCREMENT, [counter, 1])]).named("owner").load();
    let steals = [call(INCREMENT, [counter, 1]), call(RECORD, [counter + 1, 1]), call(GET, [counter, OUT])];
    let thief = Guest::new().on(Callback::RequestHeaders, steals).named("thief").load();
    let plugins = [owner, thief].map(|filter| plugin(&filter, "", Isolation::Stream));
    let bench = Bench::new(plugins.into());
    assert_eq!(bench.run(), ["0", "1", "1", "1"]);
}
