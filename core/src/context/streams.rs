//! Where the stream contexts of an instance are kept: a few in a row, which is searched faster than a table, and in a
//! table what is more than that. An instance of a request's own has as many as the request has filters of its module;
//! one that all requests of a worker share may have thousands.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// Most contexts in the row.
const ROW: usize = 8;

/// For numbers that are given here, each once, so that nobody can choose them: they need no hashing.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u32(&mut self, id: u32) {
        // Spreads consecutive ids over the table's control bits (2^64 / golden ratio).
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Contexts by their ids.
#[derive(Debug)]
pub(super) struct Streams<T> {
    row: Vec<(u32, T)>,
    table: HashMap<u32, T, BuildHasherDefault<IdHasher>>,
}

impl<T> Default for Streams<T> {
    fn default() -> Self {
        Self { row: Vec::with_capacity(ROW), table: HashMap::default() }
    }
}

impl<T> Streams<T> {
    pub(super) fn len(&self) -> usize {
        self.row.len() + self.table.len()
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        match self.row.iter().find(|(other, _)| *other == id) {
            Some((_, found)) => Some(found),
            None if self.table.is_empty() => None,
            None => self.table.get(&id),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        match self.row.iter_mut().find(|(other, _)| *other == id) {
            Some((_, found)) => Some(found),
            None if self.table.is_empty() => None,
            None => self.table.get_mut(&id),
        }
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.get(id).is_some()
    }

    /// Adds one, whose id none has.
    #[inline]
    pub(super) fn insert(&mut self, id: u32, context: T) {
        if self.row.len() < ROW {
            self.row.push((id, context));
        } else {
            self.table.insert(id, context);
        }
    }

    /// Removes that one, if it is there, and answers what `look` says of it.
    #[inline]
    pub(super) fn remove<R>(&mut self, id: u32, look: impl FnOnce(&T) -> R) -> Option<R> {
        match self.row.iter().position(|(other, _)| *other == id) {
            Some(at) => {
                // Commonly the last one, which is dropped where it is.
                let last = self.row.len() - 1;
                if at != last {
                    self.row.swap(at, last);
                }
                let looked = self.row.last().map(|(_, found)| look(found));
                self.row.truncate(last);
                looked
            }
            None if self.table.is_empty() => None,
            None => self.table.remove(&id).map(|found| look(&found)),
        }
    }

    /// Removes all; the memory stays for the next ones.
    pub(super) fn clear(&mut self) {
        self.row.clear();
        if !self.table.is_empty() {
            self.table.clear();
        }
    }

    /// All of them, to change, in no order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let table = self.table.values_mut();
        self.row.iter_mut().map(|(_, context)| context).chain(table)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let table = self.table.iter().map(|(id, context)| (*id, context));
        self.row.iter().map(|(id, context)| (*id, context)).chain(table)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Streams;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u32..24, any::<bool>()), 0..200)) {
            let (mut streams, mut model) = (Streams::default(), BTreeMap::new());
            for (at, (id, adds)) in steps.into_iter().enumerate() {
                if !adds {
                    prop_assert_eq!(streams.remove(id, |at| *at), model.remove(&id));
                } else if let Some(kept) = model.get_mut(&id) {
                    *kept = at;
                    *streams.get_mut(id).expect("it is there") = at;
                } else {
                    model.insert(id, at);
                    streams.insert(id, at);
                }
                prop_assert_eq!(streams.len(), model.len());
                prop_assert_eq!(streams.get(id), model.get(&id));
            }
            let all: BTreeMap<u32, usize> = streams.iter().map(|(id, at)| (id, *at)).collect();
            prop_assert_eq!(all, model);
            streams.clear();
            prop_assert_eq!((streams.len(), streams.contains(1)), (0, false));
        }
    }
}
