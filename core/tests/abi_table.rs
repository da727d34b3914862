//! The table of host functions is whole, and docs/ABI.md says what it says.
#![allow(missing_docs, reason = "a test")]

use std::{collections::HashSet, fs, path::Path};

use weir_core::{
    abi::{docs, table},
    testing::Memory,
};

#[test]
fn docs_abi_md_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ABI.md");
    let text = docs::markdown::<Memory>();
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&path, &text).expect("docs/ABI.md is writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/ABI.md is out of date: run this test with WEIR_BLESS=1");
}

/// Every function of the specification's three versions.
const SPECIFIED: &[&str] = &[
    "proxy_log",
    "proxy_get_log_level",
    "proxy_get_current_time_nanoseconds",
    "proxy_set_tick_period_milliseconds",
    "proxy_set_effective_context",
    "proxy_done",
    "proxy_get_configuration",
    "proxy_get_buffer_bytes",
    "proxy_get_buffer_status",
    "proxy_set_buffer_bytes",
    "proxy_get_header_map_size",
    "proxy_get_header_map_pairs",
    "proxy_set_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_add_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_remove_header_map_value",
    "proxy_continue_stream",
    "proxy_close_stream",
    "proxy_continue_request",
    "proxy_continue_response",
    "proxy_clear_route_cache",
    "proxy_get_status",
    "proxy_send_local_response",
    "proxy_http_call",
    "proxy_grpc_call",
    "proxy_grpc_stream",
    "proxy_grpc_send",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_set_shared_data",
    "proxy_get_shared_data",
    "proxy_register_shared_queue",
    "proxy_resolve_shared_queue",
    "proxy_enqueue_shared_queue",
    "proxy_dequeue_shared_queue",
    "proxy_define_metric",
    "proxy_increment_metric",
    "proxy_record_metric",
    "proxy_get_metric",
    "proxy_get_property",
    "proxy_set_property",
    "proxy_call_foreign_function",
];

#[test]
fn every_specified_function_has_a_row() {
    let table = table::<Memory>();
    let names: HashSet<_> = table.iter().filter(|row| row.module == "env").map(|row| row.name).collect();
    for name in SPECIFIED {
        assert!(names.contains(name), "{name}");
    }
    let wasi = table.iter().filter(|row| row.module != "env").count();
    assert_eq!(wasi, 46, "the whole of WASI preview 1");
}
