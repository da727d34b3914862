//! The filter whose faults are in the callbacks that calls out have.

use super::{Fault, exports, filter, told};

/// The callbacks of calls: a letter, what the export is called, and its parameters. The first is that of an HTTP call, the
/// others those of a gRPC stream, in their order.
pub const CALLBACKS: [(char, &str, usize); 5] = [
    ('A', "proxy_on_http_call_response", 5),
    ('I', "proxy_on_grpc_receive_initial_metadata", 3),
    ('R', "proxy_on_grpc_receive", 3),
    ('E', "proxy_on_grpc_receive_trailing_metadata", 3),
    ('G', "proxy_on_grpc_close", 3),
];

/// The upstream of HTTP calls, by the name that it is to have in the configuration.
pub const HTTP: &str = "http_peer";

/// The upstream of gRPC streams. It answers method `Say` of `weir.test.Talk`, as [`crate::grpc::Service`] does.
pub const GRPC: &str = "grpc_peer";

/// Makes the call that has the callback which `x-fault` names, holds the request, and lets it go after the call's last
/// callback.
///
/// # Panics
/// When its text is no WebAssembly.
#[must_use]
pub fn module(faults: &[&Fault]) -> Vec<u8> {
    let imports = r#"
        (import "env" "proxy_http_call"
            (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_grpc_stream"
            (func $grpc_stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_grpc_send" (func $grpc_send (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))"#;
    let headers = pairs(&[(":method", "GET"), (":path", "/answer"), (":authority", "peer")]);
    let data = [HTTP, GRPC, "weir.test.Talk", "Say"].map(str::as_bytes);
    // A protobuf message, whose field 1 is a text.
    let message: &[u8] = b"\x0a\x05hello";
    let mut segments = String::new();
    let mut places = Vec::new();
    let mut at = 4096;
    for piece in data.into_iter().chain([&headers[..], message]) {
        let bytes: String = piece.iter().map(|byte| format!("\\{byte:02x}")).collect();
        segments.push_str(&format!("(data (i32.const {at}) \"{bytes}\")\n"));
        places.push(format!("(i32.const {at}) (i32.const {})", piece.len()));
        at += piece.len().next_multiple_of(16);
    }
    let [http, grpc, service, method, headers, message] = &places[..] else { unreachable!("six pieces") };
    let mut callbacks = format!(
        r#"{segments}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $status i32)
            (if (call $value (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 20))
                (then (return (i32.const 0))))
            (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const {first}))
                (then (local.set $status (call $http_call {http} {headers}
                    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 5000) (i32.const 24))))
                (else
                    (local.set $status (call $grpc_stream {grpc} {service} {method}
                        (i32.const 0) (i32.const 0) (i32.const 24)))
                    (if (i32.eqz (local.get $status)) (then (local.set $status
                        (call $grpc_send (i32.load (i32.const 24)) {message} (i32.const 1)))))))
            ;; A call that is refused is no fault that was asked for.
            (i32.eqz (local.get $status)))
        "#,
        first = u32::from(CALLBACKS[0].0),
    );
    for (letter, name, params) in CALLBACKS {
        let is_last = letter == CALLBACKS[0].0 || letter == CALLBACKS[4].0;
        let after = if is_last { "(drop (call $continue (i32.const 0)))" } else { "" };
        callbacks.push_str(&exports(letter, name, params, "", after));
    }
    filter(imports, &told(faults), &callbacks)
}

/// Pairs as the ABI has them: their number, the lengths of names and values, and these, each with a zero at its end.
fn pairs(pairs: &[(&str, &str)]) -> Vec<u8> {
    let size = |text: &str| u32::try_from(text.len()).expect("a short text").to_le_bytes();
    let mut bytes = u32::try_from(pairs.len()).expect("few").to_le_bytes().to_vec();
    for (name, value) in pairs {
        bytes.extend(size(name));
        bytes.extend(size(value));
    }
    for (name, value) in pairs {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{super::FAULTS, module, pairs};

    #[test]
    fn it_is_well_formed() {
        assert!(!module(&FAULTS.iter().collect::<Vec<_>>()).is_empty());
    }

    #[test]
    fn pairs_are_those_of_the_abi() {
        assert_eq!(pairs(&[("a", "bc")]), b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc\0");
    }
}
