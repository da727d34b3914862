//! Benches of weir-core, and what they share: a worker without a proxy, whose filters are guests of `target/guests` or
//! text.
//!
//! `cargo bench --workspace --bench NAME`, after `scripts/build-guests`. Benches are compiled with the same settings as
//! everything else, so wasmtime is not compiled again. `-- FILTER` runs those whose name contains FILTER.
//!
//! | bench | workload |
//! |---|---|
//! | `requests` | one request's check-out, callbacks and reset, by guest, isolation and instances in turn; the same without a chain; check-out alone, by the size of the pool; chains; the first write to a page; twenty headers set, read and removed |
//! | `floor` | what wasmtime alone takes for the six callbacks of a request, and for them and copying back what they have written |
//! | `hostcalls` | calls into a guest and out of it; each host function, by the size of what it is given; bodies by their parts |
//! | `pairs` | the codec of header maps |
//! | `shared` | metrics, shared data and queues, with one thread and with two; ten thousand metrics written out |
//! | `start` | what a start of nginx does: engine, compiling, artefacts, images |
//! | `instructions` | instructions (callgrind) of the hot paths, which do not depend on what else the machine does |
//!
//! Views of nginx's chains are in ngx-glue, which is no library that a program could be linked with: they are timed by a
//! test of its own, `ngx-glue/src/ngx/lane/bench.rs`.
//!
//! [`gate`] compares two commits by these; `scripts/bench-gate` builds and runs it.
#![forbid(unsafe_code)]

pub mod gate;

mod worker;

pub use worker::{Bench, Case, Guest, finish, zones};

/// As in the module.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
