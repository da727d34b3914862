//! Declares properties and sets them.
//!
//! The configuration names properties that the root context declares read-only, separated by white space. Each request
//! sets those that header `x-set` names as `NAME=VALUE`, one after the other. In `on_http_response_headers` header
//! `x-seen` gets, for each name of `x-set`, its value then (`NONE` where there is none).

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        configuration(self).split_whitespace().all(|name| {
            // Envoy's DeclarePropertyArguments: 1 is the name, 2 says that it is read-only.
            let length = u8::try_from(name.len()).expect("a short name");
            let message = [&[0x0a, length], name.as_bytes(), &[0x10, 1]].concat();
            self.call_foreign_function("declare_property", Some(&message)).is_ok()
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::<Request>::default())
    }
}

#[derive(Default)]
struct Request {
    names: Vec<String>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let asked = self.get_http_request_header("x-set").unwrap_or_default();
        for (name, value) in asked.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            self.set_property(vec![name], Some(value.as_bytes()));
            self.names.push(name.to_owned());
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let value = |name: &String| {
            let value = self.get_property(vec![name])?;
            String::from_utf8(value).ok()
        };
        let values: Vec<_> =
            self.names.iter().map(|name| value(name).unwrap_or_else(|| "NONE".to_owned())).collect();
        self.add_http_response_header("x-seen", &values.join(" "));
        Action::Continue
    }
}
