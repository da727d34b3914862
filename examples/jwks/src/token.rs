//! Tokens: JSON Web Signatures in their compact form (RFC 7515), and the claims in them (RFC 7519).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use p256::ecdsa::{Signature, signature::Verifier};
use serde::Deserialize;

use crate::keys::{Key, Keys};

/// Seconds that clocks may differ by.
const LEEWAY: u64 = 30;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    crit: Option<serde_json::Value>,
}

/// What a token says.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
    exp: Option<u64>,
    nbf: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The claims of `token`, once its signature has been found good. `is_rs256` tells whether a signature of RS256 is: it is
/// given the key, the signature and what is signed.
pub(crate) fn verify(
    token: &str,
    keys: &Keys,
    is_rs256: impl Fn(&[u8], &[u8], &[u8]) -> bool,
) -> Result<Claims, &'static str> {
    const FORM: &str = "the token has the wrong form";
    let (signed, signature) = token.rsplit_once('.').ok_or(FORM)?;
    let (header, payload) = signed.split_once('.').ok_or(FORM)?;
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| FORM);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| FORM)?;
    if header.crit.is_some() {
        return Err("the token has extensions that are not known");
    }
    let key = keys.get(header.kid.as_deref()).ok_or("the token's key is not known")?;
    let signature = decode(signature)?;
    // What the key is for, never what the token itself would like best.
    let is_good = match (key, header.alg.as_str()) {
        (Key::Es256(key), "ES256") => {
            let signature = Signature::from_slice(&signature).map_err(|_| FORM)?;
            key.verify(signed.as_bytes(), &signature).is_ok()
        }
        (Key::Rs256(key), "RS256") => is_rs256(key, &signature, signed.as_bytes()),
        _ => return Err("the token's key is for another kind of signature"),
    };
    if !is_good {
        return Err("the token's signature is wrong");
    }
    serde_json::from_slice(&decode(payload)?).map_err(|_| FORM)
}

impl Claims {
    /// Whom the token is about.
    pub(crate) fn subject(&self) -> &str {
        self.sub.as_deref().unwrap_or_default()
    }

    /// Whether they hold `now`, in seconds since 1970, for those that the configuration names.
    pub(crate) fn check(
        &self,
        now: u64,
        issuer: Option<&str>,
        audience: Option<&str>,
    ) -> Result<(), &'static str> {
        if self.exp.is_none_or(|exp| exp.saturating_add(LEEWAY) <= now) {
            return Err("the token has expired");
        }
        if self.nbf.is_some_and(|nbf| nbf > now.saturating_add(LEEWAY)) {
            return Err("the token does not hold yet");
        }
        if issuer.is_some() && self.iss.as_deref() != issuer {
            return Err("the token is another issuer's");
        }
        let meant = |audience: &str| match &self.aud {
            Some(Audience::One(one)) => one == audience,
            Some(Audience::Many(many)) => many.iter().any(|one| one == audience),
            None => false,
        };
        if !audience.is_none_or(meant) {
            return Err("the token is for another audience");
        }
        // It becomes a header's value.
        if self.subject().bytes().any(|byte| byte.is_ascii_control()) {
            return Err("the token's subject has control characters");
        }
        Ok(())
    }
}
