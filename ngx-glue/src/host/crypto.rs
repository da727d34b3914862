//! Signatures: nginx's OpenSSL makes and checks them, where nginx has it.

use weir_core::host::Crypto;
#[cfg(ngx_feature = "ssl")]
use weir_core::host::crypto::{CryptoError, Digest};

use super::root::Worker;
#[cfg(ngx_feature = "ssl")]
use crate::ngx::crypto;

#[cfg(ngx_feature = "ssl")]
impl Crypto for Worker {
    fn verify(
        &self,
        digest: Option<Digest>,
        key: &[u8],
        signature: &[u8],
        text: &[u8],
    ) -> Result<bool, CryptoError> {
        crypto::verify(digest, key, signature, text)
    }

    fn sign(&self, digest: Option<Digest>, key: &[u8], text: &[u8]) -> Result<Vec<u8>, CryptoError> {
        crypto::sign(digest, key, text)
    }
}

#[cfg(not(ngx_feature = "ssl"))]
impl Crypto for Worker {}
