//! Filters made with other SDKs and languages than Rust: what they do, and what their standard libraries need.
//!
//! A file for each thing that the guests do, in every language the same; `shapes.rs` is about modules that are built in
//! other ways.

mod bodies;
mod deferred;
mod headers;
mod local;
mod properties;
mod runtime;
mod shapes;

use weir_tests::Conf;

/// Suffixes of the guests' names.
const LANGUAGES: [&str; 3] = ["cpp", "as", "go"];

/// An instance for each request, and one for the worker.
const ISOLATIONS: [&str; 2] = ["stream", "none"];

/// A configuration with guest `NAME_LANGUAGE`, and the directives that put it in its place.
fn conf(name: &str, language: &str) -> Conf {
    // Go's runtime takes its time where the machine is busy.
    Conf::new().guest(&format!("{name}_{language}")).wasm("configuration_timeout 20s;")
}

fn directives(name: &str, language: &str, isolation: &str, configuration: &str) -> String {
    format!("proxy_wasm_isolation {isolation}; proxy_wasm {name}_{language} {configuration};")
}
