//! The records of a worker that no request uses now.

use std::cell::RefCell;

use super::Stream;

thread_local! {
    static FREE: RefCell<Vec<&'static Stream>> = const { RefCell::new(Vec::new()) };
}

/// A record for a request: the one given back last, whose memory is warm, else a new one.
pub(super) fn take() -> &'static Stream {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::leak(Box::new(Stream::new())))
}

/// Gives a record back; it has been reset.
pub(super) fn give_back(stream: &'static Stream) {
    FREE.with_borrow_mut(|free| free.push(stream));
}
