//! Does with the response's trailers what the configuration says, line by line:
//!
//! ```text
//! headers add NAME VALUE      in on_response_headers
//! body add NAME VALUE         in on_response_body, when it is the end of the stream
//! trailers add NAME VALUE     in on_response_trailers
//! trailers replace NAME VALUE
//! trailers remove NAME
//! trailers dump               logs: trailers: trailers [["NAME","VALUE"],…]
//! trailers set a=b;c=d        replaces all of them
//! log dump                    and so on, in on_log
//! first-body add NAME VALUE   in the first on_response_body
//! every-body pause            in every on_response_body but the last: holds what has come
//! trailers pause              holds them for ever
//! trailers resume             holds them, and takes that back at once
//! ```
//!
//! Every response callback is logged: `trailers: on_response_body 5 false`. What the host refuses is logged as
//! `trailers: LINE: STATUS`.

use std::rc::Rc;

use log::{error, info};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MapType, Status};
use weir_test_guests::{configuration, text};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Root {
    lines: Rc<Vec<String>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let configuration = configuration(self);
        let lines = configuration.lines().map(str::trim).filter(|line| !line.is_empty());
        self.lines = Rc::new(lines.map(str::to_owned).collect());
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Trailers { lines: Rc::clone(&self.lines), bodies: 0 }))
    }
}

struct Trailers {
    lines: Rc<Vec<String>>,
    bodies: usize,
}

impl Trailers {
    /// Does what is said for `when`.
    fn run(&self, when: &str) -> Action {
        let mut action = Action::Continue;
        for line in self.lines.iter() {
            let mut words = line.splitn(4, ' ');
            if words.next() != Some(when) {
                continue;
            }
            let (verb, name, value) =
                (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
            if verb == "pause" || verb == "resume" {
                action = Action::Pause;
                if verb == "resume" {
                    self.resume_http_response();
                }
            } else if let Err(status) = edit(when, verb, name, value) {
                error!("trailers: {line}: {status:?}");
            }
        }
        action
    }
}

fn edit(when: &str, verb: &str, name: &str, value: &str) -> Result<(), Status> {
    const MAP: MapType = MapType::HttpResponseTrailers;
    match verb {
        "add" => hostcalls::add_map_value_bytes(MAP, name, value.as_bytes()),
        "replace" => hostcalls::set_map_value_bytes(MAP, name, Some(value.as_bytes())),
        "remove" => hostcalls::remove_map_value(MAP, name),
        "set" => hostcalls::set_map_bytes(
            MAP,
            name.split(';')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name, value.as_bytes()))
                .collect(),
        ),
        "dump" => {
            let pairs: Vec<(String, String)> = hostcalls::get_map_bytes(MAP)?
                .into_iter()
                .map(|(name, value)| (name, text(&value)))
                .collect();
            info!("trailers: {when} {}", serde_json::json!(pairs));
            Ok(())
        }
        _ => Err(Status::BadArgument),
    }
}

impl Context for Trailers {}

impl HttpContext for Trailers {
    fn on_http_response_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        info!("trailers: on_response_headers {count} {end_of_stream}");
        self.run("headers")
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        info!("trailers: on_response_body {size} {end_of_stream}");
        self.bodies += 1;
        if self.bodies == 1 {
            let _ = self.run("first-body");
        }
        if end_of_stream { self.run("body") } else { self.run("every-body") }
    }

    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        info!("trailers: on_response_trailers {count}");
        self.run("trailers")
    }

    fn on_log(&mut self) {
        let _ = self.run("log");
    }
}
