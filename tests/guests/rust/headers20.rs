//! Sets, reads and removes twenty request headers in one callback: a workload that others have published figures for.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Headers));
}}

/// How many headers.
const COUNT: usize = 20;

struct Headers;

impl Context for Headers {}

impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let names: [String; COUNT] = std::array::from_fn(|number| format!("x-weir-{number}"));
        for name in &names {
            self.set_http_request_header(name, Some("a value of twenty b."));
        }
        let found = names.iter().filter(|name| self.get_http_request_header(name).is_some()).count();
        assert_eq!(found, COUNT, "a header that was set is not there");
        for name in &names {
            self.set_http_request_header(name, None);
        }
        Action::Continue
    }
}
