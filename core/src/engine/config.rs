//! Settings → wasmtime: every number of the engine, with its unit and default, in one place.

use std::time::Duration;

use super::limits::Limits;
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
    /// Most bytes of an instance's memory that a request may write, if the instance is to be put back and used again.
    /// Instances × this bounds what a worker keeps.
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
            keep_resident: 2 << 20,
            tick: Duration::from_millis(10),
            tracking: Tracking::Auto,
        }
    }
}

/// Bytes of an instance's `VMContext`: functions, globals, tables of a large Go module fit.
const MAX_INSTANCE_BYTES: usize = 4 << 20;

/// Bytes of each table that stay resident between two instances.
const TABLE_KEEP: usize = 64 << 10;

/// Tables of one instance. Every SDK's modules have one.
const TABLES: u32 = 4;

pub(super) fn wasmtime_config(settings: &Settings) -> wasmtime::Config {
    let mut pool = wasmtime::PoolingAllocationConfig::new();
    pool.total_core_instances(settings.instances)
        .total_memories(settings.instances)
        .total_tables(settings.instances.saturating_mul(TABLES))
        .max_memories_per_module(1)
        .max_tables_per_module(TABLES)
        .max_memory_size(settings.limits.memory)
        .table_elements(settings.limits.table_elements)
        .max_core_instance_size(MAX_INSTANCE_BYTES)
        // Memories hold nothing that could be kept: images are mapped over them (pool/image.rs).
        .linear_memory_keep_resident(0)
        .table_keep_resident(TABLE_KEEP)
        .pagemap_scan(wasmtime::Enabled::No);
    let mut config = wasmtime::Config::new();
    config
        .strategy(wasmtime::Strategy::Cranelift)
        .cranelift_opt_level(wasmtime::OptLevel::Speed)
        .allocation_strategy(pool)
        .memory_init_cow(true)
        .memory_reservation(settings.memory_reservation as u64)
        .memory_guard_size(32 << 20)
        .epoch_interruption(true)
        .max_wasm_stack(settings.limits.stack)
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable)
        // No SDK uses these, and each is one more thing that a hostile module could lean on.
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}
