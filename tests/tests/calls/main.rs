//! Calls out, to real services: what is sent, what comes back, and what goes wrong.
//!
//! `http` has single calls, `upstreams` those through `upstream` blocks, `names` what has to be looked up, `tls` encrypted
//! ones, `rules` what may be called, `leaving` clients that do not wait, `grpc` that.

mod grpc;
mod http;
mod leaving;
mod names;
mod rules;
mod tls;
mod upstreams;

use serde_json::{Value, json};
use weir_tests::{Conf, Nginx, Request};

/// nginx with guest `calls` in `/`; `text` is what else is in the location.
fn conf(text: &str) -> Conf {
    Conf::new()
        .guest("calls")
        .workers(1)
        .server(&format!("location / {{ proxy_wasm calls; {text} return 200 answered; }}"))
}

/// What has come of `orders`, made in the callback `when`.
fn outcomes(nginx: &Nginx, when: &str, orders: &Value) -> Vec<Value> {
    let request = if when == "reqb" { Request::post("/", "body") } else { Request::get("/") };
    let request = request.header("x-calls", &orders.to_string()).header("x-when", when);
    let response = nginx.send(request);
    let text = response.header("x-outcomes").map_or_else(|| response.text(), ToOwned::to_owned);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {response:?}\n{}", nginx.log()))
}

/// What has come of one call.
fn outcome(nginx: &Nginx, order: Value) -> Value {
    outcomes(nginx, "reqh", &json!([order])).remove(0)
}

/// The header of an outcome.
fn header<'o>(outcome: &'o Value, name: &str) -> Option<&'o str> {
    let headers = outcome["headers"].as_array()?;
    headers.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}

/// The status of an outcome; 0 for a call that has failed.
fn status(outcome: &Value) -> u16 {
    header(outcome, ":status").map_or(0, |status| status.parse().expect("a status"))
}

/// Asserts that a call has failed for the reason that `word` names.
fn assert_failed(nginx: &Nginx, outcome: &Value, word: &str) {
    assert_eq!((status(outcome), &outcome["error"]), (0, &json!(word)), "{outcome}: {}", nginx.log());
    assert_eq!((&outcome["size"], &outcome["headers"]), (&json!(0), &json!([])));
}
