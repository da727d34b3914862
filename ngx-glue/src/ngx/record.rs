//! The way from a request to its [`Stream`]: the module's context, and a cleanup of the request's pool, which is also
//! what ends the stream at the latest.

use std::{ffi::c_void, ptr::NonNull};

use nginx_sys::{ngx_pool_cleanup_add, ngx_pool_cleanup_t};

use super::{cycle::Cycle, guard::guard, request::Request};
use crate::{module::http_module, stream::Stream};

impl<'a> Request<'a> {
    /// The stream of this request, if there is one.
    ///
    /// The context is the fast way; where nginx has forgotten contexts, the cleanups of the pool are searched, and the
    /// context is set again.
    pub(crate) fn stream(self) -> Option<&'static Stream> {
        if let Some(stream) = self.context() {
            return Some(stream);
        }
        if !self.may_have_lost_contexts() {
            return None;
        }
        let stream = self.search()?;
        self.set_context(stream);
        Some(stream)
    }

    /// Ties `stream` to this request until its pool is destroyed, which ends it; false without memory.
    pub(crate) fn tie(self, stream: &'static Stream) -> bool {
        let Some(pool) = self.pool() else { return false };
        // SAFETY: the pool lives; size 0 allocates no data of nginx's.
        let Some(cleanup) = NonNull::new(unsafe { ngx_pool_cleanup_add(pool.as_ptr(), 0) }) else {
            return false;
        };
        // SAFETY: nginx has just made this record in the pool, and nobody else has it.
        let cleanup = unsafe { &mut *cleanup.as_ptr() };
        cleanup.data = std::ptr::from_ref(stream).cast_mut().cast();
        cleanup.handler = Some(end);
        self.set_context(stream);
        let Some(raw) = NonNull::new(self.as_ptr()) else { return false };
        // SAFETY: the same request and pool, without a bound: the stream gives this handle up in `end`, before the
        // memory of the pool goes.
        stream.io.open(unsafe { Request::new(raw) });
        true
    }

    fn place_of_context(self) -> Option<NonNull<*mut c_void>> {
        let contexts = NonNull::new(self.peek(|r| r.ctx))?;
        // SAFETY: a request has a place for the context of each HTTP module (`ngx_http_max_module`).
        Some(unsafe { contexts.add(http_module().context_index()) })
    }

    fn context(self) -> Option<&'static Stream> {
        let place = self.place_of_context()?;
        // SAFETY: the place is inside the array.
        let stream = NonNull::new(unsafe { place.read() })?;
        // SAFETY: only `set_context` writes there, and streams are never freed.
        Some(unsafe { stream.cast::<Stream>().as_ref() })
    }

    fn set_context(self, stream: &'static Stream) {
        if let Some(place) = self.place_of_context() {
            // SAFETY: the place is inside the array, and ours.
            unsafe { place.write(std::ptr::from_ref(stream).cast_mut().cast()) };
        }
    }

    fn search(self) -> Option<&'static Stream> {
        let pool = self.pool()?;
        // SAFETY: the pool lives.
        let mut next = unsafe { pool.as_ref() }.cleanup;
        while let Some(cleanup) = NonNull::new(next) {
            // SAFETY: cleanups are in the pool.
            let cleanup: ngx_pool_cleanup_t = unsafe { cleanup.read() };
            let ours = cleanup.handler.is_some_and(|handler| std::ptr::fn_addr_eq(handler, END));
            if let Some(stream) = NonNull::new(cleanup.data).filter(|_| ours) {
                // SAFETY: only `tie` registers this handler, with a stream, and streams are never freed.
                let stream = unsafe { stream.cast::<Stream>().as_ref() };
                // Subrequests share the pool.
                if stream.io.request() == Some(self) {
                    return Some(stream);
                }
            }
            next = cleanup.next;
        }
        None
    }
}

/// [`end`], as nginx has it.
const END: unsafe extern "C" fn(*mut c_void) = end;

/// The pool is being destroyed: the stream ends, if it has not, and its record is free for another request.
unsafe extern "C" fn end(data: *mut c_void) {
    let Some(stream) = NonNull::new(data.cast::<Stream>()) else { return };
    // SAFETY: `tie` has registered this with a stream, and streams are never freed.
    let stream: &'static Stream = unsafe { stream.as_ref() };
    Cycle::with_current(|cycle| guard("the end of a request", cycle.log(), (), || stream.end()));
    // Even after a panic in there.
    stream.io.close();
}
