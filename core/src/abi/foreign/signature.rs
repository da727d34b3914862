//! `verify_signature`, `sign`: Envoy's messages, the proxy's cryptography.

use super::pem;
use crate::{
    abi::{
        proto::{self, Fields, put_bytes, put_true},
        status::{Hostcall, Status},
    },
    engine::limits::MAX_SIGNED,
    host::{
        Crypto, Host,
        crypto::{CryptoError, Digest},
    },
    instance::State,
};

/// Fields of Envoy's `VerifySignatureArguments` and `SignArguments`.
const HASH: u64 = 1;
const KEY: u64 = 2;
const VERIFY_SIGNATURE: u64 = 3;
const VERIFY_TEXT: u64 = 4;
const VERIFY_PEM: u64 = 5;
const SIGN_TEXT: u64 = 3;
const SIGN_PEM: u64 = 4;

/// Fields of their results: whether it went well, then the error, or the signature and the error.
const GOOD: u64 = 1;
const VERIFY_ERROR: u64 = 2;
const SIGNATURE: u64 = 2;
const SIGN_ERROR: u64 = 3;

/// What both messages say.
struct Asked<'a> {
    /// `Err`: a name that is no digest's.
    digest: Result<Option<Digest>, String>,
    key: std::borrow::Cow<'a, [u8]>,
    text: &'a [u8],
}

/// Reads what both messages have; fields `text` and `pem` have different numbers in them.
fn asked<'a, H: Host>(state: &State<H>, arguments: &'a [u8], text: u64, pem: u64) -> Hostcall<Asked<'a>> {
    let mut fields = Fields::new(arguments);
    fields.by_ref().for_each(drop);
    let get = |number| proto::bytes(arguments, number).unwrap_or_default();
    let (der, pem, text) = (get(KEY), get(pem), get(text));
    // Envoy takes one key, in one form.
    if !fields.is_whole() || der.is_empty() == pem.is_empty() {
        return Err(Status::BadArgument.into());
    }
    if text.len() > MAX_SIGNED {
        state.warn(&format!("signature: {} bytes of text are more than {MAX_SIGNED}", text.len()));
        return Err(Status::BadArgument.into());
    }
    let key = if pem.is_empty() { der.into() } else { pem::decode(pem).ok_or(Status::BadArgument)?.into() };
    let digest = match get(HASH) {
        b"" => Ok(None),
        name => Digest::named(name)
            .map(Some)
            .ok_or_else(|| format!("{} is not supported.", name.get(..32).unwrap_or(name).escape_ascii())),
    };
    Ok(Asked { digest, key, text })
}

/// Arguments: Envoy's message. Answers its `VerifySignatureResult`.
pub(super) fn verify<H: Host>(state: &mut State<H>, arguments: &[u8]) -> Hostcall<Vec<u8>> {
    let Asked { digest, key, text } = asked(state, arguments, VERIFY_TEXT, VERIFY_PEM)?;
    let signature = proto::bytes(arguments, VERIFY_SIGNATURE).unwrap_or_default();
    let verified = match digest {
        Err(sentence) => Err(sentence),
        Ok(digest) => match state.root.verify(digest, &key, signature, text) {
            Ok(true) => Ok(()),
            Ok(false) => Err("Failed to verify digest.".to_owned()),
            Err(CryptoError::Key) => return Err(Status::BadArgument.into()),
            Err(error) => Err(error.to_string()),
        },
    };
    let mut result = Vec::new();
    match verified {
        Ok(()) => put_true(&mut result, GOOD),
        Err(sentence) => put_bytes(&mut result, VERIFY_ERROR, sentence.as_bytes()),
    }
    Ok(result)
}

/// Arguments: Envoy's message. Answers its `SignResult`.
pub(super) fn sign<H: Host>(state: &mut State<H>, arguments: &[u8]) -> Hostcall<Vec<u8>> {
    let Asked { digest, key, text } = asked(state, arguments, SIGN_TEXT, SIGN_PEM)?;
    let signed = match digest {
        Err(sentence) => Err(sentence),
        Ok(digest) => match state.root.sign(digest, &key, text) {
            Ok(signature) => Ok(signature),
            Err(CryptoError::Key) => return Err(Status::BadArgument.into()),
            Err(error) => Err(error.to_string()),
        },
    };
    let mut result = Vec::new();
    match signed {
        Ok(signature) => {
            put_true(&mut result, GOOD);
            put_bytes(&mut result, SIGNATURE, &signature);
        }
        Err(sentence) => put_bytes(&mut result, SIGN_ERROR, sentence.as_bytes()),
    }
    Ok(result)
}
