//! Content of an entry: written and read word by word, from chunk to chunk.

use std::sync::atomic::Ordering::Relaxed;

use super::{Changed, Id, NoRoom, REST_CONTENT, Role, Zone, head};
use crate::shared::{
    layout::{CHUNK, Chunk},
    members::Member,
    word::{Memory, Word},
};

impl<M: Memory> Zone<M> {
    /// Begins to write an entry whose first chunk has been claimed for `id`. `make_room` is asked for a free chunk
    /// when there is none, and says whether it is worth trying again.
    pub(crate) fn writer<'a, F: FnMut() -> bool>(
        &'a self,
        member: &'a Member,
        id: Id,
        first: Chunk,
        make_room: F,
    ) -> Writer<'a, M, F> {
        Writer { zone: self, member, id, chunk: first, word: head::CONTENT, make_room }
    }

    /// Begins to read the content of the entry at `first`.
    pub(crate) fn reader(&self, first: Chunk) -> Reader<'_, M> {
        Reader { zone: self, chunk: first, word: head::CONTENT }
    }
}

/// Writes the content of an entry, chunk after chunk.
pub(crate) struct Writer<'a, M, F> {
    zone: &'a Zone<M>,
    member: &'a Member,
    id: Id,
    chunk: Chunk,
    word: usize,
    make_room: F,
}

impl<M: Memory, F: FnMut() -> bool> Writer<'_, M, F> {
    /// Writes whole words.
    fn words(&mut self, mut words: impl ExactSizeIterator<Item = u64>) -> Result<(), NoRoom> {
        while words.len() > 0 {
            if self.word == CHUNK {
                self.grow()?;
            }
            let room = self.zone.words_from(self.chunk, self.word);
            let count = room.len().min(words.len());
            for (place, word) in room.iter().zip(words.by_ref().take(count)) {
                place.store(word, Relaxed);
            }
            self.word += count;
        }
        Ok(())
    }

    /// Writes `bytes`, filled up to whole words.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let (words, rest) = bytes.as_chunks::<8>();
        self.words(words.iter().map(|word| u64::from_le_bytes(*word)))?;
        if rest.is_empty() {
            return Ok(());
        }
        self.words(std::iter::once(padded(rest)))
    }

    /// Scope and key in one run, since they are compared in one.
    pub(crate) fn key(&mut self, scope: &[u8], key: &[u8]) -> Result<(), NoRoom> {
        self.words(key_words(scope, key))
    }

    fn grow(&mut self) -> Result<(), NoRoom> {
        let (chunk, _) = self.zone.claim(self.member, || self.id, Role::Rest, &mut self.make_room)?;
        let link = self.zone.word(self.chunk, head::NEXT);
        // The high half of the first chunk's word is written later.
        link.store(u64::from(chunk.raw()), Relaxed);
        self.chunk = chunk;
        self.word = REST_CONTENT;
        Ok(())
    }
}

/// Up to eight bytes as a word, filled up with zeros.
#[inline]
fn padded(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The words of `scope` and `key`, each filled up to whole words.
#[inline]
pub(super) fn key_words<'k>(scope: &'k [u8], key: &'k [u8]) -> impl ExactSizeIterator<Item = u64> + 'k {
    let count = scope.len().div_ceil(8) + key.len().div_ceil(8);
    let mut words = scope.chunks(8).chain(key.chunks(8));
    (0..count).map(move |_| words.next().map_or(0, padded))
}

/// The word that has the sizes of a scope and a key.
pub(crate) fn sizes(scope: &[u8], key: &[u8]) -> u64 {
    scope.len() as u64 | (key.len() as u64) << 16
}

/// Reads the content of an entry, chunk after chunk. What it gives is right only if the entry is still there
/// afterwards ([`Zone::is_still`]).
pub(crate) struct Reader<'a, M> {
    zone: &'a Zone<M>,
    chunk: Chunk,
    word: usize,
}

impl<M: Memory> Reader<'_, M> {
    /// The words left in this chunk, at most `most`; goes on to the next chunk where there are none.
    #[inline]
    fn window(&mut self, most: usize) -> Result<&[M::Word], Changed> {
        if self.word == CHUNK {
            self.chunk = self.zone.next(self.chunk).ok_or(Changed)?;
            self.word = REST_CONTENT;
        }
        let words = self.zone.words_from(self.chunk, self.word);
        let words = &words[..words.len().min(most)];
        self.word += words.len();
        Ok(words)
    }

    /// Whether scope and key come next.
    #[inline]
    pub(crate) fn is_key(&mut self, scope: &[u8], key: &[u8]) -> Result<bool, Changed> {
        let mut wanted = key_words(scope, key);
        while wanted.len() > 0 {
            for word in self.window(wanted.len())? {
                if Some(word.load(Relaxed)) != wanted.next() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Copies the bytes that come next.
    pub(crate) fn copy(&mut self, to: &mut [u8]) -> Result<(), Changed> {
        let (words, rest) = to.as_chunks_mut::<8>();
        let mut words = words.iter_mut();
        while words.len() > 0 {
            for (word, place) in self.window(words.len())?.iter().zip(words.by_ref()) {
                *place = word.load(Relaxed).to_le_bytes();
            }
        }
        if let (Some(word), false) =
            (if rest.is_empty() { None } else { self.window(1)?.first() }, rest.is_empty())
        {
            let bytes = word.load(Relaxed).to_le_bytes();
            rest.copy_from_slice(&bytes[..rest.len()]);
        }
        Ok(())
    }
}
