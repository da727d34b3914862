//! Fails in the way that the request asks for.
//!
//! The request header `x-fault` is `panic`, `unreachable`, `loop`, `oom` or `stack`. It fails in on_request_headers, or,
//! with `x-fault-at: response`, in on_response_headers. Without `x-fault` the response gets `x-fault: none`.

use std::hint::black_box;

use log::info;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_http_context(|_, _| Box::<Faults>::default());
}}

#[derive(Default)]
struct Faults {
    at_response: Option<String>,
}

/// Fails as `fault` says.
fn fail(fault: &str) {
    info!("faults: about to fail by {fault}");
    match fault {
        "panic" => panic!("faults: told to panic"),
        // Ends in wasm's `unreachable`, without the message that a panic leaves.
        "unreachable" => std::process::abort(),
        "loop" => loop {
            black_box(());
        },
        "oom" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "stack" => {
            let depth = deeper(0);
            info!("faults: the stack holds {depth} frames");
        }
        _ => info!("faults: {fault} is not a fault"),
    }
}

/// Calls itself until the stack is full; what it does with the result keeps the calls from becoming a loop.
#[inline(never)]
#[allow(unconditional_recursion, reason = "that the stack overflows is what it is for")]
fn deeper(depth: u64) -> u64 {
    black_box(deeper(black_box(depth + 1))) + 1
}

impl Context for Faults {}

impl HttpContext for Faults {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(fault) = self.get_http_request_header("x-fault") else {
            return Action::Continue;
        };
        if self.get_http_request_header("x-fault-at").as_deref() == Some("response") {
            self.at_response = Some(fault);
        } else {
            fail(&fault);
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        match &self.at_response {
            Some(fault) => fail(fault),
            None => self.add_http_response_header("x-fault", "none"),
        }
        Action::Continue
    }
}
