//! Views of a request's headers and bodies: borrowed bytes to read, edits by name or by range.
//!
//! Every method takes `&self`: a handle is shared by all filters of the request, and what one of them changes the
//! next one sees. Bytes that are lent out (`Cow::Borrowed`) stay valid while the handle they came from is borrowed;
//! no hostcall runs meanwhile, since core refuses hostcalls while a guest's allocator is at work.

use std::{borrow::Cow, ops::Range};

use crate::abi::types::{BufferType, MapType, StreamType};

/// Why an edit of a map did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The map does not exist in this phase: nothing to edit, or it has been sent.
    #[error("the map cannot be changed in this phase")]
    Unavailable,
    /// The proxy refuses this name or value; the text says why.
    #[error("{0}")]
    Refused(&'static str),
    /// The proxy has no memory for it.
    #[error("no memory for the change")]
    NoMemory,
}

/// Headers and trailers.
///
/// Pseudo-headers (`:method`, `:path`, `:authority`, `:scheme`, `:status`) are pairs like others here and come first
/// in [`visit`](Self::visit). Names given to these methods are compared without regard to case. Those of edits are
/// valid: core has refused empty names, names that are no HTTP token, and values with NUL, CR or LF; a name that is
/// asked for may be any bytes.
pub trait Maps {
    /// Whether the map can be read now. A trailer map exists once trailers have come.
    fn has_map(&self, map: MapType) -> bool;

    /// Number of pairs, pseudo-headers included; 0 when there is no such map.
    fn map_len(&self, map: MapType) -> usize;

    /// The value of `name`: where it is repeated, all of them joined with `, ` (`; ` for `cookie`).
    fn value(&self, map: MapType, name: &[u8]) -> Option<Cow<'_, [u8]>>;

    /// Shows every pair in order, names in any case (core makes them lower-case on the way into the guest).
    fn visit(&self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8]));

    /// Adds one more pair; a pseudo-header is replaced.
    ///
    /// # Errors
    /// [`MapError`]; the map is then as it was.
    fn add(&self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError>;

    /// Sets `name` to `value`: the first one in place, further ones dropped, added where there was none.
    ///
    /// # Errors
    /// [`MapError`]; the map is then as it was.
    fn replace(&self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError>;

    /// Removes every pair of that name; that there is none is no error.
    ///
    /// # Errors
    /// [`MapError`]; the map is then as it was. Pseudo-headers cannot be removed: `Refused`.
    fn remove(&self, map: MapType, name: &[u8]) -> Result<(), MapError>;

    /// Removes every pair but pseudo-headers: the first half of `proxy_set_header_map_pairs`.
    ///
    /// # Errors
    /// [`MapError`]; the map is then as it was.
    fn clear(&self, map: MapType) -> Result<(), MapError>;
}

/// Bodies, as far as they are readable in the callback that runs.
pub trait Buffers {
    /// Bytes readable now; `None` when there is no such buffer in this phase.
    fn buffer_len(&self, buffer: BufferType) -> Option<usize>;

    /// Shows the bytes of `range`, which lies inside the buffer, piece by piece in order.
    ///
    /// # Errors
    /// [`BufferError`] when a piece could not be read (a file, say).
    fn read_buffer(
        &self,
        buffer: BufferType,
        range: Range<usize>,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BufferError>;

    /// Replaces the bytes of `range`, which lies inside the buffer, by `bytes`: an empty range inserts.
    ///
    /// # Errors
    /// [`BufferError`]; the buffer is then as it was.
    fn write_buffer(&self, buffer: BufferType, range: Range<usize>, bytes: &[u8]) -> Result<(), BufferError>;
}

/// Parts of bodies that filters hold.
pub trait Bodies {
    /// Puts what the buffer of `stream` (request or response) shows aside for filter number `filter`, behind what it
    /// holds already; the buffer is empty afterwards. The chain alone calls this, between callbacks.
    fn hold(&self, stream: StreamType, filter: usize) -> Hold;

    /// Puts what filter number `filter` holds before what the buffer shows. The chain alone calls this, between
    /// callbacks.
    fn recall(&self, stream: StreamType, filter: usize);

    /// Makes the buffer, whether there is one in this phase or not, show what filter number `filter` holds, and the next
    /// time what it showed before; false where that filter holds nothing.
    fn swap_held(&self, stream: StreamType, filter: usize) -> bool;
}

/// What became of a part of a body that a filter wants to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is held.
    Kept,
    /// More than the configuration allows, which says that the stream fails then.
    TooLarge,
    /// More than the configuration allows, which says that it goes on then.
    StreamThrough,
}

/// Why a buffer could not be read or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// There is no such buffer in this phase.
    #[error("the buffer does not exist in this phase")]
    Unavailable,
    /// Its bytes could not be read.
    #[error("the bytes could not be read")]
    Io,
    /// It cannot be changed (any more).
    #[error("the buffer cannot be changed in this phase")]
    Frozen,
    /// The proxy has no memory for it.
    #[error("no memory for the change")]
    NoMemory,
}
