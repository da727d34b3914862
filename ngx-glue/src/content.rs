//! Handlers of our own: what a location answers itself.

pub(crate) mod metrics;
pub(crate) mod profile;
