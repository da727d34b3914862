//! Keys in text (RFC 7468): what lies between `BEGIN` and `END`, decoded. Encrypted keys are none.

/// The bytes of the first block of `text`; `None` where there is none that can be read.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, rest) = rest.split_once("-----END ")?;
    if !rest.starts_with(label) || !rest[label.len()..].starts_with("-----") {
        return None;
    }
    base64(body.bytes().filter(|byte| !byte.is_ascii_whitespace()))
}

/// RFC 4648, section 4, with its padding.
fn base64(text: impl Iterator<Item = u8>) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count, mut padding) = (Vec::new(), 0_u32, 0_u32, 0);
    for letter in text {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = (bits << 6) | u32::from(value);
        count += 1;
        if count.is_multiple_of(4) {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    match (count % 4, padding) {
        (0, 0) => {}
        (2, 2) => bytes.push(bits.to_be_bytes()[2] << 4 | bits.to_be_bytes()[3] >> 4),
        (3, 1) => {
            let [_, _, a, b] = (bits >> 2).to_be_bytes();
            bytes.extend_from_slice(&[a, b]);
        }
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{base64, decode};

    #[test]
    fn the_examples_of_rfc_4648_are_decoded() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text.bytes()).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for text in ["Z", "Zg", "Zg=", "Zm9v=", "Zg==Zg==", "Zm 9v", "Z\u{e4}=="] {
            assert_eq!(base64(text.bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_block_has_its_label_twice() {
        let block = "text before\n-----BEGIN PUBLIC KEY-----\r\nZm9v\r\nYmFy\r\n-----END PUBLIC KEY-----\n";
        assert_eq!(decode(block.as_bytes()).as_deref(), Some(&b"foobar"[..]));
        let encrypted = block.replace("Zm9v", "Proc-Type: 4,ENCRYPTED\n\nZm9v");
        for other in [block.replace("END PUBLIC", "END PRIVATE"), block.replace("-----END", ""), encrypted] {
            assert_eq!(decode(other.as_bytes()), None, "{other}");
        }
        assert_eq!(decode(b"\xff"), None);
    }
}
