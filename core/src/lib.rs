//! weir-core: a Proxy-Wasm host on wasmtime. Knows no proxy, does no I/O on a request's path.
//!
//! # The life of one request
//!
//! 1. In the master, once: an [`engine`] is made, each module becomes a [`filter`], and the [`plan`] works out which
//!    filters each location runs and which of them share an instance; every group of directives is configured once
//!    on trial.
//! 2. A worker holds a [`shard`]. For a request it begins a [`chain`]: instances are checked out of the pool, and each
//!    filter's stream context is created.
//! 3. The proxy tells the chain what happens (headers, bodies, trailers). The chain enters the instances, in order for
//!    requests and reversed for responses; what guests call back goes through the table in [`abi`] to the
//!    proxy, which core knows only as the traits in [`host`].
//! 4. The chain's verdict says what the proxy has to do: go on, hold, send a local response, fail.
//! 5. At the end each context is finished and the instances go back.
//!
//! Filters may call others meanwhile: the proxy makes the calls, and tells the shard what comes back ([`host::calls`]).
//!
//! What filters share with those of other workers lies in [`shared`] memory.
//!
//! What goes wrong in a guest is a [`failure`]: it ends that instance and that request, nothing else.

#![deny(unsafe_code)]

pub mod abi;
pub mod chain;
pub mod context;
pub mod engine;
pub mod failure;
pub mod filter;
pub mod host;
pub mod instance;
pub mod metrics;
pub mod plan;
pub mod profile;
pub mod shard;
pub mod shared;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod calls;
mod pool;
mod wasi;
