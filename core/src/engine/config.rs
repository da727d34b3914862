//! Settings → wasmtime: every number of the engine, with its unit and default, in one place.

use std::{sync::Arc, time::Duration};

use super::limits::Limits;
use crate::pool::slots::{Creator, GUARD, Slots};
pub use crate::pool::tracker::Tracking;

/// How the engine is made. Equal settings share an engine and compiled modules.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Bounds on what one instance may take.
    pub limits: Limits,
    /// Most instances alive at once in a worker. Each reserves [`Self::memory_reservation`] of address space:
    /// 1000 × 4 GiB is fine under Linux's default limits, 32,000 is not.
    pub instances: u32,
    /// Bytes of address space reserved for each instance's memory. From 4 GiB on, generated code needs no bounds
    /// checks; less suits systems with `ulimit -v`, and costs those checks.
    pub memory_reservation: usize,
    /// Most bytes of its memory that an instance keeps after a request, and as many again of what that has grown by; where
    /// a request has used more, all are given back to the system. Twice instances × this bounds what a worker keeps.
    pub keep_resident: usize,
    /// Time between two epochs: the grain of [`Limits::callback`].
    pub tick: Duration,
    /// How instances are put back after a request.
    pub tracking: Tracking,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            instances: 1000,
            memory_reservation: 4 << 30,
            keep_resident: 8 << 20,
            tick: Duration::from_millis(10),
            tracking: Tracking::Auto,
        }
    }
}

/// `slots` are those of the engine that is made.
pub(super) fn wasmtime_config(settings: &Settings, slots: &Arc<Slots>) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .strategy(wasmtime::Strategy::Cranelift)
        .cranelift_opt_level(wasmtime::OptLevel::Speed)
        .allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand)
        .with_host_memory(Arc::new(Creator(Arc::clone(slots))))
        // Images are mapped by us (pool/image.rs).
        .memory_init_cow(false)
        .memory_may_move(false)
        .memory_reservation(settings.memory_reservation as u64)
        .memory_guard_size(GUARD as u64)
        .epoch_interruption(true)
        .max_wasm_stack(settings.limits.stack)
        // Nothing here has a stack of that kind, but the other may not be larger.
        .async_stack_size(settings.limits.stack.max(2 << 20))
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable)
        // No SDK uses these, and each is one more thing that a hostile module could lean on.
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}
