//! Sends a local response from a callback of the test's choice.
//!
//! The configuration is JSON; `when` is `request_headers` (the default), `request_body`, `response_headers` or
//! `response_body`, and all but `when` and `status` may be left out:
//!
//! ```json
//! { "when": "request_body", "status": 403, "headers": [["x-why", "no"]], "body": "no\n" }
//! ```
//!
//! `"then": "continue"` makes the callback return Continue in place of Pause.

use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum When {
    #[default]
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    ResponseBody,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Then {
    Continue,
    #[default]
    Pause,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    when: When,
    status: u32,
    headers: Vec<(String, String)>,
    body: Option<String>,
    then: Then,
}

#[derive(Default)]
struct Root {
    config: Rc<Config>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match serde_json::from_str(&configuration(self)) {
            Ok(config) => {
                self.config = Rc::new(config);
                true
            }
            Err(reason) => {
                error!("local: {reason}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let config = Rc::clone(&self.config);
        Some(Box::new(Local { config, sent: false }))
    }
}

struct Local {
    config: Rc<Config>,
    sent: bool,
}

impl Local {
    /// Sends the response if this is the callback for it, once.
    fn reply(&mut self, now: When) -> Action {
        if self.sent || now != self.config.when {
            return Action::Continue;
        }
        self.sent = true;
        let headers =
            self.config.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = self.config.body.as_deref().map(str::as_bytes);
        let outcome = hostcalls::send_http_response(self.config.status, headers, body);
        info!("local: sent in {now:?}: {outcome:?}");
        match self.config.then {
            Then::Continue => Action::Continue,
            Then::Pause => Action::Pause,
        }
    }
}

impl Context for Local {}

impl HttpContext for Local {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.reply(When::RequestHeaders)
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.reply(When::RequestBody)
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        info!("local: on_response_headers sent={}", self.sent);
        self.reply(When::ResponseHeaders)
    }

    fn on_http_response_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.reply(When::ResponseBody)
    }
}
