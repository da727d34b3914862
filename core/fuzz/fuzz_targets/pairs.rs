//! The codec of name/value pairs: see `weir_fuzz::pairs`.
#![no_main]

weir_fuzz::target!(weir_fuzz::pairs::run);
