//! Changes and holds bodies at random, and checks with a model of its own what the host makes of that.
//!
//! The configuration is the filter's name. A request's header `x-seed` says what happens: its number leads to the same
//! steps for the same pieces of a body. In each body callback the guest prepends, appends, replaces and removes bytes up
//! to three times, does the same to a copy, and compares; then it pauses, pauses and takes that back, or lets the body go.
//! With a number that is a multiple of three it pauses until the end, and otherwise it removes the response's
//! Content-Length.
//!
//! At the end of a body it logs how much it was given and has let go, and their hashes (FNV-1a):
//! `shuffle: NAME request in=LENGTH:HASH out=LENGTH:HASH` (or `response`). What is not as it should be is logged as
//! `shuffle: WRONG …`.

use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel};
use weir_test_guests::{Fnv, configuration};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// More than any body has.
const ALL: usize = usize::MAX >> 1;

#[derive(Default)]
struct Root {
    name: Rc<str>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        self.name = configuration(self).into();
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Shuffle { name: Rc::clone(&self.name), ..Shuffle::default() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

#[derive(Default)]
struct Shuffle {
    name: Rc<str>,
    seed: u64,
    request: Way,
    response: Way,
}

/// One body on its way.
#[derive(Default)]
struct Way {
    dice: u64,
    held: Vec<u8>,
    given: (usize, Fnv),
    let_go: (usize, Fnv),
}

impl Way {
    /// A number below `limit`.
    fn roll(&mut self, limit: usize) -> usize {
        // xorshift64
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        usize::try_from(self.dice >> 33).unwrap_or(0) % limit
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.roll(most);
        (0..count).map(|_| u8::try_from(self.roll(256)).unwrap_or(0)).collect()
    }

    /// One change of the body, and of its model.
    fn change(&mut self, buffer: BufferType, model: &mut Vec<u8>) {
        let bytes = self.bytes(60);
        let (start, size, range) = match self.roll(5) {
            0 => (0, 0, 0..0),
            1 => (ALL, 0, model.len()..model.len()),
            kind => {
                let start = self.roll(model.len() + 1);
                let most = if kind == 2 { model.len() - start } else { (model.len() - start).min(100) };
                let size = self.roll(most + 1);
                (start, size, start..start + size)
            }
        };
        model.splice(range, bytes.iter().copied());
        if let Err(status) = hostcalls::set_buffer(buffer, start, size, &bytes) {
            error!("shuffle: WRONG status {status:?}");
        }
    }
}

fn add((length, hash): &mut (usize, Fnv), bytes: &[u8]) {
    *length += bytes.len();
    hash.update(bytes);
}

impl Shuffle {
    fn body(&mut self, size: usize, end: bool, is_request: bool) -> Action {
        let (buffer, direction) = if is_request {
            (BufferType::HttpRequestBody, "request")
        } else {
            (BufferType::HttpResponseBody, "response")
        };
        let collects = self.seed.is_multiple_of(3);
        let way = if is_request { &mut self.request } else { &mut self.response };
        let read = || hostcalls::get_buffer(buffer, 0, ALL).ok().flatten().unwrap_or_default();
        let mut model = read();
        if model.len() != size {
            error!("shuffle: WRONG {direction} size {size}, but {} bytes", model.len());
        }
        match model.strip_prefix(&way.held[..]) {
            Some(new) => add(&mut way.given, new),
            None => error!("shuffle: WRONG {direction} of {size} bytes does not begin with what was held"),
        }
        if collects && !end {
            way.held = model;
            return Action::Pause;
        }
        for _ in 0..way.roll(4) {
            way.change(buffer, &mut model);
        }
        if read() != model {
            error!("shuffle: WRONG {direction}: not what it was changed to");
        }
        match way.roll(6) {
            0 | 1 if !end => {
                way.held = model;
                return Action::Pause;
            }
            kind => {
                add(&mut way.let_go, &model);
                way.held.clear();
                if end {
                    let name = &self.name;
                    let Way { given, let_go, .. } = way;
                    info!(
                        "shuffle: {name} {direction} in={}:{} out={}:{} .",
                        given.0,
                        given.1.digest(),
                        let_go.0,
                        let_go.1.digest()
                    );
                }
                if kind != 2 {
                    return Action::Continue;
                }
            }
        }
        // A pause that is taken back is none.
        if is_request {
            self.resume_http_request();
        } else {
            self.resume_http_response();
        }
        Action::Pause
    }
}

impl Context for Shuffle {}

impl HttpContext for Shuffle {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let seed = self.get_http_request_header("x-seed").and_then(|seed| seed.parse::<u32>().ok());
        self.seed = u64::from(seed.unwrap_or(1));
        let mix = |salt: u64| self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt) | 1;
        self.request.dice = mix(u64::from(self.name.as_bytes().first().copied().unwrap_or(0)));
        self.response.dice = mix(0x5555 + u64::from(self.name.as_bytes().first().copied().unwrap_or(0)));
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        self.body(size, end, true)
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if !self.seed.is_multiple_of(3) {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        self.body(size, end, false)
    }
}
