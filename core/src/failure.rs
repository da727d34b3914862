//! What went wrong in a guest, in words for the log; and what follows from it: [`Policy`] for the request,
//! [`Budget`] for the filter.

use std::time::Duration;

use wasmtime::{Trap, WasmBacktrace};

use crate::filter::Callback;

mod policy;
pub(crate) mod suspension;
mod trace;

pub use policy::Policy;
pub use suspension::Budget;

/// A guest called `proxy_exit`-like: WASI's `proc_exit`.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the guest exited with code {0}")]
pub(crate) struct Exit(pub(crate) i32);

/// Why a callback did not come to its end.
#[derive(Debug)]
pub enum Cause {
    /// It ran longer than its limit.
    Deadline(wasmtime::Error),
    /// It used more stack than its limit.
    StackOverflow(wasmtime::Error),
    /// It called `proc_exit`.
    Exit(i32),
    /// Another trap, or an error of a hostcall.
    Trap(wasmtime::Error),
    /// No instance could be made: the pool is exhausted, or memory is.
    Unavailable(wasmtime::Error),
    /// The shared instance serves as many requests as it may.
    Crowded(usize),
    /// It answered false where that means that it refuses its configuration.
    Refused,
    /// The instance failed earlier, in another callback or another request.
    Gone,
    /// The instance in which the filter holds this request failed in another request.
    Orphaned,
    /// It has failed too often, and is not run for as long.
    Suspended(Duration),
    /// Something that cannot happen did: a fault of ours, which fails the guest only.
    Host(&'static str),
}

impl Cause {
    /// Tells causes apart by wasmtime's error.
    pub(crate) fn of(error: wasmtime::Error) -> Self {
        if let Some(exit) = error.downcast_ref::<Exit>() {
            return Self::Exit(exit.0);
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Deadline(error),
            Some(Trap::StackOverflow) => Self::StackOverflow(error),
            _ => Self::Trap(error),
        }
    }

    /// What it is called in metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::StackOverflow(_) => "stack",
            Self::Exit(_) => "exit",
            Self::Trap(_) => "trap",
            Self::Unavailable(_) => "unavailable",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Crowded(_) => "crowded",
            Self::Orphaned => "orphaned",
            Self::Suspended(_) => "suspended",
            Self::Host(_) => "host",
        }
    }

    /// Whether it is the filter's own doing, in the callback at hand: what counts for its [`Budget`].
    pub(crate) const fn is_own(&self) -> bool {
        match self {
            Self::Deadline(_) | Self::StackOverflow(_) | Self::Exit(_) | Self::Trap(_) | Self::Refused => {
                true
            }
            Self::Unavailable(_)
            | Self::Crowded(_)
            | Self::Gone
            | Self::Orphaned
            | Self::Suspended(_)
            | Self::Host(_) => false,
        }
    }

    /// After how long it may be worth while to ask again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Suspended(time) => Some(*time),
            // Instances come back as soon as requests end.
            Self::Unavailable(_) | Self::Crowded(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Where in the guest it happened.
    fn backtrace(&self) -> Option<&WasmBacktrace> {
        match self {
            Self::Deadline(error) | Self::StackOverflow(error) | Self::Trap(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// A callback failed: which one, and why. The instance it ran in is not used again.
///
/// As text it is one line, with the guest's backtrace at its end; in the alternate form (`{:#}`) the backtrace follows
/// in lines of its own.
///
/// One pointer, so that what a callback answers fits into registers: it is passed through many hands, and seldom there.
#[derive(Debug)]
pub struct Failure(Box<Details>);

/// What a [`Failure`] consists of.
#[derive(Debug)]
pub struct Details {
    /// The callback.
    pub callback: Callback,
    /// The cause.
    pub cause: Cause,
    /// It was called by a function of ours, which is the outermost one of the backtrace.
    in_series: bool,
}

impl Failure {
    #[cold]
    pub(crate) fn new(callback: Callback, cause: Cause) -> Self {
        Self(Box::new(Details { callback, cause, in_series: false }))
    }

    /// The same in a callback that was one of [several](crate::filter::series).
    #[cold]
    pub(crate) fn in_series(callback: Callback, cause: Cause) -> Self {
        Self(Box::new(Details { callback, cause, in_series: true }))
    }
}

impl std::ops::Deref for Failure {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.callback.name();
        match &self.cause {
            Cause::Deadline(_) => write!(f, "{name} ran longer than its limit and was stopped")?,
            Cause::StackOverflow(_) => write!(f, "{name} overflowed its stack")?,
            Cause::Exit(0)
                if matches!(self.callback, Callback::Start | Callback::Main | Callback::MainVoid) =>
            {
                let advice =
                    "a filter has to stay there: build it as a library (in Go with -buildmode=c-shared)";
                write!(f, "{name} ended the guest: proc_exit(0); {advice}")?;
            }
            Cause::Exit(code) => write!(f, "{name} ended the guest: proc_exit({code})")?,
            Cause::Trap(error) => write!(f, "{name} failed: {}", error.root_cause())?,
            Cause::Unavailable(error) => write!(f, "no instance can be made: {error:#}")?,
            Cause::Crowded(most) => {
                write!(
                    f,
                    "its shared instance serves {most} requests, as many as \"contexts_limit\" allows"
                )?;
            }
            Cause::Refused => write!(f, "{name} returned false")?,
            Cause::Gone => write!(f, "the instance has failed before; {name} was not called")?,
            Cause::Orphaned => {
                f.write_str("the instance that holds this request has failed in another one")?
            }
            Cause::Suspended(time) => {
                write!(f, "it has failed too often and is suspended for {:.1} s", time.as_secs_f64())?;
            }
            Cause::Host(what) => write!(f, "{name} failed: {what}")?,
        }
        match self.cause.backtrace() {
            Some(trace) => {
                let (begin, between) = if f.alternate() { ("\n  ", "\n  ") } else { (" ", ", ") };
                let frames = trace.frames();
                let guests = frames.len().saturating_sub(self.in_series.into());
                let text = trace::text(frames.get(..guests).unwrap_or_default(), between);
                write!(f, "; wasm backtrace:{begin}{text}")
            }
            None => Ok(()),
        }
    }
}
