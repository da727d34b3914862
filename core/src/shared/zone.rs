//! A zone: chunks of memory that processes claim, fill and free without locks, and that never stay lost.
//!
//! Each chunk has an *owner* word: 0 while it is free, else the id of what it is part of. An id is used once, so
//! whoever finds that something is unreachable can free its chunks, several processes at once and over again: only
//! chunks that still have the id become free.
//!
//! What a process is making or removing stands in its record ([`members`](super::members)) before it begins, so if it
//! dies its successor finds out whether the one atomic step that publishes or removes has been made, and frees what
//! nothing reaches. A process that dies thus blocks nobody, and loses at most what it was writing.
//!
//! Readers copy first and ask then: bytes of a chunk change only after its owner has changed, so if the owner of an
//! entry's first chunk is the same afterwards, what was copied is whole. The first chunk of an entry is freed first.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

mod content;

use content::key_words;
pub(crate) use content::{Reader, sizes};

use super::{
    hash,
    layout::{CHUNK, Chunk, Kind, Layout, MAGIC, header},
    members::Member,
    word::{Memory, Word},
};

/// What a chunk is within what it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// First chunk of an entry or message.
    Head = 1,
    /// A further one.
    Rest = 2,
    /// A list of entries that share a bucket.
    Node = 3,
}

/// What a chunk is part of: number of the member that made it, number of the thing. Used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(u64);

impl Id {
    const ROLE: u64 = 3;

    /// Thing number `number` of member number `incarnation` (30 bits, from 1).
    pub(crate) const fn new(incarnation: u32, number: u32) -> Self {
        Self((incarnation as u64) << 34 | (number as u64) << 2)
    }

    /// The id in a journal's word; `None` where there is none.
    pub(crate) const fn from_raw(raw: u64) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw & !Self::ROLE)) }
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// The owner word of its chunk in that role.
    pub(crate) const fn owns(self, role: Role) -> u64 {
        self.0 | role as u64
    }

    /// The id in an owner word that says `role`.
    pub(crate) const fn of(owner: u64, role: Role) -> Option<Self> {
        if owner & Self::ROLE == role as u64 { Self::from_raw(owner) } else { None }
    }
}

/// What is read has been changed meanwhile: read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed;

/// There is no free chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// Words of an entry's first chunk.
pub(crate) mod head {
    /// Tables: how often it was used lately. Queues: the message after it.
    pub(crate) const LINK: usize = 0;
    /// Low half: its next chunk. High half: bucket, or queue.
    pub(crate) const NEXT: usize = 1;
    /// Sizes of its scope and key, and flags.
    pub(crate) const SIZES: usize = 2;
    /// Low half: size of its value. High half: its `cas` number.
    pub(crate) const VALUE: usize = 3;
    /// Scope and key, filled up to whole words, then the value.
    pub(crate) const CONTENT: usize = 4;
}

/// First word of content in a chunk that is not the first. Word 0 is left alone: queues count there.
pub(crate) const REST_CONTENT: usize = 2;

/// How many words of used-bits are looked at first: 4096 chunks.
const NEAR: usize = 64;

/// When all chunks were found to be in use, something is evicted that many times before all are looked at again.
const SCARCE: u32 = 1024;

/// One zone.
#[derive(Debug)]
pub struct Zone<M> {
    memory: M,
    pub(crate) layout: Layout,
}

impl<M: Memory> Zone<M> {
    /// A new zone in `memory`, which is all zeros; `seed` keys its hash function. `None` when the memory is too small.
    pub fn create(memory: M, layout: Layout, seed: [u64; 2]) -> Option<Self> {
        if memory.words().len() < layout.words() {
            return None;
        }
        let zone = Self { memory, layout };
        zone.header(header::KIND).store(layout.kind().raw(), Relaxed);
        zone.header(header::CHUNKS).store(layout.chunks() as u64, Relaxed);
        zone.header(header::SEED).store(seed[0], Relaxed);
        zone.header(header::SEED + 1).store(seed[1], Relaxed);
        if layout.kind() == Kind::Queues {
            zone.create_queues();
        }
        zone.header(header::MAGIC).store(MAGIC, Release);
        Some(zone)
    }

    /// The zone that is in `memory` already; `None` when there is none of that kind, or it is cut short.
    pub fn open(memory: M, kind: Kind) -> Option<Self> {
        let word = |at: usize| memory.words().get(at).map(|word| word.load(Acquire));
        let layout = Layout::read(kind, word(header::MAGIC)?, word(header::KIND)?, word(header::CHUNKS)?)?;
        (memory.words().len() >= layout.words()).then_some(Self { memory, layout })
    }

    /// The word at that place, which the layout has worked out.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> &M::Word {
        &self.memory.words()[place]
    }

    pub(crate) fn header(&self, word: usize) -> &M::Word {
        self.at(word)
    }

    pub(crate) fn owner(&self, chunk: Chunk) -> &M::Word {
        self.at(self.layout.owner(chunk))
    }

    /// Word number `word` of a chunk.
    pub(crate) fn word(&self, chunk: Chunk, word: usize) -> &M::Word {
        debug_assert!(word < CHUNK);
        self.at(self.layout.content(chunk) + word)
    }

    /// The words of a chunk from number `from` on.
    fn words_from(&self, chunk: Chunk, from: usize) -> &[M::Word] {
        let start = self.layout.content(chunk);
        &self.memory.words()[start + from..start + CHUNK]
    }

    /// The hash of a key. Its sizes come first, so that no two keys look the same once they are filled up.
    #[inline]
    pub(crate) fn hash_key(&self, scope: &[u8], key: &[u8]) -> u64 {
        hash::hash(self.seed(), std::iter::once(sizes(scope, key)).chain(key_words(scope, key)))
    }

    /// Key of the hash function.
    pub(crate) fn seed(&self) -> (u64, u64) {
        (self.header(header::SEED).load(Relaxed), self.header(header::SEED + 1).load(Relaxed))
    }

    /// Claims a chunk. `id` notes in the member's record what it is for, before each attempt. `make_room` is asked for
    /// a free chunk when none is found, and says whether it is worth trying again.
    pub(crate) fn claim(
        &self,
        member: &Member,
        mut id: impl FnMut() -> Id,
        role: Role,
        mut make_room: impl FnMut() -> bool,
    ) -> Result<(Chunk, Id), NoRoom> {
        let all = self.layout.used_words();
        loop {
            let noted = id();
            let mut found = self.search(member, noted, role, NEAR.min(all));
            if found.is_err() {
                match member.scarce.get().checked_sub(1) {
                    Some(left) => member.scarce.set(left),
                    None => {
                        found = self.search(member, noted, role, all);
                        if found.is_err() {
                            member.scarce.set(SCARCE);
                        }
                    }
                }
            }
            match found {
                Ok(chunk) => return Ok((chunk, noted)),
                Err(NoRoom) if make_room() => {}
                Err(NoRoom) => {
                    let noted = id();
                    return self.search(member, noted, role, all).map(|chunk| (chunk, noted));
                }
            }
        }
    }

    /// Claims a chunk that the member keeps, if one is near.
    pub(crate) fn claim_spare(&self, member: &Member) -> Result<(Chunk, Id), NoRoom> {
        let id = self.begin_spare(member);
        let chunk = self.search(member, id, Role::Node, NEAR.min(self.layout.used_words()));
        chunk.map(|chunk| (chunk, id))
    }

    /// Looks at `count` words of used-bits, from the member's cursor on, for a free chunk.
    fn search(&self, member: &Member, id: Id, role: Role, count: usize) -> Result<Chunk, NoRoom> {
        let all = self.layout.used_words();
        let mut at = member.cursor.get();
        for _ in 0..count {
            if at >= all {
                at = 0;
            }
            let word = self.at(self.layout.used_word(at));
            let mut used = word.load(Relaxed);
            while used != u64::MAX {
                let bit = used.trailing_ones();
                let Some(chunk) = self.layout.chunk(at as u64 * 64 + u64::from(bit) + 1) else { break };
                used = word.set_bits(1 << bit) | 1 << bit;
                // The bit is a hint, the owner decides.
                if self.owner(chunk).replace(0, id.owns(role)).is_ok() {
                    member.cursor.set(at);
                    // Whoever sees what is written from here on sees the new owner too.
                    M::Word::fence(Release);
                    if role != Role::Node {
                        self.word(chunk, head::NEXT).store(0, Relaxed);
                    }
                    return Ok(chunk);
                }
            }
            at += 1;
        }
        member.cursor.set(at);
        Err(NoRoom)
    }

    /// Frees a chunk, if it still has that owner.
    fn free_chunk(&self, member: &Member, chunk: Chunk, owner: u64) -> bool {
        if self.owner(chunk).replace(owner, 0).is_err() {
            return false;
        }
        let (word, bit) = self.layout.used(chunk);
        self.at(word).clear_bits(bit);
        member.cursor.set(word - self.layout.used_word(0));
        true
    }

    pub(crate) fn free_node(&self, member: &Member, chunk: Chunk, id: Id) {
        self.free_chunk(member, chunk, id.owns(Role::Node));
    }

    /// Frees an entry, its first chunk first. Several processes may do this at once.
    pub(crate) fn free_entry(&self, member: &Member, first: Chunk, id: Id) {
        let mut next = self.next(first);
        if !self.free_chunk(member, first, id.owns(Role::Head)) {
            return;
        }
        while let Some(chunk) = next {
            next = self.next(chunk);
            if !self.free_chunk(member, chunk, id.owns(Role::Rest)) {
                // Somebody else is at it, and what was read may be of the chunk's next life.
                return;
            }
        }
    }

    /// Frees every chunk that `id` has, by looking at all of them.
    pub(crate) fn free_everywhere(&self, member: &Member, id: Id) {
        for role in [Role::Head, Role::Node, Role::Rest] {
            for chunk in self.layout.all_chunks() {
                if self.owner(chunk).load(Acquire) == id.owns(role) {
                    self.free_chunk(member, chunk, id.owns(role));
                }
            }
        }
    }

    /// Makes the bits say again what the owners say, after a process died between the two.
    pub(crate) fn mend_used(&self) {
        for chunk in self.layout.all_chunks() {
            let (word, bit) = self.layout.used(chunk);
            if self.owner(chunk).load(Acquire) == 0 && self.at(word).load(Relaxed) & bit != 0 {
                // If it is claimed at this moment a bit is wrong until the next who tries that chunk.
                self.at(word).clear_bits(bit);
            }
        }
    }

    /// The chunk after `chunk`.
    pub(crate) fn next(&self, chunk: Chunk) -> Option<Chunk> {
        self.layout.chunk(self.word(chunk, head::NEXT).load(Relaxed) & u64::from(u32::MAX))
    }

    /// Whether what was read of an entry until now is whole: it has not been freed.
    pub(crate) fn is_still(&self, first: Chunk, id: Id) -> bool {
        M::Word::fence(Acquire);
        self.owner(first).load(Relaxed) == id.owns(Role::Head)
    }

    /// How many chunks are in use.
    pub fn used_chunks(&self) -> usize {
        (0..self.layout.used_words())
            .map(|word| self.at(self.layout.used_word(word)).load(Relaxed).count_ones() as usize)
            .sum()
    }

    /// How many chunks have an owner, by looking at all of them.
    pub fn owned_chunks(&self) -> usize {
        self.layout.all_chunks().filter(|chunk| self.owner(*chunk).load(Relaxed) != 0).count()
    }
}
