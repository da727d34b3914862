//! docs/ABI.md, made from the table of host functions and the list of callbacks, so that it cannot drift from them.

use std::fmt::Write;

use super::{Entry, Support, Versions, properties::ATTRIBUTES, table};
use crate::{
    filter::Callback,
    host::{Host, calls::CallFailure},
};

/// Callbacks that core calls when the proxy has what they are about, and which proxies have it.
const WHERE_IT_IS: &[(Callback, &str)] =
    &[(Callback::RequestTrailers, "nginx up to 1.28 discards the trailers of requests while it reads them")];

/// Limits of what is called and works, in sentences.
const LIMITS: &[&str] = &[
    "A local response that comes when the response's headers have left is refused, with a warning. If the filter pauses \
     as well, or a filter holds the body, the connection is closed (a stream of HTTP/2 is reset).",
    "A local response for a request that goes on meanwhile, from a call's callback say, ends what an upstream does for \
     that. Where nginx waits for something else (`auth_request`, a delay of `limit_req`) it takes the place of the response \
     when that comes.",
    "The request's body is seen when nginx reads it: for a proxied request, not for one that is answered from a \
     file or by `return`.",
    "Trailers of an upstream come by where nginx passes them on: with `proxy_pass_trailers on` or `grpc_pass`. The last \
     call of `on_response_body` has `end_of_stream` false then, and `on_response_trailers` follows.",
    "A filter may add trailers of the response from `on_response_headers` on. A response of HTTP/1.1 is sent in chunks \
     then; once its headers have left with a Content-Length it takes no trailers any more.",
    "A local response goes through the response callbacks of all filters that have not seen the response it replaces, \
     those of the filter that has sent it too, and of filters that have not seen the request. In a response \
     callback a filter may replace it, its own included. A call of gRPC gets status 200 and headers alone, with \
     `grpc-status` (the one given, or what stands for the HTTP status) and the body as `grpc-message`.",
    "`upstream.local_address` and what is known of the upstream's TLS can be read until the response has come, for \
     example in `on_response_headers`; later it is NOT_FOUND.",
    "`response.flags` has those of Envoy's flags that nginx can tell: upstream timeout, failure and termination, rate \
     limiting, a client that has gone.",
    "With an instance for each request nothing can reach it once the request is over, so a context whose `on_done` \
     returns false ends when all filters of the request are done, `proxy_done` or not, unless it waits for a call. With \
     one instance for the worker it lasts until `proxy_done`, or until the worker ends.",
    "`on_queue_ready` is called in the worker that has registered the queue last. If that was in a request whose instance \
     is its own, the worker has an instance of its own for the root context from then on, which begins as one does for a \
     request. It is called again as long as it takes messages and there are more.",
    "When there is no room, a write of shared data or a message is refused with INTERNAL_FAILURE. Guests built with the \
     Rust SDK, which would panic at that, get CAS_MISMATCH or NOT_FOUND. The log says it once in each worker.",
    "A root context of an instance that lives in the worker gets `on_done` and `on_delete` when the worker ends; one of a \
     request's own instance gets neither.",
    "Of `node.*` there is `node.id`, the name of the machine.",
];

/// How calls out behave, in sentences.
const CALLS: &[&str] = &[
    "`:method`, `:path` and `:authority` are required, and must be such as can stand in a request; header names and values \
     must not split messages: else BAD_ARGUMENT. The Host header, Content-Length and what else says how a message travels \
     is Weir's to send. An unknown upstream, or one that the filter may not call, is BAD_ARGUMENT (PARSE_FAILURE for gRPC); \
     more calls than `calls_limit` are INTERNAL_FAILURE. The log says what was wrong. A timeout of 0 means \
     `call_timeout`; a negative one of an HTTP call is BAD_ARGUMENT, one of gRPC is unsigned.",
    "What comes back is told to the context that has made the call: it is the effective one, and the callback's first \
     parameter is its root context. Maps 4 to 7 and buffers 4 and 5 exist in that callback only, and can only be read.",
    "A call that fails after it was begun calls `on_http_call_response` with 0 headers, 0 bytes and 0 trailers. Property \
     `call.error` has a word for why, in that callback only. So has header `:dispatch_status`, which only who asks for it is \
     given, with the words of ngx_wasm_module: `timeout`, `broken connection`, `resolver failure`, `tls handshake failure`, \
     `reader failure`; and `cancelled` and `refused`, which are Weir's.",
    "As in Envoy, `proxy_grpc_call` is answered by `on_grpc_receive` if it was good, and else by `on_grpc_close`; there is no \
     metadata. A stream is told of everything, and last of `on_grpc_close`. The callback for trailing metadata may be \
     exported as `proxy_on_grpc_trailing_metadata` too. The upstream may be a serialized \
     `envoy.config.core.v3.GrpcService`.",
    "A call is cancelled when its context ends, but for HTTP and unary gRPC calls made in `on_log`, `on_delete`, an \
     `on_done` that returns true, or a callback of the response, if the filter has not held that since: those are made to \
     their end, and nobody is told. A context whose `on_done` has returned \
     false waits for its calls, even in an instance of its request's own, which then ends when the last of them has been \
     answered. A root context's call is finished, whatever becomes of requests.",
    "A root context that makes a call in `on_vm_start` or `on_configure` lives in each worker, and makes the call there: in \
     the master, where the configuration is tried out, the call only gets a number, from 2147483648 on.",
];

/// The text of docs/ABI.md for host `H`. The host only names types: every host has the same table.
#[must_use]
pub fn markdown<H: Host>() -> String {
    let mut text = String::from(
        "# What of the ABI works\n\n\
         Generated from the table in `core/src/abi.rs`; `WEIR_BLESS=1 cargo test -p weir-core --test abi_table` \
         writes it anew, and the same test fails when it is out of date.\n\n\
         Filters for Proxy-Wasm 0.1.0, 0.2.0 and 0.2.1 load, and every function of all three works. An import that no version \
         has is named in a warning when the module is loaded, and ends the instance when it is called.\n",
    );
    let table = table::<H>();
    let (wasi, env): (Vec<_>, Vec<_>) = table.iter().partition(|row| row.versions == Versions::Wasi);
    section(&mut text, "Host functions (`env`)", &env);
    section(&mut text, "WASI (`wasi_snapshot_preview1`, `wasi_unstable`)", &wasi);
    callbacks(&mut text);
    text.push_str("\n## Limits of what works\n\n");
    for limit in LIMITS {
        let _ = writeln!(text, "- {limit}");
    }
    text.push_str("\n## Calls\n\n");
    for sentence in CALLS {
        let _ = writeln!(text, "- {sentence}");
    }
    let words: Vec<_> = CallFailure::ALL.iter().map(|failure| format!("`{}`", failure.word())).collect();
    let _ = writeln!(text, "- The words for why a call has failed: {}.", words.join(", "));
    text.push_str(
        "\n## Properties\n\nSegments are separated by NUL or dots. Integers are 8 bytes little-endian, booleans 1 byte, \
         times and durations nanoseconds. Besides these: `request.headers.NAME`, `response.headers.NAME`, \
         `plugin_name`, `plugin_root_id`, `plugin_vm_id`, `plugin_vm_memory` (bytes), `listener_direction`, `connection_id`, `call.error` (see Calls), `ngx.VARIABLE`, and whatever a filter \
         has set, which is also there as `filter_state` and `wasm.NAME`.\n\n",
    );
    for (path, _) in ATTRIBUTES {
        let _ = writeln!(text, "- `{path}`");
    }
    text
}

fn section<H: Host>(text: &mut String, title: &str, rows: &[&Entry<H>]) {
    let _ = write!(text, "\n## {title}\n\n| function | ABI | state | remarks |\n|---|---|---|---|\n");
    for row in rows {
        let versions = match row.versions {
            Versions::All => "0.1.0, 0.2.0, 0.2.1",
            Versions::Only010 => "0.1.0",
            Versions::Since020 => "0.2.0, 0.2.1",
            Versions::Since021 => "0.2.1",
            Versions::Runtime => "language runtimes",
            Versions::Wasi => "preview 1",
        };
        let state = match row.support {
            Support::Full => "works",
            Support::Refuses => "refuses",
        };
        let result = if row.returns { " → i32" } else { "" };
        let _ = writeln!(
            text,
            "| `{}({}){result}` | {versions} | {state} | {} |",
            row.name,
            row.params.join(", "),
            row.note
        );
    }
}

fn callbacks(text: &mut String) {
    text.push_str("\n## Callbacks\n\n| export | state | remarks |\n|---|---|---|\n");
    for callback in Callback::ALL {
        let sometimes = WHERE_IT_IS.iter().find(|(other, _)| other == callback);
        let metadata = matches!(callback, Callback::RequestMetadata | Callback::ResponseMetadata);
        let (state, remark) = match sometimes {
            Some((_, proxies)) => ("called where the proxy has them", *proxies),
            None if metadata => ("not called", "in no version of the ABI"),
            None => ("called", ""),
        };
        let _ = writeln!(text, "| `{}` | {state} | {remark} |", callback.name());
    }
}
