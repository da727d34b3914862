//! Uses shared data and queues as requests ask for it.
//!
//! The path says what: `/get/KEY`, `/set/KEY/VALUE`, `/add/KEY` (adds one to a number, as often as it takes),
//! `/fill/KEY/SIZE`, `/put/QUEUE/MESSAGE`, `/take/QUEUE`. The answer is a local response with the result. The configuration names a queue
//! to register; each of its messages is counted under the key `told` and kept under `last`.

use log::info;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, Status};
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let queue = configuration(self);
        if !queue.is_empty() {
            let id = self.register_shared_queue(&queue);
            info!("shared: registered {queue} as {id}");
        }
        true
    }

    fn on_queue_ready(&mut self, queue: u32) {
        if let Ok(Some(message)) = self.dequeue_shared_queue(queue) {
            add(self, "told");
            let _ = self.set_shared_data("last", Some(&message), None);
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Shared))
    }
}

/// Adds one to the number at `key`; how often that was tried.
fn add(context: &dyn Context, key: &str) -> u32 {
    for tries in 1.. {
        let (value, cas) = context.get_shared_data(key);
        let number = value.and_then(|value| String::from_utf8(value).ok()).and_then(|text| text.parse().ok());
        let next = (number.unwrap_or(0_u64) + 1).to_string();
        match context.set_shared_data(key, Some(next.as_bytes()), cas) {
            Err(Status::CasMismatch) => {}
            _ => return tries,
        }
    }
    0
}

struct Shared;

impl Context for Shared {}

impl Shared {
    fn run(&self, path: &str) -> String {
        let parts: Vec<_> = path.split('/').skip(1).collect();
        match parts[..] {
            ["get", key] => match self.get_shared_data(key) {
                (None, None) => "none".to_owned(),
                (value, _) => String::from_utf8_lossy(&value.unwrap_or_default()).into_owned(),
            },
            ["set", key, value] => format!("{:?}", self.set_shared_data(key, Some(value.as_bytes()), None)),
            ["fill", key, size] => {
                let value = vec![b'x'; size.parse().unwrap_or(0)];
                format!("{:?}", self.set_shared_data(key, Some(&value), None))
            }
            ["add", key] => add(self, key).to_string(),
            ["put", queue, message] => match self.resolve_shared_queue("", queue) {
                Some(id) => format!("{:?}", self.enqueue_shared_queue(id, Some(message.as_bytes()))),
                None => "no such queue".to_owned(),
            },
            ["take", queue] => match self.resolve_shared_queue("", queue) {
                Some(id) => match self.dequeue_shared_queue(id) {
                    Ok(Some(message)) => String::from_utf8_lossy(&message).into_owned(),
                    other => format!("{other:?}"),
                },
                None => "no such queue".to_owned(),
            },
            _ => "what?".to_owned(),
        }
    }
}

impl HttpContext for Shared {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        let answer = self.run(&path);
        let sent = hostcalls::send_http_response(200, Vec::new(), Some(answer.as_bytes()));
        info!("shared: {path}: {answer} {sent:?}");
        Action::Pause
    }
}
