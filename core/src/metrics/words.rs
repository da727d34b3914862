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

    /// Adds to word number `at`, wrapping around, where no other thread of any process writes: less than half of what
    /// [`add`](Self::add) costs.
    #[inline]
    fn add_alone(&self, at: usize, value: u64) {
        self.store(at, self.load(at).wrapping_add(value));
    }

    /// Raises word number `at` to `value`, if it is less.
    fn raise(&self, at: usize, value: u64);

    /// Replaces `old` by `new` in word number `at`, or says what is there; 0 beyond the end.
    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64>;
}

/// Where a process keeps its value of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Word {
    /// Number of the word, or of the first one; 0, which is no value's, where there is no room for one.
    pub(crate) at: usize,
    /// It is in a row of the process's own, where one thread writes it.
    pub(crate) alone: bool,
}

impl Word {
    /// The one that is `offset` words further on.
    #[inline]
    pub(crate) fn after(self, offset: usize) -> Self {
        Self { at: self.at + offset, ..self }
    }

    /// Adds to it.
    #[inline]
    pub(crate) fn add<W: Shared>(self, words: &W, value: u64) {
        if self.alone {
            words.add_alone(self.at, value);
        } else {
            words.add(self.at, value);
        }
    }
}

/// A word that is a place: line or word number. Places that do not fit this machine are beyond every end.
pub(crate) fn place(word: u64) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}
