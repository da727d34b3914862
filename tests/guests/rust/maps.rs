//! Does with the header maps what the configuration says, line by line:
//!
//! ```text
//! request add NAME VALUE
//! request replace NAME VALUE
//! request remove NAME
//! request get NAME            logs: maps: request get NAME = "VALUE"   (or None)
//! request set a=b;c=d         replaces the whole map
//! request dump                logs: maps: request dump [["NAME","VALUE"],…]
//! response add NAME VALUE     and so on, in on_response_headers
//! log dump …                  and so on, on the request's headers, in on_log
//! log-response dump …         and so on, on the response's headers, in on_log
//! ```
//!
//! What the host refuses is logged as `maps: LINE: STATUS`. Empty lines and those that begin with `#` are skipped.

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

/// One line of the configuration.
struct Line {
    phase: String,
    operation: Operation,
    text: String,
}

enum Operation {
    Add(String, String),
    Replace(String, String),
    Remove(String),
    Get(String),
    Set(Vec<(String, String)>),
    Dump,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (phase, rest) = line.split_once(' ')?;
        let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
        let (name, value) = (name.to_owned(), value.to_owned());
        let operation = match verb {
            "add" => Operation::Add(name, value),
            "replace" => Operation::Replace(name, value),
            "remove" => Operation::Remove(name),
            "get" => Operation::Get(name),
            "set" => Operation::Set(
                rest.split(';')
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            ),
            "dump" => Operation::Dump,
            _ => return None,
        };
        ["request", "response", "log", "log-response"].contains(&phase).then(|| Self {
            phase: phase.to_owned(),
            operation,
            text: line.to_owned(),
        })
    }

    fn run(&self, map: MapType) -> Result<(), Status> {
        match &self.operation {
            Operation::Add(name, value) => hostcalls::add_map_value_bytes(map, name, value.as_bytes()),
            Operation::Replace(name, value) => {
                hostcalls::set_map_value_bytes(map, name, Some(value.as_bytes()))
            }
            Operation::Remove(name) => hostcalls::remove_map_value(map, name),
            Operation::Get(name) => {
                let value = hostcalls::get_map_value_bytes(map, name)?.map(|bytes| text(&bytes));
                match value {
                    Some(value) => info!("maps: {} = {value:?}", self.text),
                    None => info!("maps: {} = None", self.text),
                }
                Ok(())
            }
            Operation::Set(pairs) => hostcalls::set_map_bytes(
                map,
                pairs.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            ),
            Operation::Dump => {
                let pairs: Vec<(String, String)> = hostcalls::get_map_bytes(map)?
                    .into_iter()
                    .map(|(name, value)| (name, text(&value)))
                    .collect();
                info!("maps: {} {}", self.text, serde_json::json!(pairs));
                Ok(())
            }
        }
    }
}

#[derive(Default)]
struct Root {
    lines: Rc<Vec<Line>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let mut lines = Vec::new();
        for line in configuration(self).lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some(line) = Line::parse(line) else {
                error!("maps: not understood: {line}");
                return false;
            };
            lines.push(line);
        }
        self.lines = Rc::new(lines);
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let lines = Rc::clone(&self.lines);
        Some(Box::new(Maps { lines }))
    }
}

struct Maps {
    lines: Rc<Vec<Line>>,
}

impl Maps {
    fn run(&self, phase: &str, map: MapType) {
        for line in self.lines.iter().filter(|line| line.phase == phase) {
            if let Err(status) = line.run(map) {
                error!("maps: {}: {status:?}", line.text);
            }
        }
    }
}

impl Context for Maps {}

impl HttpContext for Maps {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.run("request", MapType::HttpRequestHeaders);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.run("response", MapType::HttpResponseHeaders);
        Action::Continue
    }

    fn on_log(&mut self) {
        self.run("log", MapType::HttpRequestHeaders);
        self.run("log-response", MapType::HttpResponseHeaders);
    }
}
