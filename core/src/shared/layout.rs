//! Where what is in a zone: arithmetic on its size, written into its header and checked there.
//!
//! ```text
//!  header │ members │ directory │ buckets │ owners │ used │ chunks ...
//!   1 KiB   256 ×      256 ×      8 bytes   8 bytes  1 bit   128 bytes
//!           192 B      64 B       ├── for each chunk, table: ─┤
//!                     (queues)    (table)
//! ```
//!
//! The size that a zone is given is that of its chunks, which hold keys, values and messages; the rest comes on top:
//! 16.1 bytes for each chunk of a table (14 %), 8.1 of queues, and at most 82 KiB. Pages that were never written take
//! no memory.

use std::num::NonZeroU32;

/// Words of a chunk, 128 bytes: an entry with a key and a value of 90 bytes together fills one.
pub(crate) const CHUNK: usize = 16;

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = CHUNK * 8;

/// Most processes that use a zone at once. Old workers that serve their last requests after a reload count too.
pub const MEMBERS: usize = 256;

/// Words of a member's record.
pub(crate) const MEMBER: usize = 24;

/// Most queues of a zone.
pub const QUEUES: usize = 256;

/// Words of a queue's record.
pub(crate) const QUEUE: usize = 8;

/// Chunks of the smallest zone, 8 KiB.
pub(crate) const FEWEST_CHUNKS: usize = 64;

/// Chunks of the largest zone, 8 GiB: their numbers have 26 bits in [`bucket`](super::bucket).
pub(crate) const MOST_CHUNKS: usize = 1 << 26;

/// Numbers of words in the header. Those that are written often have a line of the processor's cache for themselves.
pub(crate) mod header {
    /// [`MAGIC`](super::MAGIC), the last word to be written when a zone is made.
    pub(crate) const MAGIC: usize = 0;
    /// Table or queues.
    pub(crate) const KIND: usize = 1;
    /// Number of chunks.
    pub(crate) const CHUNKS: usize = 2;
    /// Key of the hash function, two words.
    pub(crate) const SEED: usize = 3;
    /// How many members there have ever been.
    pub(crate) const INCARNATIONS: usize = 8;
    /// Where the search for something to evict is.
    pub(crate) const HAND: usize = 16;
    /// Entries that were evicted.
    pub(crate) const EVICTIONS: usize = 24;
    /// Writes that were refused for want of room.
    pub(crate) const REFUSALS: usize = 32;
    /// Entries whose value was taken away, and which may go when room is wanted.
    pub(crate) const EMPTIED: usize = 40;
    /// Counters that `cas` numbers come from: one for each line up to the end.
    pub(crate) const CAS: usize = 64;
    /// How many of those there are, a power of two.
    pub(crate) const CAS_COUNTERS: usize = 8;
    /// Words of the header.
    pub(crate) const END: usize = 128;
}

/// First word of a zone: `weirshm` and the version of this layout.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"weirshm\x01");

/// What a zone is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shared data.
    Table,
    /// Shared queues.
    Queues,
}

impl Kind {
    pub(crate) const fn raw(self) -> u64 {
        match self {
            Self::Table => 1,
            Self::Queues => 2,
        }
    }
}

/// Number of a chunk, from 1, checked against the zone it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk(NonZeroU32);

impl Chunk {
    pub(crate) const fn raw(self) -> u32 {
        self.0.get()
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The places of one zone, in words from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    kind: Kind,
    chunks: usize,
    buckets: usize,
    buckets_at: usize,
    owners_at: usize,
    used_at: usize,
    chunks_at: usize,
}

impl Layout {
    /// The layout of a zone for `size` bytes of chunks.
    #[must_use]
    pub fn new(kind: Kind, size: usize) -> Self {
        Self::with_chunks(kind, (size / CHUNK_BYTES).clamp(FEWEST_CHUNKS, MOST_CHUNKS))
    }

    fn with_chunks(kind: Kind, chunks: usize) -> Self {
        let (queues, buckets) = match kind {
            Kind::Table => (0, chunks.next_power_of_two()),
            // The chunk that a new queue begins with.
            Kind::Queues => (QUEUES, 0),
        };
        let chunks = chunks + queues;
        let buckets_at = header::END + MEMBERS * MEMBER + queues * QUEUE;
        let owners_at = buckets_at + buckets;
        let used_at = owners_at + chunks;
        let chunks_at = (used_at + chunks.div_ceil(64)).next_multiple_of(CHUNK);
        Self { kind, chunks, buckets, buckets_at, owners_at, used_at, chunks_at }
    }

    /// The layout that the header in `words` names; `None` when that is not the beginning of a zone.
    #[must_use]
    pub fn read(kind: Kind, magic: u64, raw_kind: u64, chunks: u64) -> Option<Self> {
        if magic != MAGIC || raw_kind != kind.raw() {
            return None;
        }
        let chunks = usize::try_from(chunks).ok()?;
        let queues = if kind == Kind::Queues { QUEUES } else { 0 };
        let chunks = chunks.checked_sub(queues)?;
        (FEWEST_CHUNKS..=MOST_CHUNKS).contains(&chunks).then(|| Self::with_chunks(kind, chunks))
    }

    /// What the zone is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Words of the whole zone.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.chunks_at + self.chunks * CHUNK
    }

    /// Bytes of the whole zone.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.words() * 8
    }

    /// How many chunks there are.
    #[must_use]
    pub const fn chunks(&self) -> usize {
        self.chunks
    }

    pub(crate) const fn buckets(&self) -> usize {
        self.buckets
    }

    /// The chunk of that number, if there is one.
    pub(crate) fn chunk(&self, raw: u64) -> Option<Chunk> {
        let number = NonZeroU32::new(u32::try_from(raw).ok()?)?;
        (number.get() as usize <= self.chunks).then_some(Chunk(number))
    }

    /// Every chunk.
    pub(crate) fn all_chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        (1..=u32::try_from(self.chunks).unwrap_or(0)).filter_map(NonZeroU32::new).map(Chunk)
    }

    pub(crate) const fn member(slot: usize) -> usize {
        header::END + slot * MEMBER
    }

    pub(crate) const fn queue(slot: usize) -> usize {
        header::END + MEMBERS * MEMBER + slot * QUEUE
    }

    pub(crate) const fn bucket(&self, bucket: usize) -> usize {
        self.buckets_at + bucket
    }

    pub(crate) const fn owner(&self, chunk: Chunk) -> usize {
        self.owners_at + chunk.index()
    }

    /// The word and the bit that say whether a chunk is in use.
    pub(crate) const fn used(&self, chunk: Chunk) -> (usize, u64) {
        (self.used_at + chunk.index() / 64, 1 << (chunk.index() % 64))
    }

    /// Words of bits that say which chunks are in use.
    pub(crate) const fn used_words(&self) -> usize {
        self.chunks.div_ceil(64)
    }

    /// Place of such a word.
    pub(crate) const fn used_word(&self, index: usize) -> usize {
        self.used_at + index
    }

    /// First word of a chunk.
    pub(crate) const fn content(&self, chunk: Chunk) -> usize {
        self.chunks_at + chunk.index() * CHUNK
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Layout, MAGIC, QUEUES};

    #[test]
    fn a_layout_is_known_again_by_its_header() {
        for kind in [Kind::Table, Kind::Queues] {
            for size in [1, 16 << 10, 100_000, 8 << 20, 1 << 40] {
                let layout = Layout::new(kind, size);
                let chunks = layout.chunks() as u64;
                assert_eq!(Layout::read(kind, MAGIC, kind.raw(), chunks), Some(layout));
                assert_eq!(Layout::read(kind, MAGIC + 1, kind.raw(), chunks), None);
            }
        }
        assert_eq!(Layout::read(Kind::Table, MAGIC, Kind::Queues.raw(), 100), None);
        assert_eq!(Layout::read(Kind::Table, MAGIC, 1, u64::MAX), None);
        assert_eq!(Layout::read(Kind::Queues, MAGIC, 2, 3), None, "less than the queues' own chunks");
    }

    #[test]
    fn what_comes_on_top_is_what_the_table_says() {
        let table = Layout::new(Kind::Table, 8 << 20);
        let chunks = table.chunks() as f64;
        assert!(((table.bytes() - (8 << 20)) as f64) < 16.2 * chunks + 52_000.0, "{table:?}");
        let queues = Layout::new(Kind::Queues, 1 << 20);
        assert_eq!(queues.chunks(), 8192 + QUEUES);
        assert!(queues.bytes() < (1 << 20) + 9 * queues.chunks() + 82 * 1024 + QUEUES * 128);
    }

    #[test]
    fn numbers_of_chunks_are_checked() {
        let layout = Layout::new(Kind::Table, 8 << 10);
        assert!(layout.chunk(0).is_none());
        assert!(layout.chunk(64).is_some());
        assert!(layout.chunk(65).is_none());
        assert!(layout.chunk(u64::MAX).is_none());
    }
}
