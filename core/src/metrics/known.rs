//! What a process knows of the directory: numbers of metrics by their names, and where each number's cell is.

use std::{
    collections::HashMap,
    sync::{PoisonError, atomic::Ordering},
};

use super::{
    Kind, MetricError, Metrics, OWN, Scope, Unit,
    layout::LINE,
    registry::{self, Definition, Record},
    tags,
    words::{Words, place},
};

/// What this process has learned of the directory.
#[derive(Default)]
pub(super) struct Names {
    /// Numbers of metrics by scope, kind and name.
    known: HashMap<(String, Kind, Vec<u8>), u32>,
    /// How many slots of the directory have been looked at.
    seen: usize,
    /// Scopes that have a number: 0 is Weir's own.
    scopes: HashMap<String, u32>,
}

impl Metrics {
    /// The scope of filter `name`.
    pub fn scope(&self, name: &str) -> Scope {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        Scope(names.scope(name))
    }

    /// Defines a guest's metric, and returns its number: the same in all workers, and after a reload.
    ///
    /// # Errors
    /// [`MetricError`]
    pub fn define(&self, filter: &str, kind: Kind, name: &[u8]) -> Result<u32, MetricError> {
        if name.len() > self.options.name_length {
            return Err(MetricError::NameTooLong(self.options.name_length));
        }
        if let Some(id) = self.known(filter, kind, name) {
            return Ok(id);
        }
        let named = tags::name(filter, kind, name, &self.options.tags);
        let definition = Definition {
            kind,
            unit: Unit::None,
            transient: false,
            scope: filter,
            name,
            family: &named.family,
            labels: &named.labels,
            help: "Defined by a filter.",
        };
        // An eighth is left for Weir's own metrics and for rows and buckets of those that are there.
        let reserve = self.words.size() / LINE / 8;
        self.define_in(&definition, reserve).ok_or(MetricError::Full)
    }

    fn known(&self, scope: &str, kind: Kind, name: &[u8]) -> Option<u32> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.learn(&mut names);
        names.known.get(&(scope.to_owned(), kind, name.to_vec())).copied()
    }

    pub(super) fn define_in(&self, definition: &Definition<'_>, reserve: usize) -> Option<u32> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.learn(&mut names);
        let key = (definition.scope.to_owned(), definition.kind, definition.name.to_vec());
        let from = names.known.get(&key).map_or(names.seen, |id| place(u64::from(*id)) - 1);
        let at = registry::define(&self.words, definition, from, self.generation, reserve).ok()?;
        self.learn(&mut names);
        u32::try_from(at + 1).ok()
    }

    /// Looks at slots of the directory that have been filled since, by whichever process.
    fn learn(&self, names: &mut Names) {
        while let Some(line) = registry::line_of(&self.words, names.seen) {
            let at = names.seen;
            names.seen += 1;
            // One that lies behind the end of an older, smaller mapping is nobody's here.
            let Some(record) = Record::read(&self.words, line) else { continue };
            let scope = names.scope(&record.scope);
            let (Some(known), Ok(id)) = (self.cells.get(at), u32::try_from(at + 1)) else { continue };
            known.store(pack(record.cell, record.kind, Scope(scope)), Ordering::Relaxed);
            names.known.insert((record.scope, record.kind, record.name), id);
        }
    }

    /// Cell and kind of metric number `id`, if it belongs to `scope`.
    #[inline]
    pub(super) fn cell(&self, scope: Scope, id: u32) -> Option<(usize, Kind)> {
        let at = place(u64::from(id)).checked_sub(1)?;
        let mut packed = self.cells.get(at)?.load(Ordering::Relaxed);
        if packed == 0 {
            self.learn_now();
            packed = self.cells.get(at)?.load(Ordering::Relaxed);
        }
        let (cell, kind, owner) = unpack(packed)?;
        (owner == scope).then_some((cell, kind))
    }

    #[cold]
    fn learn_now(&self) {
        self.learn(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Names {
    fn scope(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return OWN.0;
        }
        let next = u32::try_from(self.scopes.len() + 1).unwrap_or(u32::MAX);
        *self.scopes.entry(name.to_owned()).or_insert(next)
    }
}

/// 32 bits of cell, 8 of kind, 24 of scope. Not 0, since the kind is counted from 1.
fn pack(cell: usize, kind: Kind, scope: Scope) -> u64 {
    // A cell that does not fit is beyond every row: there are 2^18.
    let cell = u32::try_from(cell).unwrap_or(u32::MAX);
    u64::from(cell) | (kind as u64 + 1) << 32 | u64::from(scope.0) << 40
}

#[inline]
fn unpack(packed: u64) -> Option<(usize, Kind, Scope)> {
    let [_, _, _, _, kind, ..] = packed.to_le_bytes();
    let kind = Kind::from_raw(kind.checked_sub(1)?)?;
    let scope = u32::try_from(packed >> 40).ok()?;
    Some((place(packed & u64::from(u32::MAX)), kind, Scope(scope)))
}
