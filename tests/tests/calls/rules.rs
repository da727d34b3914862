//! What filters may call.

use serde_json::json;
use weir_tests::{Conf, Nginx, Origin, Reply};

use super::{conf, outcome, status};

/// Status of the ABI: the argument is bad.
const BAD_ARGUMENT: u32 = 2;

#[test]
fn metadata_and_odd_names_are_refused() {
    let nginx = Nginx::start(conf(""));
    for name in [
        "169.254.169.254",
        "[fe80::1]:80",
        "[::ffff:169.254.169.254]",
        "fd00:ec2::254",
        "",
        "a b",
        "127.0.0.1:0",
        "unix:relative",
        "no.resolver.example",
    ] {
        let outcome = outcome(&nginx, json!({"upstream": name}));
        assert_eq!(outcome["refused"], json!(BAD_ARGUMENT), "{name}: {outcome}");
    }
    let line = nginx.wait_for_log("call to \"169.254.169.254\" was not made");
    assert!(line.contains("proxy_wasm_allow_calls"), "{line}");
}

#[test]
fn rules_are_a_location_s() {
    let origin = Origin::start(|_| Reply::text("called"));
    let conf = Conf::new()
        .guest("calls")
        .workers(1)
        .set("A", origin.address())
        .http("upstream up { server @A@; } upstream other { server @A@; } proxy_wasm calls;")
        .server("proxy_wasm_allow_calls up 127.0.0.0/8; location / { return 200; }")
        .server("proxy_wasm_allow_calls none; location / { return 200; }");
    let nginx = Nginx::start(conf);
    let address = origin.address().to_string();
    for (name, allowed) in
        [("up", true), (address.as_str(), true), ("other", false), ("10.0.0.1", false), ("::1", false)]
    {
        let outcome = outcome(&nginx, json!({"upstream": name}));
        assert_eq!(status(&outcome) == 200, allowed, "{name}: {outcome}");
        assert_eq!(outcome["refused"] == json!(null), allowed, "{name}: {outcome}");
    }
    let request = weir_tests::Request::get("/").header("x-calls", r#"[{"upstream": "up"}]"#);
    let response =
        weir_tests::Connection::open(nginx.address_of(1), weir_tests::Protocol::Http1).send(request);
    assert!(response.text().contains("\"refused\":2"), "{response:?}");
}

#[test]
fn a_root_context_goes_by_the_rules_of_its_directive() {
    let configuration = json!({"every": 10, "calls": [{"upstream": "127.0.0.1:1"}]});
    let conf = Conf::new().guest("calls").workers(1).server(&format!(
        "location / {{ proxy_wasm_allow_calls 10.0.0.0/8; proxy_wasm calls '{configuration}'; return 200; }}"
    ));
    let nginx = Nginx::start(conf);
    let line = nginx.wait_for_log("calls: root ");
    assert!(line.contains("\"refused\":2"), "{line}");
}

#[test]
fn there_are_only_so_many_at_once() {
    let origin = Origin::start(|_| Reply::text("called"));
    let nginx = Nginx::start(conf("").wasm("calls_limit 3;"));
    let order = json!({"upstream": origin.address().to_string()});
    let outcomes = super::outcomes(&nginx, "reqh", &json!(vec![order; 5]));
    let made = outcomes.iter().filter(|outcome| status(outcome) == 200).count();
    assert_eq!(made, 3, "{outcomes:?}");
    // INTERNAL_FAILURE
    assert_eq!(outcomes.iter().filter(|outcome| outcome["refused"] == json!(10)).count(), 2, "{outcomes:?}");
}
