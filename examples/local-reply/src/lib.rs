//! Answers requests by their path, without the origin: a maintenance page, a health check, `robots.txt`.
//!
//! The configuration is a JSON list; the first entry whose path matches answers, and a request that none matches
//! goes on to the origin. A path that ends in `*` stands for all that begin with what precedes the `*`.
//!
//! ```json
//! [
//!   { "path": "/health", "body": "ok\n" },
//!   { "path": "/shop/*", "status": 503, "headers": {"retry-after": "120"}, "body": "Back soon.\n" }
//! ]
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;

use log::{error, info};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// One entry of the configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    path: String,
    #[serde(default = "Reply::default_status")]
    status: u32,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

impl Reply {
    fn default_status() -> u32 {
        200
    }

    /// Whether this entry answers for `path` (without its query).
    fn matches(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == self.path,
        }
    }
}

/// Reads the configuration and refuses what could never be answered.
fn parse(bytes: &[u8]) -> Result<Vec<Reply>, String> {
    let replies: Vec<Reply> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    for reply in &replies {
        if !reply.path.starts_with('/') {
            return Err(format!("the path {:?} does not begin with /", reply.path));
        }
        if !(200..=599).contains(&reply.status) {
            return Err(format!("{}: the status {} is not in 200-599", reply.path, reply.status));
        }
    }
    Ok(replies)
}

/// The filter as configured; one for each `proxy_wasm` directive.
#[derive(Default)]
struct Root {
    replies: Rc<Vec<Reply>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match parse(&bytes) {
            Ok(replies) => {
                self.replies = Rc::new(replies);
                true
            }
            Err(reason) => {
                error!("local-reply: the configuration is not usable: {reason}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let replies = Rc::clone(&self.replies);
        Some(Box::new(LocalReply { replies }))
    }
}

/// One request.
struct LocalReply {
    replies: Rc<Vec<Reply>>,
}

impl Context for LocalReply {}

impl HttpContext for LocalReply {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let target = self.get_http_request_header(":path").unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let Some(reply) = self.replies.iter().find(|reply| reply.matches(path)) else {
            return Action::Continue;
        };
        info!("local-reply: {path} answered with {}", reply.status);
        let headers = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.send_http_response(reply.status, headers, Some(reply.body.as_bytes()));
        // The reply has been handed over; the request must not go on.
        Action::Pause
    }
}
