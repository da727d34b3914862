//! Logs one line of JSON for each request, when it is over, from the proxy's properties.
//!
//! The configuration is JSON: the name of each field and the property it comes from. Without one, [`DEFAULT_FIELDS`]
//! are logged. A property that is not there is logged as `null`.
//!
//! ```json
//! { "status": "response.code", "agent": "request.headers.user-agent" }
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;

use log::{error, info};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde_json::{Map, Value};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// What is logged where the configuration names no fields.
const DEFAULT_FIELDS: [(&str, &str); 8] = [
    ("client", "source.address"),
    ("method", "request.method"),
    ("path", "request.path"),
    ("host", "request.host"),
    ("protocol", "request.protocol"),
    ("agent", "request.useragent"),
    ("status", "response.code"),
    ("duration_ms", "request.duration"),
];

/// How the bytes of a property are read.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// 8 bytes, little-endian.
    Integer,
    /// 8 bytes, little-endian: nanoseconds, logged as milliseconds.
    Duration,
    /// 1 byte.
    Boolean,
}

impl Kind {
    fn of(property: &str) -> Self {
        match property {
            "request.size"
            | "request.total_size"
            | "response.code"
            | "response.flags"
            | "response.grpc_status"
            | "response.size"
            | "response.total_size"
            | "source.port"
            | "destination.port"
            | "upstream.port"
            | "connection.id" => Self::Integer,
            "request.duration" | "response.backend_latency" => Self::Duration,
            "connection.mtls" => Self::Boolean,
            _ => Self::Text,
        }
    }

    fn value(self, bytes: &[u8]) -> Value {
        let integer = || bytes.try_into().map(i64::from_le_bytes);
        match self {
            Self::Integer => integer().map_or(Value::Null, Value::from),
            Self::Duration => integer().map_or(Value::Null, |ns| Value::from((ns / 1_000) as f64 / 1e3)),
            Self::Boolean => Value::from(bytes.first().is_some_and(|b| *b != 0)),
            Self::Text => Value::from(String::from_utf8_lossy(bytes)),
        }
    }
}

/// One field of the line.
struct Field {
    name: String,
    /// The property's path, cut into its segments.
    path: Vec<String>,
    kind: Kind,
}

impl Field {
    fn new(name: &str, property: &str) -> Self {
        Self { name: name.to_owned(), path: segments(property), kind: Kind::of(property) }
    }
}

/// Cuts a property's name at its dots; a header's name, which may have dots itself, stays whole.
fn segments(property: &str) -> Vec<String> {
    let limit = if property.contains(".headers.") { 3 } else { usize::MAX };
    property.splitn(limit, '.').map(str::to_owned).collect()
}

/// Reads the configuration.
fn parse(bytes: &[u8]) -> Result<Vec<Field>, String> {
    if bytes.trim_ascii().is_empty() {
        return Ok(DEFAULT_FIELDS.iter().map(|(name, property)| Field::new(name, property)).collect());
    }
    let fields: BTreeMap<String, String> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    Ok(fields.iter().map(|(name, property)| Field::new(name, property)).collect())
}

/// The filter as configured; one for each `proxy_wasm` directive.
#[derive(Default)]
struct Root {
    fields: Rc<Vec<Field>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match parse(&bytes) {
            Ok(fields) => {
                self.fields = Rc::new(fields);
                true
            }
            Err(reason) => {
                error!("access-log: the configuration is not usable: {reason}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let fields = Rc::clone(&self.fields);
        Some(Box::new(AccessLog { fields }))
    }
}

/// One request and its response.
struct AccessLog {
    fields: Rc<Vec<Field>>,
}

impl Context for AccessLog {}

impl HttpContext for AccessLog {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    fn on_log(&mut self) {
        let mut line = Map::new();
        for field in self.fields.iter() {
            let path = field.path.iter().map(String::as_str).collect();
            let value = self.get_property(path).map_or(Value::Null, |bytes| field.kind.value(&bytes));
            line.insert(field.name.clone(), value);
        }
        info!("access-log: {}", Value::Object(line));
    }
}
