//! Puts a table in order that was left in a file, however its last processes ended and whatever has become of the file.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    layout::{CHUNK, Chunk, Layout, MEMBERS, header},
    table::{EMPTIED, MAX_KEY, MAX_SCOPE, MAX_VALUE},
    word::{Memory, Word},
    zone::{Id, REST_CONTENT, Role, Zone, head},
};

impl<M: Memory> Zone<M> {
    /// Keeps what buckets reach and is whole, frees the rest, and forgets all members. Nobody else uses the zone.
    pub(crate) fn settle(&self) {
        for slot in 0..MEMBERS {
            for word in Layout::member(slot)..Layout::member(slot + 1) {
                self.at(word).store(0, Relaxed);
            }
        }
        let mut reached = vec![false; self.layout.chunks() + 1];
        let mut emptied = 0;
        for number in 0..u32::try_from(self.layout.buckets()).unwrap_or(u32::MAX) {
            let bucket = self.bucket(number);
            let mut chunks = Vec::new();
            let whole = bucket.cells().all(|cell| self.collect(cell.chunk, number, &mut chunks))
                && bucket.list_chunk(self).is_none_or(|list| {
                    chunks.extend(list);
                    list.is_some()
                });
            let fresh = |chunk: &Chunk| !reached[chunk.raw() as usize];
            let mut numbers: Vec<_> = chunks.iter().map(|chunk| chunk.raw()).collect();
            numbers.sort_unstable();
            numbers.dedup();
            if whole && numbers.len() == chunks.len() && chunks.iter().all(fresh) {
                chunks.iter().for_each(|chunk| reached[chunk.raw() as usize] = true);
                emptied += bucket
                    .cells()
                    .filter(|cell| self.word(cell.chunk, head::SIZES).load(Relaxed) & EMPTIED != 0)
                    .count() as u64;
            } else {
                self.empty_bucket(number);
            }
        }
        for chunk in self.layout.all_chunks() {
            let (word, bit) = self.layout.used(chunk);
            if reached[chunk.raw() as usize] {
                self.at(word).set_bits(bit);
            } else {
                self.owner(chunk).store(0, Relaxed);
                self.at(word).clear_bits(bit);
            }
        }
        self.header(header::EMPTIED).store(emptied, Relaxed);
    }

    /// Adds the chunks of the entry at `first` to `chunks`. False when it is not whole.
    fn collect(&self, first: Chunk, bucket: u32, chunks: &mut Vec<Chunk>) -> bool {
        let Some(id) = Id::of(self.owner(first).load(Relaxed), Role::Head) else { return false };
        let sizes = self.word(first, head::SIZES).load(Relaxed);
        let part = |value: u64, most: usize| usize::try_from(value).ok().filter(|size| *size <= most);
        let (Some(scope), Some(key), Some(value)) = (
            part(sizes & 0xffff, MAX_SCOPE),
            part(sizes >> 16 & 0xff_ffff, MAX_KEY),
            part(self.word(first, head::VALUE).load(Relaxed) & u64::from(u32::MAX), MAX_VALUE),
        ) else {
            return false;
        };
        let words = scope.div_ceil(8) + key.div_ceil(8) + value.div_ceil(8);
        let further = words.saturating_sub(CHUNK - head::CONTENT).div_ceil(CHUNK - REST_CONTENT);
        if self.word(first, head::NEXT).load(Relaxed) >> 32 != u64::from(bucket) {
            return false;
        }
        chunks.push(first);
        let mut at = first;
        for _ in 0..further {
            let Some(next) = self.next(at) else { return false };
            if self.owner(next).load(Relaxed) != id.owns(Role::Rest) {
                return false;
            }
            chunks.push(next);
            at = next;
        }
        self.next(at).is_none()
    }
}
