//! Statuses of hostcalls, and how everything that can go wrong becomes one.
//!
//! Source of the numbers: specification v0.2.1, `proxy_status_t`.

use std::fmt;

use super::{memory::OutOfBounds, pairs::PairsError};
use crate::host::{BufferError, StreamError};

/// What a hostcall answers (`proxy_status_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// There is no such thing.
    NotFound = 1,
    /// An argument makes no sense.
    BadArgument = 2,
    /// A value could not be serialized.
    SerializationFailure = 3,
    /// A value could not be parsed.
    ParseFailure = 4,
    /// A pointer or length leads outside the guest's memory.
    InvalidMemoryAccess = 6,
    /// The queue is empty.
    Empty = 7,
    /// Somebody else has written meanwhile.
    CasMismatch = 8,
    /// The host failed.
    InternalFailure = 10,
    /// The host does not have this function (yet).
    Unimplemented = 12,
}

impl Status {
    /// The ABI's number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self as i32
    }
}

/// How a hostcall ends when it does not end well.
pub(crate) enum HostcallError {
    /// The guest is told.
    Status(Status),
    /// The guest's execution ends.
    Trap(wasmtime::Error),
}

/// What hostcalls return inside core.
pub(crate) type Hostcall<T = ()> = Result<T, HostcallError>;

impl fmt::Debug for HostcallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "Status({status:?})"),
            Self::Trap(error) => write!(f, "Trap({error:?})"),
        }
    }
}

impl From<Status> for HostcallError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<OutOfBounds> for HostcallError {
    fn from(OutOfBounds: OutOfBounds) -> Self {
        Self::Status(Status::InvalidMemoryAccess)
    }
}

impl From<PairsError> for HostcallError {
    fn from(_: PairsError) -> Self {
        Self::Status(Status::BadArgument)
    }
}

impl From<BufferError> for HostcallError {
    fn from(error: BufferError) -> Self {
        Self::Status(match error {
            BufferError::Unavailable => Status::NotFound,
            BufferError::Frozen => Status::BadArgument,
            BufferError::Io | BufferError::NoMemory => Status::InternalFailure,
        })
    }
}

impl From<StreamError> for HostcallError {
    fn from(error: StreamError) -> Self {
        Self::Status(match error {
            StreamError::TooLate | StreamError::Refused(_) => Status::BadArgument,
            StreamError::Gone => Status::NotFound,
            StreamError::NoMemory => Status::InternalFailure,
        })
    }
}

/// The number that goes back to the guest, or the error that ends it.
pub(crate) fn answer(result: Hostcall) -> wasmtime::Result<i32> {
    match result {
        Ok(()) => Ok(Status::Ok.raw()),
        Err(HostcallError::Status(status)) => Ok(status.raw()),
        Err(HostcallError::Trap(error)) => Err(error),
    }
}
