//! A timer of nginx's that wakes a stream when it has waited long enough.

use std::{cell::UnsafeCell, fmt, ptr::NonNull, time::Duration};

use nginx_sys::{ngx_add_timer, ngx_del_timer, ngx_event_t, ngx_msec_t};

use super::{cycle::Cycle, guard::guard};
use crate::stream::Stream;

/// The timer of one stream.
pub(crate) struct Deadline(UnsafeCell<ngx_event_t>);

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deadline")
    }
}

impl Deadline {
    /// A timer that rests.
    pub(crate) fn new() -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        Self(UnsafeCell::new(unsafe { std::mem::zeroed() }))
    }

    fn is_set(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.0.get() }.timer_set() != 0
    }

    /// Wakes `stream`, whose timer this is, when `time` has passed: [`Stream::waited_out`].
    pub(crate) fn begin(&'static self, stream: &'static Stream, time: Duration) {
        self.cancel();
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, the event is in no tree, and the reference ends with these lines.
        let event = unsafe { &mut *self.0.get() };
        event.handler = Some(expire);
        event.data = std::ptr::from_ref(stream).cast_mut().cast();
        event.log = log;
        let time = ngx_msec_t::try_from(time.as_millis()).unwrap_or(ngx_msec_t::MAX >> 1);
        // SAFETY: the event is never freed.
        unsafe { ngx_add_timer(self.0.get(), time) };
    }

    /// Takes it back, if it runs.
    pub(crate) fn cancel(&self) {
        if self.is_set() {
            // SAFETY: it is in nginx's tree.
            unsafe { ngx_del_timer(self.0.get()) };
        }
    }
}

/// The time has passed.
unsafe extern "C" fn expire(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `begin` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(stream) = NonNull::new(data.cast::<Stream>()) else { return };
    // SAFETY: `begin` has put a stream there, and streams are never freed.
    let stream: &'static Stream = unsafe { stream.as_ref() };
    Cycle::with_current(|cycle| guard("the end of a wait", cycle.log(), (), || stream.waited_out()));
}
