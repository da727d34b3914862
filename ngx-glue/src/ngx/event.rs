//! Events of our own (`src/event/ngx_event_posted.h`): how a paused request goes on, never below a callback of a guest.

use std::{cell::UnsafeCell, fmt, ptr::NonNull};

use nginx_sys::{
    NGX_HTTP_SPECIAL_RESPONSE, ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t,
    ngx_http_block_reading, ngx_http_core_run_phases, ngx_http_finalize_request, ngx_http_log_ctx_t,
    ngx_http_read_client_request_body, ngx_http_request_empty_handler, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_test_reading, ngx_int_t, ngx_msec_t, ngx_post_event,
    ngx_posted_events,
};

use super::{cycle::Cycle, guard::guard, request::Request};
use crate::{
    phase::request_headers,
    stream::{Stream, resume},
};

/// What happens to a request once an event of ours has been handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It waits on.
    Wait,
    /// Its phases go on where they stopped.
    Run,
    /// Whoever reads its body goes on.
    Read,
    /// Whoever sends its response goes on.
    Write,
    /// It is finalized with this code.
    Finalize(ngx_int_t),
}

/// The event that wakes one stream.
pub(crate) struct Wake(UnsafeCell<ngx_event_t>);

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

impl Wake {
    /// An event that is not posted.
    pub(crate) fn new() -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        Self(UnsafeCell::new(unsafe { std::mem::zeroed() }))
    }

    pub(crate) fn is_posted(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.0.get() }.posted() != 0
    }

    fn has_timer(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.0.get() }.timer_set() != 0
    }

    /// Makes this the event of `stream`.
    fn fill(&'static self, stream: &'static Stream) {
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, and the reference ends with these lines.
        let event = unsafe { &mut *self.0.get() };
        event.handler = Some(wake);
        event.data = std::ptr::from_ref(stream).cast_mut().cast();
        // Debugging lines of nginx's use it.
        event.log = log;
    }

    /// Wakes `stream`, whose event this is, in so many milliseconds from now, and not when it was to be before.
    pub(crate) fn set_timer(&'static self, stream: &'static Stream, time: ngx_msec_t) {
        self.fill(stream);
        // SAFETY: the event is never freed, and `stop_timer` takes this back.
        unsafe { ngx_add_timer(self.0.get(), time) };
    }

    /// Takes a timer back, if there is one.
    pub(crate) fn stop_timer(&self) {
        if self.has_timer() {
            // SAFETY: it is in nginx's tree of timers.
            unsafe { ngx_del_timer(self.0.get()) };
        }
    }

    /// Whether the timer has run off; forgets that.
    fn take_timeout(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends with this function.
        let event = unsafe { &mut *self.0.get() };
        let timed_out = event.timedout() != 0;
        event.set_timedout(0);
        timed_out
    }

    /// Wakes `stream`, whose event this is, when nginx has got control back. Posting twice is posting once.
    pub(crate) fn post(&'static self, stream: &'static Stream) {
        if self.is_posted() {
            return;
        }
        self.fill(stream);
        let queue = &raw mut ngx_posted_events;
        // SAFETY: the event is never freed, and the queue is nginx's own.
        unsafe { ngx_post_event(self.0.get(), queue) };
    }

    /// Takes the event back, if it is posted or has a timer.
    pub(crate) fn cancel(&self) {
        self.stop_timer();
        if self.is_posted() {
            // SAFETY: it is in a queue of nginx's.
            unsafe { ngx_delete_posted_event(self.0.get()) };
        }
    }
}

/// nginx handles a posted event, or one whose time has come.
unsafe extern "C" fn wake(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `post` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(stream) = NonNull::new(data.cast::<Stream>()) else { return };
    // SAFETY: `post` has put a stream there, and streams are never freed.
    let stream: &'static Stream = unsafe { stream.as_ref() };
    // The request may have ended since the event was posted.
    let Some(request) = stream.io.request() else { return };
    let next =
        guard("resuming a request", request.log(), Next::Finalize(super::code::INTERNAL_ERROR), || {
            request.name_in_log();
            let timed_out = stream.wake_event().take_timeout();
            resume::run(stream, request, timed_out)
        });
    // SAFETY: `request` was alive above, nothing of it is used after this, and nginx handles our event: the request
    // may be freed.
    unsafe { proceed(request, next) };
}

/// Does what `next` says.
///
/// # Safety
/// nginx handles an event of ours, and nothing of the request is used afterwards.
unsafe fn proceed(request: Request<'_>, next: Next) {
    let connection = request.connection().as_ptr();
    match next {
        Next::Wait => return,
        Next::Run => {
            request.edit(|r| {
                r.read_event_handler = Some(ngx_http_block_reading);
                r.write_event_handler = Some(ngx_http_core_run_phases);
            });
            // SAFETY: the request is alive and its phases have stopped at our handler.
            unsafe { ngx_http_core_run_phases(request.as_ptr()) };
        }
        Next::Read => {
            if let Some(handler) = request.peek(|r| r.read_event_handler) {
                // SAFETY: the request is alive, and this is what nginx calls when there is something to read.
                unsafe { handler(request.as_ptr()) };
            }
        }
        Next::Write => {
            if let Some(handler) = request.peek(|r| r.write_event_handler) {
                // SAFETY: the request is alive, and this is what nginx calls when the client can be written to.
                unsafe { handler(request.as_ptr()) };
            }
        }
        Next::Finalize(code) => {
            request.end_upstream();
            // SAFETY: the request is alive; this is its turn in the event loop.
            unsafe { ngx_http_finalize_request(request.as_ptr(), code) };
        }
    }
    // SAFETY: the record of a connection stays, closed or not (`src/http/ngx_http_upstream.c` does the same).
    unsafe { ngx_http_run_posted_requests(connection) };
}

/// nginx has read the body that [`Request::read_body`] has asked for.
unsafe extern "C" fn on_body_read(raw: *mut ngx_http_request_t) {
    let Some(raw) = NonNull::new(raw) else { return };
    // SAFETY: nginx calls this with the request whose body has been read; the face does not leave this function.
    let request = unsafe { Request::new(raw) };
    let next = guard(
        "the end of a request's body",
        request.log(),
        Next::Finalize(super::code::INTERNAL_ERROR),
        || request_headers::body_read(request),
    );
    match next {
        Next::Run => {
            request.edit(|r| r.write_event_handler = Some(ngx_http_core_run_phases));
            // SAFETY: the request is alive and its phases have stopped at our handler.
            unsafe { ngx_http_core_run_phases(request.as_ptr()) };
        }
        // SAFETY: the request is alive, and nginx expects that of a handler of this kind.
        Next::Finalize(code) => unsafe { ngx_http_finalize_request(request.as_ptr(), code) },
        Next::Wait | Next::Read | Next::Write => {}
    }
}

impl Request<'_> {
    /// Reads the body, and lets phases go on after that; the answer is the one of the phase handler that calls this as
    /// the last thing it does, since the request may have ended meanwhile.
    pub(crate) fn read_body(self) -> ngx_int_t {
        // SAFETY: a live request, from one of its phase handlers.
        let read = unsafe { ngx_http_read_client_request_body(self.as_ptr(), Some(on_body_read)) };
        if read >= NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t {
            return read;
        }
        // Reading has counted the request once more, as `ngx_http_mirror_handler()` explains by doing the same.
        // SAFETY: the request has not been freed, since it is counted for the phase handler that we are in.
        unsafe { ngx_http_finalize_request(self.as_ptr(), super::code::DONE) };
        super::code::DONE
    }

    /// Phases stop here until the stream is woken; meanwhile nothing but the client's going away matters
    /// (`ngx_http_test_reading()`).
    pub(crate) fn stop_phases(self) {
        self.edit(|r| {
            r.read_event_handler = Some(ngx_http_test_reading);
            r.write_event_handler = Some(ngx_http_request_empty_handler);
        });
        let Some(read) = NonNull::new(self.connection().peek(|c| c.read)) else { return };
        // SAFETY: the event of a live connection; the reference is not used after the next line.
        let event = unsafe { read.as_ref() };
        if event.ready() != 0 && event.posted() == 0 {
            // That the client has gone may have come together with its request, and then no other event tells of it
            // (`ngx_http_upstream_init_request()` does the same).
            let queue = &raw mut ngx_posted_events;
            // SAFETY: the event is in no queue, and leaves this one when its connection is closed.
            unsafe { ngx_post_event(read.as_ptr(), queue) };
        }
    }

    /// Lines in the connection's log name this request (`ngx_http_set_log_request()`).
    fn name_in_log(self) {
        // SAFETY: the log of a live connection; the reference ends here.
        let data = unsafe { &*self.log().as_ptr() }.data;
        if let Some(context) = NonNull::new(data.cast::<ngx_http_log_ctx_t>()) {
            // SAFETY: the log of a connection that serves HTTP has this record (`ngx_http_init_connection()`).
            unsafe { &mut *context.as_ptr() }.current_request = self.as_ptr();
        }
    }
}
