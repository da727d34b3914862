//! What went wrong in a guest, in words for the log.

use wasmtime::{Trap, WasmBacktrace};

use crate::filter::Callback;

/// A guest called `proxy_exit`-like: WASI's `proc_exit`.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the guest exited with code {0}")]
pub(crate) struct Exit(pub(crate) i32);

/// Why a callback did not come to its end.
#[derive(Debug)]
pub enum Cause {
    /// It ran longer than its limit.
    Deadline,
    /// It used more stack than its limit.
    StackOverflow,
    /// It called `proc_exit`.
    Exit(i32),
    /// Another trap, or an error of a hostcall.
    Trap(wasmtime::Error),
    /// No instance could be made: the pool is exhausted, or memory is.
    Unavailable(wasmtime::Error),
    /// It answered false where that means that it refuses its configuration.
    Refused,
    /// The instance failed earlier, in another callback or another request.
    Gone,
    /// Something that cannot happen did: a fault of ours, which fails the guest only.
    Host(&'static str),
}

impl Cause {
    /// Tells causes apart by wasmtime's error.
    pub(crate) fn of(error: wasmtime::Error) -> Self {
        if let Some(exit) = error.downcast_ref::<Exit>() {
            return Self::Exit(exit.0);
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Self::Unavailable(error);
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Deadline,
            Some(Trap::StackOverflow) => Self::StackOverflow,
            _ => Self::Trap(error),
        }
    }
}

/// A callback failed: which one, and why. The instance it ran in is not used again.
#[derive(Debug)]
pub struct Failure {
    /// The callback.
    pub callback: Callback,
    /// The cause.
    pub cause: Cause,
}

impl Failure {
    pub(crate) fn new(callback: Callback, cause: Cause) -> Self {
        Self { callback, cause }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.callback.name();
        match &self.cause {
            Cause::Deadline => write!(f, "{name} ran longer than its limit and was stopped"),
            Cause::StackOverflow => write!(f, "{name} overflowed its stack"),
            Cause::Exit(code) => write!(f, "{name} ended the guest: proc_exit({code})"),
            Cause::Trap(error) => {
                write!(f, "{name} failed: {}", error.root_cause())?;
                if let Some(trace) = error.downcast_ref::<WasmBacktrace>() {
                    write!(f, "\n{trace}")?;
                }
                Ok(())
            }
            Cause::Unavailable(error) => write!(f, "no instance can be made: {error:#}"),
            Cause::Refused => write!(f, "{name} returned false"),
            Cause::Gone => write!(f, "the instance has failed before; {name} was not called"),
            Cause::Host(what) => write!(f, "{name} failed: {what}"),
        }
    }
}
