//! The words that zones are made of, and where they lie: mapped memory in a server, plain memory in tests and models.
//!
//! Every access to a zone is an atomic access to one of its 64-bit words, so what other processes do at the same time
//! can give an old or a new word, never a torn one, and no code here is `unsafe`.

use std::sync::atomic::{self, AtomicU64, Ordering};

/// An atomic 64-bit word: std's, or a model checker's.
pub trait Word: Send + Sync {
    /// Its value.
    fn load(&self, order: Ordering) -> u64;
    /// Sets its value.
    fn store(&self, value: u64, order: Ordering);
    /// Sets it to `new` if it is `current`; acquires either way, releases when it was set.
    ///
    /// # Errors
    /// The value that it had instead.
    fn replace(&self, current: u64, new: u64) -> Result<(), u64>;
    /// Sets its value and gives the one before; acquires and releases.
    fn swap(&self, value: u64) -> u64;
    /// Adds to it, wrapping, and gives the value before; orders nothing else.
    fn add(&self, value: u64) -> u64;
    /// Sets the bits of `value` and gives the value before; orders nothing else.
    fn set_bits(&self, value: u64) -> u64;
    /// Clears the bits of `value`; orders nothing else.
    fn clear_bits(&self, value: u64);
    /// A fence between accesses to words of this kind.
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn replace(&self, current: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    #[inline]
    fn swap(&self, value: u64) -> u64 {
        self.swap(value, Ordering::AcqRel)
    }

    #[inline]
    fn add(&self, value: u64) -> u64 {
        self.fetch_add(value, Ordering::Relaxed)
    }

    #[inline]
    fn set_bits(&self, value: u64) -> u64 {
        self.fetch_or(value, Ordering::Relaxed)
    }

    #[inline]
    fn clear_bits(&self, value: u64) {
        self.fetch_and(!value, Ordering::Relaxed);
    }

    #[inline]
    fn fence(order: Ordering) {
        atomic::fence(order);
    }
}

/// Memory that a zone lies in. It begins as zeros, or as a zone.
pub trait Memory: std::fmt::Debug {
    /// What it is made of.
    type Word: Word;

    /// All of it.
    fn words(&self) -> &[Self::Word];
}

/// Memory of this process alone.
impl<W: Word + std::fmt::Debug> Memory for Box<[W]> {
    type Word = W;

    fn words(&self) -> &[W] {
        self
    }
}
