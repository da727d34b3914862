//! Reads all of both bodies, as they come, and logs how much it has seen and its hash.
//!
//! Every body callback logs `body_reader: request chunk size=N eos=BOOL` (or `response`), and the last one
//! `body_reader: request total=N calls=N fnv=HEX`, where the hash is FNV-1a with 64 bits over all bytes.

use log::{error, info};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, Bytes, LogLevel};
use weir_test_guests::Fnv;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_http_context(|_, _| Box::<BodyReader>::default());
}}

/// What has been seen of one body.
#[derive(Default)]
struct Seen {
    total: usize,
    calls: usize,
    hash: Fnv,
}

impl Seen {
    fn add(&mut self, direction: &str, body_size: usize, end_of_stream: bool, bytes: Option<Bytes>) {
        let bytes = bytes.unwrap_or_default();
        if bytes.len() != body_size {
            error!("body_reader: {direction} body_size={body_size}, but {} bytes could be read", bytes.len());
        }
        self.total += bytes.len();
        self.calls += 1;
        self.hash.update(&bytes);
        info!("body_reader: {direction} chunk size={body_size} eos={end_of_stream}");
        if end_of_stream {
            info!(
                "body_reader: {direction} total={} calls={} fnv={}",
                self.total,
                self.calls,
                self.hash.digest()
            );
        }
    }
}

#[derive(Default)]
struct BodyReader {
    request: Seen,
    response: Seen,
}

impl Context for BodyReader {}

impl HttpContext for BodyReader {
    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        let bytes = self.get_http_request_body(0, body_size);
        self.request.add("request", body_size, end_of_stream, bytes);
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        let bytes = self.get_http_response_body(0, body_size);
        self.response.add("response", body_size, end_of_stream, bytes);
        Action::Continue
    }
}
