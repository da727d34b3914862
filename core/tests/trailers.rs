//! Trailers, and the bodies that filters hold until they come.
#![allow(missing_docs, reason = "a test")]

mod support;

use support::{Bench, load, module, plugin};
use weir_core::{
    abi::types::BufferType,
    chain::{Direction, Verdict},
    plan::Isolation,
};

/// A filter that holds every body, and answers `action` to trailers.
fn holder(action: i32) -> String {
    module(
        "",
        &format!(
            r#"(func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 1))
            (func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (i32.const {action}))"#
        ),
    )
}

#[test]
fn trailers_catch_up_with_a_body_that_a_later_filter_holds() {
    // Responses meet the last filter first: it holds the trailers too.
    let filters = [("second", 0), ("first", 1)];
    let plugins = filters.map(|(name, action)| {
        let filter = load(name, &holder(action), b"").expect("loads");
        plugin(&filter, "", Isolation::Stream)
    });
    let bench = Bench::new(plugins.into());
    let request = bench.request();
    let mut chain = bench.begin(&request);
    let shown = || request.edit().buffers[&BufferType::HttpResponseBody].concat();
    assert_eq!(chain.headers(Direction::Response, false), Verdict::Continue);
    request.edit().buffers.insert(BufferType::HttpResponseBody, vec![b"abc".to_vec()]);
    assert_eq!(chain.body(Direction::Response, false), Verdict::Pause);
    assert_eq!(chain.trailers(Direction::Response), Verdict::Pause);
    assert_eq!(shown(), b"");
    assert!(!chain.trailers_passed(Direction::Response));
    assert_eq!(chain.resume(Direction::Response, 1), Verdict::Continue);
    assert_eq!(shown(), b"abc");
    assert!(chain.trailers_passed(Direction::Response));
}
