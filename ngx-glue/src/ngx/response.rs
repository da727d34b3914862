//! What nginx's header filters will make of a response: trailers, and parts of it.

use nginx_sys::NGX_HTTP_HEAD;

use super::request::Request;

impl Request<'_> {
    /// Trailers follow the response's body: one of HTTP/1.1 is sent in chunks, whatever its length
    /// (`ngx_http_chunked_header_filter()`).
    pub(crate) fn expect_trailers(self) {
        self.edit(|r| r.set_expect_trailers(1));
    }

    /// Whether trailers can still be sent, or sent at all, with the response as its headers are now.
    pub(crate) fn carries_trailers(self) -> bool {
        self.peek(|r| {
            let bodiless = r.header_only() != 0
                || r.method == NGX_HTTP_HEAD as usize
                || matches!(r.headers_out.status, 101 | 204 | 304);
            let length = r.headers_out.content_length_n;
            // HTTP/1.0 has none.
            if bodiless || r.http_version < 1001 {
                return false;
            }
            match r.http_version {
                _ if r.header_sent() == 0 => true,
                ..2000 => r.chunked() != 0,
                _ if r.expect_trailers() != 0 => true,
                // Without a body, the stream has ended with its headers.
                2000 => length != 0,
                // Frames of a body of announced length are written with the headers.
                _ => length < 0,
            }
        })
    }

    /// Whether nginx will say that parts of the response can be asked for (`ngx_http_range_header_filter()`).
    pub(crate) fn announces_ranges(self) -> bool {
        self.peek(|r| {
            r.allow_ranges() != 0 && r.headers_out.status == 200 && r.headers_out.content_length_n != -1
        }) && self.core_location().is_some_and(|conf| conf.max_ranges != 0)
    }
}
