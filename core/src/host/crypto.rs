//! Signatures, by the proxy's own cryptography: what the foreign functions `sign` and `verify_signature` need.

/// A digest that is signed in place of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// The digest of that name, in any case: `sha256`.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_slice() {
            b"sha1" => Self::Sha1,
            b"sha224" => Self::Sha224,
            b"sha256" => Self::Sha256,
            b"sha384" => Self::Sha384,
            b"sha512" => Self::Sha512,
            _ => return None,
        })
    }
}

/// Why nothing was signed or verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The bytes are no key.
    #[error("the key cannot be read")]
    Key,
    /// The key is not one that can do this, with this digest.
    #[error("the key does not go with this digest")]
    Unfit,
    /// The proxy has no cryptography.
    #[error("this proxy has no cryptography")]
    Unavailable,
}

/// What a worker offers to guests that sign and verify. A proxy that has no cryptography leaves everything as it is here.
pub trait Crypto {
    /// Whether `signature` is that of `text` by the private half of `key`, a DER-encoded SubjectPublicKeyInfo. Without a
    /// digest the text itself is signed, as Ed25519 does it.
    ///
    /// # Errors
    /// [`CryptoError`]
    fn verify(
        &self,
        digest: Option<Digest>,
        key: &[u8],
        signature: &[u8],
        text: &[u8],
    ) -> Result<bool, CryptoError> {
        let _ = (digest, key, signature, text);
        Err(CryptoError::Unavailable)
    }

    /// The signature of `text` by `key`, a DER-encoded private key, of PKCS #8 or of its kind's own form.
    ///
    /// # Errors
    /// [`CryptoError`]
    fn sign(&self, digest: Option<Digest>, key: &[u8], text: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let _ = (digest, key, text);
        Err(CryptoError::Unavailable)
    }
}
