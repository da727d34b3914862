//! Weir's nginx module: Proxy-Wasm filters inside nginx's workers.
//!
//! | room | what is in it |
//! |---|---|
//! | `module` | the statics nginx looks up, the entries it calls |
//! | `directives`, `conf` | the configuration: table, inheritance, what is made of it in the master |
//! | `worker` | a worker's shard of instances and its epoch thread |
//! | `phase` | which phase or filter of nginx calls which callback |
//! | `stream` | the record of one request; pausing, resuming, local responses |
//! | `content` | handlers of our own: the metrics |
//! | `host` | core's traits, for nginx |
//! | `grpc_status` | statuses of gRPC calls in headers |
//! | `ngx` | the unsafe room: safe faces for nginx's structures |
//!
//! `unsafe` lives in `ngx` and `module` only; docs/UNSAFE.md has the rules.

#![deny(unsafe_code)]

mod calls;
mod conf;
mod content;
mod directives;
mod grpc_status;
mod host;
#[allow(unsafe_code, reason = "the statics and entries of an nginx module are C by nature")]
mod module;
#[allow(unsafe_code, reason = "the one room where nginx's structures are touched")]
mod ngx;
mod perf_map;
mod phase;
mod stream;
mod worker;

/// nginx has its own pools for requests; this is for what Weir and wasmtime allocate. It works without static TLS, so
/// the module can be loaded by `dlopen`.
#[cfg(not(any(test, feature = "system-allocator")))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
