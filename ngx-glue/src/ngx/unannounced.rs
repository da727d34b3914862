//! Requests to an upstream whose body is passed on while it is being read, and whose length may change on its way.
//!
//! nginx tells the upstream the Content-Length that the client has announced, unless the client itself sends chunks
//! (`ngx_http_proxy_create_request()`). The flag that says so also says how the client's body is to be read
//! (`ngx_http_request_body_filter()`), so it is set only while the upstream's handler makes its request. That is made first
//! without it, to see whether the upstream's protocol has chunks.
//!
//! gRPC needs no chunks: its requests may always be without a length, and have one only where the client has said it
//! (`ngx_http_grpc_create_request()`).

use std::{
    mem,
    ptr::{self, NonNull},
    slice,
};

use nginx_sys::{ngx_http_request_t, ngx_http_upstream_t, ngx_int_t, ngx_output_chain_filter_pt};

use super::{
    code::{ERROR, OK},
    guard::guard,
    request::Request,
    variable::forget,
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

    /// What the upstream's handler puts the body into its protocol's form by, if it has said so.
    fn upstream_body_filter(self) -> ngx_output_chain_filter_pt {
        self.upstream_record().and_then(|upstream| upstream.output.output_filter)
    }

    /// The handler is to use `filter` instead of what it has chosen.
    fn set_upstream_body_filter(self, filter: ngx_output_chain_filter_pt) {
        if let Some(upstream) = NonNull::new(self.peek(|r| r.upstream)) {
            // SAFETY: the record is in the request's pool; the reference ends with this line.
            unsafe { &mut *upstream.as_ptr() }.output.output_filter = filter;
        }
    }

    /// Whether the upstream speaks gRPC (`grpc_pass`).
    fn goes_by_grpc(self) -> bool {
        let Some(upstream) = self.upstream_record() else { return false };
        // SAFETY: the handler has given the record its scheme, which is static or in the request's pool.
        let scheme = unsafe { self.lend(upstream.schema) };
        scheme.starts_with(b"grpc")
    }

    /// Does something while the request does not say how long its body is.
    fn without_length<T>(self, make: impl FnOnce() -> T) -> T {
        let forget_length = || forget(self, |variable| variable == b"content_length");
        let listed = self.edit(|r| mem::replace(&mut r.headers_in.content_length, ptr::null_mut()));
        let length = self.edit(|r| mem::replace(&mut r.headers_in.content_length_n, -1));
        forget_length();
        let made = make();
        self.edit(|r| r.headers_in.content_length = listed);
        self.edit(|r| r.headers_in.content_length_n = length);
        forget_length();
        made
    }

    /// The head of the request that has been made for the upstream, if it is one of HTTP/1.
    fn upstream_head(self) -> &'a [u8] {
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
        head().unwrap_or_default()
    }

    /// Whether the request that has been made for the upstream is one of HTTP/1.1.
    fn goes_as_http11(self) -> bool {
        let line = self.upstream_head().split(|byte| *byte == b'\r').next().unwrap_or_default();
        line.ends_with(b" HTTP/1.1")
    }

    /// Whether it has its body in chunks.
    fn goes_in_chunks(self) -> bool {
        const CHUNKS: &[u8] = b"\r\ntransfer-encoding: chunked\r\n";
        self.upstream_head().windows(CHUNKS.len()).any(|window| window.eq_ignore_ascii_case(CHUNKS))
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
        // SAFETY: as above.
        let make = || unsafe { original(request.as_ptr()) };
        if request.goes_by_grpc() {
            stream.progress().is_unannounced.set(true);
            return request.without_length(make);
        }
        let made = make();
        // What a handler does for chunks it does not undo: only one that speaks of a version which has them is asked for them.
        if made == OK && request.goes_as_http11() {
            let body_filter = request.upstream_body_filter();
            request.edit(|r| r.headers_in.set_chunked(1));
            let made = make();
            let in_chunks = made == OK && request.goes_in_chunks();
            request.edit(|r| r.headers_in.set_chunked(0));
            stream.progress().is_unannounced.set(in_chunks);
            if in_chunks || made != OK {
                return made;
            }
            // Directives of the location leave the header out.
            let made = make();
            request.set_upstream_body_filter(body_filter);
            if made != OK {
                return made;
            }
        }
        // The upstream has been told the length, which must be kept.
        if made != OK || can_announce_length(stream, request) { made } else { ERROR }
    })
}
