//! What a zone tells of itself to whoever watches it. Nothing here stops anybody: numbers are right if nobody writes
//! meanwhile, and nearly so otherwise.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    layout::{Kind, header},
    table::EMPTIED,
    word::{Memory, Word},
    zone::{Id, Role, Zone, head},
};

impl<M: Memory> Zone<M> {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.layout.kind()
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.layout.chunks()
    }

    /// How many entries have made room for others.
    pub fn evictions(&self) -> u64 {
        self.header(header::EVICTIONS).load(Relaxed)
    }

    /// How many writes were refused for want of room.
    pub fn refusals(&self) -> u64 {
        self.header(header::REFUSALS).load(Relaxed)
    }

    /// How many entries that have a value begin in the `count` chunks from number `from` on, counted from 0.
    pub fn entries_among(&self, from: usize, count: usize) -> usize {
        let is_entry = |chunk: &_| {
            Id::of(self.owner(*chunk).load(Relaxed), Role::Head).is_some()
                && self.word(*chunk, head::SIZES).load(Relaxed) & EMPTIED == 0
        };
        let numbers = from as u64 + 1..from.saturating_add(count) as u64 + 1;
        numbers.map_while(|number| self.layout.chunk(number)).filter(is_entry).count()
    }
}
