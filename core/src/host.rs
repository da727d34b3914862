//! The seam: what a proxy must offer so that filters can run in it.
//!
//! Core calls these traits and nothing else of the proxy; the proxy calls [`crate::chain`] and [`crate::shard`].
//! Hostcalls never run the proxy's own machinery: they read, edit or record, and the proxy acts once the callback
//! has returned. So no implementation here may call back into a guest.

use crate::abi::types::LogLevel;

pub mod calls;
pub mod crypto;
pub mod root;
pub mod stream;
pub mod views;

pub use calls::Calls;
pub use crypto::Crypto;
pub use root::{RootHost, RootId};
pub use stream::{Attribute, LocalResponse, StreamError, StreamHost, Value};
pub use views::{Bodies, BufferError, Buffers, Hold, MapError, Maps};

/// A proxy: the pair of handles that its worker and its requests are known by.
pub trait Host: Sized + std::fmt::Debug + 'static {
    /// One worker, as root contexts see it.
    type Root: RootHost + Calls<Self::Stream> + Crypto;
    /// One request, as its stream contexts see it.
    type Stream: StreamHost;
}

/// Who speaks in a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The guest, through `proxy_log` or its standard output or error.
    Guest,
    /// Weir itself, about the guest.
    Weir,
}

/// One line for the proxy's error log.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// Its severity.
    pub level: LogLevel,
    /// Name of the filter it is about, as the configuration has it.
    pub filter: &'a str,
    /// Who says it.
    pub speaker: Speaker,
    /// What is said: any bytes, without a trailing newline. The sink must make control characters harmless.
    pub message: &'a [u8],
}

/// Where log lines go.
pub trait LogSink {
    /// Writes one line, if its level is enabled.
    fn log(&self, line: LogLine<'_>);

    /// The least severe level that is written at all; lines below it need not be made.
    fn log_level(&self) -> LogLevel;
}
