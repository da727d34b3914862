//! Zones under every order in which the steps of two or three processes can follow each other (loom), with at most two
//! interruptions, and with every value that the memory model lets a load see.
//!
//! The code is the one that runs in a server: only the words of the zone are loom's.

use std::sync::{OnceLock, atomic::Ordering};

use loom::sync::{Arc, atomic::AtomicU64};
use weir_loom::shared::{
    Eviction,
    layout::{Kind, Layout},
    members::{Lifelines, Member},
    word::Word,
    zone::Zone,
};

/// Words of the records of all members but three: see `shared/layout.rs`.
const UNUSED: std::ops::Range<usize> = 128 + 3 * 24..128 + 256 * 24;

/// A word that loom knows once it is used: a zone has thousands, a model uses some dozens.
#[derive(Debug, Default)]
struct Watched(OnceLock<AtomicU64>);

impl Watched {
    fn get(&self) -> &AtomicU64 {
        self.0.get_or_init(|| AtomicU64::new(0))
    }
}

impl Word for Watched {
    fn load(&self, order: Ordering) -> u64 {
        self.get().load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.get().store(value, order);
    }

    fn replace(&self, current: u64, new: u64) -> Result<(), u64> {
        self.get().compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    fn swap(&self, value: u64) -> u64 {
        self.get().swap(value, Ordering::AcqRel)
    }

    fn add(&self, value: u64) -> u64 {
        self.get().fetch_add(value, Ordering::Relaxed)
    }

    fn set_bits(&self, value: u64) -> u64 {
        self.get().fetch_or(value, Ordering::Relaxed)
    }

    fn clear_bits(&self, value: u64) {
        self.get().fetch_and(!value, Ordering::Relaxed);
    }

    fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }
}

type Modelled = Zone<Box<[Watched]>>;

fn model(kind: Kind, run: impl Fn(Arc<Modelled>, &dyn Fn() -> Member) + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 100_000;
    builder.check(move || {
        let layout = Layout::new(kind, 0);
        let memory: Box<[Watched]> = (0..layout.words()).map(|_| Watched::default()).collect();
        // Before there is a second thread, which could not tell otherwise that they are there. No model needs the
        // records of a third member.
        for word in memory.iter().take(UNUSED.start).chain(memory.iter().skip(UNUSED.end)) {
            word.get();
        }
        let zone = Arc::new(Zone::create(memory, layout, [1, 2]).expect("large enough"));
        let lifelines = Lifelines::local();
        let join = || zone.join(&lifelines).expect("a place");
        run(Arc::clone(&zone), &join);
    });
}

const NONE: Eviction = Eviction::None;

/// Two writers of one key with the same number: one of them wins, and a reader sees one value or another, whole.
#[test]
fn one_exchange_of_two_wins() {
    model(Kind::Table, |zone, join| {
        let (first, second) = (join(), join());
        let cas = zone.set(&first, NONE, b"", b"k", Some(b"before"), 0).expect("room");
        let other = Arc::clone(&zone);
        let writer =
            loom::thread::spawn(move || other.set(&second, NONE, b"", b"k", Some(b"second"), cas).is_ok());
        let mine = zone.set(&first, NONE, b"", b"k", Some(b"first"), cas).is_ok();
        let theirs = writer.join().expect("it ends");
        assert!(mine != theirs, "{mine} {theirs}");
        let mut found = Vec::new();
        zone.get(NONE, b"", b"k", &mut found).expect("there");
        assert_eq!(found, if mine { &b"first"[..] } else { b"second" });
        // One for the entry, and one that each member keeps.
        assert_eq!(zone.owned_chunks(), 3);
    });
}

/// A reader while the entry is replaced twice, so that its chunk is used again.
#[test]
fn a_reader_never_sees_a_torn_value() {
    model(Kind::Table, |zone, join| {
        let member = join();
        zone.set(&member, NONE, b"", b"k", Some(&[1; 16]), 0).expect("room");
        let other = Arc::clone(&zone);
        let writer = loom::thread::spawn(move || {
            for value in [2, 3] {
                other.set(&member, NONE, b"", b"k", Some(&[value; 16]), 0).expect("room");
            }
        });
        let mut found = Vec::new();
        zone.get(NONE, b"", b"k", &mut found).expect("it was there all the time");
        assert!(found.len() == 16 && found.iter().all(|byte| *byte == found[0]), "{found:?}");
        writer.join().expect("it ends");
    });
}

/// An exchange for the first value, while the entry is replaced twice: then its chunk is where it was, and only the
/// bucket's count of changes tells that what the exchange has found is no longer there.
#[test]
fn an_exchange_never_replaces_what_came_after_what_it_has_found() {
    model(Kind::Table, |zone, join| {
        let (first, second) = (join(), join());
        let cas = zone.set(&first, NONE, b"", b"k", Some(b"before"), 0).expect("room");
        let other = Arc::clone(&zone);
        let writer = loom::thread::spawn(move || {
            for value in [b"second", b"third "] {
                other.set(&second, NONE, b"", b"k", Some(value), 0).expect("room");
            }
        });
        // It may win, but only before the others.
        let _ = zone.set(&first, NONE, b"", b"k", Some(b"exchanged"), cas);
        writer.join().expect("it ends");
        let mut found = Vec::new();
        zone.get(NONE, b"", b"k", &mut found).expect("there");
        assert_eq!(found, b"third ");
        assert_eq!(zone.owned_chunks(), 3);
    });
}

/// Two processes that append, and one message each comes out, in no particular order.
#[test]
fn two_that_append() {
    model(Kind::Queues, |zone, join| {
        let (first, second) = (join(), join());
        let queue = zone.register(&first, b"", b"q").expect("room");
        let other = Arc::clone(&zone);
        let writer = loom::thread::spawn(move || other.enqueue(&second, queue, b"b").is_ok());
        zone.enqueue(&first, queue, b"a").expect("room");
        assert!(writer.join().expect("it ends"));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        assert!(zone.dequeue(&first, queue, &mut one) && zone.dequeue(&first, queue, &mut two));
        let mut all = [one, two];
        all.sort();
        assert_eq!(all, [b"a", b"b"]);
        assert!(!zone.dequeue(&first, queue, &mut all[0]));
    });
}

/// Two processes that take from a queue of two: each message is taken once.
#[test]
fn two_that_take() {
    model(Kind::Queues, |zone, join| {
        let (first, second) = (join(), join());
        let queue = zone.register(&first, b"", b"q").expect("room");
        for message in [b"a", b"b"] {
            zone.enqueue(&first, queue, message).expect("room");
        }
        let other = Arc::clone(&zone);
        let taker = loom::thread::spawn(move || {
            let mut message = Vec::new();
            assert!(other.dequeue(&second, queue, &mut message));
            message
        });
        let mut message = Vec::new();
        assert!(zone.dequeue(&first, queue, &mut message));
        let mut all = [message, taker.join().expect("it ends")];
        all.sort();
        assert_eq!(all, [b"a", b"b"]);
        assert!(zone.is_empty(queue));
    });
}

/// One appends while one takes: what is taken is what was appended, and the listener is told once.
#[test]
fn one_appends_and_one_takes() {
    model(Kind::Queues, |zone, join| {
        let (first, second) = (join(), join());
        let queue = zone.register(&first, b"", b"q").expect("room");
        assert!(!zone.listen(queue, 7));
        let other = Arc::clone(&zone);
        let writer = loom::thread::spawn(move || other.enqueue(&second, queue, b"a").expect("room"));
        let mut message = Vec::new();
        zone.heard(queue);
        let early = zone.dequeue(&first, queue, &mut message);
        let told = writer.join().expect("it ends");
        assert_eq!(told, Some(7), "whoever looks before a message is there is told of it");
        assert!(early || zone.dequeue(&first, queue, &mut message));
        assert_eq!(message, b"a");
    });
}

/// Two processes that register one name get one number; two names never get the same.
#[test]
fn names_have_one_number() {
    model(Kind::Queues, |zone, join| {
        let (first, second) = (join(), join());
        let other = Arc::clone(&zone);
        let writer = loom::thread::spawn(move || other.register(&second, b"", b"q").expect("room"));
        let mine = zone.register(&first, b"", b"q").expect("room");
        assert_eq!(mine, writer.join().expect("it ends"));
        assert_eq!(zone.resolve(b"", b"q"), Some(mine));
    });
}

/// Two processes that join have records of their own.
#[test]
fn members_have_records_of_their_own() {
    model(Kind::Table, |zone, join| {
        let (first, second) = (join(), join());
        let other = Arc::clone(&zone);
        let writer = loom::thread::spawn(move || {
            other.set(&second, NONE, b"", b"b", Some(b"2"), 0).expect("room");
        });
        zone.set(&first, NONE, b"", b"a", Some(b"1"), 0).expect("room");
        writer.join().expect("it ends");
        let mut found = Vec::new();
        assert!(zone.get(NONE, b"", b"a", &mut found).is_some());
        assert!(zone.get(NONE, b"", b"b", &mut found).is_some());
        assert_eq!(zone.owned_chunks(), 4);
    });
}
