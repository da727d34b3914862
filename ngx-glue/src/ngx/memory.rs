//! Memory of a request's pool (`src/core/ngx_palloc.h`): what is made for a request lives as long as it.

use std::{ptr::NonNull, slice};

use nginx_sys::{ngx_palloc, ngx_pnalloc, ngx_pool_t, ngx_str_t};

use super::request::Request;

impl<'a> Request<'a> {
    /// Its pool; `None` once the request is being freed.
    pub(super) fn pool(self) -> Option<NonNull<ngx_pool_t>> {
        NonNull::new(self.peek(|r| r.pool))
    }

    /// `len` bytes of its pool, all zero.
    pub(crate) fn allocate(self, len: usize) -> Option<&'a mut [u8]> {
        if len == 0 {
            return Some(&mut []);
        }
        let pool = self.pool()?;
        // SAFETY: the pool lives by the promise made to `new`.
        let memory = NonNull::new(unsafe { ngx_pnalloc(pool.as_ptr(), len) })?.cast::<u8>();
        // SAFETY: these are `len` bytes that nobody else has.
        unsafe { memory.write_bytes(0, len) };
        // SAFETY: they have just been written, belong to the pool and thus live for `'a`, and nobody else has them.
        Some(unsafe { slice::from_raw_parts_mut(memory.as_ptr(), len) })
    }

    /// A copy of `bytes` in its pool, with a NUL behind it as nginx's parser leaves one behind every header: some of
    /// its code looks for the end with that (`ngx_strcasestrn()`, `ngx_http_range_parse()`).
    pub(crate) fn keep(self, bytes: &[u8]) -> Option<&'a [u8]> {
        let copy = self.allocate(bytes.len().checked_add(1)?)?;
        let (text, _) = copy.split_at_mut_checked(bytes.len())?;
        text.copy_from_slice(bytes);
        Some(text)
    }

    /// `value`, moved into its pool. It is never dropped.
    pub(super) fn place<T: Copy>(self, value: T) -> Option<NonNull<T>> {
        let memory = self.room::<T>(1)?;
        // SAFETY: the room is aligned and large enough for one `T` that nobody else has.
        unsafe { memory.write(value) };
        Some(memory)
    }

    /// Room for `count` values of `T` in its pool, not initialized.
    pub(super) fn room<T>(self, count: usize) -> Option<NonNull<T>> {
        const { assert!(align_of::<T>() <= nginx_sys::NGX_ALIGNMENT) }
        let pool = self.pool()?;
        let size = count.checked_mul(size_of::<T>())?;
        // SAFETY: the pool lives by the promise made to `new`; `ngx_palloc()` aligns to NGX_ALIGNMENT.
        Some(NonNull::new(unsafe { ngx_palloc(pool.as_ptr(), size) })?.cast())
    }

    /// Values in its pool. Ends early if `values` does.
    pub(crate) fn keep_all<T: Copy>(self, count: usize, values: impl Iterator<Item = T>) -> Option<&'a [T]> {
        if count == 0 {
            return Some(&[]);
        }
        let memory = self.room::<T>(count)?;
        let mut written = 0;
        for value in values.take(count) {
            // SAFETY: `written` is less than `count`.
            let place = unsafe { memory.add(written) };
            // SAFETY: the place is aligned, inside the room, and nobody else has it.
            unsafe { place.write(value) };
            written += 1;
        }
        // SAFETY: that many values have just been written, in memory of the pool, which lives for `'a`.
        Some(unsafe { slice::from_raw_parts(memory.as_ptr(), written) })
    }
}

/// `text` as nginx stores strings. It has to live in the pool of the request it is stored in.
pub(super) const fn stored(text: &[u8]) -> ngx_str_t {
    ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() }
}
