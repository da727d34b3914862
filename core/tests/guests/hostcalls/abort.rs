//! `env.abort` and `env.emscripten_notify_memory_growth`: what language runtimes import besides.

use weir_core::{
    abi::types::LogLevel,
    chain::{Direction, Verdict},
    engine::limits::MAX_LOG_LINE,
    filter::Callback,
    host::Speaker,
};

use crate::support::{END, Guest, HIGH, call, say};

/// AssemblyScript's strings: UTF-16, the size in bytes in the four bytes before it.
fn string(text: &str) -> Vec<u8> {
    let units: Vec<_> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&u32::try_from(units.len()).expect("short").to_le_bytes()[..], &units].concat()
}

/// What is logged for an abort with these arguments, before the failure is reported.
fn abort(guest: Guest, args: [i64; 4]) -> String {
    let bench = guest.on(Callback::RequestHeaders, [call("abort", args), say("not reached")]).bench();
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 500 });
    let lines = bench.worker.take_log();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((lines[0].level, lines[0].speaker), (LogLevel::Critical, Speaker::Guest));
    assert_eq!((lines[1].level, lines[1].speaker), (LogLevel::Error, Speaker::Weir));
    assert!(lines[1].message.contains("proxy_on_request_headers failed: abort: "), "{lines:?}");
    lines[0].message.clone()
}

#[test]
fn message_and_place_are_logged_and_the_instance_ends() {
    let guest =
        Guest::new().data(8, string("d\u{e9}j\u{e0} \u{1f600}")).data(64, string("assembly/index.ts"));
    assert_eq!(
        abort(guest, [12, 68, 7, -1]),
        "abort: d\u{e9}j\u{e0} \u{1f600} at assembly/index.ts:7:4294967295"
    );
}

#[test]
fn strings_that_are_none_are_left_out() {
    let lone = [&2_u32.to_le_bytes()[..], &[0x00, 0xd8]].concat();
    let guest = || Guest::new().data(8, &lone).data(64, [0xff; 8]).data(END - 8, [0x40, 0, 0, 0]);
    for (message, expected) in [
        (12, "\u{fffd}"),
        (0, ""),
        (3, ""),
        (68, ""),
        (END - 4, ""),
        (END, ""),
        (END + 4, ""),
        (HIGH, ""),
        (i64::from(i32::MIN), ""),
        (i64::from(i32::MIN) + 3, ""),
    ] {
        assert_eq!(abort(guest(), [message, 0, 0, 0]), format!("abort: {expected} at :0:0"), "{message}");
    }
}

#[test]
fn a_message_is_cut() {
    let size = i32::try_from(2 * MAX_LOG_LINE).expect("small");
    let guest = Guest::new().data(8, size.to_le_bytes()).data(12, b"a\0".repeat(MAX_LOG_LINE));
    let logged = abort(guest, [12, 0, 0, 0]);
    assert_eq!(logged.len(), "abort:  at :0:0".len() + MAX_LOG_LINE / 2);
}

#[test]
fn growth_of_memory_is_nothing_to_do() {
    let told = [0, -1].map(|memory| call("emscripten_notify_memory_growth", [memory]));
    assert_eq!(
        Guest::new()
            .on(Callback::RequestHeaders, told)
            .on(Callback::RequestHeaders, [say("fine")])
            .bench()
            .run(),
        ["fine"]
    );
}
