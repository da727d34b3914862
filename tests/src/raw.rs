//! Bytes on a socket: HTTP/1.0, pipelining, and what no client library sends.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{
    http::{self, Headers, Response},
    wait::{self, DEADLINE},
};

/// A TCP connection, and what has been read of it and not yet been used.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens there.
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).expect("connect to nginx"))
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        Self { stream, unread: Vec::new() }
    }

    /// Writes bytes as they are.
    ///
    /// # Panics
    /// When the other side has closed.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("write to nginx");
    }

    /// Writes bytes, and says whether the other side took them: it may have answered and closed already.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Reads until the other side closes (a reset counts as well).
    ///
    /// # Panics
    /// When it does not close in time.
    #[must_use]
    pub fn read_to_end(mut self) -> Vec<u8> {
        while self.fill() {}
        self.unread
    }

    /// Whether the other side has closed, everything it sent having been used. Waits for it to say something.
    ///
    /// # Panics
    /// When it neither sends nor closes in time.
    pub fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.fill()
    }

    /// Whether nothing comes for `time`, the connection still being open.
    ///
    /// # Panics
    /// When the socket takes no time-out.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a read timeout");
        let mut byte = [0];
        let silent = self.unread.is_empty()
            && matches!(self.stream.peek(&mut byte),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        silent
    }

    /// Reads one response: by its Content-Length, its chunks, or to the end of the connection.
    ///
    /// # Panics
    /// When what comes is no HTTP response, or is cut short.
    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|cut| panic!("closed after {} bytes of {cut:?}", cut.body.len()))
    }

    /// Reads one response.
    ///
    /// # Errors
    /// As much of it as came, when the other side closes in the middle of its body.
    ///
    /// # Panics
    /// When what comes is no HTTP response.
    pub fn try_response(&mut self) -> Result<Response, Response> {
        let mut response = self.head();
        let length = response.header("content-length").map(|n| n.parse::<usize>().expect("a Content-Length"));
        let chunked = response.header("transfer-encoding") == Some("chunked");
        let mut body = Vec::new();
        let whole = match (response.status, chunked, length) {
            (100..200 | 204 | 304, _, _) => true,
            (_, true, _) => match self.chunks(&mut body) {
                Some(trailers) => {
                    response.trailers = trailers;
                    true
                }
                None => false,
            },
            (_, false, Some(length)) => self.append(&mut body, length),
            (_, false, None) => {
                while self.fill() {}
                body = std::mem::take(&mut self.unread);
                true
            }
        };
        response.body = body;
        if whole { Ok(response) } else { Err(response) }
    }

    /// Reads one response that has no body, whatever its headers announce: the answer to HEAD.
    ///
    /// # Panics
    /// When what comes is no HTTP response.
    pub fn head(&mut self) -> Response {
        let end = self.find(b"\r\n\r\n") + 4;
        let head = http::latin1(&self.unread.drain(..end).collect::<Vec<u8>>());
        http::parse_head(&head)
    }

    /// Reads the head of a request, from its line to the empty one.
    ///
    /// # Panics
    /// When the other side closes before its end.
    pub fn request_head(&mut self) -> String {
        let end = self.find(b"\r\n\r\n") + 4;
        http::latin1(&self.unread.drain(..end).collect::<Vec<u8>>())
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Panics
    /// When the other side closes before, or they do not come in time.
    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(self.append(&mut bytes, length), "closed after {:?}", http::latin1(&bytes));
        bytes
    }

    /// Reads chunks into `body`, and the trailers after them; `None` when the other side closes before their end.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<Headers> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("no chunk size: {line}"));
            if size == 0 {
                break;
            }
            let mut end = Vec::new();
            if !self.append(body, size) || !self.append(&mut end, 2) {
                return None;
            }
            assert_eq!(end, b"\r\n", "the end of a chunk");
        }
        let mut trailers = Headers::new();
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some((name, value)) => trailers.push((name.to_ascii_lowercase(), value.to_owned())),
                None if line.is_empty() => return Some(trailers),
                None => panic!("no trailer: {line}"),
            }
        }
    }

    /// Reads a line; `None` when the other side closes before its end.
    fn line(&mut self) -> Option<String> {
        let end = self.try_find(b"\r\n")?;
        let line: Vec<u8> = self.unread.drain(..end + 2).collect();
        Some(http::latin1(line.strip_suffix(b"\r\n").unwrap_or_default()))
    }

    /// Moves `length` bytes to the end of `out`; all there are, and false, when the other side closes before.
    fn append(&mut self, out: &mut Vec<u8>, length: usize) -> bool {
        while self.unread.len() < length {
            if !self.fill() {
                out.append(&mut self.unread);
                return false;
            }
        }
        out.extend(self.unread.drain(..length));
        true
    }

    /// Where `needle` begins, once it has come; `None` when the other side closes before.
    fn try_find(&mut self, needle: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.unread.windows(needle.len()).position(|window| window == needle) {
                return Some(at);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Where `needle` begins, once it has come.
    fn find(&mut self, needle: &[u8]) -> usize {
        self.try_find(needle).unwrap_or_else(|| panic!("closed after {:?}", http::latin1(&self.unread)))
    }

    /// Reads more; false when the other side has closed.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(size) => {
                self.unread.extend_from_slice(&buffer[..size]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("read from nginx: {error}; so far: {:?}", http::latin1(&self.unread)),
        }
    }
}

/// An origin that a test plays itself, byte by byte.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When the system has none to give.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket for the origin");
        // So that waiting for a connection can end.
        listener.set_nonblocking(true).expect("a socket that does not block");
        Self { listener }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never, in practice: a bound socket has an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    /// Waits for a connection, of which nothing is read.
    ///
    /// # Panics
    /// When nobody connects in time.
    #[must_use]
    pub fn accept_raw(&self) -> Raw {
        let (stream, _) = wait::poll(|| self.listener.accept().ok()).expect("a connection from nginx");
        stream.set_nonblocking(false).expect("a socket that blocks");
        Raw::new(stream)
    }

    /// Waits for a connection, and reads the head of the first request on it.
    ///
    /// # Panics
    /// When nobody connects in time, or what comes is no request.
    #[must_use]
    pub fn accept(&self) -> Raw {
        let mut raw = self.accept_raw();
        let _ = raw.request_head();
        raw
    }
}
