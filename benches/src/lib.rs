//! Benches of weir-core: `cargo bench --workspace --bench requests`, after `scripts/build-guests`.
//!
//! | bench | workload |
//! |---|---|
//! | `requests` | one request's check-out, callbacks and reset, by guest, isolation and instances in turn |
