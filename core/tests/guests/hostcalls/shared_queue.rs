//! `proxy_register_shared_queue` and its kin, and `proxy_on_queue_ready`.

use std::{rc::Rc, sync::Arc};

use weir_core::{
    abi::{
        Status,
        types::StreamType::{HttpRequest, HttpResponse},
    },
    chain::{Direction, Verdict},
    failure::Budget,
    filter::Callback,
    plan::Isolation,
    shard::{Rules, Shard},
    shared::{Shared, Zones, ZonesSpec, regions::QueuesSpec},
    testing::{Memory, Worker},
};

use crate::support::{
    Guest, OUT, SIZE, Step, bad_pointers, call, case, engine, number, param, returns, say, u32_at, value,
    wat, zones,
};

const REGISTER: &str = "proxy_register_shared_queue";
const RESOLVE: &str = "proxy_resolve_shared_queue";
const ENQUEUE: &str = "proxy_enqueue_shared_queue";
const DEQUEUE: &str = "proxy_dequeue_shared_queue";

/// Calls `name` with the number of the queue that lies at [`OUT`].
fn with_queue(name: &'static str, rest: &str) -> Step {
    number(format!("(i64.extend_i32_u (call ${name} (i32.load (i32.const {OUT})) {rest}))"))
}

/// Calls with arguments that do nothing, so that the functions are imported.
fn imports() -> [Step; 2] {
    [call(ENQUEUE, [0, 0, 0]), call(DEQUEUE, [0, 64, 68])]
}

/// A guest that registers queue `q` and dequeues what comes, one message for each call.
fn consumer(name: &str) -> Guest {
    Guest::new()
        .named(name)
        .data(8, "q")
        .on(Callback::Configure, [call(REGISTER, [8, 1, OUT])])
        .on(
            Callback::QueueReady,
            [param(0), with_queue("proxy_dequeue_shared_queue", "(i32.const 64) (i32.const 68)"), value(64)],
        )
        .on(Callback::RequestHeaders, imports())
}

#[test]
fn messages_come_out_in_the_order_they_went_in() {
    let take = || with_queue("proxy_dequeue_shared_queue", "(i32.const 64) (i32.const 68)");
    let put = |at: i32| with_queue("proxy_enqueue_shared_queue", &format!("(i32.const {at}) (i32.const 1)"));
    let steps = [
        call(REGISTER, [8, 1, OUT]),
        take(),
        put(32),
        put(33),
        call(RESOLVE, [0, 0, 8, 1, OUT]),
        take(),
        value(64),
        take(),
        value(64),
        take(),
    ];
    let guest = Guest::new().named("order").data(8, "q").data(32, "ab");
    let bench = guest.on(Callback::RequestHeaders, imports().into_iter().chain(steps)).bench();
    assert_eq!(
        bench.sharing(&zones()).run(),
        ["1", "1", "0", "7", "0", "0", "0", "0", "a", "0", "b", "7"],
        "7 is EMPTY"
    );
}

#[test]
fn a_queue_has_one_number_and_is_its_vm_s_own() {
    let zones = zones();
    let register = |name: &str| {
        let steps =
            [call(REGISTER, [8, 1, OUT]), u32_at(OUT), call(RESOLVE, [16, 2, 8, 1, OUT]), u32_at(OUT)];
        let guest = Guest::new().named(name).data(8, "q").data(16, "a-vm");
        // The name is "a": its vm_id is "a-vm".
        let steps = steps.into_iter().chain([call(RESOLVE, [16, 4, 8, 1, OUT]), u32_at(OUT)]);
        guest.on(Callback::RequestHeaders, steps).bench().sharing(&zones).run()
    };
    let first = register("a");
    assert_eq!([&first[0], &first[2], &first[4]], ["0", "1", "0"], "\"a-\" has no queue");
    assert_eq!(first[1], first[5]);
    let again = register("a");
    assert_eq!(first, again, "in another worker");
    let other = register("b");
    assert_ne!(other[1], first[1]);
    assert_eq!(other[5], first[1], "found under the name of its vm");
}

#[test]
fn pointers_and_numbers_that_lead_nowhere() {
    let mut cases = vec![
        case(ENQUEUE, [77, 8, 1], Status::NotFound),
        case(DEQUEUE, [77, OUT, SIZE], Status::NotFound),
        case(ENQUEUE, [0, 8, 1], Status::NotFound),
        case(DEQUEUE, [-1, OUT, SIZE], Status::NotFound),
        case(RESOLVE, [8, 1, 9, 1, OUT], Status::NotFound),
    ];
    cases.extend(bad_pointers(REGISTER, &[8, 1, OUT], &[(0, 1)], &[(2, 4)]));
    cases.extend(bad_pointers(RESOLVE, &[8, 1, 9, 1, OUT], &[(0, 1), (2, 3)], &[(4, 4)]));
    cases.extend(bad_pointers(ENQUEUE, &[77, 8, 1], &[(1, 2)], &[]));
    cases.extend(bad_pointers(DEQUEUE, &[77, OUT, SIZE], &[], &[(1, 4), (2, 4)]));
    let calls = cases.iter().map(|(name, args, _)| call(name, args));
    let bench = Guest::new().named("nowhere").data(8, "qq").on(Callback::RequestHeaders, calls).bench();
    let answers = bench.sharing(&zones()).run();
    for (answer, (name, args, status)) in answers.iter().zip(&cases) {
        assert_eq!(*answer, status.raw().to_string(), "{name}{args:?} should answer {status:?}");
    }
}

/// A worker that has started after its configuration was rehearsed.
struct Started {
    shard: Shard<Memory>,
    worker: Worker,
    shared: Rc<Shared>,
}

impl Started {
    fn new(guest: &Guest, isolation: Isolation, zones: &Arc<Zones>) -> Self {
        let bench = guest.bench_with(isolation).sharing(zones);
        let mut plans = bench.plans.unrehearsed();
        plans.rehearse(engine(), &bench.worker).expect("accepted");
        assert_eq!(bench.log(), ["0"], "configured once in the master");
        zones.prepare_wakes(4).expect("descriptors");
        let worker = Worker::default();
        let shared = Shared::new(zones);
        worker.share(&shared);
        let shard = Shard::new(plans.into(), worker.clone());
        shard.start();
        let started = Self { shard, worker, shared };
        assert_eq!(started.log(), ["0"], "configured in the worker, without any request");
        started
    }

    fn log(&self) -> Vec<String> {
        self.worker.take_log().into_iter().map(|line| line.message).collect()
    }

    /// Whether it has been woken since this was asked last.
    fn is_woken(&self) -> bool {
        self.shared.waker().expect("it can be woken").clear()
    }

    fn queue(&self, name: &str) -> u32 {
        self.shared.resolve(format!("{name}-vm").as_bytes(), b"q").expect("registered")
    }
}

#[test]
fn the_root_that_registered_is_told_in_its_worker_once_for_a_batch() {
    for isolation in [Isolation::Auto, Isolation::None, Isolation::Stream, Isolation::Filter] {
        let zones = zones();
        let started = Started::new(&consumer("told"), isolation, &zones);
        assert!(!started.is_woken());
        let other = Shared::new(&zones);
        let queue = started.queue("told");
        for message in ["one", "two", "three"] {
            other.enqueue(queue, message.as_bytes()).expect("room");
        }
        assert!(started.is_woken() && !started.is_woken(), "once");
        started.shard.queues_ready();
        let log = started.log();
        assert_eq!(log, ["1", "0", "one", "1", "0", "two", "1", "0", "three"], "context 1 is the root");
        assert!(!started.is_woken());
        started.shard.queues_ready();
        assert_eq!(started.log(), [""; 0]);
        other.enqueue(queue, b"four").expect("room");
        assert!(started.is_woken());
        started.shard.queues_ready();
        assert_eq!(started.log(), ["1", "0", "four"]);
    }
}

/// A message that a filter fails over, again and again: requests that wait in its instance are told, and it rests.
#[test]
fn a_filter_that_fails_over_messages_is_suspended() {
    let guest = Guest::new()
        .named("poisoned")
        .data(8, "q")
        .on(Callback::Configure, [call(REGISTER, [8, 1, OUT])])
        .on(Callback::RequestHeaders, imports().into_iter().chain([returns(1)]))
        .on(Callback::QueueReady, [wat("unreachable")]);
    let zones = zones();
    zones.prepare_wakes(4).expect("descriptors");
    let bench = guest.bench_with(Isolation::None).sharing(&zones);
    let mut plans = bench.plans.unrehearsed();
    plans.rehearse(engine(), &bench.worker).expect("accepted");
    let (worker, shared) = (Worker::default(), Shared::new(&zones));
    worker.share(&shared);
    let budget = Budget { failures: 3, ..Budget::default() };
    let rules = Rules { budget, ..Rules::default() };
    let shard = Shard::with_rules(plans.into(), worker.clone(), rules);
    shard.start();
    let queue = shared.resolve(b"poisoned-vm", b"q").expect("registered");
    let request = weir_core::testing::Request::new(&worker);
    let mut chain = shard.begin(bench.id, &request);
    assert_eq!(chain.headers(Direction::Request, true), Verdict::Pause);
    let _ = worker.take_log();
    let message = || {
        shared.enqueue(queue, b"poison").expect("room");
        shard.queues_ready();
        worker.take_log().into_iter().map(|line| line.message).collect::<Vec<_>>()
    };
    let fails = |log: &[String]| log.iter().any(|line| line.contains("proxy_on_queue_ready failed"));
    let log = message();
    assert!(fails(&log), "{log:?}");
    assert_eq!(request.edit().resumed, [(HttpRequest, 0), (HttpResponse, 0)]);
    assert_eq!(chain.resume(Direction::Request, 0), Verdict::Failed { status: 500 });
    assert!(fails(&message()));
    let log = message();
    assert!(fails(&log), "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("suspended for 1 s: 3 failures within 10 s"));
    assert_eq!(message(), [""; 0], "it rests");
}

/// A root context that registers a queue in a request is told of messages as long as the worker lives, in an instance that
/// is no request's.
#[test]
fn a_queue_that_is_registered_in_a_request_has_its_root_told() {
    let told = [
        wat("(global.set $told (i32.add (global.get $told) (i32.const 1)))"),
        number("(i64.extend_i32_u (global.get $told))"),
        with_queue("proxy_dequeue_shared_queue", "(i32.const 64) (i32.const 68)"),
        value(64),
        wat("(if (i32.eq (global.get $told) (i32.const 3)) (then unreachable))"),
    ];
    let registers = [call(REGISTER, [8, 1, OUT]), number("(i64.extend_i32_u (global.get $told))")];
    let guest = Guest::new()
        .named("late")
        .plus("(global $told (mut i32) (i32.const 0))")
        .data(8, "q")
        .on(Callback::RequestHeaders, registers)
        .on(Callback::Done, imports())
        .on(Callback::QueueReady, [call(REGISTER, [8, 1, OUT])].into_iter().chain(told));
    for isolation in [Isolation::Auto, Isolation::Stream, Isolation::Filter] {
        let zones = zones();
        zones.prepare_wakes(4).expect("descriptors");
        let bench = guest.bench_with(isolation).sharing(&zones);
        let mut plans = bench.plans.unrehearsed();
        plans.rehearse(engine(), &bench.worker).expect("accepted");
        let worker = Worker::default();
        let shared = Shared::new(&zones);
        worker.share(&shared);
        let shard = Shard::new(plans.into(), worker.clone());
        shard.start();
        let log = || worker.take_log().into_iter().map(|line| line.message).collect::<Vec<_>>();
        let message = |text: &[u8]| {
            let queue = shared.resolve(b"late-vm", b"q").expect("registered");
            shared.enqueue(queue, text).expect("room");
            assert!(shared.waker().expect("it can be woken").clear(), "woken");
            shard.queues_ready();
            log()
        };
        let serve = || {
            let request = weir_core::testing::Request::new(&worker);
            let mut chain = shard.begin(bench.id, &request);
            chain.headers(Direction::Request, true);
            // Told while the request still lives.
            chain
        };
        let chain = serve();
        assert_eq!(log(), ["0", "0"], "registered");
        assert_eq!(message(b"one"), ["0", "1", "0", "one"]);
        drop(chain);
        drop(serve());
        let _ = log();
        assert_eq!(message(b"two"), ["0", "2", "0", "two"], "the same instance");
        drop(serve());
        assert_eq!(log()[..2], ["0", "0"], "no request sees what it has counted");
        assert!(message(b"three")[4].contains("proxy_on_queue_ready failed"));
        assert_eq!(message(b"four"), ["0", "1", "0", "four"], "one that failed has a successor");
    }
}

#[test]
fn who_registers_last_is_told_and_of_what_is_there_at_once() {
    let zones = zones();
    let first = Started::new(&consumer("heir"), Isolation::Auto, &zones);
    let queue = first.queue("heir");
    first.shared.enqueue(queue, b"left").expect("room");
    assert!(first.is_woken());
    let second = Started::new(&consumer("heir"), Isolation::Auto, &zones);
    assert!(second.is_woken(), "there is a message already");
    second.shard.queues_ready();
    assert_eq!(second.log(), ["1", "0", "left"]);
    first.shared.enqueue(queue, b"next").expect("room");
    assert!(second.is_woken() && !first.is_woken());
}

#[test]
fn a_root_that_takes_nothing_is_told_once_for_each_batch() {
    let zones = zones();
    let guest = Guest::new()
        .named("lazy")
        .data(8, "q")
        .on(Callback::Configure, [call(REGISTER, [8, 1, OUT])])
        .on(Callback::QueueReady, [say("told")]);
    let started = Started::new(&guest, Isolation::Auto, &zones);
    for _ in 0..2 {
        started.shared.enqueue(started.queue("lazy"), b"x").expect("room");
        started.shared.enqueue(started.queue("lazy"), b"y").expect("room");
        assert!(started.is_woken());
        started.shard.queues_ready();
        assert_eq!(started.log(), ["told"]);
        assert!(!started.is_woken());
    }
}

#[test]
fn many_messages_leave_requests_their_turn() {
    let zones = zones();
    let started = Started::new(&consumer("many"), Isolation::Auto, &zones);
    for _ in 0..100 {
        started.shared.enqueue(started.queue("many"), b"x").expect("room");
    }
    started.shard.queues_ready();
    let told = started.log().len() / 3;
    assert!((1..100).contains(&told), "{told}");
    assert!(started.is_woken(), "the rest comes later");
    started.shard.queues_ready();
    assert_eq!(started.log().len() / 3 + told, 100);
}

#[test]
fn a_root_that_traps_is_made_anew_and_told_of_the_next_message() {
    let zones = zones();
    let guest = Guest::new()
        .named("trap")
        .data(8, "q")
        .on(Callback::Configure, [call(REGISTER, [8, 1, OUT])])
        .on(Callback::QueueReady, [say("told"), wat("unreachable")]);
    let started = Started::new(&guest, Isolation::Auto, &zones);
    for again in [false, true] {
        started.shared.enqueue(started.queue("trap"), b"x").expect("room");
        assert!(started.is_woken());
        started.shard.queues_ready();
        let log = started.log();
        let configured = usize::from(again);
        assert_eq!(&log[configured..=configured], ["told"], "{log:?}");
        assert!(log[configured + 1].contains("proxy_on_queue_ready failed"), "{log:?}");
        assert!(!started.is_woken(), "not again and again");
    }
}

#[test]
fn a_full_queue_refuses() {
    let queues = QueuesSpec { name: "small".to_owned(), size: 16 << 10 };
    let zones = Zones::open(&ZonesSpec { tables: Vec::new(), queues: vec![queues] }).expect("memory");
    let fill = "(func $fill (result i32) (local $status i32) (loop $next \
        (local.set $status (call $proxy_enqueue_shared_queue (i32.load (i32.const 4096)) (i32.const 64) \
            (i32.const 900))) \
        (br_if $next (i32.eqz (local.get $status)))) (local.get $status))";
    let run = |guest: Guest| {
        let steps = [call(REGISTER, [8, 7, OUT]), call(ENQUEUE, [0, 0, 0])];
        let steps = steps.into_iter().chain([number("(i64.extend_i32_u (call $fill))")]);
        let guest = guest.data(8, "small/q").plus(fill).on(Callback::RequestHeaders, steps);
        let bench = guest.bench().sharing(&zones);
        bench.serve(&bench.request());
        bench.spoken()
    };
    let (answers, warnings) = run(Guest::new().named("c").language("C"));
    assert_eq!(answers, ["0", "1", "10"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("zone \"small\": the zone is full"), "{warnings:?}");
    assert_eq!(run(Guest::new().named("rust")).0, ["0", "1", "1"], "its SDK would panic at INTERNAL_FAILURE");
}

#[test]
fn queues_move_with_their_numbers_when_their_zone_changes_its_size() {
    let spec =
        |size| ZonesSpec { tables: Vec::new(), queues: vec![QueuesSpec { name: "moved".to_owned(), size }] };
    let zones = Zones::open(&spec(32 << 10)).expect("memory");
    let shared = Shared::new(&zones);
    let queues: Vec<_> =
        (0..20).map(|n| shared.register(b"vm", format!("moved/{n}").as_bytes()).expect("room")).collect();
    for queue in &queues {
        shared.enqueue(*queue, format!("{queue} a").as_bytes()).expect("room");
        shared.enqueue(*queue, format!("{queue} b").as_bytes()).expect("room");
    }
    let larger = Zones::open(&spec(64 << 10)).expect("memory");
    assert_eq!(larger.take_over(), []);
    let next = Shared::new(&larger);
    let mut message = Vec::new();
    for (n, queue) in queues.iter().enumerate() {
        assert_eq!(next.resolve(b"vm", format!("moved/{n}").as_bytes()), Some(*queue));
        for letter in ["a", "b"] {
            assert_eq!(next.dequeue(*queue, &mut message), Ok(()));
            assert_eq!(message, format!("{queue} {letter}").into_bytes());
        }
        assert!(next.dequeue(*queue, &mut message).is_err());
        assert!(shared.dequeue(*queue, &mut message).is_err(), "no message is there twice");
    }
}
