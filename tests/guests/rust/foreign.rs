//! Calls the foreign function that header `x-function` names with the bytes that `x-arguments` has in hexadecimal, and
//! answers with what comes back, in hexadecimal: a result with status 200, and the name of a status with 400.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use weir_test_guests::hex;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Foreign));
}}

struct Foreign;

impl Context for Foreign {}

impl HttpContext for Foreign {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let header = |name| self.get_http_request_header(name).unwrap_or_default();
        let digits = header("x-arguments");
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
        let arguments: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let (status, text) = match self.call_foreign_function(&header("x-function"), Some(&arguments)) {
            Ok(result) => (200, hex(&result.unwrap_or_default())),
            Err(status) => (400, format!("{status:?}")),
        };
        self.send_http_response(status, vec![], Some(text.as_bytes()));
        Action::Pause
    }
}
