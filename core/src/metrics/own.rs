//! Metrics of Weir's own: how they are defined, and the ways to write them that cost least.
//!
//! A metric is known by an [`Id`], the same in all processes, or by a [`Slot`]: its place in the row of this process,
//! looked up once, so that writing it is one store or one add.

use super::{
    Kind, Metrics, OWN, Unit,
    histogram::Batch,
    registry::Definition,
    tags,
    words::{Shared, Word},
};

/// How many histograms [`Metrics::observe_each`] writes to in turn: eight filters' worth.
const BATCHES: usize = 64;

/// A metric of Weir's own, for [`Metrics::add`] and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub(super) u32);

/// Where this process keeps its value of a counter or level; good as long as it has its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(Word);

/// A metric of Weir's own, as it is defined.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// What it counts.
    pub kind: Kind,
    /// What its numbers are.
    pub unit: Unit,
    /// Its exported name, without `_total`.
    pub family: &'a str,
    /// It is shown only as long as the running configuration defines it.
    pub transient: bool,
    /// One sentence.
    pub help: &'a str,
}

impl<'a> Own<'a> {
    /// A metric that is shown as long as the running configuration defines it; its numbers are just numbers.
    #[must_use]
    pub const fn new(kind: Kind, family: &'a str, help: &'a str) -> Self {
        Self { kind, unit: Unit::None, family, transient: true, help }
    }

    /// The same of numbers that are `unit`.
    #[must_use]
    pub const fn of(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }
}

impl Metrics {
    /// Defines a metric of Weir's own; `None` when there is no room.
    pub fn define_own(&self, own: &Own<'_>, labels: &[(&str, &str)]) -> Option<Id> {
        let labels = tags::labels(labels);
        let name = format!("{}{{{labels}}}", own.family);
        let definition = Definition {
            kind: own.kind,
            unit: own.unit,
            transient: own.transient,
            scope: "",
            name: name.as_bytes(),
            family: own.family,
            labels: &labels,
            help: own.help,
        };
        self.define_in(&definition, 0).map(Id)
    }

    /// Defines a counter or level of Weir's own and finds its place in the row of this process, which has to have it
    /// already ([`claim_row`](Self::claim_row)).
    #[must_use]
    pub fn slot(&self, own: &Own<'_>, labels: &[(&str, &str)]) -> Slot {
        let id = self.define_own(own, labels);
        let cell = id.and_then(|id| self.cell(OWN, id.0));
        Slot(cell.and_then(|(cell, _)| self.own_word(cell)).unwrap_or_default())
    }

    /// Sets the level at `slot`.
    #[inline]
    pub fn put(&self, slot: Slot, value: u64) {
        if slot != Slot::default() {
            self.words.store(slot.0.at, value);
        }
    }

    /// Adds to the counter at `slot`.
    #[inline]
    pub fn count(&self, slot: Slot, value: u64) {
        if slot != Slot::default() {
            slot.0.add(&self.words, value);
        }
    }

    /// Adds to the level at `slot`; a negative `change` takes away.
    #[inline]
    pub fn shift(&self, slot: Slot, change: i64) {
        self.count(slot, change.cast_unsigned());
    }

    /// Sets a level of Weir's own.
    pub fn set(&self, id: Id, value: u64) {
        if let Some((cell, _)) = self.cell(OWN, id.0) {
            self.set_to(self.own_word(cell), value);
        }
    }

    /// Adds to a counter of Weir's own.
    #[inline]
    pub fn add(&self, id: Id, value: u64) {
        if let Some((cell, _)) = self.cell(OWN, id.0) {
            self.add_to(self.own_word(cell), value);
        }
    }

    /// Records a value in a histogram of Weir's own.
    #[inline]
    pub fn observe(&self, id: Id, value: u64) {
        if let Some((cell, _)) = self.cell(OWN, id.0) {
            self.record_in(cell, value);
        }
    }

    /// Records many values in few histograms of Weir's own, each so many times: most of what one takes is done once for all
    /// of its values.
    pub(super) fn observe_each(&self, values: impl Iterator<Item = (Id, u64, u64)>) {
        let words = self.words.view();
        let mut batches = [const { None::<(Id, Batch)> }; BATCHES];
        for (id, value, times) in values {
            let place = &mut batches[id.0 as usize % BATCHES];
            match place {
                Some((known, batch)) if *known == id => batch.add(&words, value, times),
                _ => {
                    let cell = self.cell(OWN, id.0);
                    let Some(head) = cell.and_then(|(cell, _)| self.own_word(cell)) else { continue };
                    let mut batch = Batch::new(head);
                    batch.add(&words, value, times);
                    if let Some((_, full)) = place.replace((id, batch)) {
                        full.write(&words);
                    }
                }
            }
        }
        batches.iter().flatten().for_each(|(_, batch)| batch.write(&words));
    }

    /// Sets a gauge or counter of Weir's own that all processes know alike: whoever looks says what it is.
    pub fn publish(&self, id: Id, value: u64) {
        if let Some((cell, _)) = self.cell(OWN, id.0) {
            self.set_to(self.common_word(cell), value);
        }
    }
}
