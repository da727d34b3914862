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
mod tests {
    use proptest::prelude::*;
    use weir_core::host::calls::{CallFailure, Response};

    use super::{Reading, Stage};

    const MOST: usize = 10_000;

    /// What becomes of `pieces`, after which the connection is closed: the response, whether another may follow, and how
    /// many bytes were none of it.
    fn read(pieces: &[&[u8]], is_head: bool) -> Result<(Response, bool, usize), CallFailure> {
        let mut reading = Reading::new(MOST, is_head);
        let mut spare = 0;
        for piece in pieces {
            spare += piece.len() - reading.take(piece).map_err(|fault| fault.failure)?;
        }
        reading.end().map_err(|fault| fault.failure)?;
        let goes_on = reading.goes_on();
        Ok((reading.take_response(), goes_on, spare))
    }

    fn whole(text: &str) -> Result<(Response, bool, usize), CallFailure> {
        read(&[text.as_bytes()], false)
    }

    fn body(response: &Response) -> Vec<u8> {
        response.body.concat()
    }

    #[test]
    fn heads_say_where_a_response_ends() {
        // The head after its status line, the rest; the body, whether another may follow, spare bytes.
        let cases: [(&str, &str, &str, bool, usize); 13] = [
            ("Content-Length: 2\r\n", "ok", "ok", true, 0),
            ("content-length: 2, 2\r\nCONTENT-LENGTH: 2\r\n", "ok!", "ok", true, 1),
            ("Content-Length: 0\r\n", "", "", true, 0),
            ("Content-Length: 2\r\nConnection: x, Close\r\n", "ok", "ok", false, 0),
            ("Transfer-Encoding: gzip, chunked\r\n", "2\r\nok\r\n0\r\n\r\n", "ok", true, 0),
            ("Transfer-Encoding: chunked\r\n", "2;a=\"b\"\r\nok\r\n00 \r\nx: y\r\n\r\n!", "ok", true, 1),
            ("Transfer-Encoding: chunked\r\nContent-Length: 9\r\n", "0\r\n\r\n", "", false, 0),
            ("Transfer-Encoding: chunked, gzip\r\nContent-Length: 2\r\n", "okay", "okay", false, 0),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "okay", "okay", false, 0),
            ("", "until the end", "until the end", false, 0),
            ("Content-Lengths: 2\r\n", "until the end", "until the end", false, 0),
            ("Transfer-Encoding: chunked\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789", true, 0),
            ("\n", "", "", false, 0),
        ];
        for (fields, rest, expected, goes_on, spare) in cases {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{rest}");
            let (response, may_follow, left) = whole(&text).unwrap_or_else(|word| panic!("{text}: {word:?}"));
            if fields == "\n" {
                // The second empty line is the body's.
                assert_eq!(body(&response), b"\r\n", "{text}");
                continue;
            }
            assert_eq!(String::from_utf8_lossy(&body(&response)), expected, "{text}");
            assert_eq!((may_follow, left), (goes_on, spare), "{text}");
        }
    }

    #[test]
    fn some_responses_have_no_body() {
        for (code, is_head) in [(204, false), (304, false), (101, false), (200, true), (404, true)] {
            let text = format!("HTTP/1.1 {code} X\r\nContent-Length: 5\r\n\r\nspare");
            let (response, goes_on, spare) = read(&[text.as_bytes()], is_head).expect("a response");
            assert_eq!((body(&response).len(), goes_on, spare), (0, code != 101, 5), "{code}");
        }
        let (response, ..) =
            whole("HTTP/1.1 100 A\r\na: b\r\n\r\nHTTP/1.1 103 B\r\n\r\nHTTP/1.1 204 C\r\n\r\n")
                .expect("a response");
        assert_eq!(response.headers.iter().collect::<Vec<_>>(), [(&b":status"[..], &b"204"[..])]);
    }

    #[test]
    fn older_servers_are_understood() {
        let goes_on = |fields: &str| {
            whole(&format!("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok")).map(|read| read.1)
        };
        assert_eq!(goes_on(""), Ok(false));
        assert_eq!(goes_on("Connection: Keep-Alive\r\n"), Ok(true));
        assert_eq!(goes_on("Transfer-Encoding: chunked\r\n"), Err(CallFailure::Protocol));
    }

    #[test]
    fn names_are_in_lower_case_and_in_order() {
        let (response, ..) =
            whole("HTTP/1.1 299 X\r\nX-B: 1\r\nA:2\r\nx-b:  \u{e4} \r\nContent-Length: 0\r\n\r\n")
                .expect("a response");
        let text: Vec<_> = response
            .headers
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        assert_eq!(text, [":status=299", "x-b=1", "a=2", "x-b=\\xc3\\xa4", "content-length=0"]);
    }

    #[test]
    fn what_is_no_response_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let noise = format!("{chunked}1;{}\r\n", "x".repeat(20_000));
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(MOST));
        let hints = "HTTP/1.1 103 X\r\n\r\n".repeat(1000);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:\r\n".repeat(1025));
        let cases: [(&str, &str, CallFailure); 25] = [
            ("", "", CallFailure::Reset),
            ("HTTP/1.1 200 OK\r\nA", "", CallFailure::Reset),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "o", CallFailure::Reset),
            ("HTTP/1.1 103 X\r\n\r\n", "", CallFailure::Reset),
            (chunked, "2\r\nok\r\n0\r\n", CallFailure::Reset),
            (chunked, "2\r\nok\r\n", CallFailure::Reset),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "", CallFailure::Protocol),
            ("HTTP/1.1 099 X\r\n\r\n", "", CallFailure::Protocol),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n", "ok", CallFailure::Protocol),
            ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n", "ok", CallFailure::Protocol),
            ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n", "ok", CallFailure::Protocol),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n", "ok", CallFailure::Protocol),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
                "ok",
                CallFailure::Protocol,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n", "ok", CallFailure::Protocol),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", "ok", CallFailure::Protocol),
            (chunked, "no chunk", CallFailure::Protocol),
            (chunked, "\r\n", CallFailure::Protocol),
            (chunked, "2\nok", CallFailure::Protocol),
            (chunked, "2\r\nokay\r\n", CallFailure::Protocol),
            (chunked, "2;a\nok", CallFailure::Protocol),
            (&noise, "", CallFailure::Protocol),
            (chunked, "fffffffffffffffff\r\n", CallFailure::TooLarge),
            (&long, "", CallFailure::TooLarge),
            (&hints, "", CallFailure::TooLarge),
            (&many, "", CallFailure::TooLarge),
        ];
        for (head, rest, word) in cases {
            let text = format!("{head}{rest}");
            assert_eq!(whole(&text).map(|read| read.0), Err(word), "{text:.200}");
        }
    }

    #[test]
    fn bodies_have_a_bound() {
        let sized = |length: usize| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
        };
        let chunk = |length: usize| {
            let text = "x".repeat(length);
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{text}\r\n0\r\n\r\n")
        };
        let endless = |length: usize| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(length));
        for text in [&sized as &dyn Fn(usize) -> String, &chunk, &endless] {
            assert_eq!(whole(&text(MOST)).map(|(response, ..)| body(&response).len()), Ok(MOST));
            assert_eq!(whole(&text(MOST + 1)).err(), Some(CallFailure::TooLarge));
        }
        // It is known before it comes.
        for text in [sized(MOST + 1), chunk(MOST + 1)] {
            let begin = text.find("xx").expect("a body");
            assert!(Reading::new(MOST, false).take(&text.as_bytes()[..begin]).is_err());
        }
    }

    #[test]
    fn nothing_is_kept_of_what_is_complete() {
        let mut reading = Reading::new(MOST, false);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(reading.take(head).ok(), Some(head.len()));
        assert_eq!((reading.stage, reading.begun.capacity()), (Stage::Sized(2), 0));
    }

    const RESPONSES: [&str; 5] = [
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 100 X\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n00A \r\n0123456789\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n",
        "\r\n\r\nHTTP/1.0 404 Not Found\n\nuntil the end",
        "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
    ];

    proptest! {
        #[test]
        fn pieces_do_not_matter(which in 0..RESPONSES.len(), mut cuts in prop::collection::vec(0..200_usize, 0..12)) {
            let text = RESPONSES[which].as_bytes();
            cuts.retain(|cut| *cut <= text.len());
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &text[two[0]..two[1]]).collect();
            prop_assert_eq!(read(&pieces, false), whole(RESPONSES[which]));
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            prop_assert_eq!(read(&bytes, false), whole(RESPONSES[which]));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(
            head in prop::option::of(0..RESPONSES.len()),
            cut in 0..100_usize,
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let begin = head.map_or(&[][..], |head| RESPONSES[head].as_bytes());
            let text = [begin.get(..cut).unwrap_or(begin), &bytes].concat();
            let one = read(&[&text], false);
            let pieces: Vec<&[u8]> = text.chunks(7).collect();
            let many = read(&pieces, false);
            if let (Ok(one), Ok(many)) = (&one, &many) {
                prop_assert_eq!(one, many);
            }
        }
    }
}
