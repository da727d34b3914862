//! What a guest sees of the world outside: the variables it was given, and nothing else.

use weir_tests::{Conf, Nginx, wasm::assemble};

/// Logs, in `on_request_headers`, the environment as WASI gives it, how many arguments there are, and what a first
/// preopened folder is answered with.
fn guest() -> Vec<u8> {
    assemble(
        r#"(module
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "environment [")
            (func (export "malloc") (param i32) (result i32) (i32.const 8192))
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func $digit (param $at i32) (param $value i32)
                (i32.store8 (local.get $at) (i32.add (i32.const 48) (local.get $value))))
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                (drop (call $sizes (i32.const 1024) (i32.const 1028)))
                (drop (call $environ (i32.const 2048) (i32.const 13)))
                (i32.store8 (i32.add (i32.const 13) (i32.load (i32.const 1028))) (i32.const 93))
                (drop (call $log (i32.const 2) (i32.const 0) (i32.add (i32.const 14) (i32.load (i32.const 1028)))))
                (drop (call $args (i32.const 1032) (i32.const 1036)))
                (call $digit (i32.const 3000) (i32.load (i32.const 1032)))
                (call $digit (i32.const 3001) (call $prestat (i32.const 3) (i32.const 1040)))
                (drop (call $log (i32.const 2) (i32.const 3000) (i32.const 2)))
                (i32.const 0)))"#,
    )
}

fn log(directives: &str) -> String {
    let nginx = Nginx::start(
        Conf::new()
            .file("env.wasm", guest())
            .wasm("module env env.wasm;")
            .wasm(directives)
            .server("location / { proxy_wasm env; return 200 x; }"),
    );
    assert_eq!(nginx.get("/").text(), "x");
    nginx.stop()
}

#[test]
fn only_what_was_granted_is_seen() {
    let none = log("");
    assert!(none.contains("[env] environment [],"), "{none}");
    // No arguments; no folder: EBADF (8).
    assert!(none.contains("[env] 08,"), "{none}");

    let some = log("environment REGION=eu-west;\nenvironment EMPTY=;\nenvironment SIGN=a=b;");
    assert!(some.contains(r"environment [REGION=eu-west\x00EMPTY=\x00SIGN=a=b\x00],"), "{some}");

    // Of nginx's own environment, those that are named and there.
    let path = std::env::var("PATH").expect("tests have a PATH");
    let inherited = log("environment PATH;\nenvironment NO_SUCH_VARIABLE;");
    assert!(inherited.contains(&format!(r"environment [PATH={path}\x00],")), "{inherited}");
}
