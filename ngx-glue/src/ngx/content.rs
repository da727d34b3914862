//! Content handlers (`src/http/ngx_http_core_module.h`): a response that is made a piece at a time, each in an event of
//! its own, so that nginx serves others in between.

use std::{cell::UnsafeCell, ptr::NonNull, time::Duration};

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t, ngx_http_conf_ctx_t,
    ngx_http_core_loc_conf_t, ngx_http_finalize_request, ngx_http_request_t, ngx_http_run_posted_requests,
    ngx_int_t, ngx_msec_t, ngx_post_event, ngx_posted_next_events,
};

use super::{
    chain::Body,
    code::{DONE, INTERNAL_ERROR, OK, of_status},
    conf::Conf,
    cycle::Cycle,
    guard::guard,
    headers_out::HeadersOut,
    pool::Pool,
    request::{Request, core_index, stops_output},
};

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Another step is to be made.
    More,
    /// Another step is to be made when so much time has passed.
    Wait(Duration),
    /// It is complete.
    Done,
    /// There will be none but this status.
    Failed(u16),
}

/// A response in the making. It is dropped with its request, which a client that goes away ends early.
pub(crate) trait Content: Sized + 'static {
    /// What answers `request`, or the status that does.
    fn begin(request: Request<'_>) -> Result<Self, u16>;

    /// Makes a little more of it, in a fraction of a millisecond.
    fn step(&mut self) -> Step;

    /// Its media type.
    fn content_type(&self) -> &'static str;

    /// Its body, once it is complete.
    fn take_body(&mut self) -> Vec<u8>;
}

impl Conf<'_> {
    /// The location that is being read is answered by a `C`; false when it has another handler.
    pub(crate) fn set_content_handler<C: Content>(&mut self) -> bool {
        // SAFETY: nginx reads a configuration at this address (the promise made to `Conf::new`).
        let context = unsafe { (*self.as_ptr()).ctx }.cast::<ngx_http_conf_ctx_t>();
        let Some(context) = NonNull::new(context) else { return false };
        // SAFETY: inside a location the context is that of `http` and its blocks (`ngx_http_core_location()`).
        let confs = unsafe { context.as_ref() }.loc_conf;
        let Some(confs) = NonNull::new(confs) else { return false };
        // SAFETY: the array has a place for the index of every HTTP module.
        let place = unsafe { confs.add(core_index()) };
        // SAFETY: the place is inside that array.
        let Some(mut conf) = NonNull::new(unsafe { place.read() }.cast::<ngx_http_core_loc_conf_t>()) else {
            return false;
        };
        // SAFETY: the location is being read, in one thread; the reference ends with this function.
        let conf = unsafe { conf.as_mut() };
        if conf.handler.is_some() {
            return false;
        }
        conf.handler = Some(on_content::<C>);
        true
    }
}

/// What is kept in a request's pool while its response is made.
struct Task<C> {
    content: C,
    request: NonNull<ngx_http_request_t>,
    event: UnsafeCell<ngx_event_t>,
}

impl<C> Task<C> {
    /// Lets nginx handle other events before [`on_event`] goes on.
    fn post(&self) {
        let event = self.event.get();
        let queue = &raw mut ngx_posted_next_events;
        // SAFETY: the event is in no queue, and stays where it is until the pool drops the task, which takes it out.
        unsafe { ngx_post_event(event, queue) };
    }

    /// Lets [`on_event`] go on when `time` has passed.
    fn wait(&self, time: Duration) {
        let time = ngx_msec_t::try_from(time.as_millis()).unwrap_or(ngx_msec_t::MAX >> 1);
        // SAFETY: the event is in no tree, and stays where it is until the pool drops the task, which takes it out.
        unsafe { ngx_add_timer(self.event.get(), time) };
    }
}

impl<C> Drop for Task<C> {
    fn drop(&mut self) {
        if self.event.get_mut().posted() != 0 {
            // SAFETY: it is in a queue of nginx's.
            unsafe { ngx_delete_posted_event(self.event.get()) };
        }
        if self.event.get_mut().timer_set() != 0 {
            // SAFETY: it is in nginx's tree.
            unsafe { ngx_del_timer(self.event.get()) };
        }
    }
}

/// The handler of a location.
unsafe extern "C" fn on_content<C: Content>(raw: *mut ngx_http_request_t) -> ngx_int_t {
    let Some(raw) = NonNull::new(raw) else { return super::code::ERROR };
    // SAFETY: the request lives while nginx waits for the handler to return, and the face does not leave it.
    let request = unsafe { Request::new(raw) };
    guard("a content handler", request.log(), INTERNAL_ERROR, || {
        let content = match C::begin(request) {
            Ok(content) => content,
            Err(status) => return of_status(status),
        };
        let discarded = request.discard_body();
        if discarded != OK {
            return discarded;
        }
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        let mut event: ngx_event_t = unsafe { std::mem::zeroed() };
        event.handler = Some(on_event::<C>);
        event.log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        let Some(pool) = request.pool() else { return INTERNAL_ERROR };
        // SAFETY: the pool of a live request.
        let pool = unsafe { Pool::new(pool) };
        let task = Task { content, request: raw, event: UnsafeCell::new(event) };
        let Some(task) = pool.own(task) else { return INTERNAL_ERROR };
        // SAFETY: the pool has just been given the task, and nobody else has it.
        let place = unsafe { task.as_ref() }.event.get();
        // SAFETY: the event is the task's, and in no queue yet.
        unsafe { &mut *place }.data = task.as_ptr().cast();
        // SAFETY: as above; the reference ends here.
        unsafe { task.as_ref() }.post();
        request.count_in();
        // A body that is being thrown away has a handler of its own until it has come.
        if request.peek(|r| r.discard_body() == 0) {
            request.stop_phases();
        }
        DONE
    })
}

/// Another step of a response.
unsafe extern "C" fn on_event<C: Content>(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `on_content` has filled.
    let Some(task) = NonNull::new(unsafe { event.as_ref() }.data.cast::<Task<C>>()) else { return };
    // SAFETY: the request's pool owns the task and takes the event out of its queue when it drops it.
    let raw = unsafe { task.as_ref() }.request;
    // SAFETY: the request is counted until it is finalized below.
    let request = unsafe { Request::new(raw) };
    let code = guard("the response of a handler", request.log(), Some(INTERNAL_ERROR), || {
        // SAFETY: nginx handles events one after the other, so nobody else has the task; the reference ends here.
        let content = unsafe { &mut (*task.as_ptr()).content };
        match content.step() {
            // SAFETY: as above, with no other reference left.
            Step::More => unsafe { task.as_ref() }.post(),
            // SAFETY: as above.
            Step::Wait(time) => unsafe { task.as_ref() }.wait(time),
            Step::Done => return Some(send(request, content)),
            Step::Failed(status) => return Some(of_status(status)),
        }
        None
    });
    let Some(code) = code else { return };
    let connection = request.connection().as_ptr();
    // SAFETY: the request is alive; this is its turn in the event loop, and nothing of it is used afterwards.
    unsafe { ngx_http_finalize_request(raw.as_ptr(), code) };
    // SAFETY: the record of a connection stays, closed or not.
    unsafe { ngx_http_run_posted_requests(connection) };
}

/// Sends a complete response.
fn send(request: Request<'_>, content: &mut impl Content) -> ngx_int_t {
    let body = content.take_body();
    let out = HeadersOut::of(request);
    out.set_status(200);
    out.set_content_length(u64::try_from(body.len()).ok());
    let Some(kept) = request.keep(&body).filter(|_| out.set_content_type(content.content_type().as_bytes()))
    else {
        return INTERNAL_ERROR;
    };
    let sent = request.send_headers();
    if stops_output(sent) || request.header_only() {
        return sent;
    }
    Body::whole(request, kept).map_or(INTERNAL_ERROR, |body| request.send_body(body))
}
