//! Which contexts share an instance, and that nothing else is shared.

use weir_core::{
    chain::Direction,
    filter::Callback,
    plan::{Isolation, Plans},
    shard::Shard,
    testing::{Memory, Request, Worker},
};

use crate::support::{Bench, Guest, OUT, SIZE, call, plugin, show, value, wat};

/// A guest that counts its calls in a global, in its memory and in a table, and logs each count.
fn counter() -> Guest {
    let count = [
        wat("(global.set $calls (i32.add (global.get $calls) (i32.const 1)))"),
        crate::support::number("(i64.extend_i32_u (global.get $calls))"),
        wat("(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))"),
        crate::support::u32_at(8),
        wat("(drop (table.grow $t (ref.null func) (i32.const 1)))"),
        crate::support::number("(i64.extend_i32_u (table.size $t))"),
    ];
    Guest::new()
        .on(Callback::RequestHeaders, count)
        .plus("(global $calls (mut i32) (i32.const 0)) (table $t 0 100 funcref)")
}

/// The counts of three requests that two directives of one module handle, isolated so.
fn counts(first: Isolation, second: Isolation) -> Vec<String> {
    let filter = counter().load();
    let bench = Bench::new(vec![plugin(&filter, "", first), plugin(&filter, "", second)]);
    let requests: Vec<_> = (0..3).map(|_| bench.request()).collect();
    // All at once, so that no instance could be another one's leftover.
    let mut chains: Vec<_> = requests.iter().map(|request| bench.begin(request)).collect();
    for chain in &mut chains {
        chain.headers(Direction::Request, true);
    }
    bench.log()
}

/// The counter logs each count three times.
fn thrice(counts: &[&'static str]) -> Vec<&'static str> {
    counts.iter().flat_map(|count| [*count; 3]).collect()
}

#[test]
fn the_mode_says_who_shares() {
    use Isolation::{Auto, Filter, None, Stream};
    for (first, second, expected) in [
        (Stream, Stream, &["1", "2", "1", "2", "1", "2"]),
        (Auto, Auto, &["1", "2", "1", "2", "1", "2"]),
        (Auto, Stream, &["1", "2", "1", "2", "1", "2"]),
        (Filter, Filter, &["1", "1", "1", "1", "1", "1"]),
        (Stream, Filter, &["1", "1", "1", "1", "1", "1"]),
        (None, None, &["1", "2", "3", "4", "5", "6"]),
        (None, Stream, &["1", "1", "2", "1", "3", "1"]),
    ] {
        assert_eq!(counts(first, second), thrice(expected), "{first:?} {second:?}");
    }
    assert_eq!(Isolation::default(), Auto);
}

/// Everything that a request may leave in an instance: definitions, what shows it, and what changes it.
const LEFTOVERS: &[(&str, &str, &str)] = &[
    ("(global $g (mut i64) (i64.const 7))", "(global.get $g)", "(global.set $g (i64.const 1))"),
    (
        "(global $g (mut f64) (f64.const 1.5))",
        "(i64.reinterpret_f64 (global.get $g))",
        "(global.set $g (f64.const nan:0x123456789))",
    ),
    (
        "(global $g (mut v128) (v128.const i64x2 1 2))",
        "(i64x2.extract_lane 1 (global.get $g))",
        "(global.set $g (v128.const i64x2 3 4))",
    ),
    (
        "(global $g (mut funcref) (ref.null func)) (elem declare func $say)",
        "(i64.extend_i32_u (ref.is_null (global.get $g)))",
        "(global.set $g (ref.func $say))",
    ),
    ("", "(i64.load (i32.const 8))", "(i64.store (i32.const 8) (i64.const 1))"),
    ("", "(i64.load (i32.const 262136))", "(i64.store (i32.const 262136) (i64.const 1))"),
    ("", "(i64.load (i32.const 4092))", "(i64.store (i32.const 4092) (i64.const -1))"),
    ("", "(i64.load (i32.const 200000))", "(memory.fill (i32.const 65536) (i32.const 1) (i32.const 196608))"),
    ("", "(i64.extend_i32_u (memory.size))", "(drop (memory.grow (i32.const 3)))"),
    (
        "(table $t 1 funcref) (elem declare func $say)",
        "(i64.extend_i32_u (ref.is_null (table.get $t (i32.const 0))))",
        "(table.set $t (i32.const 0) (ref.func $say))",
    ),
    (
        "(table $t 1 9 funcref)",
        "(i64.extend_i32_u (table.size $t))",
        "(drop (table.grow $t (ref.null func) (i32.const 1)))",
    ),
    (
        r#"(data $d "text") (func $init (memory.init $d (i32.const 0) (i32.const 0) (i32.const 4)))"#,
        "(call $init) (i64.load (i32.const 0))",
        "(data.drop $d)",
    ),
    (
        "(table $t 1 funcref) (elem $e func $say) (func $init (table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1)))",
        "(call $init) (i64.extend_i32_u (ref.is_null (table.get $t (i32.const 0))))",
        "(elem.drop $e)",
    ),
];

/// What bench logs for the first of several requests: all of them do the same, one after the other, and at once.
fn the_same_for_all(bench: &Bench) -> Vec<String> {
    let first = bench.run();
    for _ in 0..5 {
        assert_eq!(bench.run(), first);
    }
    let requests: Vec<_> = (0..3).map(|_| bench.request()).collect();
    let mut chains: Vec<_> = requests.iter().map(|request| bench.begin(request)).collect();
    for chain in &mut chains {
        chain.headers(Direction::Request, true);
    }
    drop(chains);
    assert_eq!(bench.log(), [&first[..]; 3].concat());
    assert_eq!(bench.run(), first);
    first
}

/// Instances and slots of the pool are used again: nothing is left in them.
#[test]
fn a_request_finds_nothing_of_those_before_it() {
    for (definitions, shows, changes) in LEFTOVERS {
        let steps = [wat(format!("(call $number (i32.const 0) {shows})")), wat(*changes)];
        let guest = Guest::new().plus(definitions).on(Callback::RequestHeaders, steps);
        for isolation in [Isolation::Auto, Isolation::Stream, Isolation::Filter] {
            assert_eq!(the_same_for_all(&guest.bench_with(isolation)).len(), 1, "{changes}");
        }
    }
    the_same_for_all(&counter().bench());
    // What the host has written, and allocated.
    let read =
        [crate::support::u64_at(OUT), call("proxy_get_buffer_bytes", [7, 0, 9, OUT, SIZE]), value(OUT)];
    let steps = [&read[..], &[crate::support::u32_at(OUT)]].concat();
    let seen = the_same_for_all(&Guest::new().on(Callback::RequestHeaders, steps).bench());
    assert_eq!(seen, ["0", "0", "plugin", "65536"]);
    // The whole memory, as far as it may grow.
    let greedy = r#"(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        (memory.fill (i32.const 65536) (i32.const 1) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 65536)))"#;
    let steps = [crate::support::u64_at(100_000), wat(greedy)];
    assert_eq!(the_same_for_all(&Guest::new().on(Callback::RequestHeaders, steps).bench()), ["0"]);
}

/// What the configuration has left is what every request begins with.
#[test]
fn a_request_begins_with_what_the_configuration_left() {
    let add = |more: i32| {
        wat(format!(
            "(global.set $g (i32.add (global.get $g) (i32.const {more})))
             (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const {more})))"
        ))
    };
    let show = [crate::support::number("(i64.extend_i32_u (global.get $g))"), crate::support::u32_at(8)];
    let guest = Guest::new()
        .plus("(global $g (mut i32) (i32.const 1))")
        .on(Callback::Start, [add(10)])
        .on(Callback::VmStart, [add(100)])
        .on(Callback::Configure, [add(1000)])
        .on(Callback::RequestHeaders, [&show[..], &[add(1)]].concat());
    assert_eq!(the_same_for_all(&guest.bench()), ["1111", "1110"]);
}

/// A request that failed half-way leaves as little as one that went well.
#[test]
fn a_request_finds_nothing_of_one_that_failed() {
    let count = wat("(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))");
    let fails =
        crate::support::Step::When("(i32.eq (local.get 1) (i32.const 666))".into(), vec![wat("unreachable")]);
    let steps = [count, crate::support::u32_at(8), fails];
    let bench = Guest::new().on(Callback::RequestBody, steps).bench();
    for _ in 0..3 {
        assert_eq!(bench.run(), ["1"]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        show(&request, Direction::Request, [0; 1]);
        chain.body(Direction::Request, false);
        show(&request, Direction::Request, [0; 666]);
        chain.body(Direction::Request, true);
        drop(chain);
        assert_eq!(bench.log()[..2], ["1", "2"]);
    }
}

#[test]
fn modules_do_not_share() {
    let guests = ["a", "b"].map(|name| counter().named(name).load());
    for isolation in [Isolation::Stream, Isolation::None] {
        let bench = Bench::new(guests.iter().map(|guest| plugin(guest, "", isolation)).collect());
        assert_eq!(bench.run(), ["1"; 6], "{isolation:?}");
    }
}

#[test]
fn workers_do_not_share() {
    let bench = counter().bench_with(Isolation::None);
    assert_eq!(bench.run(), ["1"; 3]);
    assert_eq!(bench.run(), ["2"; 3]);
    let other = Worker::default();
    let shard = Shard::new(bench.plans.clone(), other.clone());
    shard.begin(bench.id, &Request::new(&other)).headers(Direction::Request, true);
    assert_eq!(other.take_log().len(), 3);
    assert_eq!(bench.run(), ["3"; 3]);
}

/// Directives of several locations live in one instance, each with its own root context and configuration.
#[test]
fn a_shared_instance_has_a_root_context_for_each_directive() {
    let read = [call("proxy_get_buffer_bytes", [7, 0, 99, OUT, SIZE]), value(OUT)];
    let filter = Guest::tracer().on(Callback::RequestHeaders, read).load();
    let plugins = ["first", "second"].map(|text| plugin(&filter, text, Isolation::None));
    let mut plans = Plans::<Memory>::new();
    let chains = plugins.map(|plugin| plans.add_chain(vec![plugin]));
    assert_ne!(chains[0], chains[1]);
    let bench = Bench::of(plans, chains[0]);
    for (chain, expected) in [
        (chains[1], &["C1", "S1", "F1", "C2", "S2", "F2", "C3", "H3", "0", "second", "D3", "L3", "X3"][..]),
        (chains[0], &["C4", "H4", "0", "first", "D4", "L4", "X4"]),
        (chains[1], &["C5", "H5", "0", "second", "D5", "L5", "X5"]),
    ] {
        bench.shard.begin(chain, &bench.request()).headers(Direction::Request, true);
        assert_eq!(bench.log(), expected);
    }
}

#[test]
fn the_same_directives_are_the_same_chain() {
    let filter = counter().load();
    let [a, b] = [Isolation::Auto; 2].map(|isolation| plugin(&filter, "", isolation));
    let mut plans = Plans::<Memory>::new();
    let inherited = plans.add_chain(vec![a.clone(), b.clone()]);
    assert_eq!(plans.add_chain(vec![a.clone(), b.clone()]), inherited);
    assert_ne!(plans.add_chain(vec![b, a.clone()]), inherited, "another order");
    assert_ne!(plans.add_chain(vec![a]), inherited);
}

/// A chain of no filters, and a configuration without any.
#[test]
fn without_filters_everything_goes_on() {
    let bench = Bench::new(Vec::new());
    bench.rehearse().expect("nothing to refuse");
    assert!(bench.run().is_empty());
    let mut plans = Plans::<Memory>::default();
    let id = plans.add_chain(Vec::new());
    assert!(!Bench::of(plans, id).shard.wants(id, Callback::RequestHeaders));
}
