//! `proxy_log`.

use weir_core::{
    abi::{Status, types::LogLevel},
    engine::limits::MAX_LOG_LINE,
    filter::Callback,
    host::Speaker,
};

use crate::support::{END, Guest, HIGH, bad_pointers, call, case, check};

const LOG: &str = "proxy_log";

#[test]
fn every_level_is_passed_on_with_the_guest_s_bytes() {
    let levels = LogLevel::ALL.iter().map(|level| call(LOG, [i64::from(level.raw()), 8, 6]));
    let bench = Guest::new().data(8, b"a\xff\nb\0c").on(Callback::Configure, levels).bench();
    bench.rehearse().expect("accepted");
    let lines = bench.worker.take_log().into_iter();
    let lines: Vec<_> = lines.filter(|line| line.speaker == Speaker::Guest && line.message != "0").collect();
    assert_eq!(lines.iter().map(|line| line.level).collect::<Vec<_>>(), LogLevel::ALL);
    for line in lines {
        assert_eq!(
            (&*line.message, &*line.filter, line.speaker),
            ("a\u{fffd}\nb\0c", "guest", Speaker::Guest)
        );
    }
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(LOG, &[2, 8, 1], &[(1, 2)], &[]);
    cases.extend([-1, 6, i64::from(i32::MAX)].map(|level| case(LOG, [level, 8, 1], Status::BadArgument)));
    // The level is looked at first.
    cases.push(case(LOG, [6, HIGH, HIGH], Status::BadArgument));
    check(Guest::new(), |_| (), &cases);
}

#[test]
fn lines_that_nobody_wants_are_dropped_but_still_checked() {
    let steps = [call(LOG, [2, 0, 3]), call(LOG, [3, 0, 3]), call(LOG, [2, END, 1])];
    let bench = Guest::new().data(0, "abc").on(Callback::RequestHeaders, steps).bench();
    bench.worker.set_log_level(LogLevel::Warn);
    assert_eq!(bench.run(), ["0", "abc", "0", "6"]);
}

#[test]
fn one_newline_at_the_end_is_cut() {
    let steps = [call(LOG, [2, 0, 2]), call(LOG, [2, 0, 3]), call(LOG, [2, 1, 1])];
    let bench = Guest::new().data(0, "a\n\n").on(Callback::RequestHeaders, steps).bench();
    assert_eq!(bench.run(), ["a", "0", "a\n", "0", "", "0"]);
}

#[test]
fn empty_and_overlong_lines() {
    let long = i64::try_from(MAX_LOG_LINE).expect("small") + 1;
    let empty = call(LOG, [2, HIGH, 0]);
    let bench = Guest::new().on(Callback::RequestHeaders, [empty, call(LOG, [2, 0, long])]).bench();
    let log = bench.run();
    assert_eq!((&*log[0], &*log[1], log[2].len(), &*log[3]), ("", "0", MAX_LOG_LINE, "0"));
}

/// A module's own start function runs before anything else is known of the instance.
#[test]
fn a_start_function_may_log() {
    let start =
        r#"(func $start (drop (call $proxy_log (i32.const 2) (i32.const 0) (i32.const 3)))) (start $start)"#;
    let bench = Guest::new().data(0, "abc").plus(start).bench();
    assert_eq!(bench.run(), ["abc"]);
}
