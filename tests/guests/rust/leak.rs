//! Counts requests in a global, and sends the count as response header `x-count`: whether state leaks from one request
//! to the next. With a fresh instance for each request it is always 1.

use std::sync::atomic::{AtomicU64, Ordering};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::<Leak>::default());
}}

static REQUESTS: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Leak {
    count: u64,
}

impl Context for Leak {}

impl HttpContext for Leak {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.add_http_response_header("x-count", &self.count.to_string());
        Action::Continue
    }
}
