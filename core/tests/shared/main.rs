//! Zones and the metrics file under everything that may happen to them: compared with a model, and in processes that are
//! killed. `core/loom` has every order of their steps.

mod counters;
mod model;
mod torture;

use std::sync::atomic::AtomicU64;

use weir_core::shared::{
    layout::{Kind, Layout},
    zone::Zone,
};

/// A zone in memory of this process, with a hash key that is always the same.
fn zone(kind: Kind, size: usize) -> Zone<Box<[AtomicU64]>> {
    let layout = Layout::new(kind, size);
    let memory: Box<[AtomicU64]> = (0..layout.words()).map(|_| AtomicU64::new(0)).collect();
    Zone::create(memory, layout, [1, 2]).expect("large enough")
}
