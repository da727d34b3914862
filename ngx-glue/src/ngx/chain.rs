//! A chain of buffers (`src/core/ngx_buf.h`): bodies as filters pass them on, in memory, in files, or both.

use std::{cell::Cell, marker::PhantomData, ops::Range, ptr::NonNull, slice};

use nginx_sys::{ngx_buf_t, ngx_chain_t, off_t};

use super::request::Request;

/// Bytes of a file that are read at a time, on the stack.
const PIECE: usize = 16 * 1024;

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
}

/// A part of a file could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadError;

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
        // SAFETY: pointers, integers and flags, for all of which zeros are valid.
        let mut buffer: ngx_buf_t = unsafe { std::mem::zeroed() };
        if !bytes.is_empty() {
            let Range { start, end } = bytes.as_ptr_range();
            buffer.start = start.cast_mut();
            buffer.pos = start.cast_mut();
            buffer.last = end.cast_mut();
            buffer.end = end.cast_mut();
            // Memory that must not be written to.
            buffer.set_memory(1);
        }
        let is_main = request.is_main();
        buffer.set_last_buf(u32::from(is_main));
        buffer.set_last_in_chain(1);
        // As `ngx_http_send_special()`: a buffer without bytes has to say what it is for.
        buffer.set_sync(u32::from(!is_main && bytes.is_empty()));
        let buffer = request.place(buffer)?.as_ptr();
        let first = request.place(ngx_chain_t { buf: buffer, next: std::ptr::null_mut() })?;
        // SAFETY: link and buffer have just been made in the pool, and `bytes` lives as long.
        Some(unsafe { Self::new(first) })
    }

    /// nginx's pointer to the first link.
    pub(super) const fn as_ptr(self) -> *mut ngx_chain_t {
        self.first.as_ptr()
    }

    fn buffers(self) -> impl Iterator<Item = Buffer<'a>> {
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
                bytes: sum.bytes.saturating_add(buffer.len()),
                last: sum.last || record.last_buf() != 0,
                last_in_chain: sum.last_in_chain || record.last_in_chain() != 0,
            }
        })
    }

    /// Shows the bytes of `range`, which lies inside it, piece by piece.
    ///
    /// # Errors
    /// [`ReadError`] when a file could not be read.
    pub(crate) fn read(self, range: Range<usize>, piece: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        let mut offset = 0_usize;
        for buffer in self.buffers() {
            let len = buffer.len();
            let from = range.start.saturating_sub(offset).min(len);
            let to = range.end.saturating_sub(offset).min(len);
            if from < to {
                buffer.read(from..to, piece)?;
            }
            offset = offset.saturating_add(len);
            if offset >= range.end {
                break;
            }
        }
        Ok(())
    }

    /// Marks everything in it as sent, so that whoever owns the buffers uses them again.
    pub(crate) fn consume(self) {
        for buffer in self.buffers() {
            buffer.consume();
        }
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy)]
struct Buffer<'a> {
    raw: NonNull<ngx_buf_t>,
    owner: PhantomData<&'a ngx_buf_t>,
}

impl<'a> Buffer<'a> {
    fn copy(self) -> ngx_buf_t {
        // SAFETY: buffers stay as they are by the promise made to `Body::new`.
        unsafe { self.raw.read() }
    }

    /// Its bytes, where they are in memory.
    fn memory(self) -> Option<&'a [u8]> {
        let buffer = self.copy();
        // `ngx_buf_in_memory()`.
        if buffer.temporary() == 0 && buffer.memory() == 0 && buffer.mmap() == 0 {
            return None;
        }
        let len = buffer.last.addr().saturating_sub(buffer.pos.addr());
        if len == 0 || buffer.pos.is_null() {
            return Some(&[]);
        }
        // SAFETY: a buffer in memory has bytes from `pos` up to `last`, which stay by the promise made to `Body::new`.
        Some(unsafe { slice::from_raw_parts(buffer.pos, len) })
    }

    /// Bytes in it: `ngx_buf_size()`, where memory wins over the file it is a copy of.
    fn len(self) -> usize {
        if let Some(memory) = self.memory() {
            return memory.len();
        }
        let buffer = self.copy();
        if buffer.in_file() == 0 {
            return 0;
        }
        usize::try_from(buffer.file_last - buffer.file_pos).unwrap_or_default()
    }

    fn read(self, range: Range<usize>, piece: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        if let Some(memory) = self.memory() {
            piece(memory.get(range).unwrap_or_default());
            return Ok(());
        }
        let buffer = self.copy();
        let file = NonNull::new(buffer.file).ok_or(ReadError)?;
        // SAFETY: a buffer in a file has the record of that file, which is open as long as the buffer is used.
        let descriptor = unsafe { file.as_ref() }.fd;
        let mut bytes = [0; PIECE];
        let Range { mut start, end } = range;
        while start < end {
            let wanted = bytes.get_mut(..PIECE.min(end - start)).unwrap_or_default();
            let offset = off_t::try_from(start).map_err(|_| ReadError)? + buffer.file_pos;
            // SAFETY: the descriptor is open, and `wanted` has as many bytes as are asked for.
            let read = unsafe { libc::pread(descriptor, wanted.as_mut_ptr().cast(), wanted.len(), offset) };
            let read = usize::try_from(read).unwrap_or_default();
            let Some(read) = wanted.get(..read).filter(|read| !read.is_empty()) else {
                if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(ReadError);
            };
            piece(read);
            start += read.len();
        }
        Ok(())
    }

    fn consume(self) {
        // SAFETY: the buffer is there by the promise made to `Body::new`, and nobody else looks at it meanwhile.
        let buffer = unsafe { &mut *self.raw.as_ptr() };
        buffer.pos = buffer.last;
        buffer.file_pos = buffer.file_last;
    }
}

/// Where a body lies while callbacks run that may read it.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Cell<Option<NonNull<ngx_chain_t>>>);

impl Shelf {
    /// Lays `body` there while `run` runs, and takes it away again, even when that panics.
    pub(crate) fn lay<T>(&self, body: Body<'_>, run: impl FnOnce() -> T) -> T {
        struct Clear<'s>(&'s Shelf);
        impl Drop for Clear<'_> {
            fn drop(&mut self) {
                self.0.0.set(None);
            }
        }
        self.0.set(Some(body.first));
        let _clear = Clear(self);
        run()
    }

    /// Lends the body, if one lies there.
    pub(crate) fn look<T>(&self, read: impl for<'b> FnOnce(Body<'b>) -> T) -> Option<T> {
        let first = self.0.get()?;
        // SAFETY: below `lay`, which has the body borrowed; the face does not leave `read`.
        Some(read(unsafe { Body::new(first) }))
    }
}
