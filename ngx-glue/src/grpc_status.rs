//! Statuses of gRPC calls, and how they stand in headers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). The constants are those that stand for what goes
//! wrong here (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).

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

/// The highest status.
pub(crate) const LAST: u32 = UNAUTHENTICATED;

/// The status that stands for a response without one
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub(crate) fn of_http(status: u16) -> u32 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Whether a request or response of that Content-Type is gRPC's; `application/grpc-web` is another protocol.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    let name = b"application/grpc";
    content_type.split_at_checked(name.len()).is_some_and(|(first, rest)| {
        first.eq_ignore_ascii_case(name) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// A `grpc-message` without its percent-encoding; what is none stays.
pub(crate) fn unescaped(text: &[u8]) -> Vec<u8> {
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

/// Length of `text` as a `grpc-message`.
pub(crate) fn escaped_len(text: &[u8]) -> usize {
    text.iter().map(|byte| if is_plain(*byte) { 1 } else { 3 }).sum()
}

/// Whether a byte stands for itself in `grpc-message` (gRPC over HTTP2, "Percent-Byte-Unencoded").
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'%'
}

/// Writes `text` as a `grpc-message`, as far as it fits.
pub(crate) fn escape(text: &[u8], encoded: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut places = encoded.iter_mut();
    let mut put = |byte| {
        if let Some(place) = places.next() {
            *place = byte;
        }
    };
    for byte in text {
        if is_plain(*byte) {
            put(*byte);
        } else {
            put(b'%');
            put(DIGITS[usize::from(byte >> 4)]);
            put(DIGITS[usize::from(byte & 0xf)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{escape, escaped_len, is_grpc, unescaped};

    #[test]
    fn messages_are_percent_encoded() {
        let mut encoded = [0; 12];
        escape("a%\nä".as_bytes(), &mut encoded);
        assert_eq!(&encoded, b"a%25%0A%C3%A");
        let text: Vec<u8> = (0..=255).collect();
        let mut encoded = vec![0; escaped_len(&text)];
        escape(&text, &mut encoded);
        assert!(encoded.is_ascii() && encoded.iter().all(|byte| (b' '..=b'~').contains(byte)));
        assert_eq!(unescaped(&encoded), text);
    }

    #[test]
    fn grpc_is_told_by_its_type() {
        for name in
            ["application/grpc", "application/grpc+proto", "Application/GRPC", "application/grpc; x=y"]
        {
            assert!(is_grpc(name.as_bytes()), "{name}");
        }
        for name in
            ["", "application/grp", "application/grpc-web", "application/grpc-web+proto", "text/plain"]
        {
            assert!(!is_grpc(name.as_bytes()), "{name}");
        }
    }
}
