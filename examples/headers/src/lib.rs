//! Adds, replaces and removes headers of requests and responses.
//!
//! The configuration is JSON. In each direction names are removed first, then replaced, then added:
//!
//! ```json
//! {
//!   "request":  { "remove": ["x-debug"], "replace": {"user-agent": "edge"}, "add": {"x-edge": "1"} },
//!   "response": { "remove": ["x-internal"], "add": {"x-served-by": "weir"} }
//! }
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

/// What the configuration asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    request: Edits,
    response: Edits,
}

/// The changes to one direction's headers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Edits {
    remove: Vec<String>,
    replace: BTreeMap<String, String>,
    add: BTreeMap<String, String>,
}

impl Config {
    /// Reads the configuration; an empty one asks for nothing.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        config.request.check("request")?;
        config.response.check("response")?;
        Ok(config)
    }
}

impl Edits {
    /// Refuses what could never be sent as a header.
    fn check(&self, direction: &str) -> Result<(), String> {
        let names = self.remove.iter().chain(self.replace.keys()).chain(self.add.keys());
        if let Some(name) = names.into_iter().find(|name| !is_header_name(name)) {
            return Err(format!("{direction}: {name:?} is not a header name"));
        }
        match self.replace.iter().chain(&self.add).find(|(_, value)| value.contains(['\0', '\r', '\n'])) {
            Some((name, _)) => Err(format!("{direction}: the value of {name:?} has a line break")),
            None => Ok(()),
        }
    }
}

/// Whether `name` is a token of RFC 9110, or a pseudo-header such as `:path`.
fn is_header_name(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The filter as configured; one for each `proxy_wasm` directive.
#[derive(Default)]
struct Root {
    config: Rc<Config>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match Config::parse(&bytes) {
            Ok(config) => {
                self.config = Rc::new(config);
                true
            }
            Err(reason) => {
                error!("headers: the configuration is not usable: {reason}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let config = Rc::clone(&self.config);
        Some(Box::new(Headers { config }))
    }
}

/// One request and its response.
struct Headers {
    config: Rc<Config>,
}

impl Context for Headers {}

impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let edits = &self.config.request;
        for name in &edits.remove {
            self.remove_http_request_header(name);
        }
        for (name, value) in &edits.replace {
            self.set_http_request_header(name, Some(value));
        }
        for (name, value) in &edits.add {
            self.add_http_request_header(name, value);
        }
        info!("headers: request: {}", edits.summary());
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let edits = &self.config.response;
        for name in &edits.remove {
            self.remove_http_response_header(name);
        }
        for (name, value) in &edits.replace {
            self.set_http_response_header(name, Some(value));
        }
        for (name, value) in &edits.add {
            self.add_http_response_header(name, value);
        }
        info!("headers: response: {}", edits.summary());
        Action::Continue
    }
}

impl Edits {
    /// One line for the log.
    fn summary(&self) -> String {
        format!("{} removed, {} replaced, {} added", self.remove.len(), self.replace.len(), self.add.len())
    }
}
