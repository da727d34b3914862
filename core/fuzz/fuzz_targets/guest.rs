//! A whole guest that calls whatever its input says: see `weir_fuzz::guest`.
#![no_main]

weir_fuzz::target!(weir_fuzz::guest::run);
