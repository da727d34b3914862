//! Asks an HTTP service whether a request may pass, and remembers what it said, for all workers.
//!
//! The request's `Authorization` is sent to the service with the method and path that are asked for. A status of 2xx lets
//! the request pass; 401 and 403 become its answer; anything else, and a service that does not answer, is a failure.
//!
//! ```json
//! { "upstream": "auth", "path": "/check", "timeout_ms": 500, "cache_seconds": 30, "when_it_fails": "deny" }
//! ```

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{error, info, warn};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// What the directive says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Whom to ask: an `upstream` of nginx's, a host, an address, or `unix:/path`.
    upstream: String,
    /// What to ask for.
    #[serde(default = "default_path")]
    path: String,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    /// How long a verdict holds; 0 for this request only.
    #[serde(default)]
    cache_seconds: u64,
    #[serde(default)]
    when_it_fails: WhenItFails,
}

/// What becomes of requests while the service does not answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhenItFails {
    /// 503.
    #[default]
    Deny,
    /// They pass.
    Allow,
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_timeout() -> u64 {
    1000
}

#[derive(Default)]
struct Root {
    settings: Option<Rc<Settings>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match serde_json::from_slice(&bytes) {
            Ok(settings) => {
                self.settings = Some(Rc::new(settings));
                true
            }
            Err(reason) => {
                error!("the configuration is wrong: {reason}");
                false
            }
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let settings = Rc::clone(self.settings.as_ref()?);
        Some(Box::new(Request { settings, key: String::new() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// One request.
struct Request {
    settings: Rc<Settings>,
    /// What the verdict is kept under.
    key: String,
}

/// A status that the service gave, and until when it holds, in seconds since 1970: the value in shared data.
#[derive(Clone, Copy)]
struct Verdict {
    status: u16,
    until: u64,
}

impl Verdict {
    fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&self.status.to_le_bytes());
        bytes[2..].copy_from_slice(&self.until.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (status, until) = bytes.split_first_chunk::<2>()?;
        Some(Self { status: u16::from_le_bytes(*status), until: u64::from_le_bytes(until.try_into().ok()?) })
    }
}

impl Request {
    fn now(&self) -> u64 {
        let since: SystemTime = self.get_current_time();
        since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// What the service has said lately, to any worker.
    fn remembered(&self) -> Option<u16> {
        let (bytes, _) = self.get_shared_data(&self.key);
        let verdict = Verdict::from_bytes(&bytes?)?;
        (verdict.until > self.now()).then_some(verdict.status)
    }

    fn remember(&self, status: u16) {
        if self.settings.cache_seconds > 0 {
            let until = self.now().saturating_add(self.settings.cache_seconds);
            let verdict = Verdict { status, until }.to_bytes();
            if let Err(status) = self.set_shared_data(&self.key, Some(&verdict), None) {
                warn!("a verdict is not remembered: {status:?}");
            }
        }
    }

    /// Lets the request pass, or answers it. True when it passes.
    fn judge(&self, status: u16) -> bool {
        if (200..300).contains(&status) {
            return true;
        }
        let challenge = ("www-authenticate", "Bearer");
        let headers = if status == 401 { vec![challenge] } else { Vec::new() };
        self.send_http_response(u32::from(status), headers, Some(b"you may not\n"));
        false
    }

    /// The service has not said anything. True when the request passes.
    fn judge_without(&self, why: &str) -> bool {
        error!("the service did not answer: {why}");
        match self.settings.when_it_fails {
            WhenItFails::Allow => true,
            WhenItFails::Deny => {
                self.send_http_response(503, vec![("retry-after", "1")], Some(b"try again\n"));
                false
            }
        }
    }
}

impl Context for Request {
    fn on_http_call_response(&mut self, _call: u32, headers: usize, _body_size: usize, _trailers: usize) {
        let passes = if headers == 0 {
            let why = self.get_property(vec!["call", "error"]).unwrap_or_default();
            self.judge_without(&String::from_utf8_lossy(&why))
        } else {
            let status = self.get_http_call_response_header(":status");
            match status.as_deref().and_then(|status| status.parse().ok()) {
                Some(status @ (200..=299 | 401 | 403)) => {
                    info!("the service says {status}");
                    self.remember(status);
                    self.judge(status)
                }
                other => self.judge_without(&format!("status {other:?}")),
            }
        };
        if passes {
            self.resume_http_request();
        }
    }
}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(authorization) = self.get_http_request_header("authorization") else {
            self.judge(401);
            return Action::Pause;
        };
        let header = |name| self.get_http_request_header(name).unwrap_or_default();
        let (method, path) = (header(":method"), header(":path"));
        let key = format!("auth-call {} {authorization} {method} {path}", self.settings.upstream);
        self.key = key;
        if let Some(status) = self.remembered() {
            info!("remembered: {status}");
            return if self.judge(status) { Action::Continue } else { Action::Pause };
        }
        let headers = vec![
            (":method", "GET"),
            (":path", &self.settings.path),
            (":authority", &self.settings.upstream),
            ("authorization", &authorization),
            ("x-original-method", &method),
            ("x-original-uri", &path),
        ];
        let timeout = Duration::from_millis(self.settings.timeout_ms);
        match self.dispatch_http_call(&self.settings.upstream, headers, None, vec![], timeout) {
            Ok(_) => Action::Pause,
            Err(status) if self.judge_without(&format!("{status:?}")) => Action::Continue,
            Err(_) => Action::Pause,
        }
    }
}
