//! How a process is told that a queue has messages: a descriptor of the kernel's for each process that listens, made
//! before any of them, so that each can wake each.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{map, members::Lifelines, queue::Listener};

/// What one process is woken by.
#[derive(Debug)]
pub struct Wake(File);

impl Wake {
    /// The descriptor, readable when there is something to look at.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it unreadable until the process is woken again. False when it was unreadable already.
    pub fn clear(&self) -> bool {
        let mut count = [0; 8];
        // It does not block.
        (&self.0).read(&mut count).is_ok()
    }

    /// Makes it readable.
    pub(crate) fn wake(&self) {
        // It fails only when it was written 2^64 - 2 times without being read: then it is readable.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }
}

/// The descriptors of all processes.
#[derive(Debug)]
pub struct Wakes {
    wakes: Vec<Arc<Wake>>,
    /// Tell which of them are taken by the living.
    lifelines: Arc<Lifelines>,
}

/// Those of this process's configurations, so that the next one takes them over.
static CURRENT: Mutex<Weak<Wakes>> = Mutex::new(Weak::new());

/// Most processes that can listen.
const MOST: usize = super::layout::MEMBERS;

/// As many descriptors as processes may listen, for each worker that the configuration has: those of old workers, of
/// new ones, and of the ones after a second reload.
const FOR_EACH_WORKER: usize = 3;

impl Wakes {
    /// Descriptors for `workers` processes at once and their successors. Those of the configuration before are kept
    /// and added to, so old and new workers can wake each other.
    ///
    /// # Errors
    /// When the system has none to give.
    pub(crate) fn new(workers: usize) -> io::Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let count = workers.saturating_mul(FOR_EACH_WORKER).clamp(1, MOST);
        let before = current.upgrade();
        if let Some(before) = &before
            && before.wakes.len() >= count
        {
            return Ok(Arc::clone(before));
        }
        let mut wakes = before.as_ref().map(|before| before.wakes.clone()).unwrap_or_default();
        while wakes.len() < count {
            wakes.push(Arc::new(Wake(map::event()?)));
        }
        let lifelines = match before {
            Some(before) => Arc::clone(&before.lifelines),
            None => Arc::new(Lifelines::in_file(map::unnamed(MOST)?)),
        };
        let wakes = Arc::new(Self { wakes, lifelines });
        *current = Arc::downgrade(&wakes);
        Ok(wakes)
    }

    /// Nobody listens.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self { wakes: Vec::new(), lifelines: Arc::new(Lifelines::local()) })
    }

    /// Takes a number that nobody alive has.
    pub(crate) fn take(&self) -> Option<usize> {
        let taken = (0..self.wakes.len()).find(|number| self.lifelines.take(*number))?;
        // What woke the one that had it before is nothing to this one.
        self.wakes.get(taken)?.clear();
        Some(taken)
    }

    pub(crate) fn give_back(&self, number: usize) {
        self.lifelines.give_back(number);
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Wake> {
        self.wakes.get(number).map(|wake| &**wake)
    }

    /// Wakes the process that listens by that number.
    pub(crate) fn wake(&self, listener: Listener) {
        let number = usize::try_from(listener).ok().and_then(|listener| listener.checked_sub(1));
        if let Some(wake) = number.and_then(|number| self.get(number)) {
            wake.wake();
        }
    }
}

/// What a queue knows the process with that number by.
pub(crate) const fn listener(number: usize) -> Listener {
    number as u64 + 1
}
