//! Edits of bodies, by a guest, against a model: see `weir_fuzz::bodies`.
#![no_main]

weir_fuzz::target!(weir_fuzz::bodies::run);
