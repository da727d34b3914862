//! Reports each response to the upstream that is its configuration, and waits for nothing: in the callback that the
//! request's header `x-when` names, `resh` or `resb`.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Root {
    upstream: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.upstream = configuration(self);
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Reports { upstream: self.upstream.clone(), when: String::new() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Reports {
    upstream: String,
    when: String,
}

impl Reports {
    fn report(&self, when: &str) -> Action {
        if self.when == when {
            let headers = vec![(":method", "POST"), (":path", "/report"), (":authority", "reports.test")];
            // What is refused has been logged.
            let _ = self.dispatch_http_call(
                &self.upstream,
                headers,
                Some(when.as_bytes()),
                vec![],
                Duration::ZERO,
            );
        }
        Action::Continue
    }
}

impl Context for Reports {}

impl HttpContext for Reports {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.when = self.get_http_request_header("x-when").unwrap_or_default();
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.report("resh")
    }

    fn on_http_response_body(&mut self, _: usize, end_of_stream: bool) -> Action {
        if end_of_stream { self.report("resb") } else { Action::Continue }
    }
}
