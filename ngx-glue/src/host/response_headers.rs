//! Headers of the response: what guests see of them, and which changes are refused.
//!
//! Content-Type, Content-Length and Last-Modified are shown wherever nginx keeps them. How the response is framed is
//! nginx's business: Transfer-Encoding and hop-by-hop headers cannot be set, Content-Length can be removed.

use weir_core::host::MapError;

use super::maps::{Mode, done, is_pseudo, join};
use crate::ngx::{headers_in::decimal, headers_out::HeadersOut, request::Request};

/// Bytes of a length in decimal digits, at most.
const DIGITS: usize = 20;

/// The status as text, for all that HTTP has, so that it can be lent without memory of its own.
static STATUS: [[u8; 3]; 1000] = status_texts();

const fn status_texts() -> [[u8; 3]; 1000] {
    const fn digit(number: usize) -> u8 {
        b"0123456789"[number % 10]
    }
    let mut texts = [[0; 3]; 1000];
    let mut status = 0;
    while status < texts.len() {
        texts[status] = [digit(status / 100), digit(status / 10), digit(status)];
        status += 1;
    }
    texts
}

/// Number of pairs.
pub(super) fn count(request: Request<'_>) -> usize {
    let out = HeadersOut::of(request);
    1 + usize::from(out.content_type().is_some())
        + usize::from(unlisted_length(out).is_some())
        + usize::from(out.unlisted_last_modified().is_some())
        + out.list().iter().filter(|field| field.is_live()).count()
}

/// The value of `name`.
pub(super) fn value<'a>(request: Request<'a>, name: &[u8]) -> Option<&'a [u8]> {
    let out = HeadersOut::of(request);
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    if is_pseudo(name) {
        return (name == b":status").then(|| status(out));
    }
    if is(b"content-type") {
        return content_type(request);
    }
    if is(b"content-length")
        && let Some(length) = unlisted_length(out)
    {
        return request.keep(digits(length, &mut [0; DIGITS]));
    }
    if is(b"last-modified")
        && let Some(time) = out.unlisted_last_modified()
    {
        return request.keep(&time);
    }
    join(request, out.list().iter().filter(|field| field.is(name)), b", ")
}

/// Shows every pair.
pub(super) fn visit(request: Request<'_>, visit: &mut dyn FnMut(&[u8], &[u8])) {
    let out = HeadersOut::of(request);
    visit(b":status", status(out));
    if let Some(value) = content_type(request) {
        visit(b"content-type", value);
    }
    if let Some(length) = unlisted_length(out) {
        visit(b"content-length", digits(length, &mut [0; DIGITS]));
    }
    if let Some(time) = out.unlisted_last_modified() {
        visit(b"last-modified", &time);
    }
    for field in out.list().iter().filter(|field| field.is_live()) {
        visit(field.name(), field.value());
    }
}

/// Adds or sets `name`.
pub(super) fn set(request: Request<'_>, name: &[u8], value: &[u8], mode: Mode) -> Result<(), MapError> {
    let out = HeadersOut::of(request);
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    if is_pseudo(name) {
        return set_status(out, name, value);
    }
    if is(b"content-type") {
        return done(out.set_content_type(value));
    }
    if is(b"content-length") {
        return set_content_length(request, value);
    }
    if is(b"connection") {
        return set_connection(request, value);
    }
    if is_hop_by_hop(name) {
        return Err(MapError::Refused(
            "nginx writes the headers that frame a response and manage its connection",
        ));
    }
    if is(b"accept-ranges") {
        return set_accept_ranges(request, value);
    }
    done(if mode == Mode::Add { out.add(name, value) } else { out.replace(name, value) })
}

/// nginx keeps connections of its own accord where it can; `close` it is told.
fn set_connection(request: Request<'_>, value: &[u8]) -> Result<(), MapError> {
    if value.eq_ignore_ascii_case(b"close") {
        request.close_after();
    } else if !value.eq_ignore_ascii_case(b"keep-alive") {
        return Err(MapError::Refused("Connection of a response can be \"close\" or \"keep-alive\""));
    }
    Ok(())
}

/// Removes `name`.
pub(super) fn remove(request: Request<'_>, name: &[u8]) -> Result<(), MapError> {
    let out = HeadersOut::of(request);
    let is = |text: &[u8]| name.eq_ignore_ascii_case(text);
    if is_pseudo(name) {
        return Err(MapError::Refused("a pseudo-header cannot be removed"));
    }
    if is(b"content-type") {
        out.remove_content_type();
    } else if is(b"content-length") {
        // The body is sent in chunks, or ends with the connection.
        out.set_content_length(None);
    } else {
        out.remove(name);
        if is(b"server") || is(b"date") {
            return done(out.suppress(name));
        }
        if is(b"accept-ranges") {
            request.forbid_ranges();
        }
    }
    Ok(())
}

/// Removes everything but the length, which says where the body ends.
pub(super) fn clear(request: Request<'_>) {
    let out = HeadersOut::of(request);
    out.remove_content_type();
    out.remove(b"last-modified");
    let next = || {
        out.list()
            .iter()
            .find(|field| field.is_live() && !field.name().eq_ignore_ascii_case(b"content-length"))
    };
    while let Some(field) = next() {
        out.remove(field.name());
    }
}

fn status(out: HeadersOut<'_>) -> &'static [u8] {
    STATUS.get(out.status()).map_or(b"0", |text| text)
}

fn set_status(out: HeadersOut<'_>, name: &[u8], value: &[u8]) -> Result<(), MapError> {
    if name != b":status" {
        return Err(MapError::Refused("a response has no such pseudo-header"));
    }
    let status = decimal(value).and_then(|status| u16::try_from(status).ok()).filter(|_| value.len() == 3);
    match status {
        Some(status) if usize::from(status) == out.status() => Ok(()),
        // After a status below 200 clients wait for the response itself.
        Some(status @ 200..=599) => {
            out.set_status(status);
            Ok(())
        }
        _ => Err(MapError::Refused(":status must be a number from 200 to 599")),
    }
}

/// The length, where it is not in the list but will be written by nginx.
fn unlisted_length(out: HeadersOut<'_>) -> Option<u64> {
    out.content_length().filter(|_| !out.lists_content_length())
}

fn set_content_length(request: Request<'_>, value: &[u8]) -> Result<(), MapError> {
    let out = HeadersOut::of(request);
    let length = decimal(value).and_then(|length| u64::try_from(length).ok());
    if length.is_some() && length == out.content_length() {
        return Ok(());
    }
    if length.is_some() && (request.is_head() || request.header_only() || out.status() == 304) {
        // No body follows, and the length is only told.
        out.set_content_length(length);
        return Ok(());
    }
    Err(MapError::Refused("Content-Length can be removed, but not set to something else than the body has"))
}

/// What nginx does with ranges follows what the header says. It writes the header itself where it serves ranges, and
/// there shall be one ([`settle`]).
fn set_accept_ranges(request: Request<'_>, value: &[u8]) -> Result<(), MapError> {
    if !value.eq_ignore_ascii_case(b"bytes") {
        request.forbid_ranges();
    }
    done(HeadersOut::of(request).replace(b"Accept-Ranges", value))
}

/// The headers are about to leave: what nginx's own filters add to them now is taken out of the list.
pub(crate) fn settle(request: Request<'_>) {
    if request.announces_ranges() {
        HeadersOut::of(request).remove(b"accept-ranges");
    }
}

/// The Content-Type as it is sent, in the request's pool where nginx has it in two parts.
fn content_type(request: Request<'_>) -> Option<&[u8]> {
    let (text, charset) = HeadersOut::of(request).content_type()?;
    if charset.is_empty() {
        return Some(text);
    }
    const BETWEEN: &[u8] = b"; charset=";
    let whole = request.allocate(text.len() + BETWEEN.len() + charset.len())?;
    let (head, tail) = whole.split_at_mut_checked(text.len())?;
    let (middle, end) = tail.split_at_mut_checked(BETWEEN.len())?;
    head.copy_from_slice(text);
    middle.copy_from_slice(BETWEEN);
    end.copy_from_slice(charset);
    Some(whole)
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    let names: [&[u8]; 5] = [b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade", b"te"];
    names.iter().any(|text| name.eq_ignore_ascii_case(text))
}

/// `number` in decimal digits.
fn digits(mut number: u64, buffer: &mut [u8; DIGITS]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b"0123456789"[usize::try_from(number % 10).unwrap_or_default()];
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DIGITS, STATUS, digits};

    #[test]
    fn numbers_become_digits() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            assert_eq!(digits(number, &mut [0; DIGITS]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn every_status_has_its_text() {
        assert_eq!(&STATUS[200], b"200");
        assert_eq!(&STATUS[7], b"007");
        assert_eq!(&STATUS[999], b"999");
    }
}
