//! Guests that fail in every way there is: it ends the instance and the requests in it, nothing else.

use std::time::Duration;

use weir_core::{
    chain::{Chain, Direction, Verdict},
    engine::{Settings, limits::Limits},
    filter::Callback,
    plan::Isolation,
    testing::Memory,
};

use crate::support::{
    Bench, Guest, OUT, SIZE, Step, call, for_context, number, plugin, say, settings, show, trace, wat,
};

const FAILED: Verdict = Verdict::Failed { status: 500 };

/// Settings with deadlines that a test can wait for, and that a busy machine keeps all the same.
fn hasty() -> Settings {
    let short = Duration::from_millis(500);
    let limits = Limits { callback: short, configuration: short, ..Limits::default() };
    Settings { instances: 8, limits, ..Settings::default() }
}

const TOO_LONG: &str = "ran longer than its limit";

/// A bench for a guest that fails as `text` says.
fn bench(guest: &Guest, isolation: Isolation, text: &str) -> Bench {
    if text == TOO_LONG { guest.bench_in(&hasty(), isolation) } else { guest.bench_with(isolation) }
}

/// Statements that fail, and what is said of it. The allocator is the guest's own.
fn ways_to_fail() -> Vec<(&'static str, Step, &'static str)> {
    vec![
        ("unreachable", wat("unreachable"), "unreachable"),
        ("out of bounds", wat("(drop (i32.load (i32.const -1)))"), "out of bounds memory access"),
        ("division", wat("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), "divide by zero"),
        ("indirect", wat("(call_indirect (i32.const 0))"), "uninitialized element"),
        ("endless", wat("(loop (br 0))"), TOO_LONG),
        ("deep", wat("(call $deep)"), "overflowed its stack"),
        ("exit", call("proc_exit", [0]), "proc_exit(0)"),
        ("abort", call("abort", [0, 0, 0, 0]), "abort: "),
    ]
}

/// A guest that does `step` in `callback` if the callback's second parameter is 666.
fn failing(callback: Callback, step: Step) -> Guest {
    let condition = "(i32.eq (local.get 1) (i32.const 666))".to_owned();
    Guest::new()
        .plus("(func $deep (call $deep)) (table 1 funcref)")
        .on(callback, [trace("("), Step::When(condition, vec![step]), trace(")")])
}

#[test]
fn every_failure_ends_its_request_and_no_other() {
    for (way, step, text) in ways_to_fail() {
        for isolation in [Isolation::Stream, Isolation::None] {
            let guest = failing(Callback::RequestBody, step.clone());
            let bench = bench(&guest, isolation, text);
            let request = bench.request();
            let mut chain = bench.begin(&request);
            show(&request, Direction::Request, [0; 665]);
            assert_eq!(chain.body(Direction::Request, false), Verdict::Continue, "{way}");
            assert_eq!(bench.log(), ["(2", ")2"]);
            show(&request, Direction::Request, [0; 666]);
            assert_eq!(chain.body(Direction::Request, true), FAILED, "{way}");
            let (guests, ours) = bench.spoken();
            assert_eq!(guests[0], "(2", "{way}");
            let [report] = &ours[..] else { panic!("one report of {way}: {ours:?}") };
            assert!(report.starts_with("proxy_on_request_body ") && report.contains(text), "{way}: {report}");
            drop(chain);
            assert_eq!(bench.run().len(), 2, "{way}: the next request has a new instance");
        }
    }
}

#[test]
fn a_report_has_the_names_of_the_guest_s_functions() {
    let guest = Guest::new()
        .plus("(func $inner unreachable) (func $outer (call $inner))")
        .on(Callback::RequestHeaders, [wat("(call $outer)")]);
    let bench = guest.bench();
    assert_eq!(bench.begin(&bench.request()).headers(Direction::Request, true), FAILED);
    let log = bench.log().join("\n");
    let (inner, outer) = (log.find("inner"), log.find("outer"));
    assert!(inner.is_some() && inner < outer, "{log}");
}

/// How a chain is told of something.
type Call = fn(&mut Chain<Memory>) -> Verdict;

/// Whatever callback it fails in, no other one is called, the end of the contexts included.
#[test]
fn an_instance_that_has_failed_is_never_entered_again() {
    let callbacks: [(Callback, Call); 6] = [
        (Callback::RequestHeaders, |chain| chain.headers(Direction::Request, false)),
        (Callback::RequestBody, |chain| chain.body(Direction::Request, true)),
        (Callback::RequestTrailers, |chain| chain.trailers(Direction::Request)),
        (Callback::ResponseHeaders, |chain| chain.headers(Direction::Response, false)),
        (Callback::ResponseBody, |chain| chain.body(Direction::Response, true)),
        (Callback::ResponseTrailers, |chain| chain.trailers(Direction::Response)),
    ];
    for isolation in [Isolation::Stream, Isolation::None] {
        for (fails_in, _) in callbacks {
            let bench = Guest::tracer().on(fails_in, [wat("unreachable")]).bench_with(isolation);
            let mut chain = bench.begin(&bench.request());
            let mut verdicts = callbacks.iter().map(|(callback, call)| (*callback, call(&mut chain)));
            assert!(verdicts.any(|(callback, verdict)| callback == fails_in && verdict == FAILED));
            assert_eq!(bench.log().last().map(|line| line.contains(fails_in.name())), Some(true));
            for (callback, verdict) in verdicts {
                assert_eq!(verdict, Verdict::Continue, "{callback:?}");
            }
            chain.resume(Direction::Request, 0);
            chain.finish();
            assert!(bench.log().is_empty(), "{fails_in:?}: reported once, and nothing called");
        }
    }
}

#[test]
fn failures_at_the_end_of_a_request_are_reported_once() {
    for (fails_in, seen) in [(Callback::Done, 5), (Callback::Log, 6), (Callback::Delete, 7)] {
        for isolation in [Isolation::Stream, Isolation::None] {
            let bench = Guest::tracer().on(fails_in, [wat("unreachable")]).bench_with(isolation);
            drop(bench.begin(&bench.request()));
            let log = bench.log();
            assert_eq!(log.len(), seen + 1, "{log:?}");
            assert!(log[seen].contains(&format!("{} failed", fails_in.name())), "{log:?}");
            drop(bench.begin(&bench.request()));
            let new = if isolation == Isolation::None { "C1" } else { "C2" };
            assert_eq!(bench.log()[0], new, "the next request has a new instance");
        }
    }
}

/// A filter that cannot be begun fails its request at the first verdict.
#[test]
fn failures_before_a_request_are_its_first_verdict() {
    for (callback, step) in [
        (Callback::ContextCreate, for_context(2, [wat("unreachable")])),
        (Callback::ContextCreate, for_context(1, [wat("unreachable")])),
        (Callback::VmStart, wat("unreachable")),
        (Callback::Configure, wat("unreachable")),
        (Callback::Start, wat("unreachable")),
    ] {
        for isolation in [Isolation::Stream, Isolation::None] {
            let fails = Guest::tracer().on(callback, [step.clone()]).load();
            let after = Guest::tracer().named("after").load();
            let bench = Bench::new(vec![plugin(&fails, "", isolation), plugin(&after, "", isolation)]);
            let mut chain = bench.begin(&bench.request());
            assert_eq!(chain.headers(Direction::Request, true), FAILED);
            drop(chain);
            let lines = bench.worker.take_log();
            let reports =
                lines.iter().filter(|line| line.message.contains(&format!("{} failed", callback.name())));
            assert_eq!(reports.count(), 1, "{lines:?}");
            assert!(lines.iter().all(|line| line.filter == "guest"), "the filter after it was never begun");
        }
    }
}

#[test]
fn a_configuration_that_never_ends_is_stopped() {
    for callback in [Callback::Start, Callback::VmStart, Callback::Configure] {
        let bench = Guest::new().on(callback, [wat("(loop (br 0))")]).bench_in(&hasty(), Isolation::Stream);
        let refusal = bench.rehearse().expect_err("stopped").to_string();
        assert!(refusal.contains(&format!("{} ran longer than its limit", callback.name())), "{refusal}");
    }
    let start = Guest::new().plus("(func $start (loop (br 0))) (start $start)");
    start.bench_in(&hasty(), Isolation::Stream).rehearse().expect_err("the module's own start function");
}

#[test]
fn requests_that_share_an_instance_fail_with_it_and_alone() {
    let guest = Guest::tracer().on(Callback::RequestBody, [for_context(3, [wat("unreachable")])]);
    let bench = guest.bench_with(Isolation::None);
    let requests = [(); 3].map(|()| bench.request());
    let [mut first, mut second, mut third] = requests.each_ref().map(|request| bench.begin(request));
    for chain in [&mut first, &mut second, &mut third] {
        assert_eq!(chain.headers(Direction::Request, false), Verdict::Continue);
    }
    assert_eq!(second.body(Direction::Request, true), FAILED);
    assert_eq!(bench.log().last().map(|line| line.contains("proxy_on_request_body failed")), Some(true));
    // The two others cannot go on in an instance that is broken; each is told once.
    for chain in [&mut first, &mut third] {
        assert_eq!(chain.body(Direction::Request, true), FAILED);
        let log = bench.log();
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains("failed before; proxy_on_request_body was not called"), "{log:?}");
        assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
    }
    // A new request has a new instance, while the old ones still hold theirs.
    let mut fourth = bench.begin(&bench.request());
    assert_eq!(fourth.headers(Direction::Request, false), Verdict::Continue);
    assert_eq!(fourth.body(Direction::Request, true), Verdict::Continue);
    assert_eq!(bench.log(), ["C1", "S1", "F1", "C2", "H2", "B2"]);
    drop([first, second, third]);
    assert!(bench.log().is_empty(), "no callback follows in the broken one");
    let mut fifth = bench.begin(&bench.request());
    assert_eq!(fifth.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(bench.log(), ["C3", "H3"], "the new one serves on");
}

/// Of two directives in the instance that failed only the first one is reported.
#[test]
fn filters_of_one_request_in_a_broken_instance_are_reported_once() {
    let filter = Guest::tracer().on(Callback::RequestHeaders, [wat("unreachable")]).load();
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = Bench::new((0..2).map(|_| plugin(&filter, "", isolation)).collect());
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(Direction::Request, true), FAILED);
        bench.log();
        assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
        chain.finish();
        assert!(bench.log().is_empty());
    }
}

/// A failure in one filter leaves the others of the request whole: they see the response that tells of it.
#[test]
fn filters_in_other_instances_see_the_response() {
    let [before, after] = ["before", "after"].map(|name| Guest::tracer().named(name).load());
    let fails = Guest::new().on(Callback::RequestHeaders, [wat("unreachable")]).load();
    let plugins = [&before, &fails, &after].map(|filter| plugin(filter, "", Isolation::Auto));
    let bench = Bench::new(plugins.to_vec());
    let mut chain = bench.begin(&bench.request());
    bench.log();
    assert_eq!(chain.headers(Direction::Request, true), FAILED);
    assert_eq!(bench.log()[0], "H2");
    assert_eq!(chain.headers(Direction::Response, true), Verdict::Continue);
    chain.finish();
    assert_eq!(bench.log(), ["h2", "h2", "D2", "L2", "X2", "D2", "L2", "X2"]);
}

#[test]
fn memory_ends_at_its_limit() {
    let grow = r#"(loop $more
        (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))
        (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))"#;
    let size = number("(i64.extend_i32_u (memory.size))");
    let bench = Guest::new().on(Callback::RequestHeaders, [size.clone(), wat(grow), size]).bench();
    let limit = (settings().limits.memory / 65536).to_string();
    for _ in 0..3 {
        assert_eq!(bench.run(), ["4", &limit], "each request starts anew");
    }
    // One that cannot do without is told of the directive.
    let bench = Guest::new().on(Callback::RequestHeaders, [wat(grow), wat("unreachable")]).bench();
    assert_eq!(bench.begin(&bench.request()).headers(Direction::Request, true), FAILED);
    let (_, warnings) = bench.spoken();
    assert!(warnings[0].contains("was to grow beyond \"memory_limit\""), "{warnings:?}");
    let table = Guest::new().plus("(table $t 0 funcref)").on(
        Callback::RequestHeaders,
        [
            wat("(drop (table.grow $t (ref.null func) (i32.const -1)))"),
            wat("(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))"),
            number("(i64.extend_i32_u (table.size $t))"),
        ],
    );
    assert_eq!(table.bench().run(), [settings().limits.table_elements.to_string()]);
}

/// What a guest's allocator does, and what becomes of the call that needed it.
#[test]
fn allocators_of_every_kind() {
    let read = [call("proxy_get_buffer_bytes", [7, 0, 9, OUT, SIZE]), say("back")];
    let answers = |allocator: &str| {
        let guest = Guest::new().allocating(allocator).on(Callback::RequestHeaders, read.clone());
        guest.bench().run()
    };
    // Failure, and addresses where the value does not fit: the value is six bytes.
    for (address, status) in
        [("0", "10"), ("-1", "6"), ("262144", "6"), ("262139", "6"), ("262138", "0"), ("1", "0")]
    {
        assert_eq!(answers(&format!("(i32.const {address})")), [status, "back"], "{address}");
    }
    // It may grow the memory, and hand out what has grown.
    assert_eq!(answers("(i32.mul (memory.grow (i32.const 1)) (i32.const 65536))"), ["0", "back"]);
}

#[test]
fn allocators_that_end_the_instance() {
    let nested =
        r#"(drop (call $nested (i32.const 7) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 4)))"#;
    let imports = r#"(import "env" "proxy_get_buffer_bytes" (func $nested (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_header_map_size" (func $reads (param i32 i32) (result i32)))
        (import "env" "proxy_set_property" (func $writes (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_close_stream" (func $closes (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exits (param i32)))"#;
    let reaches = "allocator called a host function that reaches the request";
    for (body, text) in [
        ("unreachable", "unreachable"),
        ("(loop (br 0)) unreachable", TOO_LONG),
        ("(drop (call $allocate (local.get 0)))", "overflowed its stack"),
        (nested, "allocator asked for memory"),
        ("(drop (call $reads (i32.const 0) (i32.const 0)))", reaches),
        ("(drop (call $writes (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)))", reaches),
        ("(drop (call $closes (i32.const 0)))", reaches),
        ("(call $exits (i32.const 3))", "proc_exit(3)"),
    ] {
        let calls =
            r#"(drop (call $nested (i32.const 7) (i32.const 0) (i32.const 9) (i32.const 8) (i32.const 12)))"#;
        let guest = Guest::new()
            .import(imports)
            .allocating(&format!("{body} (i32.const 8)"))
            .on(Callback::RequestHeaders, [wat(calls), say("not reached")]);
        let bench = bench(&guest, Isolation::None, text);
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(Direction::Request, true), FAILED, "{body}");
        let log = bench.log();
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains(text), "{log:?}");
    }
}

/// What does not reach the request is fine: an allocator may log, and take the time.
#[test]
fn an_allocator_may_log() {
    let allocator = r#"(func $allocate (export "proxy_on_memory_allocate") (param i32) (result i32)
        (call $say (i32.const 8) (i32.const 3)) (i32.const 1024))"#;
    let read = [call("proxy_get_buffer_bytes", [7, 0, 9, OUT, SIZE]), crate::support::value(OUT)];
    let guest = Guest::new().data(8, "new").allocator(allocator).on(Callback::RequestHeaders, read);
    assert_eq!(guest.bench().run(), ["new", "0", "plugin"]);
}

/// In a module's own start function nothing can be handed out yet.
#[test]
fn a_start_function_is_given_nothing() {
    let guest = Guest::new()
        .import(
            r#"(import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))"#,
        )
        .plus(
            r#"(func $start (call $number (i32.const 0) (i64.extend_i32_u
                (call $get (i32.const 6) (i32.const 0) (i32.const 9) (i32.const 8) (i32.const 12)))))
            (start $start)"#,
        );
    assert_eq!(guest.bench().run(), ["10"]);
}

#[test]
fn when_all_instances_are_taken_a_request_is_told_so() {
    let settings = Settings { instances: 2, ..settings() };
    let bench = Guest::tracer().bench_in(&settings, Isolation::Stream);
    let requests = [(); 3].map(|()| bench.request());
    let [first, second, mut third] = requests.each_ref().map(|request| bench.begin(request));
    bench.log();
    assert_eq!(third.headers(Direction::Request, true), Verdict::Failed { status: 503 });
    drop(third);
    let mut fourth = bench.begin(&bench.request());
    let log = bench.log();
    assert!(log.len() == 1 && log[0].contains("no instance can be made"), "{log:?}");
    assert_eq!(fourth.headers(Direction::Request, true), Verdict::Failed { status: 503 });
    assert_eq!(
        fourth.headers(Direction::Response, true),
        Verdict::Continue,
        "the response that tells of it goes out"
    );
    drop([first, second]);
    assert_eq!(bench.begin(&bench.request()).headers(Direction::Request, true), Verdict::Continue);
}

#[test]
fn a_body_may_be_larger_than_a_guest_can_count() {
    let told = Guest::new().on(Callback::RequestBody, [number("(i64.extend_i32_s (local.get 1))")]);
    let bench = told.bench();
    let request = bench.request();
    // Never touched, so never there.
    show(&request, Direction::Request, vec![0; 1 << 31]);
    bench.begin(&request).body(Direction::Request, true);
    assert_eq!(bench.log(), [i32::MAX.to_string()]);
}
