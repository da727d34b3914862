//! The guest of the benchmarks: adds `x-weir: request` to requests and `x-weir: response` to responses, nothing else.
//!
//! It logs nothing and reads no configuration, so that what is measured is the host.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(AddHeaders));
}}

struct AddHeaders;

impl Context for AddHeaders {}

impl HttpContext for AddHeaders {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.add_http_request_header("x-weir", "request");
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.add_http_response_header("x-weir", "response");
        Action::Continue
    }
}
