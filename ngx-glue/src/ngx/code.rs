//! What nginx's handlers and filters answer (`src/core/ngx_core.h`); anything above zero is an HTTP status.

use nginx_sys::{
    NGX_DECLINED, NGX_DONE, NGX_ERROR, NGX_HTTP_CLIENT_CLOSED_REQUEST, NGX_HTTP_CLOSE,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_OK, NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
    NGX_HTTP_REQUEST_TIME_OUT, NGX_HTTP_SERVICE_UNAVAILABLE, NGX_OK, ngx_int_t,
};

/// Done, or go on.
pub(crate) const OK: ngx_int_t = NGX_OK as ngx_int_t;

/// Failed; the request is terminated.
pub(crate) const ERROR: ngx_int_t = NGX_ERROR as ngx_int_t;

/// The request's way is taken up again by an event (`ngx_http_core_rewrite_phase()`).
pub(crate) const DONE: ngx_int_t = NGX_DONE as ngx_int_t;

/// This handler has nothing to say: the next one.
pub(crate) const DECLINED: ngx_int_t = NGX_DECLINED as ngx_int_t;

/// The response has been sent by another than the caller, who has nothing more to do: callers of
/// `ngx_http_send_header()` stop at any answer above [`OK`], and `ngx_http_finalize_request()` ends a request with
/// 200 as it ends one with [`OK`].
pub(crate) const SENT: ngx_int_t = NGX_HTTP_OK as ngx_int_t;

/// nginx's code for closing the connection without any response.
pub(crate) const CLOSE: ngx_int_t = NGX_HTTP_CLOSE as ngx_int_t;

/// The client has gone away (499).
pub(crate) const CLIENT_GONE: ngx_int_t = NGX_HTTP_CLIENT_CLOSED_REQUEST as ngx_int_t;

/// The client has taken too long (408), or a filter: the request is terminated without a response.
pub(crate) const TIMED_OUT: ngx_int_t = NGX_HTTP_REQUEST_TIME_OUT as ngx_int_t;

/// Status 500.
pub(crate) const INTERNAL_ERROR: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

/// Status 413.
pub(crate) const TOO_LARGE: ngx_int_t = NGX_HTTP_REQUEST_ENTITY_TOO_LARGE as ngx_int_t;

/// Status 503.
pub(crate) const UNAVAILABLE: ngx_int_t = NGX_HTTP_SERVICE_UNAVAILABLE as ngx_int_t;

/// `status` as an answer.
pub(crate) fn of_status(status: u16) -> ngx_int_t {
    ngx_int_t::from(i16::try_from(status).unwrap_or(500))
}
