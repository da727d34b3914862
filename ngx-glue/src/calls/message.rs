//! Requests as hyper sends them, and responses as core is told of them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header::{HOST, HeaderName, HeaderValue, TRAILER},
    http,
};
use weir_core::host::calls::{CallFields, Fields, HttpCall, Response};

use super::fault::Fault;

/// A body that is there as a whole, and trailers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outgoing {
    data: Option<Bytes>,
    /// Seldom there, and large.
    trailers: Option<Box<HeaderMap>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.data.as_ref().map_or(0, Bytes::len);
        // With trailers the length is not announced: the body goes in chunks, which end with them.
        if self.trailers.is_some() {
            SizeHint::default()
        } else {
            SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
        }
    }
}

/// Whether a request may be sent again though something may have come of it (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    // `is_idempotent` of hyper's knows these and no others.
    method.is_idempotent()
}

/// The request of `call`.
///
/// # Errors
/// A sentence that says what of it cannot be sent.
pub(crate) fn request(call: &HttpCall<'_>) -> Result<Box<Request<Outgoing>>, String> {
    let method = Method::from_bytes(call.method).map_err(|_| invalid(":method", call.method))?;
    if method == Method::CONNECT {
        return Err(invalid(":method", call.method));
    }
    let uri = uri(call.path).ok_or_else(|| invalid(":path", call.path))?;
    let authority =
        HeaderValue::from_bytes(call.authority).map_err(|_| invalid(":authority", call.authority))?;
    let trailers = map(call.trailers)?;
    let mut request = Box::new(Request::new(Outgoing {
        data: (!call.body.is_empty()).then(|| Bytes::copy_from_slice(call.body)),
        trailers: (!trailers.is_empty()).then(|| Box::new(trailers)),
    }));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    let mut headers = map(call.headers)?;
    headers.insert(HOST, authority);
    if let Some(trailers) = &request.body().trailers {
        // What is not announced is not sent over HTTP/1.1.
        let mut names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
            headers.insert(TRAILER, names);
        }
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// Path and query; what a browser would escape is escaped, so that hyper takes it.
fn uri(path: &[u8]) -> Option<Uri> {
    if path == b"*" {
        return Uri::try_from("*").ok();
    }
    path.first().filter(|first| **first == b'/')?;
    // A fragment is not sent (RFC 9110, 4.2.5).
    let path = path.split(|byte| *byte == b'#').next().unwrap_or_default();
    if let Ok(uri) = Uri::try_from(path) {
        return Some(uri).filter(|uri| uri.host().is_none());
    }
    let mut escaped = String::with_capacity(path.len() + 16);
    for byte in path {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=b' ' | 0x7f.. => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                escaped.push('%');
                escaped.push(DIGITS[usize::from(byte >> 4)].into());
                escaped.push(DIGITS[usize::from(byte & 0xf)].into());
            }
            byte => escaped.push((*byte).into()),
        }
    }
    http::uri::PathAndQuery::try_from(escaped).ok().map(Uri::from)
}

/// Headers or trailers as hyper has them.
pub(crate) fn map(fields: CallFields<'_>) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter() {
        let invalid = || invalid(&String::from_utf8_lossy(name), value);
        let name = HeaderName::from_bytes(name).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
        map.try_append(name, value).map_err(|_| "there are too many headers".to_owned())?;
    }
    Ok(map)
}

fn invalid(name: &str, value: &[u8]) -> String {
    format!("\"{name}: {}\" cannot be sent", String::from_utf8_lossy(value))
}

/// `request` as HTTP/2 has it: scheme and authority are in its URI (RFC 9113, 8.3.1).
pub(crate) fn for_http2(mut request: Request<Outgoing>) -> Request<Outgoing> {
    let mut parts = request.uri().clone().into_parts();
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    if let Ok(authority) = http::uri::Authority::try_from(host) {
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        parts.authority = Some(authority);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
            request.headers_mut().remove(HOST);
        }
    }
    *request.version_mut() = Version::HTTP_2;
    request
}

/// The same as HTTP/1.1 has it.
pub(crate) fn for_http1(mut request: Request<Outgoing>) -> Request<Outgoing> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = None;
    let host = parts.authority.take().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    if let (Some(host), Ok(uri)) = (host, Uri::from_parts(parts)) {
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, host);
    }
    *request.version_mut() = Version::HTTP_11;
    request
}

/// What has gone wrong with a request.
#[derive(Debug)]
pub(crate) struct Undone {
    pub(crate) fault: Fault,
    /// The request, if nothing of it was sent.
    pub(crate) request: Option<Box<Request<Outgoing>>>,
}

impl From<Fault> for Undone {
    fn from(fault: Fault) -> Self {
        Self { fault, request: None }
    }
}

/// A response whose body comes piece by piece.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// What of it is there.
    pub(crate) response: Response,
    length: usize,
    most: usize,
}

impl Arriving {
    /// One that begins with `head`, of at most `most` bytes; as many may `body` have.
    ///
    /// # Errors
    /// There are more.
    pub(crate) fn new(head: &http::response::Parts, body: &Incoming, most: usize) -> Result<Self, Fault> {
        if body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX) {
            return Err(Fault::too_large(most));
        }
        let headers = self::head(head, most)?;
        let response = Response { headers, body: Vec::new(), trailers: Fields::new() };
        Ok(Self { response, length: 0, most })
    }

    /// The next piece of the body, or trailers.
    ///
    /// # Errors
    /// The connection has broken, or this is too much.
    pub(crate) fn add(&mut self, frame: Result<Frame<Bytes>, hyper::Error>) -> Result<(), Fault> {
        match frame.map_err(|error| Fault::of_hyper(&error, self.most))?.into_data() {
            Ok(data) => {
                self.length = self.length.saturating_add(data.len());
                if self.length > self.most {
                    return Err(Fault::too_large(self.most));
                }
                if !data.is_empty() {
                    self.response.body.push(data);
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.response.trailers = fields(&trailers, self.most)?;
                }
            }
        }
        Ok(())
    }
}

/// Status and headers of a response, of at most `most` bytes.
pub(crate) fn head(head: &http::response::Parts, most: usize) -> Result<Fields, Fault> {
    told(Some(head.status), &head.headers, most)
}

/// Trailers, of at most `most` bytes.
pub(crate) fn fields(headers: &HeaderMap, most: usize) -> Result<Fields, Fault> {
    told(None, headers, most)
}

fn told(status: Option<StatusCode>, headers: &HeaderMap, most: usize) -> Result<Fields, Fault> {
    let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let bytes = headers.iter().map(length).fold(0, usize::saturating_add);
    if bytes > most {
        return Err(Fault::too_large(most));
    }
    const STATUS: &[u8] = b":status";
    let mut fields = Fields::with_capacity(headers.len() + 1, bytes + STATUS.len() + 3);
    if let Some(status) = status {
        fields.push(STATUS, status.as_str().as_bytes());
    }
    for (name, value) in headers {
        fields.push(name.as_str().as_bytes(), value.as_bytes());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn paths_are_sent_as_they_are_or_escaped() {
        let sent = |path: &[u8]| uri(path).map(|uri| uri.to_string());
        assert_eq!(sent(b"/a?b=c").as_deref(), Some("/a?b=c"));
        assert_eq!(sent(b"//a/b").as_deref(), Some("//a/b"));
        assert_eq!(sent(b"/a b\xc3\xa4#f").as_deref(), Some("/a%20b%C3%A4"));
        assert_eq!(sent(b"*").as_deref(), Some("*"));
        assert_eq!(sent(b"http://a/"), None);
        assert_eq!(sent(b""), None);
    }
}
