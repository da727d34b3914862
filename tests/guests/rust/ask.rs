//! Asks the upstream that is its configuration about each request, as nginx's `auth_request` does: with a status of 2xx
//! the request goes on, with any other it is answered by 403.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    upstream: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.upstream = configuration(self);
        true
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { upstream: self.upstream.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    upstream: String,
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _token: u32, _headers: usize, _size: usize, _trailers: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        if status.starts_with('2') {
            self.resume_http_request();
        } else {
            self.send_http_response(403, vec![], None);
        }
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let headers = vec![(":method", "GET"), (":path", "/auth"), (":authority", "auth.test")];
        match self.dispatch_http_call(&self.upstream, headers, None, vec![], Duration::ZERO) {
            Ok(_) => Action::Pause,
            Err(_) => {
                self.send_http_response(503, vec![], None);
                Action::Pause
            }
        }
    }
}
