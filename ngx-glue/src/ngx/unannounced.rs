//! Requests to an upstream whose body is passed on while it is being read, and whose length may change on its way.
//!
//! nginx tells the upstream the Content-Length that the client has announced, unless the client itself sends chunks
//! (`ngx_http_proxy_create_request()`). The flag that says so also says how the client's body is to be read
//! (`ngx_http_request_body_filter()`), so it is set only while the upstream's handler makes its request.

use std::{ptr::NonNull, slice};

use nginx_sys::{ngx_http_request_t, ngx_http_upstream_t, ngx_int_t};

use super::{
    code::{ERROR, OK},
    guard::guard,
    request::Request,
};
use crate::phase::request_body::can_announce_length;

/// What makes the request to an upstream.
pub(crate) type CreateRequest = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;

impl<'a> Request<'a> {
    /// The upstream's request is to be made without a length, where its handler can do that; false where that has been
    /// asked for, or there is no upstream.
    pub(crate) fn announce_no_length(self) -> bool {
        let Some(stream) = self.stream() else { return false };
        let Some(upstream) = NonNull::new(self.peek(|r| r.upstream)) else { return false };
        // SAFETY: the record is in the request's pool; the reference ends with this function.
        let upstream = unsafe { &mut *upstream.as_ptr() };
        if stream.io.create_request().is_some() {
            return false;
        }
        stream.io.set_create_request(upstream.create_request);
        upstream.create_request = Some(create_request);
        true
    }

    fn upstream_record(self) -> Option<ngx_http_upstream_t> {
        let upstream = NonNull::new(self.peek(|r| r.upstream))?;
        // SAFETY: the record is in the request's pool, and plain data.
        Some(unsafe { upstream.read() })
    }

    /// Whether the request that has been made for the upstream is one of HTTP/1.1 with a body in chunks.
    fn goes_in_chunks(self) -> bool {
        let head = || -> Option<&'a [u8]> {
            let link = NonNull::new(self.upstream_record()?.request_bufs)?;
            // SAFETY: the handler has just made this chain in the request's pool.
            let link = unsafe { link.read() };
            // SAFETY: as above.
            let buffer = unsafe { NonNull::new(link.buf)?.read() };
            let len = buffer.last.addr().checked_sub(buffer.pos.addr())?;
            let start = NonNull::new(buffer.pos)?;
            // SAFETY: what a handler has written is from `pos` to `last`, and in memory.
            Some(unsafe { slice::from_raw_parts(start.as_ptr(), len) })
        };
        let head = head().unwrap_or_default();
        let has = |text: &[u8]| head.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        line.ends_with(b" HTTP/1.1") && has(b"\r\ntransfer-encoding: chunked\r\n")
    }
}

/// In place of the handler's own function.
unsafe extern "C" fn create_request(raw: *mut ngx_http_request_t) -> ngx_int_t {
    let Some(raw) = NonNull::new(raw) else { return ERROR };
    // SAFETY: nginx calls this for a live request; the face does not leave this function.
    let request = unsafe { Request::new(raw) };
    guard("the making of an upstream's request", request.log(), ERROR, || {
        let Some(stream) = request.stream() else { return ERROR };
        let Some(original) = stream.io.create_request() else { return ERROR };
        if !request.is_reading_body() || request.is_chunked() {
            // SAFETY: the handler's own function, as nginx would have called it.
            return unsafe { original(request.as_ptr()) };
        }
        request.edit(|r| r.headers_in.set_chunked(1));
        // SAFETY: as above.
        let made = unsafe { original(request.as_ptr()) };
        let in_chunks = made == OK && request.goes_in_chunks();
        request.edit(|r| r.headers_in.set_chunked(0));
        stream.progress().is_unannounced.set(in_chunks);
        if in_chunks || made != OK {
            return made;
        }
        // The upstream's protocol has no chunks: it is told the length, which must be kept.
        if !can_announce_length(stream, request) {
            return ERROR;
        }
        // SAFETY: as above; a request made before is left in the pool.
        unsafe { original(request.as_ptr()) }
    })
}
