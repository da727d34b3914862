//! gRPC over HTTP/2: how messages are framed, and what statuses mean
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::{HeaderMap, StatusCode};

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Statuses that stand for what goes wrong here (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
pub(crate) mod status {
    /// The call was cancelled.
    pub(crate) const CANCELLED: u32 = 1;
    /// Nobody knows.
    pub(crate) const UNKNOWN: u32 = 2;
    /// It took too long.
    pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
    /// The caller may not do that.
    pub(crate) const PERMISSION_DENIED: u32 = 7;
    /// There is not enough of something.
    pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
    /// Nobody does that.
    pub(crate) const UNIMPLEMENTED: u32 = 12;
    /// Something is broken.
    pub(crate) const INTERNAL: u32 = 13;
    /// Nobody is there now.
    pub(crate) const UNAVAILABLE: u32 = 14;
    /// Nobody knows who the caller is.
    pub(crate) const UNAUTHENTICATED: u32 = 16;
}

/// `message` with its prefix.
pub(crate) fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Some(frame.freeze())
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misframed {
    /// The message is longer than allowed.
    TooLarge,
    /// It is compressed, which was not offered.
    Compressed,
    /// The stream has ended within it.
    Cut,
}

/// Takes messages out of the bytes that come.
#[derive(Debug, Default)]
pub(crate) struct Unframer {
    waiting: BytesMut,
}

impl Unframer {
    /// `data` has come.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.waiting.extend_from_slice(data);
    }

    /// The next message, of at most `most` bytes, if all of it has come.
    ///
    /// # Errors
    /// [`Misframed`], after which no message can be found any more.
    pub(crate) fn next(&mut self, most: usize) -> Result<Option<Bytes>, Misframed> {
        let Some((prefix, _)) = self.waiting.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err(Misframed::Compressed);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > most {
            return Err(Misframed::TooLarge);
        }
        if self.waiting.len() - PREFIX < length {
            return Ok(None);
        }
        self.waiting.advance(PREFIX);
        Ok(Some(self.waiting.split_to(length).freeze()))
    }

    /// No more will come.
    ///
    /// # Errors
    /// [`Misframed::Cut`] when part of a message has.
    pub(crate) fn finish(&self) -> Result<(), Misframed> {
        if self.waiting.is_empty() { Ok(()) } else { Err(Misframed::Cut) }
    }
}

/// The status and message in `fields`, where there is a status.
pub(crate) fn status_of(fields: &HeaderMap) -> Option<(u32, Vec<u8>)> {
    let status = fields.get("grpc-status")?;
    // What is no number is as good as none (`UNKNOWN`).
    let status = status.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(status::UNKNOWN);
    let message = fields.get("grpc-message").map(|message| unescaped(message.as_bytes()));
    Some((status, message.unwrap_or_default()))
}

/// A `grpc-message` without its percent-encoding; what is none stays.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut message = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        if let (b'%', [high, low, after @ ..]) = (first, others)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            message.push(high << 4 | low);
            rest = after;
            continue;
        }
        message.push(*first);
        rest = others;
    }
    message
}

/// The status that stands for a response without one
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub(crate) fn status_of_http(http: StatusCode) -> u32 {
    match http.as_u16() {
        400 => status::INTERNAL,
        401 => status::UNAUTHENTICATED,
        403 => status::PERMISSION_DENIED,
        404 => status::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => status::UNAVAILABLE,
        _ => status::UNKNOWN,
    }
}

/// The status that stands for a stream that was reset (`PROTOCOL-HTTP2.md`, "HTTP2 Transport Mapping").
pub(crate) fn status_of_reset(reason: h2::Reason) -> u32 {
    match reason {
        h2::Reason::CANCEL => status::CANCELLED,
        h2::Reason::REFUSED_STREAM => status::UNAVAILABLE,
        h2::Reason::ENHANCE_YOUR_CALM => status::RESOURCE_EXHAUSTED,
        h2::Reason::INADEQUATE_SECURITY => status::PERMISSION_DENIED,
        _ => status::INTERNAL,
    }
}

/// A timeout as `grpc-timeout` has it: at most eight digits, and a unit.
pub(crate) fn timeout(time: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let milliseconds = time.as_millis().max(1);
    if milliseconds <= MOST {
        format!("{milliseconds}m")
    } else {
        format!("{}S", time.as_secs().min(99_999_999))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::{HeaderMap, StatusCode, header::HeaderValue};

    use super::{Misframed, Unframer, framed, status, status_of, status_of_http, timeout};

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let messages = [&b"one"[..], b"", b"three and more"];
        let stream: Vec<u8> =
            messages.iter().flat_map(|message| framed(message).expect("a frame").to_vec()).collect();
        for size in 1..=stream.len() {
            let (mut unframer, mut found) = (Unframer::default(), Vec::new());
            for piece in stream.chunks(size) {
                unframer.push(piece);
                while let Some(message) = unframer.next(100).expect("good frames") {
                    found.push(message);
                }
            }
            assert_eq!(found, messages);
            assert_eq!(unframer.finish(), Ok(()));
        }
    }

    #[test]
    fn bad_frames_are_told_apart() {
        let next = |bytes: &[u8]| {
            let mut unframer = Unframer::default();
            unframer.push(bytes);
            unframer.next(4)
        };
        assert_eq!(next(b"\x01\0\0\0\x01a"), Err(Misframed::Compressed));
        assert_eq!(next(b"\0\0\0\0\x05"), Err(Misframed::TooLarge));
        assert_eq!(next(b"\0\xff\xff\xff\xff"), Err(Misframed::TooLarge));
        assert_eq!(next(b"\0\0\0\0"), Ok(None));
        let mut unframer = Unframer::default();
        unframer.push(b"\0");
        assert_eq!(unframer.finish(), Err(Misframed::Cut));
    }

    #[test]
    fn statuses_come_with_messages() {
        let mut fields = HeaderMap::new();
        assert_eq!(status_of(&fields), None);
        fields.insert("grpc-status", HeaderValue::from_static("7"));
        fields.insert("grpc-message", HeaderValue::from_static("no%20%C3%A4 100% %zz"));
        assert_eq!(status_of(&fields), Some((7, "no ä 100% %zz".as_bytes().to_vec())));
        fields.insert("grpc-status", HeaderValue::from_static("x"));
        assert_eq!(status_of(&fields).map(|(status, _)| status), Some(status::UNKNOWN));
        assert_eq!(status_of_http(StatusCode::SERVICE_UNAVAILABLE), status::UNAVAILABLE);
    }

    #[test]
    fn timeouts_have_eight_digits_at_most() {
        assert_eq!(timeout(Duration::from_millis(1500)), "1500m");
        assert_eq!(timeout(Duration::ZERO), "1m");
        assert_eq!(timeout(Duration::from_secs(1_000_000)), "1000000S");
    }
}
