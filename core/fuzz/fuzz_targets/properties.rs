//! Paths of properties: see `weir_fuzz::properties`.
#![no_main]

weir_fuzz::target!(weir_fuzz::properties::run);
