//! Ranges of a guest's memory: see `weir_fuzz::memory`.
#![no_main]

weir_fuzz::target!(weir_fuzz::memory::run);
