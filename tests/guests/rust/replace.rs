//! Replaces text in the bodies of responses, as filters that rewrite pages do: the first word of its configuration by the
//! second. A body is held until all of it is there; one that is not UTF-8, or does not have the word, goes on as it is.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use weir_test_guests::configuration;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// What is replaced, and by what.
#[derive(Default)]
struct Words {
    from: String,
    to: String,
}

#[derive(Default)]
struct Root {
    words: Rc<Words>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let text = configuration(self);
        let Some((from, to)) = text.split_once(' ') else { return false };
        self.words = Rc::new(Words { from: from.to_owned(), to: to.to_owned() });
        !from.is_empty()
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Replace { words: Rc::clone(&self.words) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Replace {
    words: Rc<Words>,
}

impl Context for Replace {}

impl HttpContext for Replace {
    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        // Another length may come of it.
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if !end_of_stream {
            return Action::Pause;
        }
        let body = self.get_http_response_body(0, size).unwrap_or_default();
        let Words { from, to } = &*self.words;
        if let Ok(text) = str::from_utf8(&body)
            && text.contains(from.as_str())
        {
            self.set_http_response_body(0, size, text.replace(from.as_str(), to).as_bytes());
        }
        Action::Continue
    }
}
