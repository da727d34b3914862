//! A descriptor that nginx's event loop watches for us: the one by which other workers tell of messages.

use std::{
    os::fd::{IntoRawFd, OwnedFd},
    ptr::NonNull,
};

use nginx_sys::{
    NGX_OK, ngx_close_connection, ngx_connection_t, ngx_event_t, ngx_get_connection, ngx_handle_read_event,
    ngx_int_t,
};

use super::{cycle::Cycle, guard::guard_part};
use crate::worker;

/// A descriptor that is watched until this is dropped, in the process that began to.
#[derive(Debug)]
pub(crate) struct Watch(NonNull<ngx_connection_t>);

impl Watch {
    /// Has [`worker::queues_ready`] called whenever `descriptor` is readable. `None`, and logged by nginx, when it has
    /// no connection for that, or its event method refuses.
    ///
    /// To be called when a process has its events (`init_process` of modules that come after nginx's own).
    pub(crate) fn new(descriptor: OwnedFd, cycle: Cycle<'_>) -> Option<Self> {
        let descriptor = descriptor.into_raw_fd();
        // SAFETY: the process has its connections; the descriptor is open, and is the connection's from here on.
        let connection = unsafe { ngx_get_connection(descriptor, cycle.log().as_ptr()) };
        let Some(connection) = NonNull::new(connection) else {
            // SAFETY: nobody has taken it.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor) });
            return None;
        };
        let watch = Self(connection);
        // SAFETY: `ngx_get_connection()` has given us a connection that is nobody else's.
        let read = unsafe { (*connection.as_ptr()).read };
        // SAFETY: a connection's events live as long as it does.
        let mut event = unsafe { NonNull::new_unchecked(read) };
        {
            // SAFETY: as above; this is nginx's one thread, and the reference ends with this block.
            let event = unsafe { event.as_mut() };
            event.handler = Some(readable);
            event.log = cycle.log().as_ptr();
            // It is no client's: a worker that ends does not complain that it is open.
            event.set_channel(1);
        }
        // SAFETY: the event is a connection's, and has its handler.
        let added = unsafe { ngx_handle_read_event(event.as_ptr(), 0) };
        (added == ngx_int_t::try_from(NGX_OK).unwrap_or_default()).then_some(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: the connection is ours since `new`, and nobody has closed it. This takes its events away and closes
        // its descriptor.
        unsafe { ngx_close_connection(self.0.as_ptr()) };
    }
}

/// The descriptor is readable.
unsafe extern "C" fn readable(_event: *mut ngx_event_t) {
    Cycle::with_current(|cycle| {
        let tell = || {
            guard_part("telling of messages", cycle.log(), || {
                if let Some(main) = crate::module::main_of(cycle) {
                    worker::queues_ready(main);
                }
            })
        };
        // Queues wake whoever has looked at them since the last time, so a bug before that would leave this worker deaf:
        // it has a second chance.
        if tell().is_none() {
            tell();
        }
    });
}
