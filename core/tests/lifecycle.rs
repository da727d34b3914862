//! Contexts from birth to end, and what a filter is told when.
#![allow(missing_docs, reason = "a test")]

mod support;

use support::{Bench, load, module, plugin, status_of};
use weir_core::{abi::types::MapType, chain::Verdict, plan::Isolation};

/// Logs a letter for each callback, with the context's id as a digit behind it.
const TRACER: &str = r#"
    (data (i32.const 16) "C?S?F?H?B?h?b?D?L?X?")
    (func $say (param $at i32) (param $id i32)
        (i32.store8 (i32.add (local.get $at) (i32.const 1)) (i32.add (local.get $id) (i32.const 48)))
        (drop (call $log (i32.const 2) (local.get $at) (i32.const 2))))
    (func (export "proxy_on_context_create") (param i32 i32) (call $say (i32.const 16) (local.get 0)))
    (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
        (call $say (i32.const 18) (local.get 0)) (i32.const 1))
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (call $say (i32.const 20) (local.get 0)) (i32.const 1))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (call $say (i32.const 22) (local.get 0)) (i32.const 0))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
        (call $say (i32.const 24) (local.get 0)) (i32.const 0))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
        (call $say (i32.const 26) (local.get 0)) (i32.const 0))
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
        (call $say (i32.const 28) (local.get 0)) (i32.const 0))
    (func (export "proxy_on_done") (param i32) (result i32)
        (call $say (i32.const 30) (local.get 0)) (i32.const 1))
    (func (export "proxy_on_log") (param i32) (call $say (i32.const 32) (local.get 0)))
    (func (export "proxy_on_delete") (param i32) (call $say (i32.const 34) (local.get 0)))"#;

const LOG: &str = r#"(import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))"#;

#[test]
fn a_request_s_callbacks_come_in_order() {
    let bench = Bench::wat(LOG, TRACER);
    bench.rehearse().expect("accepted");
    assert_eq!(bench.log(), ["C1", "S1", "F1"], "once, on trial");
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.request_headers(false), Verdict::Continue);
    assert_eq!(chain.request_body(3, true), Verdict::Continue);
    assert_eq!(chain.response_headers(false), Verdict::Continue);
    assert_eq!(chain.response_body(3, true), Verdict::Continue);
    chain.finish();
    chain.finish();
    drop(chain);
    assert_eq!(bench.log(), ["C1", "S1", "F1", "C2", "H2", "B2", "h2", "b2", "D2", "L2", "X2"]);
}

#[test]
fn filters_of_one_module_share_the_request_s_instance_and_responses_come_in_reverse() {
    let filter = load("guest", &module(LOG, TRACER), b"").expect("loads");
    let plugins = || (0..2).map(|_| plugin(&filter, "", Isolation::Stream)).collect();
    let bench = Bench::new(plugins());
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.request_headers(true);
    chain.response_headers(true);
    chain.finish();
    let expected = ["C1", "S1", "F1", "C2", "S2", "F2", "C3", "C4", "H3", "H4", "h4", "h3"];
    assert_eq!(bench.log(), [&expected[..], &["D3", "L3", "X3", "D4", "L4", "X4"]].concat());
}

#[test]
fn a_shared_instance_is_configured_once_and_gives_no_id_twice() {
    let filter = load("guest", &module(LOG, TRACER), b"").expect("loads");
    let bench = Bench::new(vec![plugin(&filter, "", Isolation::None)]);
    let mut first = bench.begin(&bench.request());
    let mut second = bench.begin(&bench.request());
    first.request_headers(true);
    second.request_headers(true);
    drop(first);
    drop(second);
    assert_eq!(bench.log(), ["C1", "S1", "F1", "C2", "C3", "H2", "H3", "D2", "L2", "X2", "D3", "L3", "X3"]);
}

#[test]
fn a_header_is_added_and_seen_at_once() {
    let imports = r#"(import "env" "proxy_add_header_map_value"
        (func $add (param i32 i32 i32 i32 i32) (result i32)))"#;
    let bench = status_of(
        imports,
        r#"(data (i32.const 0) "x-Namevalue")"#,
        "(call $add (i32.const 0) (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 5))",
    );
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.request_headers(true), Verdict::Continue);
    assert_eq!(bench.log(), ["0"]);
    assert_eq!(request.text(MapType::HttpRequestHeaders, "x-name").as_deref(), Some("value"));
}

#[test]
fn a_trap_fails_the_request_with_its_callback_named_and_nothing_else() {
    let bench = Bench::wat(
        "",
        r#"(func $deep unreachable)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $deep) (i32.const 0))"#,
    );
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.request_headers(true), Verdict::Failed { status: 500 });
    let log = bench.log().join("\n");
    assert!(log.contains("proxy_on_request_headers failed") && log.contains("deep"), "{log}");
    drop(chain);
    assert!(bench.log().is_empty(), "reported once");
    let mut next = bench.begin(&bench.request());
    assert_eq!(next.request_headers(true), Verdict::Failed { status: 500 });
}

#[test]
fn an_endless_loop_is_stopped() {
    let bench = Bench::wat(
        "",
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (loop (br 0)) (i32.const 0))"#,
    );
    let mut chain = bench.begin(&bench.request());
    assert_eq!(chain.request_headers(true), Verdict::Failed { status: 500 });
    assert!(bench.log().join("").contains("longer than its limit"));
}

#[test]
fn a_filter_that_refuses_its_configuration_is_named_with_its_place() {
    let bench =
        Bench::wat("", r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#);
    let refusal = bench.rehearse().expect_err("refused");
    assert_eq!(refusal.place, "test.conf:1");
    assert!(refusal.to_string().contains("filter \"guest\""), "{refusal}");
    assert!(refusal.to_string().contains("proxy_on_configure returned false"), "{refusal}");
}
