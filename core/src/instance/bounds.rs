//! How much memory and how large a table an instance may have, and whether it has asked for more.

use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use crate::engine::limits::{Limits, MAX_TABLES};

/// What wasmtime asks before a memory or table grows.
#[derive(Debug)]
pub(super) struct Bounds {
    limits: StoreLimits,
    /// Memory was to grow beyond its limit.
    pub(super) memory_refused: bool,
}

impl Bounds {
    pub(super) fn new(limits: &Limits) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory)
            .table_elements(limits.table_elements)
            .tables(MAX_TABLES)
            .build();
        Self { limits, memory_refused: false }
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = self.limits.memory_growing(current, desired, most)?;
        self.memory_refused |= !allowed;
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, most)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}
