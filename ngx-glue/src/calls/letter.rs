//! Requests of calls as they are sent: for HTTP/1.1 written out when the call begins, once for all peers that are tried.

use std::io::Write as _;

use hyper::{
    Method, Request,
    header::{HeaderName, TRAILER},
};
use weir_core::host::calls::{CallFields, HttpCall};

use super::message::{self, Outgoing};

/// The request of a call.
#[derive(Debug)]
pub(crate) struct Letter {
    /// The whole message as HTTP/1.1 has it.
    text: Vec<u8>,
    /// The same as hyper sends it over HTTP/2, which TLS may agree on.
    http2: Option<Box<Request<Outgoing>>>,
    /// Whether it may be sent again though something may have come of it (RFC 9110, 9.2.2).
    pub(crate) is_idempotent: bool,
    /// Whether its response has no body, whatever its headers say.
    pub(crate) is_head: bool,
}

impl Letter {
    /// The request of `call`, which may go over TLS.
    ///
    /// # Errors
    /// A sentence that says what of it cannot be sent.
    pub(crate) fn new(call: &HttpCall<'_>, is_tls: bool) -> Result<Self, String> {
        let method = Method::from_bytes(call.method).map_err(|_| invalid(b":method", call.method))?;
        if method == Method::CONNECT {
            return Err(invalid(b":method", call.method));
        }
        let text = text(call, &method)?;
        let http2 = if is_tls { Some(message::request(call, method.clone())?) } else { None };
        // `is_idempotent` of hyper's knows the methods of RFC 9110 and no others.
        Ok(Self { text, http2, is_idempotent: method.is_idempotent(), is_head: method == Method::HEAD })
    }

    /// The whole message as HTTP/1.1 has it.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The request as hyper sends it over HTTP/2; `None` where nothing is encrypted.
    pub(crate) fn for_http2(&self) -> Option<Request<Outgoing>> {
        self.http2.as_deref().cloned()
    }
}

/// What cannot be sent.
pub(super) fn invalid(name: &[u8], value: &[u8]) -> String {
    let shown = String::from_utf8_lossy;
    format!("\"{}: {}\" cannot be sent", shown(name), shown(value))
}

/// `call` as HTTP/1.1 has it.
fn text(call: &HttpCall<'_>, method: &Method) -> Result<Vec<u8>, String> {
    let has_trailers = call.trailers.iter().next().is_some();
    let mut text = Vec::with_capacity(room(call));
    text.extend_from_slice(method.as_str().as_bytes());
    text.push(b' ');
    push_path(&mut text, call.path).ok_or_else(|| invalid(b":path", call.path))?;
    text.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(&mut text, b"host", call.authority)?;
    for (name, value) in call.headers.iter() {
        // Which trailers there are is said below.
        if !(has_trailers && name.eq_ignore_ascii_case(TRAILER.as_str().as_bytes())) {
            push_field(&mut text, name, value)?;
        }
    }
    if has_trailers {
        let trailers = message::map(call.trailers)?;
        let mut names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        push_field(&mut text, b"trailer", names.join(", ").as_bytes())?;
        text.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        if !call.body.is_empty() {
            // Writing to a vector does not fail.
            let _ = write!(text, "{:X}\r\n", call.body.len());
            text.extend_from_slice(call.body);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n");
        push_fields(&mut text, call.trailers)?;
        text.extend_from_slice(b"\r\n");
        return Ok(text);
    }
    // That there is no body is said where one is expected (RFC 9110, 8.6).
    if !call.body.is_empty() || [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        let _ = write!(text, "content-length: {}\r\n", call.body.len());
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(call.body);
    Ok(text)
}

/// Bytes of `call` as it is sent, or a little more; less where a path has to be escaped or there are trailers.
fn room(call: &HttpCall<'_>) -> usize {
    let fields: usize = call.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    call.method.len() + call.path.len() + call.authority.len() + fields + call.body.len() + 64
}

fn push_fields(text: &mut Vec<u8>, fields: CallFields<'_>) -> Result<(), String> {
    fields.iter().try_for_each(|(name, value)| push_field(text, name, value))
}

/// Adds a field. That its name is a token is core's promise; values have no NUL, CR or LF, and no other control
/// characters after this.
fn push_field(text: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), String> {
    // Without a branch between bytes: that is what vector instructions are for.
    if value.iter().fold(false, |bad, byte| bad | matches!(byte, 0..=8 | 10..=31 | 127)) {
        return Err(invalid(name, value));
    }
    let begin = text.len();
    text.extend_from_slice(name);
    if let Some(name) = text.get_mut(begin..) {
        name.make_ascii_lowercase();
    }
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
    Ok(())
}

/// Adds path and query, with what no request line may have raw escaped (RFC 3986, 2.1); `None` where it is neither `*`
/// nor begins with a slash. Of a whole URL it adds what follows the authority: where the call goes says its upstream.
pub(super) fn push_path(text: &mut Vec<u8>, path: &[u8]) -> Option<()> {
    // A fragment is not sent (RFC 9110, 4.2.5).
    let path = path.split(|byte| *byte == b'#').next().unwrap_or_default();
    let path = match after_authority(path) {
        Some(rest) => {
            if rest.first() != Some(&b'/') {
                text.push(b'/');
            }
            rest
        }
        None if path == b"*" => path,
        None => path.first().filter(|first| **first == b'/').map(|_| path)?,
    };
    let is_escaped = |byte: &u8| matches!(byte, b'"' | b'<' | b'>' | b'`' | 0..=b' ' | 0x7f..);
    if !path.iter().fold(false, |any, byte| any | is_escaped(byte)) {
        text.extend_from_slice(path);
        return Some(());
    }
    for byte in path {
        match byte {
            byte if is_escaped(byte) => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                text.push(b'%');
                text.push(DIGITS[usize::from(byte >> 4)]);
                text.push(DIGITS[usize::from(byte & 0xf)]);
            }
            byte => text.push(*byte),
        }
    }
    Some(())
}

/// What follows scheme and authority in a URL of HTTP; `None` where it is none.
fn after_authority(url: &[u8]) -> Option<&[u8]> {
    let end = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let begins = url.get(..scheme.len())?.eq_ignore_ascii_case(scheme);
        begins.then_some(scheme.len())
    })?;
    let rest = url.get(end..)?;
    let at = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    rest.get(at..)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_core::{
        abi::pairs::{Pairs, encode},
        host::calls::{CallFields, HttpCall},
    };

    use super::{Letter, push_path};

    #[test]
    fn paths_are_sent_as_they_are_or_escaped() {
        let sent = |path: &[u8]| {
            let mut text = Vec::new();
            push_path(&mut text, path).map(|()| String::from_utf8(text).expect("ASCII"))
        };
        assert_eq!(sent(b"/a?b=c").as_deref(), Some("/a?b=c"));
        assert_eq!(sent(b"//a/b").as_deref(), Some("//a/b"));
        assert_eq!(sent(b"/a b\xc3\xa4#f").as_deref(), Some("/a%20b%C3%A4"));
        assert_eq!(sent(b"*").as_deref(), Some("*"));
        for (url, path) in [
            (&b"http://a/"[..], "/"),
            (b"https://a.test:8443/b/c?d=e#f", "/b/c?d=e"),
            (b"HTTPS://a", "/"),
            (b"http://a?b=/c", "/?b=/c"),
            (b"https://a/b c", "/b%20c"),
            (b"http:///b", "/b"),
        ] {
            assert_eq!(sent(url).as_deref(), Some(path));
        }
        for other in [&b"ftp://a/"[..], b"http:/a", b"a", b"?a", b"#f"] {
            assert_eq!(sent(other), None);
        }
        assert_eq!(sent(b""), None);
        // Whatever is sent is taken by hyper, too.
        let every: Vec<u8> = std::iter::once(b'/').chain((0..=255).filter(|byte| *byte != b'#')).collect();
        for path in [&every[..], &[b"/?", &every[..]].concat()] {
            let sent = sent(path).expect("a path");
            assert!(hyper::Uri::try_from(&sent).is_ok(), "{sent}");
        }
    }

    fn letter(method: &str, headers: &[(&[u8], &[u8])], body: &[u8], trailers: &[(&[u8], &[u8])]) -> String {
        let (headers, trailers) = (encode(headers.iter().copied()), encode(trailers.iter().copied()));
        let fields = |bytes| CallFields::new(Pairs::parse(bytes).expect("well-formed"));
        let letter = Letter::new(
            &HttpCall {
                upstream: b"up",
                method: method.as_bytes(),
                path: b"/a",
                authority: b"h",
                scheme: None,
                headers: fields(&headers),
                body,
                trailers: fields(&trailers),
                timeout: Duration::ZERO,
                most: 0,
            },
            false,
        );
        letter.map_or_else(|sentence| sentence, |letter| String::from_utf8_lossy(letter.text()).into_owned())
    }

    #[test]
    fn a_message_says_how_long_it_is() {
        assert_eq!(
            letter("GET", &[(b"X-A", b"1")], b"", &[]),
            "GET /a HTTP/1.1\r\nhost: h\r\nx-a: 1\r\n\r\n"
        );
        assert_eq!(letter("POST", &[], b"", &[]), "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(
            letter("GET", &[(b"content-length", b"7")], b"ab", &[]),
            "GET /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab"
        );
        assert_eq!(
            letter("PUT", &[(b"Trailer", b"y")], b"0123456789", &[(b"X-B", b"2"), (b"x-a", b"1")]),
            "PUT /a HTTP/1.1\r\nhost: h\r\ntrailer: x-a, x-b\r\ntransfer-encoding: chunked\r\n\r\n\
             A\r\n0123456789\r\n0\r\nx-b: 2\r\nx-a: 1\r\n\r\n"
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        assert_eq!(letter("CONNECT", &[], b"", &[]), "\":method: CONNECT\" cannot be sent");
        assert_eq!(letter("GET", &[(b"x-a", b"\x01")], b"", &[]), "\"x-a: \x01\" cannot be sent");
        assert_eq!(letter("GET", &[(b"x-a", b"\t\xff")], b"", &[]).lines().count(), 4);
        assert_eq!(letter("GET", &[], b"", &[(b"x-a", b"\x7f")]), "\"x-a: \x7f\" cannot be sent");
    }
}
