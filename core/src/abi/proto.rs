//! As much of protocol buffers as some calls carry: fields of the wire types varint and length-delimited.
//!
//! Source: the encoding's specification (protobuf.dev, "Encoding"). Unknown fields are skipped; of a field that comes
//! twice the last one counts.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Strings, bytes, messages.
    Bytes(&'a [u8]),
    /// Fixed-size numbers, which nothing here uses.
    Fixed,
}

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Fields of a message, one after another. Ends early, after [`None`], where the bytes are no message:
/// [`is_whole`](Self::is_whole) tells.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    broken: bool,
}

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message, broken: false }
    }

    /// Whether everything was read.
    pub(crate) fn is_whole(&self) -> bool {
        !self.broken
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(count).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => Value::Number(self.varint()?),
            BYTES => {
                let count = self.varint()?;
                Value::Bytes(self.take(count)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Fixed)?,
            FIXED32 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        // Number 0 is none.
        Some((tag >> 3, value)).filter(|(number, _)| *number > 0)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.broken {
            return None;
        }
        let field = self.field();
        self.broken = field.is_none();
        field
    }
}

/// Field `number` of `message`, where it is there and of type bytes, string or message; `None` too where `message` is no
/// message.
pub(crate) fn bytes(message: &[u8], number: u64) -> Option<&[u8]> {
    let mut fields = Fields::new(message);
    let mut found = None;
    for field in fields.by_ref() {
        if let (at, Value::Bytes(bytes)) = field
            && at == number
        {
            found = Some(bytes);
        }
    }
    found.filter(|_| fields.is_whole())
}

/// Adds field `number`, a boolean that is true, to a message.
pub(crate) fn put_true(message: &mut Vec<u8>, number: u64) {
    put_varint(message, number << 3 | VARINT);
    put_varint(message, 1);
}

/// Adds field `number`, of type bytes or string, to a message.
pub(crate) fn put_bytes(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(message, number << 3 | BYTES);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            message.push(low & 0x7f);
            return;
        }
        message.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fields, Value, bytes, put_bytes, put_true};

    #[test]
    fn fields_are_read_and_unknown_ones_skipped() {
        let message = b"\x08\x96\x01\x12\x02hi\x1d....\x21........\x12\x00";
        let mut fields = Fields::new(message);
        let read: Vec<_> = fields.by_ref().collect();
        let expected = [
            (1, Value::Number(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed),
            (4, Value::Fixed),
            (2, Value::Bytes(b"")),
        ];
        assert_eq!(read, expected);
        assert!(fields.is_whole());
        assert_eq!(bytes(message, 2), Some(&b""[..]), "the last one counts");
        assert_eq!(bytes(message, 1), None);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        for broken in
            [&b"\x12\x03hi"[..], b"\x08", b"\x08\xff", b"\x0b", b"\x00\x00", b"\x12\xff\xff\xff\xff\x0f"]
        {
            assert_eq!(bytes(broken, 2), None, "{}", broken.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 1_u64..1 << 20, written in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut message = Vec::new();
            put_true(&mut message, number + 1);
            put_bytes(&mut message, number, &written);
            prop_assert_eq!(bytes(&message, number), Some(&written[..]));
            prop_assert_eq!(Fields::new(&message).next(), Some((number + 1, Value::Number(1))));
        }

        #[test]
        fn any_bytes_are_read_to_an_end(message: Vec<u8>) {
            let _ = bytes(&message, 1);
        }
    }
}
