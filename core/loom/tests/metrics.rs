//! Writers of the metrics file in every order: the rooms of `core/src/metrics` that several processes enter at once, with
//! a memory of loom's in place of a mapped file.
#![allow(missing_docs, reason = "a test")]

#[allow(dead_code, unreachable_pub, reason = "readers are tested in core")]
mod metrics {
    #[path = "../../../src/metrics/histogram.rs"]
    mod histogram;
    #[path = "../../../src/metrics/kind.rs"]
    mod kind;
    #[path = "../../../src/metrics/layout.rs"]
    mod layout;
    #[path = "../../../src/metrics/memory.rs"]
    mod memory;
    mod orders;
    #[path = "../../../src/metrics/registry.rs"]
    mod registry;
    #[path = "../../../src/metrics/words.rs"]
    mod words;

    use kind::{Kind, Unit};
}
