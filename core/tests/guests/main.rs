//! Guests of every kind, run against the proxy in memory.
//!
//! One program, since each links wasmtime: a file for what is loaded and for each way a guest can go, and in
//! `hostcalls/` one for each host function.

mod cache;
mod caller;
mod calls;
mod chain;
mod failures;
mod holding;
mod hostcalls;
mod isolation;
mod leaks;
mod lifecycle;
mod limits;
mod loading;
mod numbers;
mod policy;
mod random;
mod recorder;
mod series;
mod stock;
mod support;
mod suspension;
mod trailers;
mod wasi;
