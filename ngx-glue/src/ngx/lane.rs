//! One direction of a request's body on its way through the filters.
//!
//! What nginx hands over is shown to the filters as a parcel (see `core/src/chain/flow.rs`), which they read and cut,
//! put aside and take up again; what gets past the last of them is passed on as a chain. A parcel is a list of
//! [parts](super::parts): bytes that no filter touches stay where nginx has them, and go on in nginx's own buffers. A
//! buffer that was cut goes on as buffers of ours that refer to its bytes, and is marked as sent when those are.
//!
//! What a filter puts aside must not keep nginx from reading on, so bytes in memory are copied then, once, and nginx's
//! buffers marked as sent; parts of files stay where they are. While filters hold headers, bodies wait in nginx's own
//! buffers, which makes nginx wait too.
//!
//! nginx keeps a buffer that has been handed to a filter until it is marked as sent, or the request's pool goes
//! (`ngx_http_write_filter()` relies on the same); by then [`clear`](Lane::clear) has been called.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
};

use super::{
    chain::{Body, Links},
    outgoing::Outgoing,
    parts::{NoMemory, Owners, Part, ReadError},
    request::Request,
};

/// Most bytes of a file that filters see at a time: the rest of it waits.
const FILE_PIECE: usize = 256 * 1024;

/// Most bytes of a file that are gathered before they are passed on.
const GATHERED: usize = 1024 * 1024;

/// One direction of a body.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Callbacks run that may see the parcel.
    is_open: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The parcel.
    shown: Vec<Part>,
    /// It is exactly what came.
    is_as_it_came: bool,
    /// What has come and no filter may see yet.
    waiting: Vec<Part>,
    /// What has got past the filters and is kept back until more is known, or more of the same file has.
    ready: Vec<Part>,
    /// The latter.
    is_gathered: bool,
    /// What each filter has put aside.
    held: Vec<Held>,
    /// While what a filter holds is shown: whether the parcel could be seen, and was as it came.
    parcel: Option<(bool, bool)>,
    owners: Owners,
    outgoing: Outgoing,
    /// Something was replaced.
    is_edited: bool,
    /// Something was replaced by more, or less.
    is_resized: bool,
    /// Some of what has come and has not gone on was not to wait for more, as parts of a stream are
    /// (`proxy_buffering off`).
    flushes: bool,
}

#[derive(Debug, Default)]
struct Held {
    parts: Vec<Part>,
    /// Even a parcel without bytes may be held.
    is_held: bool,
}

impl Lane {
    /// Forgets everything: the request's memory goes. Room for lists stays for the next request.
    pub(crate) fn clear(&self) {
        let state = &mut *self.state.borrow_mut();
        state.shown.clear();
        state.waiting.clear();
        state.ready.clear();
        state.is_gathered = false;
        for held in &mut state.held {
            held.parts.clear();
            held.is_held = false;
        }
        state.owners.clear();
        state.outgoing.clear();
        state.is_edited = false;
        state.is_resized = false;
        state.flushes = false;
    }

    /// Lets the parcel be seen while `run` calls filters.
    pub(crate) fn open<T>(&self, run: impl FnOnce() -> T) -> T {
        struct Close<'l>(&'l Cell<bool>);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        self.is_open.set(true);
        let _close = Close(&self.is_open);
        run()
    }

    /// Whether callbacks run that may see the parcel.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.get()
    }

    // --- what comes ----------------------------------------------------------------------------------------------

    /// Shows `body`.
    pub(crate) fn take_in(&self, body: Body<'_>) {
        let state = &mut *self.state.borrow_mut();
        state.is_as_it_came = state.shown.is_empty();
        for buffer in body.buffers() {
            state.flushes |= buffer.copy().flush() != 0;
            state.shown.push(state.owners.whole(buffer));
        }
    }

    /// Lets `body` wait in nginx's buffers, which nginx does not use again meanwhile.
    pub(crate) fn keep_waiting(&self, body: Body<'_>) {
        let state = &mut *self.state.borrow_mut();
        for buffer in body.buffers() {
            state.flushes |= buffer.copy().flush() != 0;
            state.waiting.push(state.owners.whole(buffer));
        }
    }

    /// Shows what has waited, or of a large file its next piece; false if nothing has.
    pub(crate) fn take_in_waiting(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        if state.waiting.is_empty() {
            return false;
        }
        state.is_as_it_came = false;
        let mut room = FILE_PIECE;
        let mut taken = 0;
        while room > 0
            && let Some(part) = state.waiting.get_mut(taken)
        {
            if part.is_in_file() && part.len > room {
                let (head, tail) = state.owners.split(*part, room);
                *part = tail;
                state.shown.push(head);
                break;
            }
            state.shown.push(*part);
            room = room.saturating_sub(part.len);
            taken += 1;
        }
        // What ends a body goes with its last bytes.
        while state.waiting.get(taken).is_some_and(|part| part.len == 0) {
            state.shown.extend(state.waiting.get(taken));
            taken += 1;
        }
        state.waiting.drain(..taken);
        true
    }

    /// Whether something waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.state.borrow().waiting.is_empty()
    }

    // --- what filters do -----------------------------------------------------------------------------------------

    /// Bytes of the parcel.
    pub(crate) fn len(&self) -> usize {
        self.state.borrow().len()
    }

    /// Shows the bytes of `range`, which lies inside the parcel, piece by piece.
    ///
    /// # Errors
    /// [`ReadError`] when a file could not be read.
    pub(crate) fn read(&self, range: Range<usize>, piece: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        let state = self.state.borrow();
        let mut offset = 0_usize;
        for part in &state.shown {
            let from = range.start.saturating_sub(offset).min(part.len);
            let to = range.end.saturating_sub(offset).min(part.len);
            if from < to {
                part.read(from..to, piece)?;
            }
            offset = offset.saturating_add(part.len);
            if offset >= range.end {
                break;
            }
        }
        Ok(())
    }

    /// Replaces `range`, which lies inside the parcel, by a copy of `bytes`.
    ///
    /// # Errors
    /// [`NoMemory`]; the parcel is then as it was.
    pub(crate) fn write(
        &self,
        request: Request<'_>,
        range: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), NoMemory> {
        let state = &mut *self.state.borrow_mut();
        let new = if bytes.is_empty() {
            None
        } else {
            let part = state.owners.room(request, bytes.len()).ok_or(NoMemory)?;
            state.owners.fill(&part, 0, bytes);
            Some(part)
        };
        let from = state.cut_at(range.start);
        let to = if range.is_empty() { from } else { state.cut_at(range.end).max(from) };
        let owners = &mut state.owners;
        state.shown.splice(from..to, new).for_each(|part| owners.release(part.owner));
        state.is_as_it_came = false;
        state.is_edited = true;
        state.is_resized |= range.len() != bytes.len();
        Ok(())
    }

    /// Puts the parcel aside for filter number `filter`.
    ///
    /// # Errors
    /// [`NoMemory`]; the parcel is then as it was.
    pub(crate) fn hold(&self, request: Request<'_>, filter: usize) -> Result<(), NoMemory> {
        let state = &mut *self.state.borrow_mut();
        state.owners.keep_bytes(request, &mut state.shown)?;
        if state.held.len() <= filter {
            state.held.resize_with(filter + 1, Held::default);
        }
        if let Some(held) = state.held.get_mut(filter) {
            held.parts.append(&mut state.shown);
            held.is_held = true;
        }
        Ok(())
    }

    /// Puts what filter number `filter` holds before the parcel.
    pub(crate) fn recall(&self, filter: usize) {
        let state = &mut *self.state.borrow_mut();
        let Some(held) = state.held.get_mut(filter) else { return };
        if std::mem::take(&mut held.is_held) {
            held.parts.append(&mut state.shown);
            std::mem::swap(&mut held.parts, &mut state.shown);
            state.is_as_it_came = false;
        }
    }

    /// Swaps the parcel with what filter number `filter` holds, which can be seen then, and the next time back; false
    /// where it holds nothing.
    pub(crate) fn swap_held(&self, filter: usize) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Some(held) = state.held.get_mut(filter).filter(|held| held.is_held) else { return false };
        std::mem::swap(&mut held.parts, &mut state.shown);
        match state.parcel.take() {
            None => state.parcel = Some((self.is_open.replace(true), state.is_as_it_came)),
            Some((was_open, as_it_came)) => {
                self.is_open.set(was_open);
                state.is_as_it_came = as_it_came;
            }
        }
        true
    }

    // --- what goes on --------------------------------------------------------------------------------------------

    /// Whether a filter holds a part of the body.
    pub(crate) fn is_held(&self) -> bool {
        self.state.borrow().held.iter().any(|held| held.is_held)
    }

    /// Whether what goes on is exactly what came last.
    pub(crate) fn is_as_it_came(&self) -> bool {
        let state = self.state.borrow();
        state.is_as_it_came && state.ready.is_empty()
    }

    /// Gathers the parcel, which has got past the filters, with what comes after it: pieces of a file that none of them has
    /// touched are sent at once, as nginx would have sent them. False where that is of no use.
    pub(crate) fn gather(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let bytes: usize = state.ready.iter().chain(&state.shown).map(|part| part.len).sum();
        let fits = bytes < GATHERED && (state.is_gathered || state.ready.is_empty());
        if state.waiting.is_empty() || !fits || !state.shown.iter().all(Part::is_in_file) {
            return false;
        }
        for part in state.shown.drain(..) {
            let joined = state.ready.last_mut().is_some_and(|last| state.owners.join(last, &part));
            if !joined {
                state.ready.push(part);
            }
        }
        state.is_gathered = true;
        true
    }

    /// Whether something has been gathered, and nothing comes after it for now.
    pub(crate) fn has_gathered(&self) -> bool {
        let state = self.state.borrow();
        state.is_gathered && state.waiting.is_empty()
    }

    /// Keeps the parcel, which has got past the filters, back until the next one goes on.
    ///
    /// # Errors
    /// [`NoMemory`]; the parcel is then as it was.
    pub(crate) fn keep_back(&self, request: Request<'_>) -> Result<(), NoMemory> {
        let state = &mut *self.state.borrow_mut();
        state.owners.keep_bytes(request, &mut state.shown)?;
        state.ready.append(&mut state.shown);
        state.is_gathered = false;
        Ok(())
    }

    /// Whether a filter has replaced bytes.
    pub(crate) fn is_edited(&self) -> bool {
        self.state.borrow().is_edited
    }

    /// Whether a filter has changed the number of bytes.
    pub(crate) fn is_resized(&self) -> bool {
        self.state.borrow().is_resized
    }

    /// Whether something is kept here: held, waiting, or kept back.
    pub(crate) fn is_kept(&self) -> bool {
        let state = self.state.borrow();
        !state.waiting.is_empty() || !state.ready.is_empty() || state.held.iter().any(|held| held.is_held)
    }

    /// Whether something is on its way: kept here, or passed on and not sent.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_kept() || self.state.borrow().outgoing.is_busy()
    }

    /// The parcel goes on as it came, in nginx's chain.
    pub(crate) fn let_go(&self) {
        let state = &mut *self.state.borrow_mut();
        state.flushes = false;
        for part in state.shown.drain(..) {
            state.owners.forget(part.owner);
        }
    }

    /// Makes a chain of the parcel and lets `pass` pass it on; the answer is the one of `pass`, if there was anything
    /// to pass on. With `last` the chain ends the body.
    ///
    /// # Errors
    /// [`NoMemory`]
    pub(crate) fn pass_on<'a>(
        &self,
        request: Request<'a>,
        last: bool,
        pass: impl FnOnce(Body<'_>) -> isize,
    ) -> Result<Option<isize>, NoMemory> {
        let mut links = Links::new(request);
        let made = {
            let state = &mut *self.state.borrow_mut();
            let mut parts = std::mem::take(&mut state.ready);
            state.is_gathered = false;
            for part in state.shown.drain(..) {
                let joined = parts.last_mut().is_some_and(|last| state.owners.join(last, &part));
                if !joined {
                    parts.push(part);
                }
            }
            let flush = !parts.is_empty() && std::mem::take(&mut state.flushes);
            let made = state.outgoing.load(request, &mut state.owners, &mut parts, last, flush, &mut links);
            state.ready = parts;
            made
        };
        let passed = if made { links.body().map(pass) } else { None };
        links.free();
        self.settle();
        if made { Ok(passed) } else { Err(NoMemory) }
    }

    /// Marks nginx's buffers as sent whose bytes have been.
    pub(crate) fn settle(&self) {
        let state = &mut *self.state.borrow_mut();
        state.outgoing.settle(&mut state.owners);
    }

    /// Drops the parcel, and what waits or is held, as if it had been sent.
    pub(crate) fn discard(&self) {
        let state = &mut *self.state.borrow_mut();
        state.is_gathered = false;
        let held = state.held.iter_mut().flat_map(|held| {
            held.is_held = false;
            held.parts.drain(..)
        });
        let all =
            state.shown.drain(..).chain(state.waiting.drain(..)).chain(state.ready.drain(..)).chain(held);
        for part in all {
            state.owners.release(part.owner);
        }
    }
}

impl State {
    fn len(&self) -> usize {
        self.shown.iter().map(|part| part.len).sum()
    }

    /// Index of the part that begins at `offset`, after the part around it has been cut there. Parts without bytes
    /// count to what follows them, so that what ends a body stays at its end.
    fn cut_at(&mut self, offset: usize) -> usize {
        let mut begin = 0;
        for (at, part) in self.shown.iter().enumerate() {
            if begin >= offset {
                return at;
            }
            if begin + part.len > offset {
                let (head, tail) = self.owners.split(*part, offset - begin);
                self.shown.splice(at..=at, [head, tail]);
                return at + 1;
            }
            begin += part.len;
        }
        self.shown.len()
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
