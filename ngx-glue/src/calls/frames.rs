//! gRPC over HTTP/2: how messages are framed, and what the end of a stream means
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::HeaderMap;

use crate::grpc_status::{self as status, unescaped};

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

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

    use hyper::{HeaderMap, header::HeaderValue};

    use super::{Misframed, Unframer, framed, status, status_of, timeout};

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
    }

    #[test]
    fn timeouts_have_eight_digits_at_most() {
        assert_eq!(timeout(Duration::from_millis(1500)), "1500m");
        assert_eq!(timeout(Duration::ZERO), "1m");
        assert_eq!(timeout(Duration::from_secs(1_000_000)), "1000000S");
    }
}
