//! Counts requests. Its configuration is what the names of its metrics begin with.
//!
//! A request's header `x-add` is what the counter grows by (1 without it), `x-value` what the histogram takes in; the
//! response's `x-count` is what the counter says then.

use proxy_wasm::{
    hostcalls::{define_metric, get_metric, increment_metric, record_metric},
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, MetricType},
};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Counts::default()));
}}

#[derive(Default, Clone, Copy)]
struct Counts {
    requests: u32,
    open: u32,
    values: u32,
}

impl Context for Counts {}

impl RootContext for Counts {
    fn on_configure(&mut self, _: usize) -> bool {
        let prefix = String::from_utf8(self.get_plugin_configuration().unwrap_or_default()).expect("text");
        let define = |kind, name: &str| define_metric(kind, &format!("{prefix}{name}")).expect("a metric");
        self.requests = define(MetricType::Counter, "requests_kind=http");
        self.open = define(MetricType::Gauge, "open.now");
        self.values = define(MetricType::Histogram, "values");
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(*self))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl HttpContext for Counts {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let number = |name| self.get_http_request_header(name)?.parse::<i64>().ok();
        increment_metric(self.requests, number("x-add").unwrap_or(1)).expect("more");
        increment_metric(self.open, 1).expect("one more");
        if let Some(value) = number("x-value") {
            record_metric(self.values, value.unsigned_abs()).expect("a value");
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        let count = get_metric(self.requests).expect("a count");
        self.set_http_response_header("x-count", Some(&count.to_string()));
        Action::Continue
    }

    fn on_log(&mut self) {
        increment_metric(self.open, -1).expect("one less");
    }
}
