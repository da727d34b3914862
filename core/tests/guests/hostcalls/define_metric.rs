//! `proxy_define_metric`.

use weir_core::{
    abi::Status,
    filter::Callback,
    host::RootHost,
    metrics::{
        LEAST_SIZE, Options, Timing,
        catalog::Catalog,
        text::{Format, Text},
    },
    plan::Isolation,
};

use crate::support::{Bench, END, Guest, OUT, bad_pointers, call, case, check, len, u32_at};

const DEFINE: &str = "proxy_define_metric";
const NAME: i64 = 64;
const WORD: &str = "hits_phase=body";

fn guest() -> Guest {
    Guest::new().data(NAME, WORD)
}

/// The line that shows a metric, in Prometheus' format.
pub(crate) fn shown(bench: &Bench, start: &str) -> Vec<String> {
    // As a host does that was asked for it.
    if bench.worker.take_unsettled() {
        bench.shard.settle();
    }
    let metrics = bench.worker.metrics();
    let mut catalog = Catalog::new();
    catalog.learn(metrics.words(), usize::MAX);
    let mut text = Text::new(Format::Prometheus, catalog.series());
    while !text.write(metrics.words(), 100) {}
    text.into_text().lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

#[test]
fn a_metric_has_one_number_in_all_instances_and_labels_from_its_name() {
    let define = |kind| [call(DEFINE, [kind, NAME, len(WORD), OUT]), u32_at(OUT)];
    let bench = guest()
        .on(Callback::Configure, define(0))
        .on(Callback::RequestHeaders, define(0).into_iter().chain(define(1)))
        .bench_with(Isolation::Stream);
    let log = bench.run();
    let (counter, gauge) = (log[1].as_str(), log[5].as_str());
    assert_ne!(counter, gauge);
    assert_eq!(log, ["0", counter, "0", counter, "0", gauge]);
    assert_eq!(bench.run(), ["0", counter, "0", gauge]);
    assert_eq!(
        shown(&bench, "hits"),
        ["hits_total{filter=\"guest\",phase=\"body\"} 0", "hits_gauge{filter=\"guest\",phase=\"body\"} 0"]
    );
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(DEFINE, &[0, NAME, len(WORD), OUT], &[(1, 2)], &[(3, 4)]);
    cases.extend([-1, 3, 4, 259].map(|kind| case(DEFINE, [kind, NAME, len(WORD), OUT], Status::BadArgument)));
    cases.extend([0, 1, 2].map(|kind| case(DEFINE, [kind, NAME, len(WORD), END - 4], Status::Ok)));
    check(guest(), |_| (), &cases);
}

fn define_long_name(language: &str) -> (Vec<String>, Vec<String>) {
    let bench = guest()
        .language(language)
        .on(
            Callback::RequestHeaders,
            [
                call(DEFINE, [0, NAME, len(WORD), OUT]),
                u32_at(OUT),
                call("proxy_increment_metric", [0xffff_ffff, 1]),
                call("proxy_record_metric", [0xffff_ffff, 1]),
                call("proxy_get_metric", [0xffff_ffff, OUT]),
            ],
        )
        .bench()
        .metrics(Options { name_length: 14, size: LEAST_SIZE, callbacks: Timing::Off, ..Options::default() });
    bench.serve(&bench.request());
    bench.spoken()
}

#[test]
fn a_name_that_is_too_long_is_warned_of() {
    let (answers, warnings) = define_long_name("C++");
    assert_eq!(answers, ["2", "0", "1", "1", "1"]);
    let advice = "cannot be defined: its name has more than 14 bytes: raise \"max_metric_name_length\"";
    assert!(warnings.len() == 1 && warnings[0].contains(advice), "{warnings:?}");
}

#[test]
fn an_sdk_that_would_panic_gets_a_metric_that_keeps_nothing() {
    let (answers, warnings) = define_long_name("Rust");
    assert_eq!(answers, ["0", "4294967295", "0", "0", "0"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn without_room_the_guest_is_told_and_goes_on() {
    let fill = "(local $n i32) (loop $more
        (i32.store (i32.const 64) (local.get $n))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.eqz (call $proxy_define_metric
            (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 4096)))))";
    let bench = guest()
        .language("C++")
        .on(Callback::RequestHeaders, [crate::support::wat(fill), call(DEFINE, [0, NAME, 5, OUT])])
        .bench()
        .metrics(Options { size: LEAST_SIZE, callbacks: Timing::Off, ..Options::default() });
    bench.serve(&bench.request());
    let (answers, warnings) = bench.spoken();
    assert_eq!(answers, ["10"]);
    assert!(warnings.len() == 1 && warnings[0].contains("raise \"slab_size\""), "{warnings:?}");
}
