//! The entries that nginx calls for each request: phase handlers and filters, and the filters after ours.

use std::{cell::UnsafeCell, ptr::NonNull};

use nginx_sys::{
    ngx_array_push, ngx_chain_t, ngx_http_conf_ctx_t, ngx_http_core_main_conf_t,
    ngx_http_discard_request_body, ngx_http_handler_pt, ngx_http_output_filter,
    ngx_http_phases_NGX_HTTP_LOG_PHASE, ngx_http_phases_NGX_HTTP_REWRITE_PHASE, ngx_http_request_t,
    ngx_http_send_header, ngx_http_top_body_filter, ngx_http_top_header_filter,
    ngx_http_top_request_body_filter, ngx_int_t,
};

use super::{
    chain::Body,
    code::{ERROR, OK},
    conf::Conf,
    guard::{guard, guard_part},
    request::{Request, core_index},
};
use crate::phase;

/// The filter after ours, of one kind.
///
/// It is written when a configuration is read, in the master, and only read in workers, all in one thread for each
/// process.
struct After<F>(UnsafeCell<Option<F>>);

// SAFETY: nginx runs all of it in one thread for each process, and other threads never come here.
unsafe impl<F> Sync for After<F> {}

impl<F: Copy> After<F> {
    const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    fn get(&self) -> Option<F> {
        // SAFETY: one thread, and no reference outlasts this.
        unsafe { *self.0.get() }
    }

    /// Puts `filter` where nginx keeps the first one of a chain, and that one after it.
    fn put(&self, top: *mut Option<F>, filter: F) {
        // SAFETY: `top` is a static of nginx's, which is changed only while a configuration is read, in one thread.
        let after = unsafe { top.replace(Some(filter)) };
        // SAFETY: one thread, and no reference outlasts this.
        unsafe { *self.0.get() = after };
    }
}

type HeaderFilter = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;
type BodyFilter = unsafe extern "C" fn(*mut ngx_http_request_t, *mut ngx_chain_t) -> ngx_int_t;

static AFTER_HEADERS: After<HeaderFilter> = After::new();
static AFTER_BODY: After<BodyFilter> = After::new();
static AFTER_REQUEST_BODY: After<BodyFilter> = After::new();

/// nginx could not be told of a handler: it has no memory, and has logged that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NotInstalled;

/// Puts our handlers into their phases and our filters in front of those that are there.
///
/// # Errors
/// [`NotInstalled`]
pub(crate) fn install(conf: &mut Conf<'_>) -> Result<(), NotInstalled> {
    let main = main_conf(conf)?;
    // The phase engine runs the last one first, so we come before `rewrite` and `return` of the location.
    push_handler(main, ngx_http_phases_NGX_HTTP_REWRITE_PHASE, Some(on_request_headers))?;
    push_handler(main, ngx_http_phases_NGX_HTTP_LOG_PHASE, Some(on_log))?;

    AFTER_HEADERS.put(&raw mut ngx_http_top_header_filter, on_response_headers);
    AFTER_BODY.put(&raw mut ngx_http_top_body_filter, on_response_body);
    AFTER_REQUEST_BODY.put(&raw mut ngx_http_top_request_body_filter, on_request_body);
    Ok(())
}

/// The HTTP core's settings of the `http` block that is being read.
fn main_conf(conf: &Conf<'_>) -> Result<NonNull<ngx_http_core_main_conf_t>, NotInstalled> {
    // SAFETY: nginx reads a configuration at this address (the promise made to `Conf::new`).
    let context = unsafe { (*conf.as_ptr()).ctx }.cast::<ngx_http_conf_ctx_t>();
    // SAFETY: while modules of `http` finish, the context is that block's (`ngx_http_block()`).
    let confs = unsafe { NonNull::new(context).ok_or(NotInstalled)?.as_ref() }.main_conf;
    // SAFETY: the array has a place for the index of every HTTP module.
    let place = unsafe { NonNull::new(confs).ok_or(NotInstalled)?.add(core_index()) };
    // SAFETY: the place is inside that array.
    NonNull::new(unsafe { place.read() }.cast()).ok_or(NotInstalled)
}

fn push_handler(
    mut main: NonNull<ngx_http_core_main_conf_t>,
    phase: u32,
    handler: ngx_http_handler_pt,
) -> Result<(), NotInstalled> {
    // SAFETY: the configuration is being read, in one thread; the reference ends with this function.
    let main = unsafe { main.as_mut() };
    let phase =
        usize::try_from(phase).ok().and_then(|phase| main.phases.get_mut(phase)).ok_or(NotInstalled)?;
    // SAFETY: nginx has made the array, of elements of this type (`ngx_http_init_phases()`).
    let place = unsafe { ngx_array_push(&raw mut phase.handlers) };
    let place = NonNull::new(place.cast::<ngx_http_handler_pt>()).ok_or(NotInstalled)?;
    // SAFETY: a new element of the array, for us to fill.
    unsafe { place.write(handler) };
    Ok(())
}

/// Runs `body` under the guard, with a face for the request that nginx calls an entry with.
///
/// # Safety
/// nginx has called an entry with `raw`.
unsafe fn enter(
    name: &'static str,
    raw: *mut ngx_http_request_t,
    failure: ngx_int_t,
    body: impl for<'r> FnOnce(Request<'r>) -> ngx_int_t,
) -> ngx_int_t {
    let Some(raw) = NonNull::new(raw) else { return ERROR };
    // SAFETY: the request lives while nginx waits for the entry to return, and the face does not leave `body`.
    let request = unsafe { Request::new(raw) };
    guard(name, request.log(), failure, || body(request))
}

/// The same, where an entry can do better than to fail: after a panic `recover` says what it answers.
///
/// # Safety
/// nginx has called an entry with `raw`.
unsafe fn enter_or(
    name: &'static str,
    raw: *mut ngx_http_request_t,
    recover: impl for<'r> FnOnce(Request<'r>) -> ngx_int_t,
    body: impl for<'r> FnOnce(Request<'r>) -> ngx_int_t,
) -> ngx_int_t {
    let Some(raw) = NonNull::new(raw) else { return ERROR };
    // SAFETY: the request lives while nginx waits for the entry to return, and the face does not leave `body`, nor
    // `recover`.
    let request = unsafe { Request::new(raw) };
    guard_part(name, request.log(), || body(request))
        .unwrap_or_else(|| guard(name, request.log(), ERROR, || recover(request)))
}

/// The rewrite phase of a location.
unsafe extern "C" fn on_request_headers(raw: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: this is an entry.
    unsafe { enter("the rewrite phase", raw, super::code::INTERNAL_ERROR, phase::request_headers::run) }
}

/// The log phase.
unsafe extern "C" fn on_log(raw: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: this is an entry.
    unsafe { enter("the log phase", raw, OK, phase::log::run) }
}

/// The filter of response headers.
unsafe extern "C" fn on_response_headers(raw: *mut ngx_http_request_t) -> ngx_int_t {
    use phase::response_headers::{recover, run};
    // SAFETY: this is an entry.
    unsafe { enter_or("the header filter", raw, recover, run) }
}

/// The filter of response bodies.
unsafe extern "C" fn on_response_body(raw: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    let run = |request: Request<'_>| {
        // SAFETY: nginx's chain stays as it is until this filter has passed it on.
        let body = NonNull::new(chain).map(|chain| unsafe { Body::new(chain) });
        phase::response_body::run(request, body)
    };
    let recover = |request: Request<'_>| {
        // SAFETY: as above; a panic has ended `run`.
        let body = NonNull::new(chain).map(|chain| unsafe { Body::new(chain) });
        phase::response_body::recover(request, body)
    };
    // SAFETY: this is an entry.
    unsafe { enter_or("the body filter", raw, recover, run) }
}

/// The filter of request bodies.
unsafe extern "C" fn on_request_body(raw: *mut ngx_http_request_t, chain: *mut ngx_chain_t) -> ngx_int_t {
    let run = |request: Request<'_>| {
        // SAFETY: nginx's chain stays as it is until this filter has passed it on.
        let body = NonNull::new(chain).map(|chain| unsafe { Body::new(chain) });
        phase::request_body::run(request, body)
    };
    // SAFETY: this is an entry.
    unsafe { enter("the request body filter", raw, super::code::INTERNAL_ERROR, run) }
}

fn raw_chain(body: Option<Body<'_>>) -> *mut ngx_chain_t {
    body.map_or(std::ptr::null_mut(), Body::as_ptr)
}

impl Request<'_> {
    /// Passes the response's headers to the filter after ours.
    pub(crate) fn pass_headers(self) -> ngx_int_t {
        // SAFETY: nginx's own filter, with a live request.
        AFTER_HEADERS.get().map_or(ERROR, |filter| unsafe { filter(self.as_ptr()) })
    }

    /// Passes a piece of the response's body to the filter after ours.
    pub(crate) fn pass_body(self, body: Option<Body<'_>>) -> ngx_int_t {
        // SAFETY: nginx's own filter, with a live request and a chain, or none to write out what waits.
        AFTER_BODY.get().map_or(ERROR, |filter| unsafe { filter(self.as_ptr(), raw_chain(body)) })
    }

    /// Passes a piece of the request's body to the filter after ours.
    ///
    /// The filters there take the record of a body for granted. Before nginx has begun to read one there is none, and
    /// nothing to pass on. Nor is there when all of it has been saved: nginx's reader stops then, and asked once more the
    /// last filter would put a body that is in a file there again (`ngx_http_request_body_save_filter()`).
    pub(crate) fn pass_request_body(self, body: Option<Body<'_>>) -> ngx_int_t {
        let record = NonNull::new(self.peek(|r| r.request_body));
        // SAFETY: the record is in the request's pool; the reference ends with this line.
        let is_saved = record.map(|record| unsafe { record.as_ref() }.last_saved() != 0);
        match is_saved {
            None => return if body.is_none() { OK } else { ERROR },
            Some(true) if body.is_none() => return OK,
            Some(_) => {}
        }
        // SAFETY: nginx's own filter, with a live request that has a record of its body, and a chain, or none.
        AFTER_REQUEST_BODY.get().map_or(ERROR, |filter| unsafe { filter(self.as_ptr(), raw_chain(body)) })
    }

    /// Sends the response's headers through all filters, ours included.
    pub(crate) fn send_headers(self) -> ngx_int_t {
        // SAFETY: a live request, from one of its handlers.
        unsafe { ngx_http_send_header(self.as_ptr()) }
    }

    /// Sends a piece of the response's body through all filters, ours included.
    pub(crate) fn send_body(self, body: Body<'_>) -> ngx_int_t {
        // SAFETY: a live request, from one of its handlers, and a chain.
        unsafe { ngx_http_output_filter(self.as_ptr(), body.as_ptr()) }
    }

    /// The request's body is read and thrown away.
    pub(crate) fn discard_body(self) -> ngx_int_t {
        // SAFETY: a live request, from one of its handlers.
        unsafe { ngx_http_discard_request_body(self.as_ptr()) }
    }
}
