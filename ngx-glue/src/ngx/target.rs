//! What an upstream is asked for: path and query as they stand in a request line.

use nginx_sys::{NGX_ESCAPE_URI, ngx_escape_uri, ngx_uint_t};

use super::request::{Part, Request};

impl<'a> Request<'a> {
    /// Path and query as an upstream would be asked for them: what the client or a filter wrote, or, after a rewrite or
    /// a redirect and in subrequests, what nginx has made of it (`ngx_http_proxy_create_request()`).
    pub(crate) fn target(self) -> &'a [u8] {
        if self.peek(|r| r.valid_unparsed_uri() != 0) {
            return self.part(Part::UnparsedUri);
        }
        let (path, args) = (self.part(Part::Uri), self.part(Part::Args));
        let escaped = self.peek(|r| r.quoted_uri() != 0 || r.internal() != 0);
        let path = if escaped { self.escape(path) } else { Some(path) };
        let Some(path) = path else { return self.part(Part::UnparsedUri) };
        if args.is_empty() {
            return path;
        }
        let Some(target) = self.allocate(path.len() + 1 + args.len()) else { return path };
        let (head, tail) = target.split_at_mut(path.len());
        head.copy_from_slice(path);
        if let [mark, tail @ ..] = tail {
            *mark = b'?';
            tail.copy_from_slice(args);
        }
        target
    }

    /// `path`, percent-encoded as nginx does it for a request line.
    fn escape(self, path: &'a [u8]) -> Option<&'a [u8]> {
        let kind = NGX_ESCAPE_URI as ngx_uint_t;
        let (nowhere, from) = (std::ptr::null_mut(), path.as_ptr().cast_mut());
        // SAFETY: without a place to write to, the bytes are only counted.
        let more = unsafe { ngx_escape_uri(nowhere, from, path.len(), kind) };
        if more == 0 {
            return Some(path);
        }
        let place = self.allocate(path.len().checked_add(more.checked_mul(2)?)?)?;
        // SAFETY: each of the bytes that were counted becomes three, so the place is as long as what is written.
        unsafe { ngx_escape_uri(place.as_mut_ptr(), path.as_ptr().cast_mut(), path.len(), kind) };
        Some(place)
    }
}
