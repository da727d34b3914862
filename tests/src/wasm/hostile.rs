//! A filter that calls every host function in every callback, with numbers that mean trouble.
//!
//! Which ones depends on the request header `x-seed`: the same header makes the same calls.

use super::assemble;

/// The documentation's table of host functions, which a test of core's keeps like the code.
const TABLE: &str = include_str!("../../../docs/ABI.md");

/// Numbers that a guest may pass: no addresses, edges of its memory of two pages, sizes that wrap around, and some that
/// mean something: small ones, and addresses and sizes of what [`DATA`] holds.
const NUMBERS: [u32; 40] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
    15,
    16,
    20,
    32,
    40,
    64,
    100,
    128,
    200,
    256,
    404,
    500,
    599,
    1000,
    4096,
    65535,
    65536,
    131_068,
    131_071,
    131_072,
    0x0010_0000,
    0x0100_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_fffe,
    0xffff_ffff,
];

/// What is at some addresses: names, a path, pairs of one header, an upstream.
const DATA: [(u32, &str); 7] = [
    (32, ":path"),
    (40, "x-new"),
    (64, "request\\00path"),
    (100, "\\01\\00\\00\\00\\05\\00\\00\\00\\05\\00\\00\\00x-new\\00value\\00"),
    (128, "127.0.0.1:1"),
    (200, "compress"),
    (256, "\\00\\0d\\0a\\ff\\fe"),
];

/// The exports that are called: name, number of parameters, result.
const CALLBACKS: [(&str, usize, Option<i32>); 17] = [
    ("proxy_on_context_create", 2, None),
    ("proxy_on_request_headers", 3, Some(0)),
    ("proxy_on_request_body", 3, Some(0)),
    ("proxy_on_request_trailers", 2, Some(0)),
    ("proxy_on_response_headers", 3, Some(0)),
    ("proxy_on_response_body", 3, Some(0)),
    ("proxy_on_response_trailers", 2, Some(0)),
    ("proxy_on_http_call_response", 5, None),
    ("proxy_on_grpc_receive_initial_metadata", 3, None),
    ("proxy_on_grpc_receive", 3, None),
    ("proxy_on_grpc_receive_trailing_metadata", 3, None),
    ("proxy_on_grpc_close", 3, None),
    ("proxy_on_queue_ready", 2, None),
    ("proxy_on_tick", 1, None),
    ("proxy_on_done", 1, Some(1)),
    ("proxy_on_log", 1, None),
    ("proxy_on_delete", 1, None),
];

/// What ends a request without an answer: now and then only, or few would get one.
const SELDOM: [&str; 1] = ["proxy_close_stream"];

/// One host function.
struct Function<'t> {
    name: &'t str,
    params: Vec<&'t str>,
    returns: bool,
}

/// Those of the table that return to the guest, each once.
fn functions() -> Vec<Function<'static>> {
    let mut all: Vec<Function<'_>> = Vec::new();
    for row in TABLE.lines().filter_map(|line| line.strip_prefix("| `")) {
        let Some((signature, _)) = row.split_once('`') else { continue };
        let Some((name, rest)) = signature.split_once('(') else { continue };
        let Some((params, result)) = rest.split_once(')') else { continue };
        if ["abort", "proc_exit"].contains(&name) || all.iter().any(|other| other.name == name) {
            continue;
        }
        let params = params.split(", ").filter(|param| !param.is_empty()).collect();
        all.push(Function { name, params, returns: !result.is_empty() });
    }
    all
}

/// The filter.
///
/// # Panics
/// When its text is no WebAssembly.
#[must_use]
pub fn module() -> Vec<u8> {
    let (mut imports, mut calls) = (String::new(), String::new());
    for Function { name, params, returns } in functions() {
        let of_env = name.starts_with("proxy_")
            || ["emscripten_notify_memory_growth", "pthread_equal"].contains(&name);
        let module = if of_env { "env" } else { "wasi_snapshot_preview1" };
        let result = if returns { "(result i32)" } else { "" };
        imports.push_str(&format!(
            "(import \"{module}\" \"{name}\" (func ${name} (param {}) {result}))\n",
            params.join(" ")
        ));
        let arguments: String = params
            .iter()
            .map(|param| match *param {
                "i64" => " (i64.extend_i32_s (call $number))",
                _ => " (call $number)",
            })
            .collect();
        let call = format!("(call ${name}{arguments})");
        let call = if returns { format!("(drop {call})") } else { call };
        calls.push_str(&if SELDOM.contains(&name) {
            format!("(if (i32.eqz (i32.and (call $random) (i32.const 7))) (then {call}))\n")
        } else {
            format!("{call}\n")
        });
    }
    let numbers: String =
        NUMBERS.iter().flat_map(|number| number.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect();
    let data: String =
        DATA.iter().map(|(at, text)| format!("(data (i32.const {at}) \"{text}\")\n")).collect();
    let callbacks: String = CALLBACKS
        .iter()
        .map(|(name, params, result)| {
            let value = result.map_or(String::new(), |value| format!("(i32.const {value})"));
            let result = result.map_or("", |_| "(result i32)");
            format!(
                "(func (export \"{name}\") (param{}) {result} (call $seed) (call $all) {value})\n",
                " i32".repeat(*params)
            )
        })
        .collect();
    let (at, count) = (2048, NUMBERS.len());
    assemble(&format!(
        r#"(module
        {imports}
        (memory (export "memory") 2)
        (global $state (mut i32) (i32.const 1))
        (data (i32.const {at}) "{numbers}")
        {data}
        (func (export "proxy_abi_version_0_2_1"))
        ;; Sometimes nothing, sometimes an address that is not there.
        (func (export "proxy_on_memory_allocate") (param i32) (result i32) (local $way i32)
            (local.set $way (i32.and (call $random) (i32.const 31)))
            (if (i32.eqz (local.get $way)) (then (return (i32.const 0))))
            (if (i32.eq (local.get $way) (i32.const 1)) (then (return (i32.const -8))))
            (i32.const 8192))
        (func $random (result i32)
            (global.set $state
                (i32.add (i32.mul (global.get $state) (i32.const 1664525)) (i32.const 1013904223)))
            (i32.shr_u (global.get $state) (i32.const 8)))
        (func $number (result i32)
            (i32.load (i32.add (i32.const {at})
                (i32.mul (i32.rem_u (call $random) (i32.const {count})) (i32.const 4)))))
        ;; Goes on from what the request says, if there is one.
        (func $seed
            ;; What is in memory may have been overwritten.
            (i64.store (i32.const 3000) (i64.const 0x646565732d78))
            (if (i32.eqz (call $proxy_get_header_map_value
                    (i32.const 0) (i32.const 3000) (i32.const 6) (i32.const 3016) (i32.const 3020)))
                (then (if (i32.ne (i32.load (i32.const 3016)) (i32.const -8))
                    (then (global.set $state (i32.add (global.get $state)
                        (i32.mul (i32.load (i32.load (i32.const 3016))) (i32.const 2654435761)))))))))
        (func $all {calls})
        {callbacks})"#
    ))
}

#[cfg(test)]
mod tests {
    use super::{functions, module};

    #[test]
    fn it_calls_all_functions() {
        assert!(functions().len() > 80, "{}", functions().len());
        assert!(!module().is_empty());
    }
}
