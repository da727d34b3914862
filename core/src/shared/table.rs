//! Shared data: a hash table that is read and written without locks.
//!
//! ```text
//!  bucket ──► entry                      one entry
//!  bucket ──► list ──► entry, entry …    several with the same hash bits
//!             entry: chunk ──► chunk …   sizes, cas, scope, key, value
//! ```
//!
//! An entry is never changed. A write makes a new one and puts it into its bucket by one replacement of the bucket's
//! word, if the bucket is still what was looked at; then the old entry is freed. A read copies and asks afterwards
//! whether the entry was still there; if not, somebody has written meanwhile, and it reads again.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    bucket::{self, Bucket, Cell},
    layout::{CHUNK_BYTES, Chunk, Kind, header},
    members::Member,
    word::{Memory, Word},
    zone::{Changed, Id, NoRoom, Role, Zone, head, sizes},
};

/// Most bytes of a key.
pub const MAX_KEY: usize = 64 * 1024;

/// Most bytes of a value.
pub const MAX_VALUE: usize = 1024 * 1024;

/// Most bytes of a scope's or queue's name. A scope's size has 16 bits in an entry.
pub const MAX_SCOPE: usize = 4096;

/// What becomes of old entries when there is no room for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// They stay; the new one is refused.
    None,
    /// Those go that were not used for a while, as a second-chance clock tells them.
    Lru,
    /// As `Lru`, but the more often they were used, the longer they stay.
    #[default]
    Slru,
}

impl Eviction {
    /// Most uses that are counted: an entry outlives that many rounds of the clock without being used.
    const fn most(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Lru => 1,
            Self::Slru => 3,
        }
    }
}

/// Why a write was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The entry is not the one that the writer has seen.
    #[error("the entry has changed since it was read")]
    CasMismatch,
    /// There is no room, and nothing may be evicted.
    #[error("the zone is full")]
    Full,
    /// The key or value is larger than any may be.
    #[error("a key has at most 64 KiB, a value 1 MiB")]
    TooLarge,
}

/// An entry that was found.
struct Found {
    cell: Cell,
    id: Id,
    cas: u32,
    size: usize,
    emptied: bool,
}

/// Flag in an entry's sizes: its value was taken away, so it may go when room is wanted.
pub(crate) const EMPTIED: u64 = 1 << 63;

/// How much of the table is looked at for something to evict: every entry loses its uses in that many rounds.
const ROUNDS: u64 = 4;

impl<M: Memory> Zone<M> {
    #[inline]
    fn hash(&self, scope: &[u8], key: &[u8]) -> (u32, u8) {
        let hash = self.hash_key(scope, key);
        let mask = self.layout.buckets() as u64 - 1;
        (u32::try_from(hash & mask).unwrap_or(0), hash.to_le_bytes()[7])
    }

    /// Copies the value of `key` to `value` and gives its `cas` number; `None` when there is none.
    pub fn get(&self, eviction: Eviction, scope: &[u8], key: &[u8], value: &mut Vec<u8>) -> Option<u32> {
        debug_assert_eq!(self.layout.kind(), Kind::Table);
        let (number, tag) = self.hash(scope, key);
        loop {
            let bucket = self.bucket(number);
            if let Ok(found) = self.read(&bucket, tag, scope, key, value) {
                let found = found?;
                let uses = self.word(found.cell.chunk, head::LINK);
                let count = uses.load(Relaxed);
                if count < eviction.most() {
                    // Two at once count as one. If the chunk has begun another life that one begins a little warmer.
                    uses.store(count + 1, Relaxed);
                }
                return Some(found.cas);
            }
        }
    }

    /// Finds `key` in the bucket and copies its value.
    fn read(
        &self,
        bucket: &Bucket,
        tag: u8,
        scope: &[u8],
        key: &[u8],
        value: &mut Vec<u8>,
    ) -> Result<Option<Found>, Changed> {
        let Some((found, mut reader)) = self.find(bucket, tag, scope, key)? else { return Ok(None) };
        value.resize(found.size, 0);
        reader.copy(value)?;
        if self.is_still(found.cell.chunk, found.id) { Ok(Some(found)) } else { Err(Changed) }
    }

    /// Finds `key` in the bucket; the reader is at its value.
    fn find(
        &self,
        bucket: &Bucket,
        tag: u8,
        scope: &[u8],
        key: &[u8],
    ) -> Result<Option<(Found, super::zone::Reader<'_, M>)>, Changed> {
        let sizes = sizes(scope, key);
        for cell in bucket.cells().filter(|cell| cell.tag == tag) {
            let id = self.entry(bucket, cell)?;
            let found_sizes = self.word(cell.chunk, head::SIZES).load(Relaxed);
            let mut reader = self.reader(cell.chunk);
            let same = found_sizes & !EMPTIED == sizes && reader.is_key(scope, key)?;
            let found = self.word(cell.chunk, head::VALUE).load(Relaxed);
            if !self.is_still(cell.chunk, id) {
                return Err(Changed);
            }
            if same {
                let size = usize::try_from(found & u64::from(u32::MAX)).unwrap_or(0).min(MAX_VALUE);
                let cas = u32::try_from(found >> 32).unwrap_or(0);
                let emptied = found_sizes & EMPTIED != 0;
                return Ok(Some((Found { cell, id, cas, size, emptied }, reader)));
            }
        }
        Ok(None)
    }

    /// Sets the value of `key` and gives its new `cas` number. `cas`, unless it is 0, is the number that the entry must
    /// still have, if there is one (`SharedData::set()` of proxy-wasm-cpp-host). Without a `value` it becomes empty, and
    /// its room can be taken for others, whatever the policy; then it is gone.
    ///
    /// # Errors
    /// [`WriteError`]; nothing has changed.
    pub fn set(
        &self,
        member: &Member,
        eviction: Eviction,
        scope: &[u8],
        key: &[u8],
        value: Option<&[u8]>,
        cas: u32,
    ) -> Result<u32, WriteError> {
        self.write(member, eviction, (scope, key), value, cas, None)
    }

    /// As [`set`](Self::set), but the entry gets the `cas` number `keep`, if that is given.
    pub(crate) fn write(
        &self,
        member: &Member,
        eviction: Eviction,
        (scope, key): (&[u8], &[u8]),
        value: Option<&[u8]>,
        cas: u32,
        keep: Option<u32>,
    ) -> Result<u32, WriteError> {
        let content = value.unwrap_or_default();
        if scope.len() > MAX_SCOPE || key.len() > MAX_KEY || content.len() > MAX_VALUE {
            return Err(WriteError::TooLarge);
        }
        let (number, tag) = self.hash(scope, key);
        if cas != 0 {
            // Before anything is written or evicted for nothing.
            self.check(number, tag, (scope, key), cas)?;
        }
        if (scope.len() + key.len() + content.len()) / CHUNK_BYTES > self.layout.chunks() {
            self.header(header::REFUSALS).add(1);
            return Err(WriteError::Full);
        }
        let id = self.begin(member);
        let mut make_room = || self.evict(member, eviction);
        let (entry, new_cas) = match self.make(member, id, (number, scope, key), value, keep, &mut make_room)
        {
            Ok(made) => made,
            Err(NoRoom) => return Err(self.refuse(member, None, id)),
        };
        loop {
            let bucket = self.bucket(number);
            let found = match self.find(&bucket, tag, scope, key) {
                Ok(found) => found.map(|(found, _)| found),
                Err(Changed) => continue,
            };
            if cas != 0 && found.as_ref().is_some_and(|found| found.cas != cas) {
                self.give_up(member, Some(entry), id);
                return Err(WriteError::CasMismatch);
            }
            let old = found.as_ref().map(|found| found.cell);
            if old.is_none() && bucket.is_full() {
                return Err(self.refuse(member, Some(entry), id));
            }
            let cells = std::iter::once(Cell { chunk: entry, tag })
                .chain(bucket.cells().filter(|cell| Some(*cell) != old));
            let removed = found.iter().map(|found| found.id);
            match self.replace_bucket(member, &bucket, cells, removed, Some(&mut make_room)) {
                Err(NoRoom) => return Err(self.refuse(member, Some(entry), id)),
                Ok(Err(Changed)) => {}
                Ok(Ok(())) => {
                    self.end(member);
                    if value.is_none() {
                        self.header(header::EMPTIED).add(1);
                    }
                    if let Some(found) = found {
                        self.forget(member, &found);
                    }
                    self.end_removal(member);
                    return Ok(new_cas);
                }
            }
        }
    }

    /// Whether the entry of `key`, if there is one, has the number `cas`.
    fn check(&self, number: u32, tag: u8, (scope, key): (&[u8], &[u8]), cas: u32) -> Result<(), WriteError> {
        loop {
            let Ok(found) = self.find(&self.bucket(number), tag, scope, key) else { continue };
            let same = found.is_none_or(|(found, _)| found.cas == cas);
            return if same { Ok(()) } else { Err(WriteError::CasMismatch) };
        }
    }

    /// Frees what has been made of an entry that will not be published.
    fn give_up(&self, member: &Member, entry: Option<Chunk>, id: Id) {
        if let Some(entry) = entry {
            self.free_entry(member, entry, id);
        }
        self.end(member);
    }

    /// There is no room for it.
    fn refuse(&self, member: &Member, entry: Option<Chunk>, id: Id) -> WriteError {
        self.give_up(member, entry, id);
        self.header(header::REFUSALS).add(1);
        WriteError::Full
    }

    /// Makes the entry that is to be published.
    #[allow(clippy::too_many_arguments, reason = "an entry has this many parts, and nobody else makes one")]
    fn make(
        &self,
        member: &Member,
        id: Id,
        (number, scope, key): (u32, &[u8], &[u8]),
        value: Option<&[u8]>,
        keep: Option<u32>,
        make_room: &mut dyn FnMut() -> bool,
    ) -> Result<(Chunk, u32), NoRoom> {
        let (first, _) = self.claim(member, || id, Role::Head, &mut *make_room)?;
        let content = value.unwrap_or_default();
        let mut writer = self.writer(member, id, first, make_room);
        let written = writer.key(scope, key).and_then(|()| writer.bytes(content));
        if let Err(NoRoom) = written {
            self.free_entry(member, first, id);
            return Err(NoRoom);
        }
        let counter = self.header(header::CAS + number as usize % header::CAS_COUNTERS * 8);
        let cas = loop {
            match keep
                .unwrap_or_else(|| u32::try_from((counter.add(1) + 1) & u64::from(u32::MAX)).unwrap_or(0))
            {
                // It means any, to who writes.
                0 => {}
                cas => break cas,
            }
        };
        let next = self.word(first, head::NEXT);
        next.store(u64::from(number) << 32 | next.load(Relaxed) & u64::from(u32::MAX), Relaxed);
        let emptied = if value.is_none() { EMPTIED } else { 0 };
        self.word(first, head::SIZES).store(sizes(scope, key) | emptied, Relaxed);
        self.word(first, head::VALUE).store(u64::from(cas) << 32 | content.len() as u64, Relaxed);
        self.word(first, head::LINK).store(0, Relaxed);
        Ok((first, cas))
    }

    /// Frees an entry that is no longer in its bucket.
    fn forget(&self, member: &Member, found: &Found) {
        if found.emptied {
            self.header(header::EMPTIED).add(u64::MAX);
        }
        self.free_entry(member, found.cell.chunk, found.id);
    }

    /// Removes one entry, or a few, that the policy lets go. False when there is none.
    fn evict(&self, member: &Member, eviction: Eviction) -> bool {
        if eviction == Eviction::None && self.header(header::EMPTIED).load(Relaxed) == 0 {
            return false;
        }
        let count = self.layout.chunks() as u64;
        let rounds = if eviction == Eviction::None { 1 } else { ROUNDS };
        for _ in 0..count.saturating_mul(rounds) {
            let at = self.header(header::HAND).add(1) % count + 1;
            let Some(chunk) = self.layout.chunk(at) else { continue };
            let Some(id) = Id::of(self.owner(chunk).load(Relaxed), Role::Head) else { continue };
            let uses = self.word(chunk, head::LINK);
            let emptied = self.word(chunk, head::SIZES).load(Relaxed) & EMPTIED != 0;
            let count = uses.load(Relaxed);
            if !emptied && eviction == Eviction::None {
                continue;
            }
            if !emptied && count > 0 {
                uses.store(count - 1, Relaxed);
            } else if self.remove(member, eviction, chunk, id) {
                return true;
            }
        }
        false
    }

    /// Removes the entry `id` at `chunk` from its bucket, if it is in one.
    fn remove(&self, member: &Member, eviction: Eviction, chunk: Chunk, id: Id) -> bool {
        let number = u32::try_from(self.word(chunk, head::NEXT).load(Relaxed) >> 32).unwrap_or(u32::MAX);
        if !self.is_still(chunk, id) || number as usize >= self.layout.buckets() {
            return false;
        }
        let bucket = self.bucket(number);
        let mut found = [const { None }; bucket::MOST];
        for (place, cell) in found.iter_mut().zip(bucket.cells()) {
            let Ok(id) = self.entry(&bucket, cell) else { return false };
            let emptied = self.word(cell.chunk, head::SIZES).load(Relaxed) & EMPTIED != 0;
            *place = Some(Found { cell, id, cas: 0, size: 0, emptied });
        }
        let Some(victim) = found.iter().flatten().find(|found| found.cell.chunk == chunk && found.id == id)
        else {
            return false;
        };
        let others = bucket.cells().filter(|cell| cell.chunk != chunk);
        let one = std::iter::once(victim.id);
        let (replaced, all) = match self.replace_bucket(member, &bucket, others, one, None) {
            Ok(replaced) => (replaced, false),
            // Others were faster: there is not even a chunk for the list of those that stay. Only an eviction takes
            // them along.
            Err(NoRoom) if eviction == Eviction::None => return false,
            Err(NoRoom) => {
                let all = found.iter().flatten().map(|found| found.id);
                let replaced = self.replace_bucket(member, &bucket, std::iter::empty(), all, None);
                (replaced.unwrap_or(Err(Changed)), true)
            }
        };
        if replaced.is_err() {
            self.take_spare(member);
            return false;
        }
        for gone in found.iter().flatten().filter(|found| all || found.cell.chunk == chunk) {
            if !gone.emptied {
                self.header(header::EVICTIONS).add(1);
            }
            self.forget(member, gone);
        }
        self.end_removal(member);
        self.take_spare(member);
        true
    }

    /// Gives numbers from now on that `other`, which this zone comes after, has not given.
    pub(crate) fn continue_cas<O: Memory>(&self, other: &Zone<O>) {
        let counters = || (0..header::CAS_COUNTERS).map(|counter| header::CAS + counter * 8);
        let most = counters().map(|at| other.header(at).load(Relaxed)).max().unwrap_or(0);
        counters().for_each(|at| self.header(at).store(most.max(self.header(at).load(Relaxed)), Relaxed));
    }

    /// Calls `each` with scope, key, value (`None` when it was taken away) and `cas` of every entry that can be read,
    /// in no order.
    pub(crate) fn for_each_entry(&self, mut each: impl FnMut(&[u8], &[u8], Option<&[u8]>, u32)) {
        let (mut scope, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..u32::try_from(self.layout.buckets()).unwrap_or(u32::MAX) {
            let bucket = self.bucket(number);
            for cell in bucket.cells() {
                let Ok(id) = self.entry(&bucket, cell) else { continue };
                let sizes = self.word(cell.chunk, head::SIZES).load(Relaxed);
                let found = self.word(cell.chunk, head::VALUE).load(Relaxed);
                if !self.is_still(cell.chunk, id) {
                    continue;
                }
                let of = |value: u64, most: usize| usize::try_from(value).unwrap_or(0).min(most);
                scope.resize(of(sizes & 0xffff, MAX_SCOPE), 0);
                key.resize(of(sizes >> 16 & 0xff_ffff, MAX_KEY), 0);
                value.resize(of(found & u64::from(u32::MAX), MAX_VALUE), 0);
                let mut reader = self.reader(cell.chunk);
                let copied = reader
                    .copy(&mut scope)
                    .and_then(|()| reader.copy(&mut key))
                    .and_then(|()| reader.copy(&mut value));
                if copied.is_ok() && self.is_still(cell.chunk, id) {
                    let value = (sizes & EMPTIED == 0).then_some(&value[..]);
                    each(&scope, &key, value, u32::try_from(found >> 32).unwrap_or(0));
                }
            }
        }
    }
}
