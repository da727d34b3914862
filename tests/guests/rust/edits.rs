//! Changes, holds and answers bodies as its configuration says: words of the form `WHEN.WHAT` or `WHEN.WHAT=TEXT`.
//!
//! | WHEN | callback |
//! |---|---|
//! | `reqh`, `reqb`, `resh`, `resb` | headers and body, of requests and responses |
//! | `rest` | trailers of responses |
//!
//! | WHAT | effect |
//! |---|---|
//! | `pause` | pauses, each time |
//! | `pause_end` | pauses at the end of the body; what is before it goes on |
//! | `collect` | pauses until the end of the body; the words after it count for the whole body only |
//! | `prepend`, `append`, `set` | changes the body |
//! | `cut` | removes the body's bytes from the second on to the one before the last |
//! | `nolength` | removes Content-Length |
//! | `local` | sends a local response with status 418 and TEXT |
//!
//! Every context logs `edits: context ID` when it begins. A request with the header `x-resume: ID TYPE` makes the filter
//! continue the stream of that type of another request, one with `x-close: ID TYPE` closes it, one with
//! `x-change: ID TYPE` puts `(SIZE)` in the place of the body that is held, of so many bytes, and continues it, and one
//! with `x-answer: ID 0` sends it a local response; both have to share an instance (`proxy_wasm_isolation none`).

use log::info;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use weir_test_guests::configuration;

// What the SDK keeps to itself.
#[allow(unsafe_code, reason = "hostcalls are foreign functions")]
mod host {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_set_effective_context(context: u32) -> u32;
        fn proxy_continue_stream(stream: u32) -> u32;
        fn proxy_close_stream(stream: u32) -> u32;
    }

    pub(crate) fn enter(context: u32) -> u32 {
        // SAFETY: it takes a number only.
        unsafe { proxy_set_effective_context(context) }
    }

    pub(crate) fn close(stream: u32) -> u32 {
        // SAFETY: it takes a number only.
        unsafe { proxy_close_stream(stream) }
    }

    pub(crate) fn resume(stream: u32) -> u32 {
        // SAFETY: it takes a number only.
        unsafe { proxy_continue_stream(stream) }
    }
}

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Root {
    words: Vec<(String, String, String)>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        for word in configuration(self).split_whitespace() {
            let (name, text) = word.split_once('=').unwrap_or((word, ""));
            let (when, what) = name.split_once('.').unwrap_or((name, ""));
            self.words.push((when.to_owned(), what.to_owned(), text.to_owned()));
        }
        true
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        info!("edits: context {id}");
        Some(Box::new(Edits { words: self.words.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Edits {
    words: Vec<(String, String, String)>,
}

impl Context for Edits {}

impl Edits {
    fn run(&self, now: &str, size: usize, end: bool) -> Action {
        let mut action = Action::Continue;
        let mut size = size;
        let is_request = now.starts_with("req");
        for (_, what, text) in self.words.iter().filter(|(when, ..)| when == now) {
            let set = |start: usize, size: usize, bytes: &[u8]| {
                if is_request {
                    self.set_http_request_body(start, size, bytes);
                } else {
                    self.set_http_response_body(start, size, bytes);
                }
            };
            match what.as_str() {
                "pause" => action = Action::Pause,
                "pause_end" if end => action = Action::Pause,
                "collect" if !end => return Action::Pause,
                "prepend" => set(0, 0, text.as_bytes()),
                "append" if end => set(usize::MAX >> 1, 0, text.as_bytes()),
                "set" => set(0, size, text.as_bytes()),
                "cut" if size > 2 => set(1, size - 2, b""),
                "nolength" if is_request => self.set_http_request_header("content-length", None),
                "nolength" => self.set_http_response_header("content-length", None),
                "local" => {
                    self.send_http_response(418, vec![("x-local", now)], Some(text.as_bytes()));
                    return Action::Pause;
                }
                _ => {}
            }
            if now.ends_with('b') {
                let all = if is_request {
                    self.get_http_request_body(0, usize::MAX >> 1)
                } else {
                    self.get_http_response_body(0, usize::MAX >> 1)
                };
                size = all.map_or(0, |all| all.len());
            }
        }
        info!("edits: {now} size={size} end={end} {action:?}");
        action
    }
}

impl HttpContext for Edits {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        for verb in ["resume", "close", "change", "answer"] {
            let Some(order) = self.get_http_request_header(&format!("x-{verb}")) else { continue };
            let mut numbers = order.split(' ').filter_map(|number| number.parse().ok());
            let entered = host::enter(numbers.next().unwrap_or(0));
            let stream = numbers.next().unwrap_or(0);
            let done = match verb {
                "resume" => host::resume(stream),
                "close" => host::close(stream),
                "change" => {
                    let (all, sized) = (usize::MAX >> 1, |body: Option<Vec<u8>>| {
                        body.map_or_else(|| "(none)".to_owned(), |body| format!("({})", body.len()))
                    });
                    if stream == 0 {
                        self.set_http_request_body(
                            0,
                            all,
                            sized(self.get_http_request_body(0, all)).as_bytes(),
                        );
                    } else {
                        self.set_http_response_body(
                            0,
                            all,
                            sized(self.get_http_response_body(0, all)).as_bytes(),
                        );
                    }
                    host::resume(stream)
                }
                _ => {
                    self.send_http_response(418, vec![("x-local", "elsewhere")], Some(b"answered"));
                    0
                }
            };
            info!("edits: {verb} {order} ({entered}, {done})");
            return Action::Continue;
        }
        self.run("reqh", 0, end)
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.run("reqb", size, end)
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        self.run("resh", 0, end)
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.run("resb", size, end)
    }

    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        self.run("rest", count, true)
    }
}
