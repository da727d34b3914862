//! Verifies JSON Web Tokens (RFC 7519) with keys that it fetches: signatures of ES256, by a Rust crate in here, and of
//! RS256, by the host's foreign function `verify_signature`; keys of a JSON Web Key Set (RFC 7517).
//!
//! Each worker fetches the keys on a tick, and again from time to time. A request with a good token goes on with header
//! `x-jwt-subject`; any other one is answered with 401, and with 503 while there are no keys yet.
//!
//! ```json
//! { "upstream": "issuer", "path": "/jwks.json", "refresh_seconds": 300,
//!   "issuer": "https://issuer.example", "audience": "shop" }
//! ```

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use log::{error, info};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

mod keys;
mod token;

use keys::Keys;
use token::Claims;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// Time until the keys are fetched first, and again where that has failed.
const SOON: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(2);

/// What the directive says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Who has the keys: an `upstream` of nginx's, a host, an address, or `unix:/path`.
    upstream: String,
    /// Where they are.
    path: String,
    #[serde(default = "default_refresh")]
    refresh_seconds: u64,
    /// What claim `iss` must be.
    issuer: Option<String>,
    /// What claim `aud` must be, or have among others.
    audience: Option<String>,
}

fn default_refresh() -> u64 {
    300
}

/// What the root context and those of requests share.
#[derive(Debug, Default)]
struct Shared {
    settings: Settings,
    /// `None` until they have been fetched.
    keys: RefCell<Option<Keys>>,
}

#[derive(Default)]
struct Root {
    shared: Rc<Shared>,
}

impl Context for Root {
    fn on_http_call_response(&mut self, _call: u32, _headers: usize, body_size: usize, _trailers: usize) {
        let status = self.get_http_call_response_header(":status");
        let body = self.get_http_call_response_body(0, body_size).unwrap_or_default();
        let fetched = match status.as_deref() {
            Some("200") => Keys::parse(&body),
            Some(status) => Err(format!("status {status}")),
            None => {
                let why = self.get_property(vec!["call", "error"]).unwrap_or_default();
                Err(String::from_utf8_lossy(&why).into_owned())
            }
        };
        match fetched {
            Ok(keys) => {
                info!("{} keys fetched", keys.len());
                self.shared.keys.replace(Some(keys));
                self.set_tick_period(Duration::from_secs(self.shared.settings.refresh_seconds));
            }
            // Those that are there stay.
            Err(why) => self.failed(&why),
        }
    }
}

impl Root {
    fn failed(&self, why: &str) {
        error!("the keys cannot be fetched: {why}");
        self.set_tick_period(AGAIN);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match serde_json::from_slice(&bytes) {
            Ok(settings) => {
                self.shared = Rc::new(Shared { settings, keys: RefCell::default() });
                self.set_tick_period(SOON);
                true
            }
            Err(reason) => {
                error!("the configuration is wrong: {reason}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Settings { upstream, path, .. } = &self.shared.settings;
        let headers = vec![
            (":method", "GET"),
            (":path", path),
            (":authority", upstream),
            ("accept", "application/json"),
        ];
        if let Err(status) = self.dispatch_http_call(upstream, headers, None, vec![], Duration::from_secs(5))
        {
            self.failed(&format!("{status:?}"));
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request { shared: Rc::clone(&self.shared) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// One request.
struct Request {
    shared: Rc<Shared>,
}

impl Request {
    /// The claims of the request's token; what is wrong with it, in words for its client.
    fn claims(&self, keys: &Keys) -> Result<Claims, &'static str> {
        let authorization = self.get_http_request_header("authorization").ok_or("there is no token")?;
        let token = authorization.strip_prefix("Bearer ").ok_or("the token is no bearer token")?;
        let is_rs256 = |key: &[u8], signature: &[u8], text: &[u8]| self.is_rs256(key, signature, text);
        let claims = token::verify(token, keys, is_rs256)?;
        let now = self.get_current_time().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Settings { issuer, audience, .. } = &self.shared.settings;
        claims.check(now, issuer.as_deref(), audience.as_deref())?;
        Ok(claims)
    }

    /// Whether `signature` of `text` is good, for a `key` of RSA.
    fn is_rs256(&self, key: &[u8], signature: &[u8], text: &[u8]) -> bool {
        // Fields of Envoy's message `VerifySignatureArguments`.
        let arguments = [(1, &b"sha256"[..]), (2, key), (3, signature), (4, text)];
        let arguments: Vec<u8> = arguments.iter().flat_map(|(number, bytes)| field(*number, bytes)).collect();
        let answer = self.call_foreign_function("verify_signature", Some(&arguments));
        // Field 1 of `VerifySignatureResult` is true.
        answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.starts_with(&[0x08, 1])))
    }
}

/// A field of bytes, as protocol buffers have it: its number and kind, its length in 7 bits each, and the bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    field.push(length.to_le_bytes()[0]);
    field.extend_from_slice(bytes);
    field
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let keys = self.shared.keys.borrow();
        let Some(keys) = &*keys else {
            self.send_http_response(503, vec![("retry-after", "1")], Some(b"there are no keys yet\n"));
            return Action::Pause;
        };
        match self.claims(keys) {
            Ok(claims) => {
                self.set_http_request_header("x-jwt-subject", Some(claims.subject()));
                Action::Continue
            }
            Err(why) => {
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{why}\"");
                let headers = vec![("www-authenticate", challenge.as_str())];
                self.send_http_response(401, headers, Some(format!("{why}\n").as_bytes()));
                Action::Pause
            }
        }
    }
}
