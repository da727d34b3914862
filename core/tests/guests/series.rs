//! Contexts that are created, or that end, and headers and bodies that filters let pass, in one entry of the guest: nobody sees
//! that from outside.

use std::time::Duration;

use proptest::{prelude::*, test_runner::RngSeed};
use weir_core::{
    chain::{Chain, Direction, Verdict},
    engine::{Settings, limits::Limits},
    failure::Policy,
    filter::Callback,
    metrics::{Options, Timing},
    plan::Isolation,
    testing::{Logged, Memory, Request},
};

use crate::{
    hostcalls::define_metric::shown,
    support::{
        Bench, Guest, OUT, SIZE, Step, call, for_context, param, plugin, returns, settings, trace, value, wat,
    },
};

/// How many filters there are, where it is not one.
const FILTERS: i32 = 3;

/// The callbacks that create and end contexts.
const CALLBACKS: [Callback; 4] = [Callback::ContextCreate, Callback::Done, Callback::Log, Callback::Delete];

/// Those that headers and bodies are relayed by.
const RELAYED: [Callback; 4] =
    [Callback::RequestHeaders, Callback::RequestBody, Callback::ResponseHeaders, Callback::ResponseBody];

/// Something that a callback does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Trace,
    SetProperty,
    GetProperty,
    Done,
    /// Root context number `n` becomes the effective one.
    Root(i64),
    Write,
    Trap,
    Refuse,
    Answer,
    /// A header that cannot be changed any more.
    Header,
    Call,
    Grow,
    /// What the callback is told.
    Params,
    /// Reads and changes what is relayed.
    Read,
    Edit,
    /// What the callback answers, where it is one that answers.
    Action(i32),
    /// Request or response goes on, or is closed.
    Resume(i64),
    Close(i64),
}

impl Act {
    fn steps(self, callback: Callback) -> Vec<Step> {
        match self {
            Self::Trace => vec![trace("T")],
            Self::SetProperty => vec![
                wat("(i32.store8 (i32.const 701) (i32.add (i32.const 48) (local.get 0)))"),
                call("proxy_set_property", [700, 1, 701, 1]),
            ],
            Self::GetProperty => vec![call("proxy_get_property", [700, 1, OUT, SIZE]), value(OUT)],
            Self::Done => vec![call("proxy_done", [])],
            Self::Root(root) => vec![call("proxy_set_effective_context", [root]), trace("R")],
            Self::Write => vec![call("fd_write", [1, 800, 1, OUT])],
            Self::Trap => vec![wat("unreachable")],
            Self::Refuse if callback == Callback::Done => vec![returns(0)],
            Self::Refuse => vec![],
            Self::Answer => vec![call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1])],
            Self::Header => vec![call("proxy_add_header_map_value", [2, 700, 1, 700, 1])],
            Self::Call => vec![call("proxy_http_call", [700, 1, 900, 0, 0, 0, 0, 0, 1000, OUT])],
            Self::Grow => vec![wat("(drop (memory.grow (i32.const 1)))")],
            Self::Params if RELAYED.contains(&callback) => vec![param(1), param(2)],
            Self::Action(action) if RELAYED.contains(&callback) => vec![returns(action)],
            Self::Params | Self::Action(_) => vec![trace("P")],
            Self::Resume(direction) => vec![call("proxy_continue_stream", [direction])],
            Self::Close(direction) => vec![call("proxy_close_stream", [direction])],
            Self::Read | Self::Edit => {
                let edits = matches!(self, Self::Edit);
                match callback {
                    Callback::RequestBody | Callback::ResponseBody => {
                        let buffer = i64::from(callback == Callback::ResponseBody);
                        if edits {
                            vec![call("proxy_set_buffer_bytes", [buffer, 0, 1, 0x330, 2])]
                        } else {
                            vec![call("proxy_get_buffer_bytes", [buffer, 0, 100, OUT, SIZE]), value(OUT)]
                        }
                    }
                    _ => {
                        let map = if callback == Callback::RequestHeaders { 0 } else { 2 };
                        if edits {
                            vec![call("proxy_add_header_map_value", [map, 700, 1, 700, 1])]
                        } else {
                            vec![call("proxy_get_header_map_value", [map, 700, 1, OUT, SIZE]), value(OUT)]
                        }
                    }
                }
            }
        }
    }
}

/// What a filter, counted from 0, does in a callback.
type Acts = Vec<(Callback, i32, Act)>;

fn acts() -> impl Strategy<Value = Acts> {
    let act = prop_oneof![
        4 => Just(Act::Trace),
        2 => prop_oneof![Just(Act::SetProperty), Just(Act::GetProperty), Just(Act::Write), Just(Act::Header)],
        2 => prop_oneof![Just(Act::Done), Just(Act::Refuse), (0..4_i64).prop_map(Act::Root)],
        1 => prop_oneof![Just(Act::Answer), Just(Act::Call), Just(Act::Grow), Just(Act::Trap)],
        6 => prop_oneof![Just(Act::Params), Just(Act::Read), Just(Act::Edit)],
        3 => prop_oneof![
            (0..4).prop_map(Act::Action),
            (0..2_i64).prop_map(Act::Resume),
            (0..2_i64).prop_map(Act::Close)
        ],
    ];
    let callback = prop::sample::select([CALLBACKS, RELAYED].concat());
    prop::collection::vec((callback, 0..FILTERS, act), 0..24)
}

/// The guest of so many filters.
fn guest(acts: &Acts, count: i32) -> Guest {
    // Memory that is written: a property's name, the bytes of a line without an end.
    let guest = Guest::new().data(700, "p").data(800, [0x30, 3, 0, 0, 2, 0, 0, 0]).data(0x330, "wr");
    acts.iter().fold(guest, |guest, (callback, filter, act)| {
        // The stream contexts of the first request: those of roots have the numbers before them.
        guest.on(*callback, [for_context(count + 1 + filter % count, act.steps(*callback))])
    })
}

fn filters(guest: &Guest, count: i32, isolation: Isolation) -> Bench {
    let filter = guest.load();
    Bench::new((0..count).map(|_| plugin(&filter, "", isolation)).collect())
}

/// Shows a direction's headers and a body of two parts to the filters; what they hold is let go. The verdicts.
fn pass(chain: &mut Chain<Memory>, request: &Request, direction: Direction) -> Vec<Verdict> {
    let mut verdicts = vec![chain.headers(direction, false)];
    for end in [false, true] {
        let buffer = direction.buffer();
        for _ in 0..=FILTERS {
            if verdicts.last() != Some(&Verdict::Pause) {
                break;
            }
            verdicts.push(chain.resume_all(direction));
        }
        if !chain.headers_passed(direction) {
            break;
        }
        request.edit().buffers.insert(buffer, vec![b"ab".to_vec(), b"c".to_vec()]);
        verdicts.push(chain.body(direction, end));
        verdicts.push(if chain.ended(direction) { Verdict::Closed } else { Verdict::Continue });
    }
    verdicts
}

/// What two requests have come to: the log, verdicts, what became of the requests.
fn outcome(bench: &Bench) -> (Vec<Logged>, Vec<String>) {
    let seen = (0..2).map(|_| {
        let request = bench.request();
        let mut chain = bench.begin(&request);
        let verdicts =
            [Direction::Request, Direction::Response].map(|direction| pass(&mut chain, &request, direction));
        chain.finish();
        drop(chain);
        let parts = request.edit();
        let mut held: Vec<_> = parts.held.iter().map(|held| format!("{held:?}")).collect();
        held.sort();
        format!(
            "{verdicts:?} {:?} {:?} {:?} {:?} {held:?} {:?}",
            parts.sent, parts.properties, parts.closed, parts.maps, parts.resumed
        )
    });
    let seen = seen.collect();
    (bench.worker.take_log(), seen)
}

proptest! {
    // The same in every run; `PROPTEST_CASES` makes more of them.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x5e71),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Where each callback is timed, each is entered by itself; where none is, they are called in a row.
    #[test]
    fn callbacks_in_a_row_do_what_single_ones_do(acts in acts()) {
        for count in [1, FILTERS] {
            let guest = guest(&acts, count);
            for (isolation, policy) in [
                (Isolation::Stream, Policy::default()),
                (Isolation::None, Policy::default()),
                (Isolation::Stream, Policy::Open),
            ] {
                let single = filters(&guest, count, isolation)
                    .metrics(Options { callbacks: Timing::All, ..Options::default() })
                    .policy(policy);
                let row = filters(&guest, count, isolation).policy(policy);
                prop_assert_eq!(outcome(&single), outcome(&row), "{} filters", count);
            }
        }
    }
}

/// Chance decides whether callbacks are called in a row or timed: they are counted either way, those that failed and those
/// that were put off as well.
#[test]
fn callbacks_in_a_row_are_counted() {
    let counts = |guest: Guest, isolation| {
        let bench = filters(&guest, FILTERS, isolation).metrics(Options::default());
        for _ in 0..1000 {
            bench.begin(&bench.request()).finish();
        }
        shown(&bench, "weir_callback_duration_seconds_count")
            .into_iter()
            .filter(|line| CALLBACKS.iter().any(|callback| line.contains(&callback.name()[6..])))
            .map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let tracer = || Guest::tracer();
    // The three root contexts were created as well.
    assert_eq!(counts(tracer(), Isolation::Stream), ["3003", "3000", "3000", "3000"]);
    let second = FILTERS + 2;
    let puts_off = || tracer().on(Callback::Done, [for_context(second, [returns(0)])]);
    assert_eq!(counts(puts_off(), Isolation::Stream), ["3003", "3000", "3000", "3000"]);
    // It fails in each of the hundred requests after which it is suspended: the third filter is not told of their end.
    let fails = tracer().on(Callback::Log, [for_context(second, [wat("unreachable")])]);
    assert_eq!(counts(fails, Isolation::Stream), ["303", "100", "200", "200"]);
}

/// Headers and bodies as well, whether or not a filter comes back from the row, holds them, or fails.
#[test]
fn what_is_relayed_is_counted() {
    let second = FILTERS + 2;
    // Each callback's count, in the order of their names: of request bodies and headers, response bodies and headers.
    let counts = |steps: Vec<Step>| {
        let callbacks = Callback::RequestHeaders;
        let guest = Guest::tracer().on(callbacks, [for_context(second, steps)]);
        let bench = filters(&guest, FILTERS, Isolation::Stream).metrics(Options::default());
        for _ in 0..1000 {
            let request = bench.request();
            let mut chain = bench.begin(&request);
            pass(&mut chain, &request, Direction::Request);
            pass(&mut chain, &request, Direction::Response);
        }
        shown(&bench, "weir_callback_duration_seconds_count")
            .into_iter()
            .filter(|line| RELAYED.iter().any(|callback| line.contains(&callback.name()[6..])))
            .map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let all = ["6000", "3000", "6000", "3000"];
    assert_eq!(counts(vec![]), all);
    assert_eq!(counts(vec![call("proxy_add_header_map_value", [0, 700, 1, 700, 1])]), all);
    assert_eq!(counts(vec![returns(1)]), all);
    // The third is not told of headers, and responses are shown to nobody, until the filter is suspended.
    assert_eq!(counts(vec![wat("unreachable")]), ["200"]);
}

#[test]
fn a_failure_in_a_row_is_that_of_one_callback_and_one_filter() {
    let third = FILTERS + 3;
    for (callback, name) in [
        (Callback::ContextCreate, "proxy_on_context_create"),
        (Callback::RequestHeaders, "proxy_on_request_headers"),
        (Callback::Log, "proxy_on_log"),
    ] {
        let guest = Guest::tracer().on(callback, [for_context(third, [wat("unreachable")])]);
        let bench = filters(&guest, FILTERS, Isolation::Stream);
        bench.rehearse().expect("accepted");
        bench.log();
        let mut chain = bench.begin(&bench.request());
        let fails = callback != Callback::Log;
        let expected = if fails { Verdict::Failed { status: 500 } } else { Verdict::Continue };
        assert_eq!(chain.headers(Direction::Request, true), expected);
        chain.finish();
        let log = bench.log();
        let failures: Vec<_> = log.iter().filter(|line| line.contains("failed")).collect();
        let [failure] = failures[..] else { panic!("{log:?}") };
        assert!(failure.starts_with(&format!("{name} failed: wasm trap: ")), "{failure}");
        // Frames of the guest alone.
        let (_, trace) = failure.split_once("wasm backtrace: ").expect("one");
        assert_eq!(trace.matches(": 0x").count(), 1, "{trace}");
    }
}

/// What the filters log when a request ends, and how long its end takes, if a callback may take `limit`.
fn end(guest: &Guest, limit: Duration) -> (Duration, Vec<String>) {
    let settings = Settings { limits: Limits { callback: limit, ..settings().limits }, ..settings() };
    let bench = guest.bench_of(&settings, Isolation::Stream, 3);
    bench.rehearse().expect("accepted");
    bench.log();
    let mut chain = bench.begin(&bench.request());
    let start = std::time::Instant::now();
    chain.finish();
    (start.elapsed(), bench.log())
}

/// The time of a callback is that of each, not that of all which are called in a row.
///
/// Nine callbacks take a fifth of the limit each. A machine may take the core from one of them for longer than the
/// rest of its time, so they are tried with more of it then: were it the time of them all, no limit would be enough.
#[test]
fn each_callback_in_a_row_has_its_time() {
    let spin = |rounds: u64| {
        wat(format!(
            "(global.set $left (i64.const {rounds}))
            (loop $again
                (global.set $left (i64.sub (global.get $left) (i64.const 1)))
                (br_if $again (i64.ne (global.get $left) (i64.const 0))))"
        ))
    };
    let guest = || Guest::new().plus("(global $left (mut i64) (i64.const 0))");
    let tried = 20_000_000;
    let rounds_in = |time: Duration| {
        let (took, _) =
            end(&guest().on(Callback::Log, [for_context(4, [spin(tried)])]), Duration::from_secs(60));
        u64::try_from(u128::from(tried) * time.as_nanos() / took.as_nanos().max(1)).expect("few")
    };
    let is_each_ones = |limit: Duration| {
        let rounds = rounds_in(limit / 5);
        let each = [Callback::Done, Callback::Log, Callback::Delete]
            .into_iter()
            .fold(guest(), |guest, callback| guest.on(callback, [spin(rounds)]));
        let (took, log) = end(&each, limit);
        if log.is_empty() && took > limit { Ok(()) } else { Err((limit, took, log)) }
    };
    let tries = [400, 800, 1600, 3200].map(Duration::from_millis);
    let failures: Vec<_> = tries.into_iter().map_while(|limit| is_each_ones(limit).err()).collect();
    assert!(failures.len() < tries.len(), "{failures:?}");
}

#[test]
fn a_callback_in_a_row_that_does_not_end_is_stopped() {
    let endless = Guest::new()
        .on(Callback::Log, [for_context(5, [wat("(loop $again (br $again))")])])
        .on(Callback::Delete, [trace("X")]);
    let (_, log) = end(&endless, Duration::from_millis(400));
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!(log[0], "X4");
    assert!(log[1].starts_with("proxy_on_log ran longer than its limit"), "{log:?}");
}
