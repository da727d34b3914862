//! Signatures of the proxy in memory: not worth anything, but different for different texts, keys and digests.

use sha2::{Digest as _, Sha256};

use super::Worker;
use crate::host::{
    Crypto,
    crypto::{CryptoError, Digest},
};

impl Crypto for Worker {
    fn verify(
        &self,
        digest: Option<Digest>,
        key: &[u8],
        signature: &[u8],
        text: &[u8],
    ) -> Result<bool, CryptoError> {
        Ok(self.sign(digest, key, text)? == signature)
    }

    /// Keys begin with `key`.
    fn sign(&self, digest: Option<Digest>, key: &[u8], text: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if !key.starts_with(b"key") {
            return Err(CryptoError::Key);
        }
        let digest = digest.ok_or(CryptoError::Unfit)?;
        let mut hash = Sha256::new();
        for part in [format!("{digest:?}").as_bytes(), key, text] {
            hash.update(part);
            hash.update([0]);
        }
        Ok(hash.finalize().to_vec())
    }
}
