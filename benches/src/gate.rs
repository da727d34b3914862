//! The gate: whether a change has made something slower.
//!
//! ```text
//!  budgets.toml ──► which benches, what they may cost
//!  programs of head, and of base ──► measure: in turns, round by round ──► judge ──► report
//! ```
//!
//! Times are noisy, so a bench is slower only if that shows in most rounds, in each of which base and head ran right
//! after one another, and in the fastest round of either. Instructions are not, so they have small tolerances and need no base: the budgets say how
//! many there may be.

pub mod budgets;
pub mod judge;
pub mod measure;
pub mod report;

pub use budgets::Budgets;
pub use judge::{Finding, judge};
pub use measure::{Measured, Programs};
