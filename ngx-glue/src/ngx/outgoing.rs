//! What has been passed on in buffers of our own, and not been sent yet.

use std::{collections::VecDeque, ptr::NonNull};

use nginx_sys::ngx_buf_t;

use super::{
    chain::{Buffer, Links, empty_buffer, is_last, mark_last, size},
    parts::{OwnerId, Owners, Part, Source},
    request::Request,
};

/// Buffers of ours on their way, in the order they were passed on.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    busy: VecDeque<(NonNull<ngx_buf_t>, Option<OwnerId>)>,
    /// Records of buffers that have been sent.
    free: Vec<NonNull<ngx_buf_t>>,
}

impl Outgoing {
    /// Forgets everything: the request's memory goes.
    pub(super) fn clear(&mut self) {
        self.busy.clear();
        self.free.clear();
    }

    /// Whether something has not been sent.
    pub(super) fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// Moves `parts` into a chain, which ends the body with `last`; false without memory, when the body is lost. With
    /// `flush` it is not to wait for more (`postpone_output`).
    ///
    /// A buffer of nginx's that no filter has cut goes on as it is. Others go on as buffers of ours.
    pub(super) fn load(
        &mut self,
        request: Request<'_>,
        owners: &mut Owners,
        parts: &mut Vec<Part>,
        last: bool,
        flush: bool,
        links: &mut Links<'_>,
    ) -> bool {
        let is_main = request.is_main();
        let mut ended = false;
        let count = parts.len();
        let mut done = true;
        let mut ours = None;
        for (at, part) in parts.drain(..).enumerate() {
            let ends = last && at + 1 == count;
            let whole = owners.as_whole(&part);
            // SAFETY: the buffer is nginx's, and has not been marked as sent.
            let record = whole.map(|raw| unsafe { Buffer::new(raw) }.copy());
            let fits = record.as_ref().is_some_and(|record| is_last(record, is_main) == ends);
            match whole {
                Some(raw) if fits => {
                    owners.forget(part.owner);
                    done &= links.push(raw);
                    ended |= ends;
                    // It says itself whether it waits.
                    ours = None;
                }
                _ if part.len == 0 => owners.release(part.owner),
                _ => {
                    let shape = owners.buffer(&part);
                    let buffer = shadow(&part, shape, ends.then_some(is_main));
                    done &= self.push(request, owners, buffer, part.owner, links);
                    ended |= ends;
                    ours = self.busy.back().map(|(raw, _)| *raw);
                }
            }
        }
        if let Some(raw) = ours.filter(|_| flush && !last) {
            // SAFETY: a record of ours, which has just been made and that nobody else has yet.
            unsafe { &mut *raw.as_ptr() }.set_flush(1);
        }
        if last && !ended {
            let mut buffer = empty_buffer();
            mark_last(&mut buffer, is_main);
            done &= self.push(request, owners, buffer, None, links);
        }
        done
    }

    fn push(
        &mut self,
        request: Request<'_>,
        owners: &mut Owners,
        buffer: ngx_buf_t,
        owner: Option<OwnerId>,
        links: &mut Links<'_>,
    ) -> bool {
        let raw = match self.free.pop() {
            Some(raw) => {
                // SAFETY: a record of ours in the request's pool, whose bytes have been sent.
                unsafe { raw.write(buffer) };
                Some(raw)
            }
            None => request.place(buffer),
        };
        let Some(raw) = raw.filter(|raw| links.push(*raw)) else {
            owners.release(owner);
            return false;
        };
        self.busy.push_back((raw, owner));
        true
    }

    /// Gives back what has been sent.
    pub(super) fn settle(&mut self, owners: &mut Owners) {
        while let Some((raw, owner)) = self.busy.front().copied() {
            // SAFETY: a record of ours in the request's pool.
            let record = unsafe { Buffer::new(raw) }.copy();
            if size(&record) > 0 {
                break;
            }
            self.busy.pop_front();
            owners.release(owner);
            // One without bytes may still wait for its flags to be acted upon.
            if record.start != record.end || record.in_file() != 0 {
                self.free.push(raw);
            }
        }
    }
}

/// A buffer of ours for the bytes of `part`; `shape` is nginx's buffer that they were a part of. `ends` is whether it
/// ends a body, and whether that is the one of a main request.
fn shadow(part: &Part, shape: Option<NonNull<ngx_buf_t>>, ends: Option<bool>) -> ngx_buf_t {
    let mut buffer = empty_buffer();
    // SAFETY: the buffer is nginx's, and has not been marked as sent.
    let shape = shape.map(|raw| unsafe { Buffer::new(raw) }.copy());
    match part.source {
        Source::Memory(start) => {
            let start = start.as_ptr();
            let end = start.wrapping_add(part.len);
            // An upstream that is tried again begins at `start` (`ngx_http_upstream_reinit()`).
            buffer.start = start;
            buffer.pos = start;
            buffer.last = end;
            buffer.end = end;
            match &shape {
                Some(shape) => {
                    buffer.set_temporary(shape.temporary());
                    buffer.set_memory(shape.memory());
                    buffer.set_mmap(shape.mmap());
                    buffer.set_recycled(shape.recycled());
                }
                None => buffer.set_temporary(1),
            }
        }
        Source::File(file, offset) => {
            buffer.set_in_file(1);
            buffer.file = file.as_ptr();
            buffer.file_pos = offset;
            buffer.file_last = offset.saturating_add_unsigned(part.len as u64);
        }
    }
    if let Some(shape) = &shape {
        buffer.set_flush(shape.flush());
        buffer.set_temp_file(shape.temp_file());
    }
    if let Some(is_main) = ends {
        mark_last(&mut buffer, is_main);
    }
    buffer
}
