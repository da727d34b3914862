//! A proxy in memory, for tests, benches, fuzzers and examples: everything of core without a real proxy.
//!
//! A [`Request`] holds its maps, bodies and attributes in plain collections that a test fills and looks at; a
//! [`Worker`] collects log lines and has a clock that a test sets forward.

use std::ops::Range;

use crate::host::Host;

pub mod calls;
mod checkout;
mod crypto;
mod request;
mod worker;

pub use checkout::Checkout;
pub use request::{Pair, Parts, Request, Sent};
pub use worker::{Logged, NOW_NS, Worker};

/// The proxy in memory.
#[derive(Debug)]
pub struct Memory;

impl Host for Memory {
    type Root = Worker;
    type Stream = Request;
}

/// The range of `len` bytes at `ptr` in a guest's memory of `size` bytes, as every hostcall checks it; `None` where it
/// is not wholly inside.
#[must_use]
pub fn guest_range(size: usize, ptr: i32, len: i32) -> Option<Range<usize>> {
    crate::abi::memory::range(size, ptr, len).ok()
}
