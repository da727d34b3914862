//! Connections that nginx keeps for us (`keepalive` of an `upstream` block), and what is to be found with them when they
//! come back.
//!
//! Whatever we keep of a connection goes with it: a cleanup handler of the connection's pool holds it. nginx destroys
//! that pool when it closes the connection, which drops what was kept; who uses the connection meanwhile
//! (`proxy_pass`) knows nothing of it.

use std::{any::Any, ffi::c_void, ptr::NonNull, rc::Rc};

use nginx_sys::{ngx_connection_t, ngx_pool_cleanup_add, ngx_pool_cleanup_t};

use super::socket::{Inner, Socket};
use crate::ngx::{cycle::Cycle, guard::guard};

/// The cleanup handler of a connection's pool. Its data is null while the connection is ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(NonNull<ngx_pool_cleanup_t>);

impl Mark {
    /// One in the pool of `inner`'s connection, which is ours.
    fn of(inner: &Inner) -> Option<Self> {
        if let Some(mark) = inner.mark.get() {
            return Some(mark);
        }
        let pool = inner.peek(|c| c.pool);
        // SAFETY: the connection's own pool, which lives as long as the connection.
        let mut cleanup = NonNull::new(unsafe { ngx_pool_cleanup_add(pool, 0) })?;
        {
            // SAFETY: nginx has just made it; the reference ends with this block.
            let fields = unsafe { cleanup.as_mut() };
            fields.data = std::ptr::null_mut();
            fields.handler = Some(closed);
        }
        let mark = Self(cleanup);
        inner.mark.set(Some(mark));
        Some(mark)
    }

    /// The one in the pool of the connection at `raw`, if it has one.
    ///
    /// # Safety
    /// The connection is open.
    unsafe fn find(raw: NonNull<ngx_connection_t>) -> Option<Self> {
        // SAFETY: the caller's promise; the reference ends here.
        let pool = NonNull::new(unsafe { raw.as_ref() }.pool)?;
        // SAFETY: an open connection's pool lives; the reference ends here.
        let mut next = unsafe { pool.as_ref() }.cleanup;
        while let Some(cleanup) = NonNull::new(next) {
            // SAFETY: the handlers of a pool live as long as it does; the reference ends with this turn of the loop.
            let fields = unsafe { cleanup.as_ref() };
            if fields.handler.is_some_and(|handler| std::ptr::fn_addr_eq(handler, CLOSED)) {
                return Some(Self(cleanup));
            }
            next = fields.next;
        }
        None
    }

    /// Exchanges what it holds: a count of an `Rc<Inner>`, or null.
    ///
    /// # Safety
    /// The pool that it is in lives.
    unsafe fn replace(mut self, data: *mut c_void) -> Option<NonNull<Inner>> {
        // SAFETY: the caller's promise; the reference ends here.
        let place = unsafe { &mut self.0.as_mut().data };
        NonNull::new(std::mem::replace(place, data).cast())
    }
}

impl Socket {
    /// Gives the connection away, open. `companion`, which may hold clones of this, is what [`take_back`] answers with
    /// it, and is dropped if the connection is closed before.
    ///
    /// # Errors
    /// There is no memory: the connection stays ours.
    pub(super) fn lend(
        self,
        companion: Box<dyn Any>,
    ) -> Result<NonNull<ngx_connection_t>, (Self, Box<dyn Any>)> {
        let Some(mark) = Mark::of(self.inner()) else { return Err((self, companion)) };
        let inner = self.disown();
        let raw = inner.raw();
        inner.companion.set(Some(companion));
        // SAFETY: the connection is still open, and so is its pool.
        let before = unsafe { mark.replace(Rc::into_raw(inner).cast_mut().cast()) };
        debug_assert!(before.is_none(), "a connection is lent once at a time");
        Ok(raw)
    }
}

/// The connection at `raw`, with what went with it if it was lent before.
///
/// # Safety
/// It is open, has a pool of its own, and nobody else has it from here on.
pub(super) unsafe fn take_back(raw: NonNull<ngx_connection_t>) -> (Socket, Option<Box<dyn Any>>) {
    // SAFETY: the caller's promise.
    let mark = unsafe { Mark::find(raw) };
    // SAFETY: the connection is open, and so is its pool.
    let lent = mark.and_then(|mark| unsafe { mark.replace(std::ptr::null_mut()) });
    let Some(lent) = lent else {
        // SAFETY: the caller's promise.
        return (unsafe { Socket::new(raw) }, None);
    };
    // SAFETY: `lend` has put a count there, which is taken once.
    let inner = unsafe { Rc::from_raw(lent.as_ptr()) };
    let companion = inner.companion.take();
    // SAFETY: the caller's promise; it is the connection of this record.
    (unsafe { Socket::own(inner) }, companion)
}

/// How [`closed`] is known.
const CLOSED: unsafe extern "C" fn(*mut c_void) = closed;

/// A connection's pool is destroyed: whoever had it closes it.
unsafe extern "C" fn closed(data: *mut c_void) {
    let Some(lent) = NonNull::new(data.cast::<Inner>()) else { return };
    // SAFETY: `lend` has put a count there, which nobody has taken: then there would be null.
    let inner = unsafe { Rc::from_raw(lent.as_ptr()) };
    Cycle::with_current(|cycle| {
        // It may hold further counts of the record, which closes nothing: the connection is not ours.
        guard("the end of a kept connection", cycle.log(), (), || drop(inner.companion.take()));
    });
}
