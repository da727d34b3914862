//! A bucket of the table, in one word: nothing, one entry, or a list of several, with a count of its changes.
//!
//! ```text
//!  63      56 55 54        28 27           0
//!  │  tag    │k │   chunk    │   changes   │      k: entry (0) or list (1); chunk 0: nothing
//! ```
//!
//! A bucket changes by one replacement of its word, so whatever happens to it happens at once; since the count goes
//! up each time, a word that is the same is a bucket that has not changed. Lists are never edited, but made anew.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::{
    layout::{CHUNK, Chunk},
    members::Member,
    word::{Memory, Word},
    zone::{Changed, Id, NoRoom, Role, Zone},
};

const CHANGES: u64 = (1 << 28) - 1;
const LIST: u64 = 1 << 55;

/// Word of a list that has the number of its entries; the entries follow.
const COUNT: usize = 1;

/// Most entries in one bucket. With as many entries as buckets, one in 10^11 has more.
pub(crate) const MOST: usize = CHUNK - COUNT - 1;

/// One entry of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Its first chunk.
    pub(crate) chunk: Chunk,
    /// Eight bits of its hash.
    pub(crate) tag: u8,
}

impl Cell {
    fn raw(self) -> u64 {
        u64::from(self.tag) << 56 | u64::from(self.chunk.raw()) << 28
    }
}

/// What a bucket was at one moment.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Its number.
    number: u32,
    word: u64,
    cells: [Option<Cell>; MOST],
    count: usize,
    list: Option<(Chunk, Id)>,
}

impl Bucket {
    pub(crate) fn cells(&self) -> impl Iterator<Item = Cell> + Clone + '_ {
        self.cells.iter().take(self.count).flatten().copied()
    }

    /// The chunk of its list, if it is one: `Some(None)` when that belongs to something else.
    pub(crate) fn list_chunk<M: Memory>(&self, zone: &Zone<M>) -> Option<Option<Chunk>> {
        (self.word & LIST != 0 && zone.decode(self.word & !LIST).is_some())
            .then(|| self.list.map(|(chunk, _)| chunk))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count == MOST
    }
}

impl<M: Memory> Zone<M> {
    fn decode(&self, word: u64) -> Option<Cell> {
        let chunk = self.layout.chunk(word >> 28 & ((1 << 27) - 1))?;
        Some(Cell { chunk, tag: (word >> 56).to_le_bytes()[0] })
    }

    fn bucket_word(&self, number: u32) -> &M::Word {
        self.at(self.layout.bucket(number as usize))
    }

    /// What bucket `number` is now.
    #[inline]
    pub(crate) fn bucket(&self, number: u32) -> Bucket {
        loop {
            if let Ok(bucket) = self.try_bucket(number) {
                return bucket;
            }
        }
    }

    #[inline]
    fn try_bucket(&self, number: u32) -> Result<Bucket, Changed> {
        let word = self.bucket_word(number).load(Acquire);
        let mut bucket = Bucket { number, word, cells: [None; MOST], count: 0, list: None };
        let Some(only) = self.decode(word & !LIST) else { return Ok(bucket) };
        if word & LIST == 0 {
            bucket.cells[0] = Some(only);
            bucket.count = 1;
            return Ok(bucket);
        }
        let owner = self.owner(only.chunk).load(Relaxed);
        let count = self.word(only.chunk, COUNT).load(Relaxed);
        for at in 0..MOST {
            if at as u64 >= count {
                break;
            }
            let cell = self.decode(self.word(only.chunk, COUNT + 1 + at).load(Relaxed));
            bucket.cells[at] = cell;
            bucket.count = at + 1;
        }
        M::Word::fence(Acquire);
        if !self.is_unchanged(&bucket) {
            return Err(Changed);
        }
        bucket.list = Id::of(owner, Role::Node).map(|id| (only.chunk, id));
        Ok(bucket)
    }

    /// Makes a bucket empty that is broken. Nobody else uses the zone.
    pub(crate) fn empty_bucket(&self, number: u32) {
        self.bucket_word(number).store(0, Relaxed);
    }

    /// Whether the bucket is still what it was.
    #[inline]
    pub(crate) fn is_unchanged(&self, bucket: &Bucket) -> bool {
        self.bucket_word(bucket.number).load(Acquire) == bucket.word
    }

    /// Id of the entry in `cell` of `bucket`.
    #[inline]
    pub(crate) fn entry(&self, bucket: &Bucket, cell: Cell) -> Result<Id, Changed> {
        let owner = self.owner(cell.chunk).load(Acquire);
        // While the bucket has it the entry's chunk has no other owner, so this is the one that was published.
        if self.is_unchanged(bucket) { Id::of(owner, Role::Head).ok_or(Changed) } else { Err(Changed) }
    }

    /// Keeps a chunk for the time when room has to be made and there is none left for that, if there is one now.
    pub(crate) fn take_spare(&self, member: &Member) {
        if member.spare.get().is_none()
            && let Ok(chunk) = self.claim_spare(member)
        {
            member.spare.set(Some(chunk));
        }
    }

    /// The member's spare chunk, as one that a list is made in.
    fn use_spare(&self, member: &Member) -> Option<(Chunk, Id)> {
        self.take_spare(member);
        let (chunk, id) = member.spare.take()?;
        self.spare_becomes_node(member, id);
        Some((chunk, id))
    }

    /// Whether the entry or the list `id` is in that bucket.
    pub(crate) fn bucket_reaches(&self, number: u64, id: Id) -> bool {
        let Ok(number) = u32::try_from(number) else { return false };
        if number as usize >= self.layout.buckets() {
            return false;
        }
        loop {
            let bucket = self.bucket(number);
            let listed = bucket.list.is_some_and(|(_, list)| list == id);
            let found = listed
                || bucket.cells().any(|cell| self.owner(cell.chunk).load(Acquire) == id.owns(Role::Head));
            if self.is_unchanged(&bucket) {
                return found;
            }
        }
    }

    /// Makes the bucket's cells what `cells` gives (at most [`MOST`]), if it has not changed, and frees its old list.
    /// `removed` are the entries that go away by it, which the caller frees then.
    ///
    /// A list needs a chunk: `make_room` is asked for one when there is none, and says whether to try again. Without
    /// it, that is when room is being made, the member's spare chunk is taken.
    pub(crate) fn replace_bucket(
        &self,
        member: &Member,
        bucket: &Bucket,
        cells: impl Iterator<Item = Cell> + Clone,
        removed: impl Iterator<Item = Id>,
        make_room: Option<&mut dyn FnMut() -> bool>,
    ) -> Result<Result<(), Changed>, NoRoom> {
        let changes = bucket.word.wrapping_add(1) & CHANGES;
        let mut made = None;
        let word = match (cells.clone().next(), cells.clone().count()) {
            (None, _) => changes,
            (Some(cell), 1) => cell.raw() | changes,
            (_, count) => {
                let claimed = match make_room {
                    // Making room needs the member's record as well, so the id is noted before each attempt.
                    Some(make_room) => self.claim(member, || self.begin_node(member), Role::Node, make_room),
                    None => self.use_spare(member).ok_or(NoRoom),
                };
                let (chunk, id) = claimed.inspect_err(|NoRoom| self.end_node(member))?;
                for (at, cell) in cells.enumerate() {
                    self.word(chunk, COUNT + 1 + at).store(cell.raw(), Relaxed);
                }
                self.word(chunk, COUNT).store(count as u64, Relaxed);
                made = Some((chunk, id));
                LIST | u64::from(chunk.raw()) << 28 | changes
            }
        };
        self.intend(member, bucket.number, removed.chain(bucket.list.map(|(_, id)| id)));
        let replaced = self.bucket_word(bucket.number).replace(bucket.word, word).map_err(|_| Changed);
        match (replaced, made, bucket.list) {
            (Ok(()), _, Some((chunk, id))) | (Err(Changed), Some((chunk, id)), _) => {
                self.free_node(member, chunk, id);
            }
            _ => {}
        }
        self.end_node(member);
        if replaced.is_err() {
            self.end_removal(member);
        }
        Ok(replaced)
    }
}
