//! Matches each request's path against regular expressions that were compiled when the filter was configured, as
//! firewalls do. A request that one of them matches is answered with 403.
//!
//! Each line of its configuration is matched once when it is configured: what matching fills a cache with is in the image
//! then.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use regex::RegexSet;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// What no request should ask for.
const PATTERNS: [&str; 8] = [
    r"(?i)\b(select|insert|update|delete|drop)\b.{0,64}\b(from|into|table)\b",
    r"(?i)<\s*script[^>]*>",
    r"(?:\.\./){2,}",
    r"(?i)\b(?:etc/passwd|proc/self/environ)\b",
    r"(?i)\bon(?:load|error|click)\s*=",
    r"\$\{(?:jndi|env|sys):",
    r"(?i)\bunion\s+(?:all\s+)?select\b",
    r"%0[0ad]",
];

#[derive(Default)]
struct Root {
    patterns: Rc<RegexSet>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let Ok(patterns) = RegexSet::new(PATTERNS) else { return false };
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        for path in String::from_utf8_lossy(&configuration).lines() {
            patterns.is_match(path);
        }
        self.patterns = Rc::new(patterns);
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Regexes { patterns: Rc::clone(&self.patterns) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Regexes {
    patterns: Rc<RegexSet>,
}

impl Context for Regexes {}

impl HttpContext for Regexes {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        if self.patterns.is_match(&path) {
            self.send_http_response(403, Vec::new(), None);
            return Action::Pause;
        }
        Action::Continue
    }
}
