//! Fuzz targets of weir-core: each takes any bytes, makes something of them, and panics where a rule is broken.
//!
//! | target | what it tries |
//! |---|---|
//! | `pairs` | the codec of name/value pairs: any bytes are refused or read whole; what is written is read back |
//! | `properties` | paths: in either form they lead to the same place; what was set is found |
//! | `memory` | ranges that a guest gives: as arithmetic without bounds says |
//! | `bodies` | reads and edits of a body by a guest: the bytes are those of a model |
//! | `guest` | a guest that calls any host function in any callback: no panic, no harm to others, no trace of it later |
//!
//! `scripts/fuzz` runs them under libFuzzer, core compiled with coverage counters; the unit tests here run each with
//! a few random inputs, so that none of them rots.
#![cfg(any(test, feature = "libfuzzer"))]

pub mod bodies;
pub mod guest;
pub mod input;
pub mod memory;
pub mod pairs;
pub mod program;
pub mod properties;

/// Makes a program of a target: the entry that libFuzzer's `main` calls with each input.
#[macro_export]
macro_rules! target {
    ($run:path) => {
        /// One input.
        #[allow(unsafe_code, reason = "libFuzzer's interface")]
        // SAFETY: no other function of this name is linked.
        #[unsafe(no_mangle)]
        extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> std::ffi::c_int {
            // libFuzzer gives a null pointer for the empty input.
            let input = if size == 0 {
                &[]
            } else {
                // SAFETY: libFuzzer's input: `size` bytes, which stay until this function returns.
                unsafe { std::slice::from_raw_parts(data, size) }
            };
            // libFuzzer keeps the input of a process that aborts.
            if std::panic::catch_unwind(|| $run(input)).is_err() {
                std::process::abort();
            }
            0
        }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn every_target_takes_any_bytes(input in prop::collection::vec(any::<u8>(), 0..600)) {
            crate::pairs::run(&input);
            crate::properties::run(&input);
            crate::memory::run(&input);
            crate::bodies::run(&input);
            crate::guest::run(&input);
        }
    }
}
