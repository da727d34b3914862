//! A million requests, none of which finds anything of those before it: with each way to put instances back, one
//! instance and many in turn, and requests among them that trap, make the memory larger or write much of it.

use weir_core::{
    chain::{Chain, Direction, Verdict},
    engine::{Settings, Tracking},
    failure::Budget,
    filter::Callback,
    plan::Isolation,
    shard::Rules,
    testing::Memory,
};

use crate::support::{Bench, Guest, settings, show, wat};

/// How many places of its memory a request looks at, and may write; they lie 1 KiB apart.
const PLACES: usize = 192;

/// A guest whose requests look whether all places and both globals are what they were after configuration, and then
/// write some. How, says the size of the request's body: 1 traps, 2 grows the memory, 3 writes all places and more, any
/// other number writes three places that depend on it. It answers 1 (pause) if it has found something.
fn guest() -> Guest {
    let look = format!(
        "(local $at i32)
         (loop $more
           (if (i32.load (i32.shl (local.get $at) (i32.const 10))) (then (return (i32.const 1))))
           (br_if $more (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const {PLACES}))))
         (if (i64.ne (global.get $one) (i64.const 11)) (then (return (i32.const 1))))
         (if (i32.ne (global.get $two) (i32.const 12)) (then (return (i32.const 1))))
         (if (i32.ne (memory.size) (i32.const 5)) (then (return (i32.const 1))))
         (global.set $one (i64.extend_i32_u (local.get 1)))
         (global.set $two (local.get 1))"
    );
    let place = |factor: u32| {
        format!(
            "(i32.store (i32.shl (i32.rem_u (i32.mul (local.get 1) (i32.const {factor})) (i32.const {PLACES}))
               (i32.const 10)) (i32.const -1))"
        )
    };
    let write = format!("{} {} {}", place(2_654_435_761 % 65_521), place(40_503), place(1));
    let act = format!(
        "(if (i32.eq (local.get 1) (i32.const 1)) (then {write} unreachable))
         (if (i32.eq (local.get 1) (i32.const 2)) (then (drop (memory.grow (i32.const 1)))))
         (if (i32.eq (local.get 1) (i32.const 3))
           (then (memory.fill (i32.const 0) (i32.const 255) (i32.const 327680))))
         {write}"
    );
    Guest::new()
        .plus("(global $one (mut i64) (i64.const 1)) (global $two (mut i32) (i32.const 2))")
        .on(
            Callback::Configure,
            [wat("(global.set $one (i64.const 11)) (global.set $two (i32.const 12)) (drop (memory.grow (i32.const 1)))")],
        )
        .on(Callback::RequestBody, [wat(look), wat(act)])
}

/// Whether the request goes as it should: it finds nothing, and traps only where it is asked to.
fn serve(bench: &Bench, chain: &mut Chain<Memory>, request: &weir_core::testing::Request, size: usize) {
    show(request, Direction::Request, vec![0; size]);
    let verdict = chain.body(Direction::Request, true);
    let expected = if size == 1 { Verdict::Failed { status: 500 } } else { Verdict::Continue };
    assert_eq!(verdict, expected, "body of {size}: {:?}", bench.log());
}

/// What request number `number` does: mostly the usual.
fn size(number: usize) -> usize {
    match number % 1009 {
        0 => 1,
        7 => 2,
        100..103 => 3,
        _ => 4 + number % 61,
    }
}

fn run(tracking: Tracking, isolation: Isolation, at_once: usize, requests: usize) {
    let settings = Settings { instances: 80, tracking, ..settings() };
    // However often it fails, it is not suspended.
    let budget = Budget { failures: 0, ..Budget::default() };
    let bench = guest().bench_in(&settings, isolation).rules(Rules { budget, ..Rules::default() });
    let mut open = std::collections::VecDeque::new();
    for number in 0..requests {
        let request = bench.request();
        let chain = bench.begin(&request);
        open.push_back((request, chain));
        if open.len() == at_once {
            let (request, mut chain) = open.pop_front().expect("one");
            serve(&bench, &mut chain, &request, size(number));
            drop(chain);
            bench.log();
        }
    }
}

#[test]
fn write_protection_with_one_instance() {
    run(Tracking::Protect, Isolation::Stream, 1, 300_000);
}

#[test]
fn write_protection_with_many_instances() {
    run(Tracking::Protect, Isolation::Filter, 64, 300_000);
}

#[test]
fn scanning_with_one_instance() {
    run(Tracking::Scan, Isolation::Filter, 1, 200_000);
}

#[test]
fn scanning_with_many_instances() {
    run(Tracking::Scan, Isolation::Stream, 64, 150_000);
}

#[test]
fn new_instances() {
    run(Tracking::Renew, Isolation::Stream, 1, 50_000);
}
