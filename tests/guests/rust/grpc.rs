//! Makes a gRPC call as a request asks for it, and answers with what has come of it.
//!
//! Header `x-grpc` has the call as JSON ([`Order`]). The answer is a local response whose body is an [`Outcome`] as JSON.
//! Messages are texts, sent as the protobuf message whose field 1 they are.

use std::time::Duration;

use log::info;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::{Deserialize, Serialize};
use weir_test_guests::text;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

/// Characters of a message that are shown.
const SHOWN: usize = 100;

/// A call to make.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    upstream: String,
    service: String,
    method: String,
    metadata: Vec<(String, String)>,
    /// A unary call with this message; a stream without.
    message: Option<String>,
    /// Sends the message so many times over, as one.
    repeat: Option<usize>,
    /// Messages of a stream, sent at once.
    messages: Vec<String>,
    /// Messages of a stream, each sent when one has come.
    replies: Vec<String>,
    /// Nothing more is sent after `messages` and `replies`.
    close: bool,
    /// Cancels after so many messages have come.
    cancel: Option<usize>,
    timeout: u64,
}

/// What has come of it.
#[derive(Default, Serialize)]
struct Outcome {
    refused: Option<u32>,
    initial: Vec<(String, String)>,
    messages: Vec<String>,
    sizes: Vec<usize>,
    trailing: Vec<(String, String)>,
    status: Option<u32>,
    detail: Option<String>,
    error: Option<String>,
}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::default()))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

#[derive(Default)]
struct Stream {
    order: Order,
    token: u32,
    outcome: Outcome,
}

/// `message` as field 1.
fn encode(message: &str) -> Vec<u8> {
    let mut bytes = vec![0x0a];
    let mut length = message.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or_default());
    bytes.extend_from_slice(message.as_bytes());
    bytes
}

/// The text in field 1 of `bytes`.
fn decode(bytes: &[u8]) -> String {
    let rest = bytes.get(1..).unwrap_or_default();
    let length = rest.iter().position(|byte| byte & 0x80 == 0).map_or(0, |last| last + 1);
    text(rest.get(length..).unwrap_or_default()).chars().take(SHOWN).collect()
}

fn shown(pairs: Vec<(String, Vec<u8>)>) -> Vec<(String, String)> {
    pairs.into_iter().map(|(name, value)| (name, text(&value))).collect()
}

impl Stream {
    fn begin(&mut self) -> Result<u32, u32> {
        let Order { upstream, service, method, metadata, message, messages, close, replies, .. } =
            self.order.clone();
        let metadata = metadata.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        if let Some(message) = message {
            let message = encode(&message.repeat(self.order.repeat.unwrap_or(1)));
            let timeout = Duration::from_millis(self.order.timeout);
            return self
                .dispatch_grpc_call(&upstream, &service, &method, metadata, Some(&message), timeout)
                .map_err(|status| status as u32);
        }
        let token =
            self.open_grpc_stream(&upstream, &service, &method, metadata).map_err(|status| status as u32)?;
        for message in messages {
            self.send_grpc_stream_message(token, Some(&encode(&message)), false);
        }
        if close && replies.is_empty() {
            self.close_grpc_stream(token);
        }
        Ok(token)
    }

    fn answer(&mut self) {
        let report = serde_json::to_string(&self.outcome).unwrap_or_default();
        info!("grpc: {report}");
        self.send_http_response(200, vec![], Some(report.as_bytes()));
    }

    fn end(&mut self, status: u32) {
        self.outcome.status = Some(status);
        // A message that is no text panics in the SDK's own function.
        self.outcome.detail = hostcalls::get_grpc_status().ok().and_then(|(_, detail)| detail);
        self.outcome.error = self.get_property(vec!["call", "error"]).map(|word| text(&word));
        self.answer();
    }

    fn note(&mut self, size: usize) {
        let message = hostcalls::get_buffer(proxy_wasm::types::BufferType::GrpcReceiveBuffer, 0, usize::MAX);
        self.outcome.messages.push(decode(&message.ok().flatten().unwrap_or_default()));
        self.outcome.sizes.push(size);
    }
}

impl Context for Stream {
    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        if status == 0 {
            self.note(size);
        }
        self.end(status);
    }

    fn on_grpc_stream_initial_metadata(&mut self, _token: u32, _count: u32) {
        self.outcome.initial = shown(self.get_grpc_stream_initial_metadata());
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        self.note(size);
        if self.order.cancel == Some(self.outcome.messages.len()) {
            self.cancel_grpc_stream(token);
            self.answer();
        } else if !self.order.replies.is_empty() {
            let reply = self.order.replies.remove(0);
            let is_last = self.order.close && self.order.replies.is_empty();
            self.send_grpc_stream_message(token, Some(&encode(&reply)), is_last);
        }
    }

    fn on_grpc_stream_trailing_metadata(&mut self, _token: u32, _count: u32) {
        self.outcome.trailing = shown(self.get_grpc_stream_trailing_metadata());
    }

    fn on_grpc_stream_close(&mut self, _token: u32, status: u32) {
        self.end(status);
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(order) = self.get_http_request_header("x-grpc") else { return Action::Continue };
        match serde_json::from_str(&order) {
            Ok(order) => self.order = order,
            Err(error) => {
                info!("grpc: bad order: {error}");
                return Action::Continue;
            }
        }
        match self.begin() {
            Ok(token) => self.token = token,
            Err(status) => {
                self.outcome.refused = Some(status);
                self.answer();
            }
        }
        Action::Pause
    }
}
