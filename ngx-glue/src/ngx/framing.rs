//! What a request says of its bodies: how they are read, how long they are, whether they are complete.

use std::ptr::NonNull;

use nginx_sys::ngx_http_weak_etag;

use super::request::Request;

/// Our bit in `buffered`, of which nginx uses 1, 2 and 4 (`src/http/ngx_http_request.h`).
pub(super) const BUFFERED_HERE: u32 = 8;

impl Request<'_> {
    /// Tells nginx whether something of the response is kept by us, so that it is not complete yet.
    pub(crate) fn set_buffered_here(self, is_kept: bool) {
        self.edit(|r| {
            let others = r.buffered() & !BUFFERED_HERE;
            r.set_buffered(if is_kept { others | BUFFERED_HERE } else { others });
        });
    }

    /// Milliseconds for which a response may come to a halt (`send_timeout`).
    pub(crate) fn send_timeout(self) -> usize {
        self.core_location().map_or(60_000, |conf| conf.send_timeout)
    }

    /// Parts of the response cannot be asked for.
    pub(crate) fn forbid_ranges(self) {
        self.edit(|r| r.set_allow_ranges(0));
    }

    /// Whether the client asks for a part of the response, which nginx will cut out.
    pub(crate) fn asks_for_range(self) -> bool {
        self.peek(|r| r.allow_ranges() != 0 && !r.headers_in.range.is_null())
    }

    /// Whether nginx puts the response together of parts (`slice`).
    pub(crate) fn is_sliced(self) -> bool {
        self.peek(|r| r.subrequest_ranges() != 0)
    }

    /// The response is one that a filter of nginx has made of another one, such as 412: nginx ends the request as soon as it
    /// has been passed on, and waits for nothing (`ngx_http_filter_finalize_request()`).
    pub(crate) fn ends_with_response(self) -> bool {
        self.peek(|r| r.filter_finalize() != 0)
    }

    /// The client's body is kept until the request ends, also where that is in a file: parts of the response may be made of
    /// requests with the same body.
    pub(crate) fn preserve_body(self) {
        self.edit(|r| r.set_preserve_body(1));
    }

    /// Whether nginx will cut parts out of the response, before our filters see it (`ngx_http_range_header_filter()`),
    /// or puts it together of parts (`slice`): it decides when it sees the headers.
    pub(crate) fn cuts_ranges(self) -> bool {
        self.is_sliced() || self.asks_for_range()
    }

    /// The body is to be read into a file of its own where it may be stored: nothing but `dav_methods` answers PUT
    /// without a handler of its own, and it insists on that (`ngx_http_dav_handler()`).
    pub(crate) fn read_stored_body_into_file(self) {
        self.edit(|r| {
            if r.method == nginx_sys::NGX_HTTP_PUT as usize && r.content_handler.is_none() {
                r.set_request_body_in_file_only(1);
                r.set_request_body_in_persistent_file(1);
                r.set_request_body_in_clean_file(1);
                r.set_request_body_file_group_access(1);
                r.set_request_body_file_log_level(0);
            }
        });
    }

    /// The body is no longer the one that the ETag was made for byte by byte.
    pub(crate) fn weaken_etag(self) {
        // SAFETY: a live request, whose headers have not been sent.
        unsafe { ngx_http_weak_etag(self.as_ptr()) };
    }

    /// Whether a handler of its own will answer it: `proxy_pass` and the like, which read the body themselves.
    pub(crate) fn has_content_handler(self) -> bool {
        self.peek(|r| r.content_handler.is_some())
    }

    /// Whether the body is passed on while it is being read (`proxy_request_buffering off`).
    pub(crate) fn streams_body(self) -> bool {
        self.peek(|r| r.request_body_no_buffering() != 0)
    }

    /// Whether a handler has gone on before all of the body was read.
    pub(crate) fn is_reading_body(self) -> bool {
        self.peek(|r| r.reading_body() != 0)
    }

    /// The body has that length, whatever it was announced to have.
    pub(crate) fn set_body_length(self, length: u64) {
        let multiplexed = self.version() >= 2000;
        self.edit(|r| {
            r.headers_in.content_length_n = i64::try_from(length).unwrap_or(i64::MAX);
            if multiplexed {
                // Otherwise nginx would put the number of bytes that it has received in its place
                // (`ngx_http_v2_process_request_body()`); frames, not this flag, say how the body is read.
                r.headers_in.set_chunked(0);
            }
        });
    }

    /// All of the body has come: nginx's reader of HTTP/3 forgets that each time it asks filters for what they hold of
    /// it (`ngx_http_v3_request_body_filter()`), and would wait for more.
    pub(crate) fn remember_body_has_come(self) {
        let body = NonNull::new(self.peek(|r| r.request_body));
        if let Some(body) = body.filter(|_| self.version() >= 3000) {
            // SAFETY: the record of the body is in the request's pool; the reference ends with this line.
            unsafe { &mut *body.as_ptr() }.rest = 0;
        }
    }

    /// Whether the whole body has been read, and nothing of what follows it with it: bodies of announced length are
    /// read to that length (`ngx_http_do_read_client_request_body()`).
    pub(crate) fn has_exactly_read_body(self) -> bool {
        let (chunked, body) = self.peek(|r| (r.headers_in.chunked() != 0, NonNull::new(r.request_body)));
        // SAFETY: the record of the body is in the request's pool.
        !chunked && body.is_some_and(|body| unsafe { body.as_ref() }.rest == 0)
    }
}
