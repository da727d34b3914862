//! Learns something outside requests: counts the ticks of its root context, and sends each response with header
//! `x-ticks`, the count, and `x-seed`, a number that was drawn while it was configured. Its configuration is the period
//! in milliseconds; without one it never ticks. With `log` behind it each tick is logged.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

static TICKS: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static LOGS: AtomicBool = AtomicBool::new(false);

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        // The standard library draws the keys of hash tables from the system.
        use std::hash::{BuildHasher, RandomState};
        SEED.store(RandomState::new().hash_one(0), Ordering::Relaxed);
        let period = weir_test_guests::configuration(self);
        log::info!("configured with {period:?}");
        let mut words = period.split(' ');
        if let Some(Ok(period)) = words.next().map(str::parse) {
            self.set_tick_period(Duration::from_millis(period));
        }
        LOGS.store(words.next() == Some("log"), Ordering::Relaxed);
        true
    }

    fn on_tick(&mut self) {
        TICKS.fetch_add(1, Ordering::Relaxed);
        if LOGS.load(Ordering::Relaxed) {
            log::info!("ticks");
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream;

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.add_http_response_header("x-ticks", &TICKS.load(Ordering::Relaxed).to_string());
        self.add_http_response_header("x-seed", &SEED.load(Ordering::Relaxed).to_string());
        Action::Continue
    }
}
