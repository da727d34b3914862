//! Models of what processes do at once, in every order that the memory model allows (loom).

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::{
    Kind, Unit, histogram,
    layout::{
        AT_NEXT_CELL, AT_NEXT_LINE, COMMON, DIRECTORY, LINE, RECORD_CELL, ROW_TABLES, TABLE_LINES, row_at,
    },
    memory, registry,
    registry::{Definition, Record},
    words::{Shared, Word, Words, place},
};

/// Words of the model: those that threads contend for are loom's, the others are not looked at by two threads unless
/// one of these has passed them on.
struct Model {
    hot: Vec<(usize, AtomicU64)>,
    cold: Vec<std::sync::atomic::AtomicU64>,
}

impl Model {
    /// `lines` lines, all zeros, of which the words in `hot` are contended for.
    fn new(hot: &[usize], lines: usize) -> Self {
        let cold = (0..lines * LINE).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
        Self { hot: hot.iter().map(|at| (*at, AtomicU64::new(0))).collect(), cold }
    }

    fn hot(&self, at: usize) -> Option<&AtomicU64> {
        self.hot.iter().find(|(hot, _)| *hot == at).map(|(_, word)| word)
    }
}

impl Words for Model {
    fn size(&self) -> usize {
        self.cold.len()
    }

    fn load(&self, at: usize) -> u64 {
        match self.hot(at) {
            Some(word) => word.load(Ordering::Acquire),
            None => self.cold.get(at).map_or(0, |word| word.load(Ordering::Relaxed)),
        }
    }
}

impl Shared for Model {
    fn store(&self, at: usize, value: u64) {
        match self.hot(at) {
            Some(word) => word.store(value, Ordering::Release),
            None => self.cold[at].store(value, Ordering::Relaxed),
        }
    }

    fn add(&self, at: usize, value: u64) {
        match self.hot(at) {
            Some(word) => word.fetch_add(value, Ordering::Relaxed),
            None => self.cold[at].fetch_add(value, Ordering::Relaxed),
        };
    }

    fn raise(&self, at: usize, value: u64) {
        match self.hot(at) {
            Some(word) => word.fetch_max(value, Ordering::AcqRel),
            None => self.cold[at].fetch_max(value, Ordering::Relaxed),
        };
    }

    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        let replaced = match self.hot(at) {
            Some(word) => word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire),
            None => self.cold[at].compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed),
        };
        replaced.map(|_| ())
    }
}

fn definition(name: &'static str) -> Definition<'static> {
    Definition {
        kind: Kind::Counter,
        unit: Unit::None,
        transient: false,
        scope: "f",
        name: name.as_bytes(),
        family: name,
        labels: "",
        help: "",
    }
}

/// A directory whose table has been made, and cells for everybody's row, so that what is left is the race for slots.
fn directory() -> Model {
    const TABLE: usize = 600;
    const ROW_TABLE: usize = 640;
    const CHUNK: usize = 680;
    let slots = [TABLE * LINE, TABLE * LINE + 1];
    let model = Model::new(&[AT_NEXT_LINE, AT_NEXT_CELL, slots[0], slots[1]], 900);
    model.store(AT_NEXT_LINE, 700);
    model.store(DIRECTORY, TABLE as u64);
    model.store(row_at(COMMON) + ROW_TABLES, ROW_TABLE as u64);
    model.store(ROW_TABLE * LINE, CHUNK as u64);
    model
}

#[test]
fn processes_that_define_the_same_metric_get_the_same_slot() {
    loom::model(|| {
        let model = Arc::new(directory());
        let other = Arc::clone(&model);
        let thread = thread::spawn(move || registry::define(&*other, &definition("a"), 0, 1, 0));
        let mine = registry::define(&*model, &definition("a"), 0, 1, 0);
        assert_eq!((mine, thread.join().expect("no panic")), (Ok(0), Ok(0)));
        assert_eq!(registry::line_of(&*model, 1), None);
    });
}

#[test]
fn processes_that_define_different_metrics_get_a_slot_and_a_cell_each() {
    loom::model(|| {
        let model = Arc::new(directory());
        let other = Arc::clone(&model);
        let thread = thread::spawn(move || registry::define(&*other, &definition("a"), 0, 1, 0));
        let b = registry::define(&*model, &definition("b"), 0, 1, 0).expect("a slot");
        let a = thread.join().expect("no panic").expect("a slot");
        assert_eq!(a + b, 1, "one has the first slot, one the second");
        let record = |at| {
            let line = registry::line_of(&*model, at).expect("a record");
            (Record::read(&*model, line).expect("a whole one"), model.load(line * LINE + RECORD_CELL))
        };
        assert_eq!((record(a).0.family, record(b).0.family), ("a".to_owned(), "b".to_owned()));
        assert_ne!(record(a).1, record(b).1);
    });
}

#[test]
fn whoever_sees_a_slot_sees_a_whole_record() {
    loom::model(|| {
        let model = Arc::new(directory());
        let other = Arc::clone(&model);
        let thread = thread::spawn(move || registry::define(&*other, &definition("a"), 0, 1, 0));
        if let Some(line) = registry::line_of(&*model, 0) {
            assert_eq!(Record::read(&*model, line).expect("a whole one").family, "a");
        }
        assert_eq!(thread.join().expect("no panic"), Ok(0));
    });
}

#[test]
fn rows_that_are_shared_get_one_table_and_lose_no_line_twice() {
    loom::model(|| {
        let reference = row_at(3) + ROW_TABLES;
        let model = Arc::new(Model::new(&[AT_NEXT_LINE, reference], 800));
        model.store(AT_NEXT_LINE, 700);
        let other = Arc::clone(&model);
        let thread = thread::spawn(move || memory::refer(&*other, reference, TABLE_LINES));
        let mine = memory::refer(&*model, reference, TABLE_LINES);
        assert_eq!(mine, thread.join().expect("no panic"));
        assert_eq!(mine, Some(place(model.load(reference))));
        assert!(place(model.load(AT_NEXT_LINE)) <= 700 + 2 * TABLE_LINES);
    });
}

#[test]
fn values_recorded_at_once_in_one_row_are_all_there() {
    loom::model(|| {
        let head = Word { at: 600 * LINE, alone: false };
        let model = Arc::new(one_histogram(head));
        let other = Arc::clone(&model);
        let thread = thread::spawn(move || histogram::record(&*other, head, 5));
        histogram::record(&*model, head, 5);
        thread.join().expect("no panic");
        let values = values(&model, head);
        assert_eq!((values.count(), values.sum(), values.least(), values.most()), (2, 10, Some(5), Some(5)));
        assert_eq!(values.counts()[5], 2, "each has found its bucket");
    });
}

#[test]
fn a_reader_sees_of_a_row_with_one_writer_what_it_has_recorded() {
    loom::model(|| {
        let head = Word { at: 600 * LINE, alone: true };
        let model = Arc::new(one_histogram(head));
        let writer = Arc::clone(&model);
        let thread = thread::spawn(move || (0..2).for_each(|_| histogram::record(&*writer, head, 5)));
        let seen = values(&model, head).counts()[5];
        assert!(seen <= 2, "{seen}");
        assert!(values(&model, head).counts()[5] >= seen, "it never becomes less");
        thread.join().expect("no panic");
        let values = values(&model, head);
        assert_eq!((values.count(), values.sum()), (2, 10));
    });
}

/// Memory with the histogram at `head`, which has no buckets yet.
fn one_histogram(head: Word) -> Model {
    let head = head.at;
    let hot = [AT_NEXT_LINE, head, head + 1, head + 2, head + 8, 700 * LINE + 5, 732 * LINE + 5];
    let model = Model::new(&hot, 800);
    model.store(AT_NEXT_LINE, 700);
    model
}

fn values(model: &Model, head: Word) -> histogram::Distribution {
    let mut values = histogram::Distribution::default();
    values.add(model, head.at);
    values
}
