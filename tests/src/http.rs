//! Requests and responses as tests write and read them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Read,
    pin::Pin,
    task::{Context, Poll},
};

use flate2::read::GzDecoder;
use hyper::{
    HeaderMap, Version,
    body::{Body, Bytes, Frame, SizeHint},
    header::{HeaderName, HeaderValue},
};

/// Headers in the order they came, names in lower case. Each byte of a value is one `char`, so no byte is lost.
pub type Headers = Vec<(String, String)>;

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Payload,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Payload::default(),
        }
    }

    /// A GET request.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A HEAD request.
    #[must_use]
    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    /// A POST request whose body has a Content-Length.
    #[must_use]
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Payload::sized(body), ..Self::new("POST", target) }
    }

    /// A POST request whose body comes in chunks, without a Content-Length.
    #[must_use]
    pub fn post_chunks<C: Into<Vec<u8>>>(target: &str, chunks: impl IntoIterator<Item = C>) -> Self {
        Self { body: Payload::chunked(chunks), ..Self::new("POST", target) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }
}

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// `HTTP/1.1` and the like.
    pub version: String,
    /// All headers.
    pub headers: Headers,
    /// The body, chunks put together.
    pub body: Vec<u8>,
    /// All trailers that came after the body, where the client reads any.
    pub trailers: Headers,
}

impl Response {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Every header of that name, in order.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<&str> {
        headers(&self.headers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a response that gzip has compressed.
    ///
    /// # Panics
    /// When it is not compressed, or broken.
    #[must_use]
    #[track_caller]
    pub fn gunzip(&self) -> Vec<u8> {
        assert_eq!(self.header("content-encoding"), Some("gzip"));
        let mut plain = Vec::new();
        GzDecoder::new(&self.body[..]).read_to_end(&mut plain).expect("a whole stream of gzip");
        plain
    }

    /// This response, if its status is `status`.
    ///
    /// # Panics
    /// When it is another.
    #[must_use]
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the response was {:?}\n{}", self.headers, self.text());
        self
    }
}

/// The first header of that name.
#[must_use]
pub fn header<'a>(all: &'a Headers, name: &str) -> Option<&'a str> {
    headers(all, name).first().copied()
}

/// Every header of that name, in order.
#[must_use]
pub fn headers<'a>(all: &'a Headers, name: &str) -> Vec<&'a str> {
    all.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// Reads a status line and the headers that follow.
pub(crate) fn parse_head(head: &str) -> Response {
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = words.next().unwrap_or_default().to_owned();
    let status = words.next().and_then(|word| word.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status line: {head}"));
    let headers = lines
        .map(|line| line.split_once(':').unwrap_or_else(|| panic!("no header: {line}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Response { status, version, headers, body: Vec::new(), trailers: Headers::new() }
}

/// Bytes as text, one `char` each.
#[must_use]
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The reverse of [`latin1`].
fn from_latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a header's value has chars up to U+00FF only")).collect()
}

pub(crate) fn from_map(map: &HeaderMap) -> Headers {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), latin1(value.as_bytes()))).collect()
}

pub(crate) fn into_map(headers: &Headers) -> HeaderMap {
    let pairs = headers.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        (name, HeaderValue::from_bytes(&from_latin1(value)).expect("a header's value"))
    });
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, value);
    }
    map
}

pub(crate) fn version(version: Version) -> String {
    format!("{version:?}")
}

/// A body to send: with a known length, or in chunks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    chunks: VecDeque<Bytes>,
    unsized_: bool,
    trailers: Headers,
}

impl Payload {
    pub(crate) fn sized(body: impl Into<Vec<u8>>) -> Self {
        let body: Vec<u8> = body.into();
        let chunks = if body.is_empty() { VecDeque::new() } else { VecDeque::from([Bytes::from(body)]) };
        Self { chunks, ..Self::default() }
    }

    pub(crate) fn chunked<C: Into<Vec<u8>>>(chunks: impl IntoIterator<Item = C>) -> Self {
        let chunks = chunks.into_iter().map(|chunk| Bytes::from(chunk.into())).collect();
        Self { chunks, unsized_: true, ..Self::default() }
    }

    /// Lets a trailer follow the body, whose length is not announced then.
    pub(crate) fn push_trailer(&mut self, name: &str, value: &str) {
        self.unsized_ = true;
        self.trailers.push((name.to_owned(), value.to_owned()));
    }

    /// Its length, if it is known and there is a body.
    pub(crate) fn length(&self) -> Option<usize> {
        let length = self.chunks.iter().map(Bytes::len).sum();
        (!self.unsized_ && length > 0).then_some(length)
    }

    pub(crate) fn into_chunks(self) -> impl Iterator<Item = Bytes> {
        self.chunks.into_iter()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let trailers = std::mem::take(&mut self.trailers);
        Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(into_map(&trailers)))))
    }

    fn is_end_stream(&self) -> bool {
        !self.unsized_ && self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.unsized_ {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.chunks.iter().map(|chunk| chunk.len() as u64).sum())
    }
}
