//! Calls other services as requests ask for it, and answers with what has come of it.
//!
//! Header `x-calls` has the calls as JSON (a list of [`Order`]), header `x-when` the callback that makes them: `reqh`
//! (the default), `reqb`, `resh`, `resb`, `log` or `done`, which waits for them. The answer is a local response whose body is a
//! JSON list of outcomes, in the order of the calls; from `resh` and `resb` on it is header `x-outcomes`, or a line in
//! the log. A call with `then` makes those calls when it has ended, and their outcomes follow its own. A call with `trap`
//! ends the guest when it has ended.
//!
//! A configuration `{"every": MS, "calls": [...]}` has the root context make calls on each tick; each outcome is a line
//! of the log. With `{"queue": NAME}` it makes those that messages of that queue describe; `x-when: queue` sends one.

use std::time::Duration;

use log::info;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::{Deserialize, Serialize};
use weir_test_guests::{configuration, text};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// Bytes of a body that are shown in an outcome.
const SHOWN: usize = 200;

/// A call to make.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    upstream: String,
    method: Option<String>,
    path: Option<String>,
    authority: Option<String>,
    scheme: Option<String>,
    headers: Vec<(String, String)>,
    body: String,
    /// Sends the body so many times over.
    repeat: Option<usize>,
    trailers: Vec<(String, String)>,
    timeout: u64,
    then: Vec<Order>,
    trap: bool,
}

/// What has come of a call.
#[derive(Default, Serialize)]
struct Outcome {
    refused: Option<u32>,
    error: Option<String>,
    headers: Vec<(String, String)>,
    size: usize,
    body: String,
    trailers: Vec<(String, String)>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Configuration {
    every: u64,
    calls: Vec<Order>,
    queue: String,
}

/// The queue of the configuration, which requests find by it.
const VM_ID: &str = "";

/// Calls that are under way, and what has come of others.
#[derive(Default)]
struct Calls {
    /// Token, place of the outcome, and the call.
    pending: Vec<(u32, usize, Order)>,
    outcomes: Vec<Outcome>,
}

impl Calls {
    /// Makes `orders`, which may be refused.
    fn make(&mut self, context: &dyn Context, orders: Vec<Order>) {
        for order in orders {
            let place = self.outcomes.len();
            let mut outcome = Outcome::default();
            match dispatch(context, &order) {
                Ok(token) => self.pending.push((token, place, order)),
                Err(status) => outcome.refused = Some(status),
            }
            self.outcomes.push(outcome);
        }
    }

    /// Notes the response to call `token`; whether all calls have ended.
    fn end(&mut self, context: &dyn Context, token: u32, size: usize) -> bool {
        let Some(at) = self.pending.iter().position(|(pending, ..)| *pending == token) else {
            info!("calls: nobody waits for {token}");
            return false;
        };
        let (_, place, order) = self.pending.remove(at);
        assert!(!order.trap, "calls: as it was asked for");
        let shown = |pairs: Vec<(String, Vec<u8>)>| {
            pairs.into_iter().map(|(name, value)| (name, text(&value))).collect()
        };
        if let Some(outcome) = self.outcomes.get_mut(place) {
            outcome.error = context.get_property(vec!["call", "error"]).map(|word| text(&word));
            outcome.headers = shown(context.get_http_call_response_headers_bytes());
            outcome.body = text(&context.get_http_call_response_body(0, SHOWN).unwrap_or_default());
            outcome.size = size;
            outcome.trailers = shown(context.get_http_call_response_trailers_bytes());
        }
        self.make(context, order.then);
        self.pending.is_empty()
    }

    fn report(&self) -> String {
        serde_json::to_string(&self.outcomes).unwrap_or_default()
    }
}

fn dispatch(context: &dyn Context, order: &Order) -> Result<u32, u32> {
    let mut headers = vec![
        (":method", order.method.as_deref().unwrap_or("GET")),
        (":path", order.path.as_deref().unwrap_or("/")),
        (":authority", order.authority.as_deref().unwrap_or("service.test")),
    ];
    headers.extend(order.scheme.as_deref().map(|scheme| (":scheme", scheme)));
    headers.extend(order.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let trailers = order.trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = order.body.repeat(order.repeat.unwrap_or(1));
    let body = (!body.is_empty()).then_some(body.as_bytes());
    context
        .dispatch_http_call(&order.upstream, headers, body, trailers, Duration::from_millis(order.timeout))
        .map_err(|status| status as u32)
}

#[derive(Default)]
struct Root {
    queue: String,
    every: Vec<Order>,
    calls: Calls,
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, size: usize, _trailers: usize) {
        let mut calls = std::mem::take(&mut self.calls);
        if calls.end(self, token, size) {
            info!("calls: root {}", calls.report());
        } else {
            self.calls = calls;
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = configuration(self);
        if text.is_empty() {
            return true;
        }
        let Ok(configuration) = serde_json::from_str::<Configuration>(&text) else { return false };
        if !configuration.queue.is_empty() {
            self.register_shared_queue(&configuration.queue);
            self.queue = configuration.queue;
            return true;
        }
        self.every = configuration.calls;
        self.set_tick_period(Duration::from_millis(configuration.every));
        true
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(message)) = self.dequeue_shared_queue(queue) {
            let orders = serde_json::from_slice(&message).unwrap_or_default();
            let mut calls = std::mem::take(&mut self.calls);
            calls.make(self, orders);
            self.calls = calls;
        }
    }

    fn on_tick(&mut self) {
        if self.calls.pending.is_empty() {
            let (orders, mut calls) = (self.every.clone(), Calls::default());
            calls.make(self, orders);
            if calls.pending.is_empty() {
                info!("calls: root {}", calls.report());
            }
            self.calls = calls;
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { queue: self.queue.clone(), ..Stream::default() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

#[derive(Default)]
struct Stream {
    queue: String,
    orders: Vec<Order>,
    when: String,
    calls: Calls,
}

impl Stream {
    /// Makes the calls if it is time, and says whether to wait for them.
    fn at(&mut self, when: &str) -> Action {
        if self.when != when || self.orders.is_empty() {
            return Action::Continue;
        }
        let (orders, mut calls) = (std::mem::take(&mut self.orders), std::mem::take(&mut self.calls));
        calls.make(self, orders);
        self.calls = calls;
        if self.calls.pending.is_empty() {
            self.tell();
            return if matches!(when, "reqh" | "reqb") { Action::Pause } else { Action::Continue };
        }
        Action::Pause
    }

    /// All calls have ended.
    fn tell(&mut self) {
        let report = self.calls.report();
        info!("calls: stream {report}");
        match self.when.as_str() {
            "reqh" | "reqb" => self.send_http_response(200, vec![], Some(report.as_bytes())),
            "resh" => {
                let _ = hostcalls::add_map_value(
                    proxy_wasm::types::MapType::HttpResponseHeaders,
                    "x-outcomes",
                    &report,
                );
                self.resume_http_response();
            }
            "resb" => self.resume_http_response(),
            "done" => self.done(),
            _ => {}
        }
    }
}

impl Context for Stream {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, size: usize, _trailers: usize) {
        let mut calls = std::mem::take(&mut self.calls);
        let is_over = calls.end(self, token, size);
        self.calls = calls;
        if is_over {
            self.tell();
        }
    }

    fn on_done(&mut self) -> bool {
        if self.when != "done" {
            return true;
        }
        self.at("done");
        self.calls.pending.is_empty()
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if let Some(orders) = self.get_http_request_header("x-calls") {
            match serde_json::from_str(&orders) {
                Ok(orders) => self.orders = orders,
                Err(error) => info!("calls: bad order: {error}"),
            }
        }
        self.when = self.get_http_request_header("x-when").unwrap_or_else(|| "reqh".to_owned());
        if self.when == "queue"
            && let Some(queue) = self.resolve_shared_queue(VM_ID, &self.queue)
        {
            let orders = self.get_http_request_header("x-calls").unwrap_or_default();
            let _ = self.enqueue_shared_queue(queue, Some(orders.as_bytes()));
        }
        self.at("reqh")
    }

    fn on_http_request_body(&mut self, _size: usize, end_of_stream: bool) -> Action {
        if end_of_stream { self.at("reqb") } else { Action::Continue }
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.at("resh")
    }

    fn on_http_response_body(&mut self, _size: usize, end_of_stream: bool) -> Action {
        if end_of_stream { self.at("resb") } else { Action::Continue }
    }

    fn on_log(&mut self) {
        self.at("log");
    }
}
