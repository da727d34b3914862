//! Responses of HTTP/1.1 as they come, in whatever pieces (RFC 9112). Nothing here reads from anything: whoever has
//! bytes hands them over, and they need not be kept anywhere meanwhile.

use std::mem::{self, MaybeUninit};

use bytes::Bytes;
use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use weir_core::{
    engine::limits::MAX_PAIRS,
    host::calls::{CallFailure, Fields, Response},
};

use super::fault::Fault;

/// Bytes that a head may have in any case.
const LEAST_HEAD: usize = 8192;

/// Headers for which no memory is asked for.
const FEW: usize = 32;

/// Bytes that may stand beside the sizes of a response's chunks.
const MOST_NOISE: usize = 16 << 10;

/// A response that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    stage: Stage,
    /// What has come of a head, or of trailers, that is not complete.
    begun: Vec<u8>,
    headers: Fields,
    body: Vec<u8>,
    trailers: Fields,
    /// Most bytes of headers, of the body, and of trailers.
    most: usize,
    /// Bytes of heads that have been read.
    heads: usize,
    /// Bytes beside the sizes of chunks.
    noise: usize,
    /// Whether its request was HEAD.
    is_head: bool,
    /// Whether another request may follow it on its connection.
    goes_on: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    /// So many bytes of the body, which end it.
    Sized(usize),
    /// The size of a chunk: its value so far, and whether there was a digit.
    Size(usize, bool),
    /// White space behind a size, up to an extension or the end of the line.
    Gap(usize),
    /// An extension, up to the end of the line.
    Extension(usize),
    /// The second half of a size's end of line.
    SizeEnd(usize),
    /// So many bytes of a chunk.
    Chunk(usize),
    /// The end of line behind a chunk, and its second half.
    ChunkEnd,
    ChunkEnded,
    Trailers,
    /// The body, as long as the connection is open.
    Endless,
    Over,
}

/// What the headers of a response say about its connection and its body.
#[derive(Debug, Default)]
struct Framing {
    length: Option<usize>,
    /// Whether there is Transfer-Encoding, and the last of it is `chunked`.
    chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
}

impl Reading {
    /// None of it is there. Its headers may have `most` bytes, and so may its body; `is_head` says that its request was
    /// HEAD.
    pub(crate) fn new(most: usize, is_head: bool) -> Self {
        Self {
            stage: Stage::Head,
            begun: Vec::new(),
            headers: Fields::new(),
            body: Vec::new(),
            trailers: Fields::new(),
            most,
            heads: 0,
            noise: 0,
            is_head,
            goes_on: false,
        }
    }

    /// Takes the next `bytes`, and answers how many of them are the response's: fewer than there are only if it ends
    /// with them.
    ///
    /// # Errors
    /// It is none, or too large. The connection is of no use then.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !self.is_over()) {
            at += self.step(rest)?;
        }
        Ok(at)
    }

    /// Nothing follows: the connection was closed.
    ///
    /// # Errors
    /// The response is not complete.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        if self.stage == Stage::Endless {
            self.stage = Stage::Over;
        }
        if self.is_over() {
            return Ok(());
        }
        Err(Fault::new(CallFailure::Reset, "the connection was closed before the response was complete"))
    }

    /// Whether all of it is there.
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether another request may follow it on its connection.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// The response, as far as it is there; nothing of it is left here.
    pub(crate) fn take_response(&mut self) -> Response {
        let body = mem::take(&mut self.body);
        Response {
            headers: mem::take(&mut self.headers),
            body: if body.is_empty() { Vec::new() } else { vec![Bytes::from(body)] },
            trailers: mem::take(&mut self.trailers),
        }
    }

    /// Takes some of `bytes`, at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let (Some(first), count) = (bytes.first().copied(), bytes.len()) else { return Ok(0) };
        let next = match self.stage {
            Stage::Head => return self.gather(bytes, Self::head),
            Stage::Trailers => return self.gather(bytes, Self::end_trailers),
            Stage::Sized(left) => {
                let taken = left.min(count);
                self.add(bytes.get(..taken).unwrap_or(bytes), left)?;
                self.stage = if taken == left { Stage::Over } else { Stage::Sized(left - taken) };
                return Ok(taken);
            }
            Stage::Chunk(left) => {
                let taken = left.min(count);
                self.add(bytes.get(..taken).unwrap_or(bytes), 0)?;
                self.stage = if taken == left { Stage::ChunkEnd } else { Stage::Chunk(left - taken) };
                return Ok(taken);
            }
            Stage::Endless => {
                self.add(bytes, 0)?;
                return Ok(count);
            }
            Stage::Size(size, has_digits) => match (char::from(first).to_digit(16), first) {
                (Some(digit), _) => {
                    let digit = usize::try_from(digit).unwrap_or_default();
                    let size = size.checked_mul(16).and_then(|size| size.checked_add(digit));
                    Stage::Size(size.ok_or_else(|| Fault::too_large(self.most))?, true)
                }
                (None, b'\r') if has_digits => Stage::SizeEnd(size),
                (None, b' ' | b'\t') if has_digits => Stage::Gap(size),
                (None, b';') if has_digits => Stage::Extension(size),
                _ => return Err(broken("a chunk has no size")),
            },
            Stage::Gap(size) => match first {
                b'\r' => Stage::SizeEnd(size),
                b' ' | b'\t' => self.noisy(Stage::Gap(size))?,
                b';' => Stage::Extension(size),
                _ => return Err(broken("a chunk's size is followed by something else")),
            },
            Stage::Extension(size) => match first {
                b'\r' => Stage::SizeEnd(size),
                b'\n' => return Err(broken("an extension of a chunk has an end of line")),
                _ => self.noisy(Stage::Extension(size))?,
            },
            Stage::SizeEnd(size) => match (first, size) {
                (b'\n', 0) => Stage::Trailers,
                // One that is too long is not waited for.
                (b'\n', size) if size > self.most - self.body.len() => {
                    return Err(Fault::too_large(self.most));
                }
                (b'\n', size) => Stage::Chunk(size),
                _ => return Err(broken("a chunk's size is not followed by an end of line")),
            },
            Stage::ChunkEnd if first == b'\r' => Stage::ChunkEnded,
            Stage::ChunkEnded if first == b'\n' => Stage::Size(0, false),
            Stage::ChunkEnd | Stage::ChunkEnded => {
                return Err(broken("a chunk is not followed by an end of line"));
            }
            Stage::Over => return Ok(0),
        };
        self.stage = next;
        Ok(1)
    }

    /// One more byte beside the sizes of chunks has come, in `stage`, which goes on.
    fn noisy(&mut self, stage: Stage) -> Result<Stage, Fault> {
        self.noise += 1;
        if self.noise > MOST_NOISE {
            return Err(broken("the extensions of chunks are too long"));
        }
        Ok(stage)
    }

    /// Adds to the body; `left` bytes of it are still to come, those of `bytes` included, if that is known.
    fn add(&mut self, bytes: &[u8], left: usize) -> Result<(), Fault> {
        if bytes.len() > self.most - self.body.len() {
            return Err(Fault::too_large(self.most));
        }
        self.body.reserve_exact(if self.body.is_empty() { left } else { 0 });
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes `bytes` of something that ends with an empty line, for which `read` is called: it answers how many bytes
    /// that has, or `None` as long as it is not complete. What is not is kept.
    fn gather(
        &mut self,
        bytes: &[u8],
        read: fn(&mut Self, &[u8]) -> Result<Option<usize>, Fault>,
    ) -> Result<usize, Fault> {
        let before = self.begun.len();
        if before == 0 {
            if let Some(used) = read(self, bytes)? {
                return Ok(used);
            }
            self.begun.extend_from_slice(bytes);
        } else {
            self.begun.extend_from_slice(bytes);
            // What comes in small pieces is not read anew for each of them.
            if has_empty_line(&self.begun, before) {
                let begun = mem::take(&mut self.begun);
                if let Some(used) = read(self, &begun)? {
                    return Ok(used.saturating_sub(before));
                }
                self.begun = begun;
            }
        }
        if self.heads + self.begun.len() > self.most.max(LEAST_HEAD) {
            return Err(Fault::too_large(self.most));
        }
        Ok(bytes.len())
    }

    /// Reads a head from `text`.
    fn head(&mut self, text: &[u8]) -> Result<Option<usize>, Fault> {
        let config = ParserConfig::default();
        let mut few = [const { MaybeUninit::uninit() }; FEW];
        let mut head = httparse::Response::new(&mut []);
        let parsed = config.parse_response_with_uninit_headers(&mut head, text, &mut few);
        if parsed != Err(httparse::Error::TooManyHeaders) {
            return self.parsed(parsed, &head);
        }
        let mut many = vec![EMPTY_HEADER; MAX_PAIRS];
        let mut head = httparse::Response::new(&mut many);
        let parsed = config.parse_response(&mut head, text);
        self.parsed(parsed, &head)
    }

    fn parsed(
        &mut self,
        parsed: httparse::Result<usize>,
        head: &httparse::Response<'_, '_>,
    ) -> Result<Option<usize>, Fault> {
        let length = match parsed {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Fault::too_large(self.most)),
            Err(error) => return Err(broken(&error.to_string())),
        };
        self.heads += length;
        if self.heads > self.most.max(LEAST_HEAD) {
            return Err(Fault::too_large(self.most));
        }
        let (Some(code @ 100..), Some(version)) = (head.code, head.version) else {
            return Err(broken("its status is none"));
        };
        // What comes before the response is passed over (RFC 9110, 15.2). 101 says that the connection will be used for
        // something else, which nobody has asked for.
        if code == 100 || (102..200).contains(&code) {
            return Ok(Some(length));
        }
        let bytes = head.headers.iter().map(|header| header.name.len() + header.value.len());
        let bytes = bytes.fold(0, usize::saturating_add);
        if bytes > self.most {
            return Err(Fault::too_large(self.most));
        }
        const STATUS: &[u8] = b":status";
        self.headers = Fields::with_capacity(head.headers.len() + 1, bytes + STATUS.len() + 3);
        self.headers.push(STATUS, &[code / 100, code / 10 % 10, code % 10].map(digit));
        let mut framing = Framing::default();
        for header in head.headers.iter() {
            framing.look(header)?;
            self.headers.push_lower(header.name.as_bytes(), header.value);
        }
        self.stage = self.body_of(code, version, &framing)?;
        Ok(Some(length))
    }

    /// What follows a head (RFC 9112, 6.3).
    fn body_of(&mut self, code: u16, version: u8, framing: &Framing) -> Result<Stage, Fault> {
        self.goes_on = !framing.close && (version == 1 || framing.keep_alive) && code != 101;
        if self.is_head || matches!(code, 101 | 204 | 304) {
            return Ok(Stage::Over);
        }
        match (framing.chunked, framing.length) {
            (Some(_), _) if version == 0 => Err(broken("HTTP/1.0 has no Transfer-Encoding")),
            (Some(true), length) => {
                // Whoever has sent both may be read in two ways.
                self.goes_on &= length.is_none();
                Ok(Stage::Size(0, false))
            }
            (None, Some(0)) => Ok(Stage::Over),
            (None, Some(length)) if length > self.most => Err(Fault::too_large(self.most)),
            (None, Some(length)) => Ok(Stage::Sized(length)),
            (Some(false), _) | (None, None) => {
                self.goes_on = false;
                Ok(Stage::Endless)
            }
        }
    }

    /// Reads trailers from `text`, up to the empty line that ends them.
    fn end_trailers(&mut self, text: &[u8]) -> Result<Option<usize>, Fault> {
        let mut many = [EMPTY_HEADER; FEW];
        let parsed = httparse::parse_headers(text, &mut many);
        if parsed != Err(httparse::Error::TooManyHeaders) {
            return self.ended(parsed);
        }
        let mut many = vec![EMPTY_HEADER; MAX_PAIRS];
        self.ended(httparse::parse_headers(text, &mut many))
    }

    fn ended(&mut self, parsed: httparse::Result<(usize, &[Header<'_>])>) -> Result<Option<usize>, Fault> {
        let (length, trailers) = match parsed {
            Ok(Status::Complete(parsed)) => parsed,
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Fault::too_large(self.most)),
            Err(error) => return Err(broken(&error.to_string())),
        };
        if length > self.most.max(LEAST_HEAD) {
            return Err(Fault::too_large(self.most));
        }
        trailers.iter().for_each(|trailer| self.trailers.push_lower(trailer.name.as_bytes(), trailer.value));
        self.stage = Stage::Over;
        Ok(Some(length))
    }
}

impl Framing {
    /// Sees what `header` says.
    fn look(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let items = || header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            10 if is("connection") => {
                self.close |= items().any(|item| item.eq_ignore_ascii_case(b"close"));
                self.keep_alive |= items().any(|item| item.eq_ignore_ascii_case(b"keep-alive"));
            }
            14 if is("content-length") => {
                for item in items() {
                    let length = number(item).ok_or_else(|| broken("its Content-Length is none"))?;
                    if self.length.replace(length).is_some_and(|other| other != length) {
                        return Err(broken("it has several lengths"));
                    }
                }
            }
            17 if is("transfer-encoding") => {
                self.chunked =
                    Some(items().next_back().is_some_and(|item| item.eq_ignore_ascii_case(b"chunked")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Digits and nothing else; what is too large for a number is larger than all that is allowed.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_usize, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| usize::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

fn digit(value: u16) -> u8 {
    b'0' + u8::try_from(value).unwrap_or_default()
}

/// Whether an empty line ends at `from` or later.
fn has_empty_line(text: &[u8], from: usize) -> bool {
    if from < 2 && text.starts_with(b"\r\n") {
        return true;
    }
    let text = text.get(from.saturating_sub(2)..).unwrap_or_default();
    text.windows(2).any(|two| two == b"\n\n") || text.windows(3).any(|three| three == b"\n\r\n")
}

fn broken(detail: &str) -> Fault {
    Fault::new(CallFailure::Protocol, format!("the response is no HTTP: {detail}"))
}

#[cfg(test)]
mod tests;
