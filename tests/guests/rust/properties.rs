//! Sends properties to the client, so that a test can look at their bytes.
//!
//! The configuration lists property paths, separated by white space, their segments separated by dots. The value of the
//! Nth (from 0) is sent as response header `x-prop-N` in hexadecimal, or as `NONE` where the host has none. The same
//! values are logged again in `on_log` as `properties: PATH=HEX`, since some are known only then.

use std::rc::Rc;

use log::info;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use weir_test_guests::{configuration, hex};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Root {
    paths: Rc<Vec<String>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let configuration = configuration(self);
        self.paths = Rc::new(configuration.split_whitespace().map(str::to_owned).collect());
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let paths = Rc::clone(&self.paths);
        Some(Box::new(Properties { paths }))
    }
}

struct Properties {
    paths: Rc<Vec<String>>,
}

impl Properties {
    fn value(&self, path: &str) -> String {
        self.get_property(path.split('.').collect()).map_or_else(|| "NONE".to_owned(), |bytes| hex(&bytes))
    }
}

impl Context for Properties {}

impl HttpContext for Properties {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        for (index, path) in self.paths.iter().enumerate() {
            self.add_http_response_header(&format!("x-prop-{index}"), &self.value(path));
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        for path in self.paths.iter() {
            info!("properties: {path}={}", self.value(path));
        }
    }
}
