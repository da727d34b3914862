//! The records of a worker: those that no request uses now, and whether any are in use.

use std::cell::{Cell, RefCell};

use super::Stream;

thread_local! {
    static FREE: RefCell<Vec<&'static Stream>> = const { RefCell::new(Vec::new()) };

    /// How many are in use.
    static USED: Cell<usize> = const { Cell::new(0) };
}

/// A record for a request: the one given back last, whose memory is warm, else a new one.
pub(super) fn take() -> &'static Stream {
    USED.set(USED.get() + 1);
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::leak(Box::new(Stream::new())))
}

/// Gives a record back; it has been reset.
pub(super) fn give_back(stream: &'static Stream) {
    USED.set(USED.get().saturating_sub(1));
    FREE.with_borrow_mut(|free| free.push(stream));
}

/// Whether the worker has requests that pass filters.
pub(crate) fn any() -> bool {
    USED.get() > 0
}
