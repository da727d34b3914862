//! Shared memory as this room sees it: a row of 64-bit words.
//!
//! Everything above works on these two traits, so the same code runs on a mapped file, on a copy of one, and on the
//! model checker's memory. A word beyond the end reads as 0, which means "none" everywhere, and is not written: a
//! damaged or shorter file leads to fewer metrics, never outside the memory.

/// Words that can be read.
pub trait Words {
    /// Number of words.
    fn size(&self) -> usize;

    /// Word number `at`, with everything that was written before it was (acquire); 0 beyond the end.
    fn load(&self, at: usize) -> u64;
}

/// Words that several processes change at once.
pub(crate) trait Shared: Words {
    /// Writes word number `at`, after everything that was written before (release).
    fn store(&self, at: usize, value: u64);

    /// Adds to word number `at`, wrapping around.
    fn add(&self, at: usize, value: u64);

    /// Raises word number `at` to `value`, if it is less.
    fn raise(&self, at: usize, value: u64);

    /// Replaces `old` by `new` in word number `at`, or says what is there; 0 beyond the end.
    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64>;
}

/// A word that is a place: line or word number. Places that do not fit this machine are beyond every end.
pub(crate) fn place(word: u64) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}
