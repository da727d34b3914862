//! Signatures by OpenSSL, through nginx's own copy of it.
//!
//! As in [`tls`](super::tls), only functions are used that libssl itself pulls in: a static libcrypto has them too.

use std::{
    ffi::{c_long, c_uchar},
    ptr::{self, NonNull},
};

use nginx_sys::{
    EVP_DigestSign, EVP_DigestSignInit, EVP_DigestVerify, EVP_DigestVerifyInit, EVP_MD, EVP_MD_CTX,
    EVP_MD_CTX_free, EVP_MD_CTX_new, EVP_PKEY, EVP_PKEY_free, EVP_sha1, EVP_sha224, EVP_sha256, EVP_sha384,
    EVP_sha512, d2i_AutoPrivateKey, d2i_PUBKEY,
};
use weir_core::host::crypto::{CryptoError, Digest};

use super::tls::Errors;

/// Whether `signature` is that of `text`, by the private half of `key`, a DER-encoded SubjectPublicKeyInfo.
pub(crate) fn verify(
    digest: Option<Digest>,
    key: &[u8],
    signature: &[u8],
    text: &[u8],
) -> Result<bool, CryptoError> {
    let _errors = Errors;
    let key = Key::public(key).ok_or(CryptoError::Key)?;
    let context = Context::new().ok_or(CryptoError::Unavailable)?;
    let (none, engine) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: context and key live; the digest is a static description, or null for none.
    let begun = unsafe {
        EVP_DigestVerifyInit(context.0.as_ptr(), none, description(digest), engine, key.0.as_ptr())
    };
    if begun != 1 {
        return Err(CryptoError::Unfit);
    }
    // SAFETY: the context has been begun, its key lives, and both ranges are as long as it is told.
    let good = unsafe {
        EVP_DigestVerify(context.0.as_ptr(), signature.as_ptr(), signature.len(), text.as_ptr(), text.len())
    };
    Ok(good == 1)
}

/// The signature of `text` by `key`, a DER-encoded private key.
pub(crate) fn sign(digest: Option<Digest>, key: &[u8], text: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let _errors = Errors;
    let key = Key::private(key).ok_or(CryptoError::Key)?;
    let context = Context::new().ok_or(CryptoError::Unavailable)?;
    let (none, engine) = (ptr::null_mut(), ptr::null_mut());
    let digest = description(digest);
    // SAFETY: context and key live; the digest is a static description, or null for none.
    let begun = unsafe { EVP_DigestSignInit(context.0.as_ptr(), none, digest, engine, key.0.as_ptr()) };
    if begun != 1 {
        return Err(CryptoError::Unfit);
    }
    let mut size = 0;
    // SAFETY: without a place for the signature the function only writes its largest size.
    let measured = unsafe {
        EVP_DigestSign(context.0.as_ptr(), ptr::null_mut(), &raw mut size, text.as_ptr(), text.len())
    };
    if measured != 1 {
        return Err(CryptoError::Unfit);
    }
    let mut signature = vec![0; size];
    // SAFETY: the signature has room for as many bytes as `size` says, which becomes how many there are.
    let signed = unsafe {
        EVP_DigestSign(context.0.as_ptr(), signature.as_mut_ptr(), &raw mut size, text.as_ptr(), text.len())
    };
    if signed != 1 {
        return Err(CryptoError::Unfit);
    }
    signature.truncate(size);
    Ok(signature)
}

/// OpenSSL's description of a digest; null for none.
fn description(digest: Option<Digest>) -> *const EVP_MD {
    match digest {
        None => ptr::null(),
        // SAFETY: the function answers a static description.
        Some(Digest::Sha1) => unsafe { EVP_sha1() },
        // SAFETY: as above.
        Some(Digest::Sha224) => unsafe { EVP_sha224() },
        // SAFETY: as above.
        Some(Digest::Sha256) => unsafe { EVP_sha256() },
        // SAFETY: as above.
        Some(Digest::Sha384) => unsafe { EVP_sha384() },
        // SAFETY: as above.
        Some(Digest::Sha512) => unsafe { EVP_sha512() },
    }
}

/// A key of ours.
struct Key(NonNull<EVP_PKEY>);

impl Key {
    fn public(der: &[u8]) -> Option<Self> {
        let (mut at, size) = range(der)?;
        // SAFETY: the function reads as many bytes as it is told, which are there, and makes a key that is ours.
        NonNull::new(unsafe { d2i_PUBKEY(ptr::null_mut(), &raw mut at, size) }).map(Self)
    }

    fn private(der: &[u8]) -> Option<Self> {
        let (mut at, size) = range(der)?;
        // SAFETY: as in `public`.
        NonNull::new(unsafe { d2i_AutoPrivateKey(ptr::null_mut(), &raw mut at, size) }).map(Self)
    }
}

fn range(der: &[u8]) -> Option<(*const c_uchar, c_long)> {
    Some((der.as_ptr(), c_long::try_from(der.len()).ok()?))
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing uses it any more: a context that does has been dropped before it.
        unsafe { EVP_PKEY_free(self.0.as_ptr()) };
    }
}

/// A context in which something is signed or verified.
struct Context(NonNull<EVP_MD_CTX>);

impl Context {
    fn new() -> Option<Self> {
        // SAFETY: the function makes a context that is ours.
        NonNull::new(unsafe { EVP_MD_CTX_new() }).map(Self)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing uses it any more.
        unsafe { EVP_MD_CTX_free(self.0.as_ptr()) };
    }
}
