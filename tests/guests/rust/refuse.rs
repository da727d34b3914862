//! Refuses to start, in the way that its configuration asks for.
//!
//! The configuration of the VM: `vm:false` or `vm:panic`; the filter's own: `configure:false` or `configure:panic`.
//! With any other it starts, and does nothing.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};
use weir_test_guests::{configuration, text};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Refuse));
}}

struct Refuse;

/// What a callback answers when told to `order`.
fn obey(order: &str) -> bool {
    match order.split_once(':') {
        Some((_, "false")) => false,
        Some((callback, "panic")) => panic!("refuse: told to panic in {callback}"),
        _ => true,
    }
}

impl Context for Refuse {}
impl HttpContext for Refuse {}

impl RootContext for Refuse {
    fn on_vm_start(&mut self, _size: usize) -> bool {
        obey(&text(&self.get_vm_configuration().unwrap_or_default()))
    }

    fn on_configure(&mut self, _size: usize) -> bool {
        obey(&configuration(self))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Self))
    }
}
