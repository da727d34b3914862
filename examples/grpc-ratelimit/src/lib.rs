//! Asks a rate limit service, over gRPC, whether a request is one too many. The service is that of Envoy
//! (`envoy.service.ratelimit.v3.RateLimitService`).
//!
//! The configuration names the service, the domain of its limits, and what a request is told apart by: for each entry of
//! the descriptor the property it comes from.
//!
//! ```json
//! { "upstream": "ratelimit", "domain": "edge", "timeout_ms": 100, "when_it_fails": "allow",
//!   "descriptor": { "remote_address": "source.address", "path": "request.url_path" } }
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use log::{error, info};
use prost::Message;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

mod proto;

use proto::{Code, Descriptor, Entry, RateLimitRequest, RateLimitResponse};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

const SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";
const METHOD: &str = "ShouldRateLimit";

/// What the directive says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Who counts: an `upstream` of nginx's, a host, an address, or `unix:/path`.
    upstream: String,
    /// Which of the service's limits hold.
    domain: String,
    /// What a request is told apart by: names of entries, and the properties they come from. A request that lacks one
    /// of them is not limited.
    descriptor: BTreeMap<String, String>,
    #[serde(default = "default_timeout")]
    timeout_ms: u64,
    #[serde(default)]
    when_it_fails: WhenItFails,
}

/// What becomes of requests while the service does not answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhenItFails {
    /// They pass.
    #[default]
    Allow,
    /// 503.
    Deny,
}

fn default_timeout() -> u64 {
    100
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
        Some(Box::new(Request { settings: Rc::clone(self.settings.as_ref()?) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// One request.
struct Request {
    settings: Rc<Settings>,
}

impl Request {
    /// What the request is told apart by; `None` where it lacks some of that.
    fn descriptor(&self) -> Option<Descriptor> {
        let entry = |(key, property): (&String, &String)| {
            let value = self.get_property(property.split('.').collect())?;
            let mut value = String::from_utf8_lossy(&value).into_owned();
            if property == "source.address" {
                // Its port is another one for each connection.
                let port = value.rfind(':').unwrap_or(value.len());
                value.truncate(port);
            }
            Some(Entry { key: key.clone(), value })
        };
        let entries = self.settings.descriptor.iter().map(entry).collect::<Option<Vec<_>>>()?;
        Some(Descriptor { entries })
    }

    /// The service has not said anything. True when the request passes.
    fn passes_without(&self, why: &str) -> bool {
        error!("the service did not answer: {why}");
        match self.settings.when_it_fails {
            WhenItFails::Allow => true,
            WhenItFails::Deny => {
                self.send_http_response(503, vec![("retry-after", "1")], Some(b"try again\n"));
                false
            }
        }
    }

    /// What the service says. True when the request passes.
    fn passes(&self, response: &RateLimitResponse) -> bool {
        if response.overall_code() != Code::OverLimit {
            return true;
        }
        info!("a request is one too many");
        let headers = response.response_headers_to_add.iter();
        let headers = headers.map(|header| (header.key.as_str(), header.value.as_str())).collect();
        self.send_http_response(429, headers, Some(b"too many requests\n"));
        false
    }
}

impl Context for Request {
    fn on_grpc_call_response(&mut self, _call: u32, status: u32, size: usize) {
        let response = match status {
            0 => {
                let bytes = self.get_grpc_call_response_body(0, size).unwrap_or_default();
                RateLimitResponse::decode(&bytes[..]).map_err(|reason| reason.to_string())
            }
            status => {
                let (_, message) = self.get_grpc_status();
                Err(format!("status {status}: {}", message.unwrap_or_default()))
            }
        };
        let passes = match response {
            Ok(response) => self.passes(&response),
            Err(why) => self.passes_without(&why),
        };
        if passes {
            self.resume_http_request();
        }
    }
}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(descriptor) = self.descriptor() else { return Action::Continue };
        let Settings { upstream, domain, timeout_ms, .. } = &*self.settings;
        let request =
            RateLimitRequest { domain: domain.clone(), descriptors: vec![descriptor], hits_addend: 1 };
        let timeout = Duration::from_millis(*timeout_ms);
        let message = request.encode_to_vec();
        match self.dispatch_grpc_call(upstream, SERVICE, METHOD, vec![], Some(&message), timeout) {
            Ok(_) => Action::Pause,
            Err(status) if self.passes_without(&format!("{status:?}")) => Action::Continue,
            Err(_) => Action::Pause,
        }
    }
}
