//! The room `shared` of weir-core by itself, for `tests/orders.rs`. Its source is the one in `core/src`, by a link.

#![allow(dead_code, reason = "what hostcalls use is not used here")]

pub mod shared;
