//! Keys: those of a JSON Web Key Set that verify signatures of ES256 (RFC 7518, 6.2).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use p256::{EncodedPoint, FieldBytes, ecdsa::VerifyingKey};
use serde::Deserialize;

/// Keys by their names.
#[derive(Debug)]
pub(crate) struct Keys(Vec<(Option<String>, VerifyingKey)>);

#[derive(Deserialize)]
struct Set {
    keys: Vec<Key>,
}

/// What is read of a key; there are others of other kinds.
#[derive(Deserialize)]
struct Key {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a set; keys of other kinds are passed over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(json).map_err(|reason| format!("no set of keys: {reason}"))?;
        let keys: Vec<_> =
            set.keys.into_iter().filter_map(|key| Some((key.kid.clone(), verifying_key(&key)?))).collect();
        if keys.is_empty() { Err("the set has no key for ES256".to_owned()) } else { Ok(Self(keys)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key of that name; without a name the only one.
    pub(crate) fn get(&self, name: Option<&str>) -> Option<&VerifyingKey> {
        let (_, key) = match name {
            Some(name) => self.0.iter().find(|(known, _)| known.as_deref() == Some(name))?,
            None => self.0.first().filter(|_| self.0.len() == 1)?,
        };
        Some(key)
    }
}

fn verifying_key(key: &Key) -> Option<VerifyingKey> {
    if key.kty != "EC" || key.crv.as_deref() != Some("P-256") {
        return None;
    }
    let coordinate = |text: &Option<String>| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()?;
        <[u8; 32]>::try_from(bytes).ok().map(FieldBytes::from)
    };
    let point = EncodedPoint::from_affine_coordinates(&coordinate(&key.x)?, &coordinate(&key.y)?, false);
    VerifyingKey::from_encoded_point(&point).ok()
}
