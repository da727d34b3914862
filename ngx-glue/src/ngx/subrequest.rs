//! Subrequests: what they have of their main request, and what has to become their own (`ngx_http_subrequest()`).

use std::{mem, ptr::NonNull};

use nginx_sys::{ngx_buf_t, ngx_http_request_body_t};

use super::{
    chain::{Body, Links, in_memory},
    request::Request,
};

/// Whether the bytes of a buffer can be read: nginx closes the file of a body once its request has been answered by an
/// upstream (`ngx_http_upstream_send_response()`).
fn is_open(buffer: &ngx_buf_t) -> bool {
    let file = NonNull::new(buffer.file).filter(|_| !in_memory(buffer) && buffer.in_file() != 0);
    // SAFETY: the record of the file of a buffer lives as long as the buffer.
    file.is_none_or(|file| unsafe { file.as_ref() }.fd != -1)
}

impl<'a> Request<'a> {
    /// The request that the client has made.
    fn main(self) -> Option<Self> {
        let main = NonNull::new(self.peek(|r| r.main))?;
        // SAFETY: the main request of a live request lives as long as it.
        Some(unsafe { Self::new(main) })
    }

    /// Whether the headers that the client is to see have left.
    pub(crate) fn main_header_sent(self) -> bool {
        self.main().is_some_and(Self::header_sent)
    }

    /// Whether its response is a part of one that nginx puts together (`ngx_http_slice_header_filter()`).
    pub(crate) fn is_part(self) -> bool {
        !self.is_main() && self.peek(|r| r.subrequest_ranges() != 0)
    }

    /// Whether nginx calls the log phase of subrequests here.
    pub(crate) fn logs_subrequests(self) -> bool {
        self.core_location().is_some_and(|conf| conf.log_subrequest != 0)
    }

    /// Whether a body comes with it: of a subrequest, whether its main request's has been read and has any bytes.
    pub(crate) fn brings_body(self) -> bool {
        if self.is_main() { self.has_body() } else { self.shared_body().is_some() }
    }

    /// The main request's body, which it has read, as this subrequest would pass it on.
    fn shared_body(self) -> Option<Body<'a>> {
        let record = NonNull::new(self.peek(|r| r.request_body))?;
        // SAFETY: the record of a body is in the request's pool, and plain data.
        let record = unsafe { record.read() };
        if record.rest != 0 {
            return None;
        }
        // SAFETY: what has been read of a body stays in the pool of the main request, which is the subrequest's, too.
        let body = unsafe { Body::new(NonNull::new(record.bufs)?) };
        let is_there = body.measure().bytes > 0 && body.buffers().all(|buffer| is_open(&buffer.copy()));
        is_there.then_some(body)
    }

    /// Gives a subrequest a record of a body, in which there is nothing yet, and answers with the body that it had in
    /// common with others: copies of its buffers, the last one marked. `None` where there is no body, or no memory.
    pub(crate) fn separate_body(self) -> Option<Body<'a>> {
        let shared = self.shared_body()?;
        let last = shared.buffers().count().checked_sub(1);
        let mut links = Links::new(self);
        for (at, buffer) in shared.buffers().enumerate() {
            let mut copy = buffer.copy();
            if in_memory(&copy) {
                // Memory that others read, too.
                copy.set_temporary(0);
                copy.set_memory(1);
            }
            copy.set_last_buf(u32::from(Some(at) == last));
            copy.set_last_in_chain(0);
            if !links.push(self.place(copy)?) {
                return None;
            }
        }
        // SAFETY: pointers, integers and flags, for all of which zeros are valid.
        let own: ngx_http_request_body_t = unsafe { mem::zeroed() };
        let own = self.place(own)?;
        self.edit(|r| {
            r.request_body = own.as_ptr();
            // Where all bodies are to be in files (`client_body_in_file_only`), this one has been, or will not be.
            r.set_request_body_in_file_only(0);
        });
        links.body()
    }
}
