//! Logs every callback with its arguments, and adds the response header `x-trace: CONFIGURATION`.
//!
//! A line is `CONFIGURATION trace: CALLBACK ctx=ID NAME=VALUE …`; without a configuration, and before it is known,
//! it begins with `trace:`. A context that is deleted logs `on_delete`.

use log::info;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|id| {
        let trace = Trace { id, name: String::new() };
        trace.log("on_context_create", "kind=root");
        Box::new(trace)
    });
}}

/// A root context or a request's.
struct Trace {
    id: u32,
    name: String,
}

impl Trace {
    fn log(&self, callback: &str, arguments: &str) {
        let Self { id, name } = self;
        let name_space = if name.is_empty() { "" } else { " " };
        let argument_space = if arguments.is_empty() { "" } else { " " };
        info!("{name}{name_space}trace: {callback} ctx={id}{argument_space}{arguments}");
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.log("on_delete", "");
    }
}

impl Context for Trace {
    fn on_done(&mut self) -> bool {
        self.log("on_done", "");
        true
    }
}

impl RootContext for Trace {
    fn on_vm_start(&mut self, size: usize) -> bool {
        self.log("on_vm_start", &format!("size={size}"));
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        self.name = configuration(self);
        self.log("on_configure", &format!("size={size}"));
        true
    }

    fn on_tick(&mut self) {
        self.log("on_tick", "");
    }

    fn on_log(&mut self) {
        self.log("on_log", "");
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let trace = Self { id, name: self.name.clone() };
        trace.log("on_context_create", &format!("kind=http parent={}", self.id));
        Some(Box::new(trace))
    }
}

impl HttpContext for Trace {
    fn on_http_request_headers(&mut self, n: usize, eos: bool) -> Action {
        self.log("on_request_headers", &format!("n={n} eos={eos}"));
        Action::Continue
    }

    fn on_http_request_body(&mut self, body_size: usize, eos: bool) -> Action {
        self.log("on_request_body", &format!("body_size={body_size} eos={eos}"));
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, n: usize) -> Action {
        self.log("on_request_trailers", &format!("n={n}"));
        Action::Continue
    }

    fn on_http_response_headers(&mut self, n: usize, eos: bool) -> Action {
        self.log("on_response_headers", &format!("n={n} eos={eos}"));
        self.add_http_response_header("x-trace", &self.name);
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, eos: bool) -> Action {
        self.log("on_response_body", &format!("body_size={body_size} eos={eos}"));
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, n: usize) -> Action {
        self.log("on_response_trailers", &format!("n={n}"));
        Action::Continue
    }

    fn on_log(&mut self) {
        self.log("on_log", "");
    }
}
