//! A chain of buffers (`src/core/ngx_buf.h`): bodies as filters pass them on, in memory, in files, or both.

use std::{marker::PhantomData, ops::Range, ptr::NonNull};

use nginx_sys::{ngx_alloc_chain_link, ngx_buf_t, ngx_chain_t};

use super::request::Request;

/// A chain that can be read as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    first: NonNull<ngx_chain_t>,
    owner: PhantomData<&'a ngx_chain_t>,
}

/// What a chain holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Measure {
    /// Bytes in it.
    pub(crate) bytes: usize,
    /// Whether its end is the end of the body (`last_buf`).
    pub(crate) last: bool,
    /// Whether its end is the end of a subrequest's body (`last_in_chain`).
    pub(crate) last_in_chain: bool,
    /// Whether some of it is in a file only.
    pub(crate) in_file: bool,
    /// Whether what is before its end is to be written out (`flush`).
    pub(crate) flush: bool,
}

impl<'a> Body<'a> {
    /// The chain that begins at `first`.
    ///
    /// # Safety
    /// `first` points to a link of a chain whose links, buffers and bytes stay as they are as long as `'a`.
    pub(crate) const unsafe fn new(first: NonNull<ngx_chain_t>) -> Self {
        Self { first, owner: PhantomData }
    }

    /// One buffer with `bytes`, in the pool of `request`: the whole body of a response of ours.
    pub(crate) fn whole(request: Request<'a>, bytes: &'a [u8]) -> Option<Self> {
        let mut buffer = empty_buffer();
        if !bytes.is_empty() {
            let Range { start, end } = bytes.as_ptr_range();
            buffer.start = start.cast_mut();
            buffer.pos = start.cast_mut();
            buffer.last = end.cast_mut();
            buffer.end = end.cast_mut();
            // Memory that must not be written to.
            buffer.set_memory(1);
        }
        mark_last(&mut buffer, request.is_main());
        let buffer = request.place(buffer)?.as_ptr();
        let first = request.place(ngx_chain_t { buf: buffer, next: std::ptr::null_mut() })?;
        // SAFETY: link and buffer have just been made in the pool, and `bytes` lives as long.
        Some(unsafe { Self::new(first) })
    }

    /// nginx's pointer to the first link.
    pub(super) const fn as_ptr(self) -> *mut ngx_chain_t {
        self.first.as_ptr()
    }

    /// Its buffers, in order.
    pub(super) fn buffers(self) -> impl Iterator<Item = Buffer<'a>> {
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            let link = next?;
            // SAFETY: links stay as they are by the promise made to `new`.
            let link = unsafe { link.read() };
            next = NonNull::new(link.next);
            Some(Buffer { raw: NonNull::new(link.buf)?, owner: PhantomData })
        })
    }

    /// What it holds.
    pub(crate) fn measure(self) -> Measure {
        self.buffers().fold(Measure::default(), |sum, buffer| {
            let record = buffer.copy();
            Measure {
                bytes: sum.bytes.saturating_add(size(&record)),
                last: sum.last || record.last_buf() != 0,
                last_in_chain: sum.last_in_chain || record.last_in_chain() != 0,
                in_file: sum.in_file || (record.in_file() != 0 && !in_memory(&record)),
                flush: sum.flush || record.flush() != 0,
            }
        })
    }

    /// Marks everything in it as sent, so that whoever owns the buffers uses them again.
    pub(crate) fn consume(self) {
        for buffer in self.buffers() {
            buffer.consume();
        }
    }
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffer<'a> {
    raw: NonNull<ngx_buf_t>,
    owner: PhantomData<&'a ngx_buf_t>,
}

impl Buffer<'_> {
    /// The buffer at `raw`.
    ///
    /// # Safety
    /// `raw` points to a buffer that stays, with its bytes, as long as the face is used.
    pub(super) const unsafe fn new(raw: NonNull<ngx_buf_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// nginx's pointer to it.
    pub(super) const fn raw(self) -> NonNull<ngx_buf_t> {
        self.raw
    }

    /// Its record.
    pub(super) fn copy(self) -> ngx_buf_t {
        // SAFETY: the buffer is there by the promise made to `Body::new` or `new`.
        unsafe { self.raw.read() }
    }

    /// Marks it as sent.
    pub(super) fn consume(self) {
        // SAFETY: the buffer is there by the promise made to `Body::new` or `new`, and nobody else looks meanwhile.
        let buffer = unsafe { &mut *self.raw.as_ptr() };
        buffer.pos = buffer.last;
        buffer.file_pos = buffer.file_last;
    }
}

/// A buffer with nothing in it.
pub(super) const fn empty_buffer() -> ngx_buf_t {
    // SAFETY: pointers, integers and flags, for all of which zeros are valid.
    unsafe { std::mem::zeroed() }
}

/// Whether bytes of a buffer are in memory: `ngx_buf_in_memory()`.
pub(super) fn in_memory(buffer: &ngx_buf_t) -> bool {
    buffer.temporary() != 0 || buffer.memory() != 0 || buffer.mmap() != 0
}

/// Bytes in a buffer: `ngx_buf_size()`, where memory wins over the file it is a copy of.
pub(super) fn size(buffer: &ngx_buf_t) -> usize {
    if in_memory(buffer) {
        return buffer.last.addr().saturating_sub(buffer.pos.addr());
    }
    if buffer.in_file() == 0 {
        return 0;
    }
    usize::try_from(buffer.file_last - buffer.file_pos).unwrap_or_default()
}

/// Whether a buffer ends the body of a request, or of a subrequest.
pub(super) fn is_last(buffer: &ngx_buf_t, is_main: bool) -> bool {
    if is_main { buffer.last_buf() != 0 } else { buffer.last_in_chain() != 0 }
}

/// Makes `buffer` end the body of a request, or of a subrequest, as `ngx_http_send_special()` does.
pub(super) fn mark_last(buffer: &mut ngx_buf_t, is_main: bool) {
    buffer.set_last_buf(u32::from(is_main));
    buffer.set_last_in_chain(1);
    // A buffer without bytes has to say what it is for.
    buffer.set_sync(u32::from(!is_main && size(buffer) == 0));
}

/// A chain of links of our own while it is being made. The links are given back when it has been passed on: filters
/// copy the links that they keep.
#[derive(Debug)]
pub(super) struct Links<'a> {
    request: Request<'a>,
    first: Option<NonNull<ngx_chain_t>>,
    last: Option<NonNull<ngx_chain_t>>,
}

impl<'a> Links<'a> {
    /// A chain without links.
    pub(super) const fn new(request: Request<'a>) -> Self {
        Self { request, first: None, last: None }
    }

    /// Adds `buffer` at the end; false without memory.
    pub(super) fn push(&mut self, buffer: NonNull<ngx_buf_t>) -> bool {
        let Some(pool) = self.request.pool() else { return false };
        // SAFETY: the pool of a live request.
        let Some(link) = NonNull::new(unsafe { ngx_alloc_chain_link(pool.as_ptr()) }) else { return false };
        // SAFETY: the link is new, and ours to fill.
        unsafe { link.write(ngx_chain_t { buf: buffer.as_ptr(), next: std::ptr::null_mut() }) };
        match self.last.replace(link) {
            None => self.first = Some(link),
            Some(last) => {
                // SAFETY: this link is one of ours.
                let last = unsafe { &mut *last.as_ptr() };
                last.next = link.as_ptr();
            }
        }
        true
    }

    /// The chain, if it has links.
    pub(super) fn body(&self) -> Option<Body<'a>> {
        // SAFETY: the links are ours, and the buffers have been given to be passed on.
        self.first.map(|first| unsafe { Body::new(first) })
    }

    /// Gives the links back to the pool: `ngx_free_chain()`.
    pub(super) fn free(self) {
        let (Some(first), Some(last), Some(pool)) = (self.first, self.last, self.request.pool()) else {
            return;
        };
        // SAFETY: the pool of a live request; the reference ends with this function.
        let pool = unsafe { &mut *pool.as_ptr() };
        // SAFETY: the last of our links.
        let last = unsafe { &mut *last.as_ptr() };
        last.next = pool.chain;
        pool.chain = first.as_ptr();
    }
}
