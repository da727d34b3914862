//! Headers of the request: what guests see of them, and which changes are refused.
//!
//! What frames the body stays as the client sent it, so no filter can make nginx and its upstream disagree about where
//! a request ends: Transfer-Encoding and Content-Length can be removed (nginx writes its own for the upstream), but
//! set to nothing else than they were.

use weir_core::host::MapError;

use super::maps::{Mode, done, is_pseudo, join};
use crate::{
    ngx::{
        headers_in::{HeadersIn, decimal},
        request::{METHODS, Part, Request},
    },
    stream::uri::{self, Invalid},
};

/// Names of pseudo-headers, in the order in which they are shown.
const PSEUDO: [&[u8]; 4] = [b":method", b":path", b":authority", b":scheme"];

/// Longest path.
const MAX_PATH: usize = 64 * 1024;

/// Number of pairs.
pub(super) fn count(request: Request<'_>) -> usize {
    PSEUDO.len() + HeadersIn::of(request).list().iter().filter(|field| field.is_live()).count()
}

/// The value of `name`.
pub(super) fn value<'a>(request: Request<'a>, name: &[u8]) -> Option<&'a [u8]> {
    if is_pseudo(name) {
        return pseudo(request, name);
    }
    let separator: &[u8] = if name.eq_ignore_ascii_case(b"cookie") { b"; " } else { b", " };
    join(request, HeadersIn::of(request).list().iter().filter(|field| field.is(name)), separator)
}

/// Shows every pair.
pub(super) fn visit(request: Request<'_>, visit: &mut dyn FnMut(&[u8], &[u8])) {
    for name in PSEUDO {
        visit(name, pseudo(request, name).unwrap_or_default());
    }
    for field in HeadersIn::of(request).list().iter().filter(|field| field.is_live()) {
        visit(field.name(), field.value());
    }
}

/// `http` or `https`, or what a filter has made of it.
pub(super) fn scheme(request: Request<'_>) -> &[u8] {
    match request.part(Part::Scheme) {
        [] if request.connection().is_tls() => b"https",
        [] => b"http",
        named => named,
    }
}

fn pseudo<'a>(request: Request<'a>, name: &[u8]) -> Option<&'a [u8]> {
    Some(match name {
        b":method" => request.part(Part::Method),
        b":path" => request.target(),
        b":authority" => HeadersIn::of(request).authority(),
        b":scheme" => scheme(request),
        _ => return None,
    })
}

/// Adds or sets `name`.
pub(super) fn set(request: Request<'_>, name: &[u8], value: &[u8], mode: Mode) -> Result<(), MapError> {
    let headers = HeadersIn::of(request);
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    if is_pseudo(name) {
        return set_pseudo(request, name, value);
    }
    if is(b"host") {
        return set_authority(request, value);
    }
    let frames = is(b"content-length") || is(b"transfer-encoding");
    if frames {
        let same = if is(b"content-length") {
            !request.is_chunked() && decimal(value) == Some(request.body_length())
        } else {
            request.is_chunked() && request.version() < 2000 && value.eq_ignore_ascii_case(b"chunked")
        };
        if !same {
            return Err(MapError::Refused(
                "Content-Length and Transfer-Encoding of a request say where its body ends: they can be removed, but not \
                 set to something else",
            ));
        }
    }
    done(if mode == Mode::Add && !frames { headers.add(name, value) } else { headers.replace(name, value) })
}

/// Removes `name`.
pub(super) fn remove(request: Request<'_>, name: &[u8]) -> Result<(), MapError> {
    if is_pseudo(name) {
        return Err(MapError::Refused("a pseudo-header cannot be removed"));
    }
    done(HeadersIn::of(request).remove(name))
}

/// Removes everything but the host, which `:authority` shows.
pub(super) fn clear(request: Request<'_>) -> Result<(), MapError> {
    let headers = HeadersIn::of(request);
    let next = || headers.list().iter().find(|field| !field.name().eq_ignore_ascii_case(b"host"));
    while let Some(field) = next() {
        // All fields of that name go at once, so that what nginx has made of them is made again once.
        done(headers.remove(field.name()))?;
    }
    Ok(())
}

fn set_pseudo(request: Request<'_>, name: &[u8], value: &[u8]) -> Result<(), MapError> {
    match name {
        b":method" => set_method(request, value),
        b":path" => set_path(request, value),
        b":authority" => set_authority(request, value),
        b":scheme" => set_scheme(request, value),
        _ => Err(MapError::Refused("a request has no such pseudo-header")),
    }
}

fn set_method(request: Request<'_>, name: &[u8]) -> Result<(), MapError> {
    // What nginx's parser accepts (`ngx_http_parse_request_line()`).
    if name.is_empty() || !name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'_' | b'-')) {
        return Err(MapError::Refused(":method must be of upper-case letters, \"_\" and \"-\""));
    }
    match name {
        b"CONNECT" | b"TRACE" => return Err(MapError::Refused("nginx does not serve CONNECT and TRACE")),
        // Without a body, the client would wait for what the headers of the response announce. A client that has
        // asked with HEAD gets no body, whatever the method becomes.
        b"HEAD" if !request.is_head() => {
            return Err(MapError::Refused("a request cannot become HEAD: its client expects a body"));
        }
        _ => {}
    }
    let known = METHODS.iter().find(|(_, known)| *known == name);
    let number = known.map_or(METHODS[0].0, |(number, _)| *number);
    done(request.set_method(number, name))
}

fn set_path(request: Request<'_>, raw: &[u8]) -> Result<(), MapError> {
    let refused = |Invalid(text): Invalid| MapError::Refused(text);
    if raw.len() > MAX_PATH {
        return Err(MapError::Refused(":path is too long"));
    }
    uri::check(raw).map_err(refused)?;
    let buffer = request.allocate(raw.len()).ok_or(MapError::NoMemory)?;
    let parts = uri::parse(raw, buffer, request.merges_slashes()).map_err(refused)?;
    done(request.set_uri(raw, parts.path, parts.args, parts.extension))
}

fn set_authority(request: Request<'_>, host: &[u8]) -> Result<(), MapError> {
    if HeadersIn::of(request).set_authority(host) {
        Ok(())
    } else {
        Err(MapError::Refused("that is no host, or there is no memory for it"))
    }
}

fn set_scheme(request: Request<'_>, scheme: &[u8]) -> Result<(), MapError> {
    // RFC 3986, 3.1.
    let valid = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !valid {
        return Err(MapError::Refused(":scheme must be letters, digits, \"+\", \"-\" and \".\""));
    }
    done(request.set_scheme(scheme))
}
