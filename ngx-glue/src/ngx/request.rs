//! A request (`src/http/ngx_http_request.h`): the handle that headers, bodies and the rest are reached through.
//!
//! Its plain fields are read and written here, and its strings are lent for as long as the request's pool lives.
//! What is made for it is in `memory`.

use std::{fmt, marker::PhantomData, ptr::NonNull, slice};

use nginx_sys::{
    NGX_HTTP_GET, NGX_HTTP_HEAD, ngx_http_core_loc_conf_t, ngx_http_core_main_conf_t, ngx_http_core_module,
    ngx_http_core_srv_conf_t, ngx_http_request_t, ngx_int_t, ngx_module_t, ngx_str_t, ngx_uint_t,
};

use super::{connection::Connection, log::Log, memory::stored, variable};
use crate::{conf::Location, module::location_of};

/// A request that is there, and whose pool can be borrowed from, as long as `'a`.
///
/// A request ends only when nginx has got control back from us (`ngx_http_free_request()` runs in event handlers), so
/// a handle that does not leave the entry it was made in cannot outlive it. The one that a
/// [`Stream`](crate::stream::Stream) keeps is taken from it by a cleanup of the request's pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    raw: NonNull<ngx_http_request_t>,
    owner: PhantomData<&'a ngx_http_request_t>,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&self.raw).finish()
    }
}

/// One word of the request line, or a part of it, or what stands for it after a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The method's name.
    Method,
    /// Path and query as the client wrote them, or a filter.
    UnparsedUri,
    /// The path, decoded.
    Uri,
    /// The query, without `?`.
    Args,
    /// `HTTP/1.1`.
    Protocol,
    /// `http` or `https`, where the client or a filter named it.
    Scheme,
    /// The host without its port, in lower case.
    Server,
}

impl<'a> Request<'a> {
    /// The request at `raw`.
    ///
    /// # Safety
    /// `raw` points to a request that lives, with its pool, as long as `'a`.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_http_request_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// nginx's pointer to it.
    pub(super) const fn as_ptr(self) -> *mut ngx_http_request_t {
        self.raw.as_ptr()
    }

    /// Reads fields. `read` must not call nginx, which could change them.
    pub(super) fn peek<T>(self, read: impl FnOnce(&ngx_http_request_t) -> T) -> T {
        // SAFETY: the request lives by the promise made to `new`, and nobody writes while `read` runs: this is nginx's
        // one thread, and `read` does not call nginx.
        read(unsafe { self.raw.as_ref() })
    }

    /// Writes fields. `write` must not call nginx, nor `peek` or `edit`.
    pub(super) fn edit<T>(self, write: impl FnOnce(&mut ngx_http_request_t) -> T) -> T {
        // SAFETY: the request lives by the promise made to `new`, and nobody else reads or writes while `write` runs:
        // this is nginx's one thread, and `write` calls neither nginx nor us.
        write(unsafe { &mut *self.raw.as_ptr() })
    }

    /// The bytes of one of the request's strings.
    ///
    /// # Safety
    /// `text` is a string of the request's: its bytes are in its pool or its header buffers, or static.
    pub(super) unsafe fn lend(self, text: ngx_str_t) -> &'a [u8] {
        if text.len == 0 || text.data.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; nginx and we replace strings, and do not write into those that have been
        // stored, so the bytes stay as they are as long as the pool lives.
        unsafe { slice::from_raw_parts(text.data, text.len) }
    }

    /// Its connection.
    pub(crate) fn connection(self) -> Connection<'a> {
        let raw = self.peek(|r| r.connection);
        // SAFETY: a request has its connection from the start (`ngx_http_alloc_request()`).
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: the connection of a request is there as long as the request.
        unsafe { Connection::new(raw) }
    }

    /// The log of its connection, which adds client, server and request to every line.
    pub(crate) fn log(self) -> Log<'a> {
        self.connection().log()
    }

    // --- configuration -------------------------------------------------------------------------------------------

    /// What our directives say in the request's location.
    pub(crate) fn location(self) -> Option<&'a Location> {
        // SAFETY: the request lives by the promise made to `new`.
        unsafe { location_of(self.raw) }
    }

    /// The HTTP core's settings of the request's location.
    pub(super) fn core_location(self) -> Option<&'a ngx_http_core_loc_conf_t> {
        let confs = NonNull::new(self.peek(|r| r.loc_conf))?;
        // SAFETY: the array has a place for the index of every HTTP module (`ngx_http_max_module`).
        let place = unsafe { confs.add(core_index()) };
        // SAFETY: the place is inside that array.
        let conf = NonNull::new(unsafe { place.read() })?.cast();
        // SAFETY: configurations are not written to once workers run, and outlive the requests that use them.
        Some(unsafe { conf.as_ref() })
    }

    /// Whether slashes in a row count as one, as `merge_slashes` of the server says.
    pub(crate) fn merges_slashes(self) -> bool {
        let Some(confs) = NonNull::new(self.peek(|r| r.srv_conf)) else { return true };
        // SAFETY: the array has a place for the index of every HTTP module.
        let place = unsafe { confs.add(core_index()) };
        // SAFETY: the place is inside that array.
        let conf = NonNull::new(unsafe { place.read() }.cast::<ngx_http_core_srv_conf_t>());
        // SAFETY: configurations are not written to once workers run, and outlive the requests that use them.
        conf.is_none_or(|conf| unsafe { conf.as_ref() }.merge_slashes != 0)
    }

    /// The HTTP core's settings of the `http` block.
    pub(super) fn core_main(self) -> Option<NonNull<ngx_http_core_main_conf_t>> {
        let confs = NonNull::new(self.peek(|r| r.main_conf))?;
        // SAFETY: the array has a place for the index of every HTTP module.
        let place = unsafe { confs.add(core_index()) };
        // SAFETY: the place is inside that array.
        NonNull::new(unsafe { place.read() }.cast())
    }

    /// Name of the location, as its directive has it; empty in a server without one.
    pub(crate) fn location_name(self) -> &'a [u8] {
        self.core_location().map_or(&[][..], |conf| conf.name.as_bytes())
    }

    // --- what kind of request ------------------------------------------------------------------------------------

    /// Whether the client made it, not nginx.
    pub(crate) fn is_main(self) -> bool {
        self.peek(|r| r.main) == self.as_ptr()
    }

    /// How many more times it may be redirected: less after each time, and after each change of its URI by `rewrite`
    /// (`ngx_http_internal_redirect()`, `ngx_http_named_location()`, `ngx_http_core_post_rewrite_phase()`).
    pub(crate) fn uri_changes(self) -> usize {
        self.peek(|r| r.uri_changes()) as usize
    }

    /// Whether contexts of modules may have been forgotten since it began: by a redirect, or by a filter that made
    /// an error of the response (`ngx_http_internal_redirect()`, `ngx_http_named_location()`,
    /// `ngx_http_filter_finalize_request()`).
    pub(crate) fn may_have_lost_contexts(self) -> bool {
        self.peek(|r| r.internal() != 0 || r.filter_finalize() != 0)
    }

    /// Whether it was read without error and phases have begun: until then it has no write handler
    /// (`ngx_http_handler()`).
    pub(crate) fn has_begun(self) -> bool {
        self.peek(|r| r.write_event_handler.is_some())
    }

    /// HTTP version times 1000: 1001 is HTTP/1.1, 2000 is HTTP/2.
    pub(crate) fn version(self) -> usize {
        self.peek(|r| r.http_version)
    }

    /// Whether the method, as it is now, is HEAD.
    pub(crate) fn is_head(self) -> bool {
        self.peek(|r| r.method) == NGX_HTTP_HEAD as usize
    }

    /// Whether a body follows the headers (`ngx_http_read_client_request_body()`).
    pub(crate) fn has_body(self) -> bool {
        self.peek(|r| r.headers_in.content_length_n > 0 || r.headers_in.chunked() != 0)
    }

    /// Bytes that the body has: announced, or counted so far where it came in chunks; negative when it has none.
    pub(crate) fn body_length(self) -> i64 {
        self.peek(|r| r.headers_in.content_length_n)
    }

    /// Whether the body comes in chunks or, over HTTP/2 and later, without an announced length.
    pub(crate) fn is_chunked(self) -> bool {
        self.peek(|r| r.headers_in.chunked() != 0)
    }

    /// Bytes of request line, headers and body read so far.
    pub(crate) fn length(self) -> i64 {
        self.peek(|r| r.request_length)
    }

    /// Bytes of the response's headers, as they were sent.
    pub(crate) fn response_header_size(self) -> i64 {
        i64::try_from(self.peek(|r| r.header_size)).unwrap_or(i64::MAX)
    }

    /// When it began: seconds since 1970, and milliseconds.
    pub(crate) fn started(self) -> (i64, u64) {
        self.peek(|r| (r.start_sec, u64::try_from(r.start_msec).unwrap_or_default()))
    }

    // --- strings -------------------------------------------------------------------------------------------------

    /// One of its strings.
    pub(crate) fn part(self, part: Part) -> &'a [u8] {
        let text = self.peek(|r| match part {
            Part::Method => r.method_name,
            Part::UnparsedUri => r.unparsed_uri,
            Part::Uri => r.uri,
            Part::Args => r.args,
            Part::Protocol => r.http_protocol,
            Part::Scheme => r.schema,
            Part::Server => r.headers_in.server,
        });
        // SAFETY: all of these are strings of the request's.
        unsafe { self.lend(text) }
    }

    /// Sets method and name; false without memory.
    pub(crate) fn set_method(self, number: usize, name: &[u8]) -> bool {
        let Some(name) = self.keep(name) else { return false };
        self.edit(|r| {
            r.method = number;
            r.method_name = stored(name);
        });
        true
    }

    /// Sets what [`Part::Scheme`] answers; false without memory.
    pub(crate) fn set_scheme(self, scheme: &[u8]) -> bool {
        let Some(scheme) = self.keep(scheme) else { return false };
        self.edit(|r| r.schema = stored(scheme));
        true
    }

    /// Sets the URI as if the client had sent `raw`, which decodes to `path` and `args`; `extension` is what follows
    /// the last dot of the path's last segment. False without memory.
    ///
    /// The location that was chosen stays chosen. A `proxy_pass` with a URI, or `alias`, replaces the location's own
    /// prefix, so where the new path does not begin with it, the location counts as rewritten, as after
    /// `rewrite … break`.
    pub(crate) fn set_uri(self, raw: &[u8], path: &[u8], args: &[u8], extension: &[u8]) -> bool {
        let strings = [raw, path, args, extension].map(|text| self.keep(text));
        let [Some(raw), Some(path), Some(args), Some(extension)] = strings else { return false };
        let prefix_stays = self
            .core_location()
            .is_some_and(|conf| has_regex(conf) || path.starts_with(conf.name.as_bytes()));
        self.edit(|r| {
            r.unparsed_uri = stored(raw);
            r.uri = stored(path);
            r.args = stored(args);
            r.exten = stored(extension);
            r.set_quoted_uri(u32::from(raw.contains(&b'%')));
            r.set_plus_in_uri(u32::from(path.contains(&b'+')));
            r.set_complex_uri(0);
            r.set_empty_path_in_uri(0);
            r.set_valid_unparsed_uri(1);
            if !prefix_stays {
                r.set_valid_location(0);
            }
        });
        variable::forget(self, |name| name == b"request_uri");
        true
    }

    // --- flags and settings of the response ----------------------------------------------------------------------

    /// Whether the response's headers have left.
    pub(crate) fn header_sent(self) -> bool {
        self.peek(|r| r.header_sent() != 0)
    }

    /// Whether no body is sent.
    pub(crate) fn header_only(self) -> bool {
        self.peek(|r| r.header_only() != 0)
    }

    /// No body is sent, whatever the handler does.
    pub(crate) fn set_header_only(self) {
        self.edit(|r| r.set_header_only(1));
    }

    /// A body is sent, whatever the handler has said: it is another response's.
    pub(crate) fn clear_header_only(self) {
        self.edit(|r| r.set_header_only(0));
    }

    /// Whether output waits in nginx's filters or in the connection.
    pub(crate) fn has_pending_output(self) -> bool {
        self.peek(|r| {
            r.buffered() & !super::framing::BUFFERED_HERE != 0 || !r.out.is_null() || !r.postponed.is_null()
        }) || self.connection().has_pending_output()
    }

    /// `error_page` leaves the error that follows alone.
    pub(crate) fn forbid_error_page(self) {
        self.edit(|r| r.set_error_page(1));
    }

    /// The response is ours: neither `100 Continue` precedes it, nor do conditions of the request apply to it, nor
    /// ranges (`ngx_http_not_modified_filter_module.c`, `ngx_http_range_filter_module.c`).
    pub(crate) fn expect_own_response(self) {
        self.edit(|r| {
            r.set_expect_tested(1);
            r.set_disable_not_modified(1);
            r.set_allow_ranges(0);
            r.err_status = 0;
        });
    }

    /// The connection is not used for a further request, since a rest of this one's body may still come.
    pub(crate) fn end_keepalive(self) {
        self.edit(|r| {
            r.set_keepalive(0);
            r.set_lingering_close(1);
        });
    }

    /// Whether the client has gone away, as far as its connection shows that.
    pub(crate) fn has_lost_client(self) -> bool {
        self.version() < 2000 && self.connection().is_closed_by_peer()
    }

    /// One more waits for it: it stays until it has been finalized once more.
    pub(crate) fn count_in(self) {
        let Some(main) = NonNull::new(self.peek(|r| r.main)) else { return };
        // SAFETY: the main request of a live request lives as long as it.
        unsafe { Self::new(main) }.edit(|r| r.set_count(r.count() + 1));
    }

    /// The connection is closed once this request is done.
    pub(crate) fn close_after(self) {
        self.edit(|r| r.set_keepalive(0));
    }
}

/// The methods that nginx knows, with its numbers. The first stands for all others.
pub(crate) const METHODS: [(usize, &[u8]); 14] = [
    (nginx_sys::NGX_HTTP_UNKNOWN as usize, b""),
    (NGX_HTTP_GET as usize, b"GET"),
    (NGX_HTTP_HEAD as usize, b"HEAD"),
    (nginx_sys::NGX_HTTP_POST as usize, b"POST"),
    (nginx_sys::NGX_HTTP_PUT as usize, b"PUT"),
    (nginx_sys::NGX_HTTP_DELETE as usize, b"DELETE"),
    (nginx_sys::NGX_HTTP_MKCOL as usize, b"MKCOL"),
    (nginx_sys::NGX_HTTP_COPY as usize, b"COPY"),
    (nginx_sys::NGX_HTTP_MOVE as usize, b"MOVE"),
    (nginx_sys::NGX_HTTP_OPTIONS as usize, b"OPTIONS"),
    (nginx_sys::NGX_HTTP_PROPFIND as usize, b"PROPFIND"),
    (nginx_sys::NGX_HTTP_PROPPATCH as usize, b"PROPPATCH"),
    (nginx_sys::NGX_HTTP_LOCK as usize, b"LOCK"),
    (nginx_sys::NGX_HTTP_PATCH as usize, b"PATCH"),
];

/// Number of the HTTP core module among HTTP modules.
pub(super) fn core_index() -> ngx_uint_t {
    context_index(&raw const ngx_http_core_module)
}

/// Number of `module` among modules of its type.
fn context_index(module: *const ngx_module_t) -> ngx_uint_t {
    // SAFETY: `module` is the address of a static of nginx's; the number is only written while modules are counted,
    // before any request.
    unsafe { (*module).ctx_index }
}

#[cfg(ngx_feature = "pcre")]
fn has_regex(conf: &ngx_http_core_loc_conf_t) -> bool {
    !conf.regex.is_null()
}

#[cfg(not(ngx_feature = "pcre"))]
fn has_regex(_: &ngx_http_core_loc_conf_t) -> bool {
    false
}

/// Whether `code`, the answer to a header that was sent, says that no body is wanted by nginx.
pub(crate) const fn stops_output(code: ngx_int_t) -> bool {
    code == super::code::ERROR || code > super::code::OK
}
