//! nginx's memory pools (`src/core/ngx_palloc.h`): bytes that live as long as the pool, values that die with it.

use std::{ffi::c_void, marker::PhantomData, ptr::NonNull, slice};

use nginx_sys::{ngx_pnalloc, ngx_pool_cleanup_add, ngx_pool_t};

use super::{cycle::Cycle, guard::guard};

/// A pool that can be allocated from as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool<'a> {
    raw: NonNull<ngx_pool_t>,
    owner: PhantomData<&'a ngx_pool_t>,
}

impl<'a> Pool<'a> {
    /// The pool at `raw`.
    ///
    /// # Safety
    /// `raw` points to a pool that lives as long as `'a`.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_pool_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// A copy of `bytes` that lives as long as the pool; `None` without memory.
    pub(crate) fn copy(self, bytes: &[u8]) -> Option<&'a mut [u8]> {
        if bytes.is_empty() {
            return Some(&mut []);
        }
        // SAFETY: the pool is live by the promise made to `new`.
        let memory = unsafe { ngx_pnalloc(self.raw.as_ptr(), bytes.len()) };
        let memory = NonNull::new(memory.cast::<u8>())?;
        // SAFETY: `memory` is `bytes.len()` bytes that nobody else has, so they do not overlap `bytes`.
        unsafe { memory.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        // SAFETY: all of these bytes have just been written; they belong to the pool, hence `'a`, and to nobody else.
        Some(unsafe { slice::from_raw_parts_mut(memory.as_ptr(), bytes.len()) })
    }

    /// Gives `value` to the pool, which drops it when it is destroyed; `None` without memory.
    ///
    /// Cleanups run in the reverse order of their registration (`ngx_destroy_pool()`), so the value may refer to what
    /// was given to the same pool before.
    pub(crate) fn own<T: 'static>(self, value: T) -> Option<NonNull<T>> {
        // SAFETY: the pool is live by the promise made to `new`; size 0 allocates no data of nginx's.
        let cleanup = NonNull::new(unsafe { ngx_pool_cleanup_add(self.raw.as_ptr(), 0) })?;
        let value = NonNull::from(Box::leak(Box::new(value)));
        // SAFETY: nginx has just allocated this record in the pool, and nobody else uses it now.
        let cleanup = unsafe { &mut *cleanup.as_ptr() };
        cleanup.data = value.as_ptr().cast();
        cleanup.handler = Some(drop_boxed::<T>);
        Some(value)
    }
}

/// Drops what [`Pool::own`] was given: `data` is its leaked box.
unsafe extern "C" fn drop_boxed<T>(data: *mut c_void) {
    Cycle::with_current(|cycle| {
        guard("a pool's cleanup", cycle.log(), (), || {
            // SAFETY: `own` has stored the pointer of a leaked `Box<T>`, and nginx runs each cleanup once.
            drop(unsafe { Box::from_raw(data.cast::<T>()) });
        });
    });
}
