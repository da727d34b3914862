//! Trailers of the response: what guests see of them, and which changes are refused.
//!
//! There are those that an upstream has sent, where nginx is told to pass them on (`proxy_pass_trailers`), and those
//! that filters add, from `on_response_headers` until the last piece of the body has been passed on.

use weir_core::host::MapError;

use super::maps::{Mode, done, is_pseudo, join};
use crate::ngx::{headers_out::HeadersOut, list::Field, request::Request};

/// Number of pairs.
pub(super) fn count(request: Request<'_>) -> usize {
    fields(request).count()
}

/// The value of `name`.
pub(super) fn value<'a>(request: Request<'a>, name: &[u8]) -> Option<&'a [u8]> {
    join(request, fields(request).filter(|field| field.is(name)), b", ")
}

/// Shows every pair.
pub(super) fn visit(request: Request<'_>, visit: &mut dyn FnMut(&[u8], &[u8])) {
    for field in fields(request) {
        visit(field.name(), field.value());
    }
}

/// Adds or sets `name`.
pub(super) fn set(request: Request<'_>, name: &[u8], value: &[u8], mode: Mode) -> Result<(), MapError> {
    if is_pseudo(name) {
        return Err(MapError::Refused("trailers have no pseudo-headers"));
    }
    if is_forbidden(name) {
        return Err(MapError::Refused(
            "that header frames a message or manages a connection: it can be no trailer",
        ));
    }
    if !request.carries_trailers() {
        return Err(MapError::Refused(
            "this response has no place for trailers: it has no body, or its length was announced over HTTP/1",
        ));
    }
    let trailers = HeadersOut::of(request).trailers();
    let first = if mode == Mode::Replace { trailers.named(name).next() } else { None };
    let Some(first) = first else { return done(trailers.push(name, value).is_some()) };
    trailers.named(name).skip(1).for_each(Field::retire);
    done(first.set_value(value))
}

/// Removes `name`.
pub(super) fn remove(request: Request<'_>, name: &[u8]) -> Result<(), MapError> {
    if is_pseudo(name) {
        return Err(MapError::Refused("trailers have no pseudo-headers"));
    }
    HeadersOut::of(request).trailers().named(name).for_each(Field::retire);
    Ok(())
}

/// Removes everything.
pub(super) fn clear(request: Request<'_>) {
    fields(request).for_each(Field::retire);
}

fn fields(request: Request<'_>) -> impl Iterator<Item = Field<'_>> + Clone {
    HeadersOut::of(request).trailers().iter().filter(|field| field.is_live())
}

/// Whether no message may have that in its trailers (RFC 9110, 6.5.1): what says how it is framed, where it goes and
/// how its content is to be read.
fn is_forbidden(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 12] = [
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ];
    NAMES.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

#[cfg(test)]
mod tests {
    use super::is_forbidden;

    #[test]
    fn framing_is_no_trailer() {
        assert!(is_forbidden(b"Transfer-Encoding") && is_forbidden(b"content-length"));
        assert!(!is_forbidden(b"grpc-status") && !is_forbidden(b"Server-Timing"));
    }
}
