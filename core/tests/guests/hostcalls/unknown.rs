//! Imports that no version of the ABI has.

use weir_core::{
    abi::types::LogLevel,
    chain::{Direction, Verdict},
    engine::cache::Cache,
    filter::Callback,
    plan::Isolation,
    testing::Worker,
};

use crate::support::{Bench, Guest, engine, load, plugin, say, wat};

/// Each as a module imports it, and how the warning names it.
const UNKNOWN: &[(&str, &str)] = &[
    (r#"(import "env" "proxy_teleport" (func $unknown (param i32)))"#, "env.proxy_teleport"),
    (r#"(import "elsewhere" "proxy_log" (func $unknown (param i32)))"#, "elsewhere.proxy_log"),
    (
        r#"(import "wasi_snapshot_preview1" "fd_teleport" (func $unknown (param i32)))"#,
        "wasi_snapshot_preview1.fd_teleport",
    ),
    // Known names in another shape.
    (r#"(import "env" "proxy_done" (func $unknown (param i32)))"#, "env.proxy_done"),
    (r#"(import "env" "abort" (func $unknown (param i32)))"#, "env.abort"),
    (r#"(import "wasi_unstable" "fd_close" (func $unknown (param i32)))"#, "wasi_unstable.fd_close"),
];

#[test]
fn they_load_with_a_warning_and_end_the_instance_when_called() {
    for (import, name) in UNKNOWN {
        let guest = Guest::new()
            .import(import)
            .on(Callback::RequestHeaders, [say("fine")])
            .on(Callback::RequestBody, [wat("(call $unknown (i32.const 0))"), say("not reached")]);
        let worker = Worker::default();
        let filter =
            load(engine(), &Cache::disabled(), &guest.spec(), &guest.wasm(), &worker).expect("loads");
        let warnings: Vec<_> =
            worker.take_log().into_iter().filter(|line| line.level == LogLevel::Warn).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let message = &warnings[0].message;
        assert!(message.contains(&format!("imports \"{name}\"")), "{message}");
        if *name == "env.proxy_done" {
            assert!(message.contains("as (i32), but the ABI has it as () -> i32"), "{message}");
        }

        let bench = Bench::new(vec![plugin(&filter, "", Isolation::Stream)]);
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(Direction::Request, false), Verdict::Continue);
        assert_eq!(chain.body(Direction::Request, true), Verdict::Failed { status: 500 });
        let log = bench.log();
        assert_eq!((log.len(), &*log[0]), (2, "fine"));
        assert!(log[1].contains(&format!("called {name}")), "{log:?}");
    }
}
