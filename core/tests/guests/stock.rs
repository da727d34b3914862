//! How many instances there are: what is held ready, and who waits where all are in use.

use weir_core::{chain::Direction, engine::Settings, plan::Isolation, testing::Request};

use crate::support::{Bench, Guest, settings};

/// A worker that has `instances` at the most.
fn bench(instances: u32, isolation: Isolation) -> Bench {
    Guest::tracer().bench_in(&Settings { instances, ..settings() }, isolation)
}

fn was_told(request: &Request) -> bool {
    std::mem::take(&mut request.edit().instance_free)
}

#[test]
fn who_waits_is_told_when_an_instance_comes_back_the_first_one_first() {
    let bench = bench(2, Isolation::Stream);
    let room = || bench.shard.has_room(bench.id);
    let first = bench.begin(&bench.request());
    assert!(room());
    let second = bench.begin(&bench.request());
    assert!(!room());
    let waiting: Vec<_> = (0..3).map(|_| bench.request()).collect();
    for request in &waiting {
        bench.shard.wait(request);
    }
    assert!(!waiting.iter().any(was_told));
    // The one whose turn it would be has gone.
    waiting[0].edit().gone = true;
    drop(first);
    assert!(room());
    assert_eq!(waiting.iter().map(was_told).collect::<Vec<_>>(), [false, true, false]);
    drop(second);
    assert_eq!(waiting.iter().map(was_told).collect::<Vec<_>>(), [false, false, true]);
    drop(bench.begin(&bench.request()));
    assert!(!waiting.iter().any(was_told), "each once");
}

/// An instance that fails makes room as well.
#[test]
fn a_failure_makes_room() {
    let fails = [crate::support::wat("unreachable")];
    let guest = Guest::new().on(weir_core::filter::Callback::RequestHeaders, fails);
    let bench = guest.bench_in(&Settings { instances: 1, ..settings() }, Isolation::Stream);
    for _ in 0..5 {
        let waits = bench.request();
        let mut chain = bench.begin(&bench.request());
        bench.shard.wait(&waits);
        chain.headers(Direction::Request, true);
        drop(chain);
        assert!(was_told(&waits) && bench.shard.has_room(bench.id));
    }
}

#[test]
fn what_all_requests_share_is_never_in_use() {
    let bench = bench(1, Isolation::None);
    let _chains: Vec<_> = (0..10).map(|_| bench.begin(&bench.request())).collect();
    assert!(bench.shard.has_room(bench.id));
}

/// The last one that was ready is taken: another one is made when there is time, unless there may be no more.
#[test]
fn spare_instances_are_made_when_there_is_time() {
    let bench = bench(2, Isolation::Stream);
    let first = bench.begin(&bench.request());
    assert!(bench.worker.take_idle());
    bench.shard.idle();
    assert!(!bench.worker.take_idle(), "one is enough");
    assert!(bench.shard.has_room(bench.id), "one that nobody uses is no obstacle");
    let second = bench.begin(&bench.request());
    assert!(bench.worker.take_idle());
    bench.shard.idle();
    assert!(!bench.worker.take_idle(), "there is no room for more");
    assert!(!bench.shard.has_room(bench.id));
    drop((first, second));
    drop(bench.begin(&bench.request()));
    assert!(!bench.worker.take_idle(), "another one is left");
}

/// A response may take hours: an instance that has nothing more to do serves others meanwhile.
#[test]
fn what_has_nothing_left_to_do_comes_back_early() {
    use weir_core::{chain::Verdict, filter::Callback};

    let seen = |callbacks: &[Callback]| {
        let guest = callbacks.iter().fold(Guest::new(), |guest, callback| {
            guest.on(*callback, [crate::support::wat("i32.const 0 drop")])
        });
        let bench = guest.bench_in(&Settings { instances: 1, ..settings() }, Isolation::Stream);
        let room = || bench.shard.has_room(bench.id);
        let waits = bench.request();
        let mut chain = bench.begin(&bench.request());
        bench.shard.wait(&waits);
        let mut rooms = vec![room()];
        for direction in [Direction::Request, Direction::Response] {
            assert_eq!(chain.headers(direction, false), Verdict::Continue);
            rooms.push(room());
            assert_eq!(was_told(&waits), rooms[rooms.len() - 1] && !rooms[rooms.len() - 2]);
            if room() {
                // Another request comes and goes.
                bench.serve(&bench.request());
            }
            assert_eq!(chain.body(direction, true), Verdict::Continue);
        }
        drop(chain);
        assert!(room());
        rooms
    };
    assert_eq!(seen(&[Callback::RequestHeaders]), [false, true, true]);
    assert_eq!(seen(&[Callback::RequestHeaders, Callback::ResponseHeaders]), [false, false, true]);
    for later in
        [Callback::RequestBody, Callback::ResponseBody, Callback::Log, Callback::Done, Callback::Delete]
    {
        assert_eq!(seen(&[Callback::RequestHeaders, later]), [false, false, false], "{later:?}");
    }
}
