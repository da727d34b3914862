//! A timer of nginx's by which a worker that could not begin to run filters tries that again.

use std::{cell::UnsafeCell, fmt, time::Duration};

use nginx_sys::{ngx_add_timer, ngx_del_timer, ngx_event_t, ngx_msec_t};

use super::{cycle::Cycle, guard::guard};
use crate::{module, worker};

/// How long a worker waits before it tries again.
const AGAIN: Duration = Duration::from_secs(1);

/// The timer; dropping it ends it. The event is in a place of its own, since nginx's tree of timers refers to it.
pub(crate) struct Again(Box<UnsafeCell<ngx_event_t>>);

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

impl Again {
    /// A timer that rests.
    pub(crate) fn new() -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        Self(Box::new(UnsafeCell::new(unsafe { std::mem::zeroed() })))
    }

    /// Whether the worker is about to try again.
    pub(crate) fn is_set(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.0.get() }.timer_set() != 0
    }

    /// Has [`worker::start_again`] called when some time has passed.
    pub(crate) fn begin(&self) {
        if self.is_set() {
            return;
        }
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, the event is in no tree, and the reference ends with these lines.
        let event = unsafe { &mut *self.0.get() };
        event.handler = Some(expire);
        event.log = log;
        // A worker that shuts down does not wait for it (`ngx_event_no_timers_left()`).
        event.set_cancelable(1);
        let time = ngx_msec_t::try_from(AGAIN.as_millis()).unwrap_or(ngx_msec_t::MAX >> 1);
        // SAFETY: the event stays in its box until that is dropped, which takes it out of the tree.
        unsafe { ngx_add_timer(self.0.get(), time) };
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        if self.is_set() {
            // SAFETY: it is in nginx's tree.
            unsafe { ngx_del_timer(self.0.get()) };
        }
    }
}

/// The time has passed.
unsafe extern "C" fn expire(_event: *mut ngx_event_t) {
    Cycle::with_current(|cycle| {
        guard("another start", cycle.log(), (), || {
            if let Some(main) = module::main_of(cycle) {
                worker::start_again(main);
            }
        });
    });
}
