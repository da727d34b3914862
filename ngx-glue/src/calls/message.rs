//! Requests as hyper sends them over HTTP/2, and responses as core is told of them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header::{HOST, HeaderName, HeaderValue},
    http::{
        response,
        uri::{Authority, Parts, PathAndQuery, Scheme},
    },
};
use weir_core::host::calls::{CallFields, Fields, HttpCall, Response};

use super::{
    fault::Fault,
    letter::{self, invalid},
};

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

/// The request of `call` as HTTP/2 has it: scheme and authority are in its URI (RFC 9113, 8.3.1).
///
/// # Errors
/// A sentence that says what of it cannot be sent.
pub(crate) fn request(call: &HttpCall<'_>, method: Method) -> Result<Box<Request<Outgoing>>, String> {
    let mut path = Vec::with_capacity(call.path.len());
    let path = letter::push_path(&mut path, call.path).and_then(|()| PathAndQuery::try_from(path).ok());
    let path = path.ok_or_else(|| invalid(b":path", call.path))?;
    let trailers = map(call.trailers)?;
    let mut request = Box::new(Request::new(Outgoing {
        data: (!call.body.is_empty()).then(|| Bytes::copy_from_slice(call.body)),
        trailers: (!trailers.is_empty()).then(|| Box::new(trailers)),
    }));
    *request.method_mut() = method;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = map(call.headers)?;
    let mut parts = Parts::default();
    parts.path_and_query = Some(path);
    match Authority::try_from(call.authority) {
        Ok(authority) => {
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(authority);
        }
        Err(_) => {
            let host = HeaderValue::from_bytes(call.authority);
            request.headers_mut().insert(HOST, host.map_err(|_| invalid(b":authority", call.authority))?);
        }
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| invalid(b":path", call.path))?;
    Ok(request)
}

/// Headers or trailers as hyper has them.
pub(crate) fn map(fields: CallFields<'_>) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter() {
        let invalid = || invalid(name, value);
        let name = HeaderName::from_bytes(name).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
        map.try_append(name, value).map_err(|_| "there are too many headers".to_owned())?;
    }
    Ok(map)
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
    pub(crate) fn new(head: &response::Parts, body: &Incoming, most: usize) -> Result<Self, Fault> {
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
        match frame.map_err(|error| Fault::of_hyper(&error))?.into_data() {
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
pub(crate) fn head(head: &response::Parts, most: usize) -> Result<Fields, Fault> {
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
