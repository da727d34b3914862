//! Keys: those of a JSON Web Key Set that verify signatures of ES256 and RS256 (RFC 7518, 6.2 and 6.3).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use p256::{EncodedPoint, FieldBytes, ecdsa::VerifyingKey};
use serde::Deserialize;

/// Keys by their names.
#[derive(Debug)]
pub(crate) struct Keys(Vec<(Option<String>, Key)>);

/// A key, by what it verifies.
#[derive(Debug)]
pub(crate) enum Key {
    /// Signatures of ES256.
    Es256(VerifyingKey),
    /// Signatures of RS256: a SubjectPublicKeyInfo (RFC 5280, 4.1) in DER.
    Rs256(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Entry>,
}

/// What is read of a key; there are others of other kinds.
#[derive(Deserialize)]
struct Entry {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// Bytes of the shortest RSA modulus that may be used (RFC 7518, 3.3).
const LEAST_MODULUS: usize = 256;

impl Keys {
    /// Reads a set; keys of other kinds are passed over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(json).map_err(|reason| format!("no set of keys: {reason}"))?;
        let keys: Vec<_> =
            set.keys.into_iter().filter_map(|entry| Some((entry.kid.clone(), key(&entry)?))).collect();
        if keys.is_empty() { Err("the set has no key for ES256 or RS256".to_owned()) } else { Ok(Self(keys)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key of that name; without a name the only one.
    pub(crate) fn get(&self, name: Option<&str>) -> Option<&Key> {
        let (_, key) = match name {
            Some(name) => self.0.iter().find(|(known, _)| known.as_deref() == Some(name))?,
            None => self.0.first().filter(|_| self.0.len() == 1)?,
        };
        Some(key)
    }
}

fn key(entry: &Entry) -> Option<Key> {
    let decode = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    match entry.kty.as_str() {
        "EC" if entry.crv.as_deref() == Some("P-256") => {
            let coordinate = |text| <[u8; 32]>::try_from(decode(text)?.as_slice()).ok().map(FieldBytes::from);
            let point =
                EncodedPoint::from_affine_coordinates(&coordinate(&entry.x)?, &coordinate(&entry.y)?, false);
            VerifyingKey::from_encoded_point(&point).ok().map(Key::Es256)
        }
        "RSA" => {
            let modulus = decode(&entry.n)?;
            let exponent = decode(&entry.e)?;
            (modulus.len() >= LEAST_MODULUS).then(|| Key::Rs256(public_key(&modulus, &exponent)))
        }
        _ => None,
    }
}

/// The SubjectPublicKeyInfo of an RSA key (RFC 8017, A.1).
fn public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    const INTEGER: u8 = 2;
    const BIT_STRING: u8 = 3;
    const SEQUENCE: u8 = 0x30;
    /// Object identifier rsaEncryption, and no parameters.
    const ALGORITHM: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    // In as few bytes as it takes, with a zero first where it would be negative otherwise.
    let integer = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = bytes.get(zeros..).unwrap_or_default();
        let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { b"\0" } else { b"" };
        der(INTEGER, &[sign, digits])
    };
    let key = der(SEQUENCE, &[&integer(modulus), &integer(exponent)]);
    der(SEQUENCE, &[&der(SEQUENCE, &[ALGORITHM]), &der(BIT_STRING, &[b"\0", &key])])
}

/// A value of DER: its tag, its length, and what is in it.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let digits = length.get(zeros..).unwrap_or_default();
    let mut value = vec![tag];
    if content.len() >= 0x80 {
        value.push(0x80 | u8::try_from(digits.len()).unwrap_or_default());
    }
    value.extend_from_slice(digits);
    value.extend_from_slice(&content);
    value
}
