//! Every bound that Weir sets, in one place: what a guest gives is hostile, and what it may take is finite.
//!
//! Bounds that an administrator may want to move are fields of [`Limits`]; the others are constants.

use std::time::Duration;

/// Most pairs in one serialized list; Envoy's limit is the same order.
pub const MAX_PAIRS: usize = 1024;

/// Most bytes of one serialized list, 1 MiB.
pub const MAX_PAIRS_BYTES: usize = 1024 * 1024;

/// Most bytes of a property's path.
pub const MAX_PROPERTY_PATH: usize = 4096;

/// Most properties that one directive's filter may declare.
pub const MAX_DECLARATIONS: usize = 64;

/// Most bytes of a property's value that a filter sets.
pub const MAX_PROPERTY_VALUE: usize = 1024 * 1024;

/// Most properties that the filters of one stream may set.
pub const MAX_PROPERTIES: usize = 1024;

/// Most bytes of one line that a guest logs; the rest is cut.
pub const MAX_LOG_LINE: usize = 16 * 1024;

/// Most bytes that one `random_get` fills, 64 KiB (POSIX leaves more to a loop in the caller; so do all SDKs).
pub const MAX_RANDOM: usize = 64 * 1024;

/// Most buffers in one `fd_write`; POSIX's IOV_MAX on Linux.
pub const MAX_IOVECS: usize = 1024;

/// Most subscriptions in one `poll_oneoff`.
pub const MAX_SUBSCRIPTIONS: usize = 1024;

/// Most bytes that the foreign function `compress` takes, 4 MiB: some tenth of a second of a worker's time.
pub const MAX_COMPRESSED: usize = 4 * 1024 * 1024;

/// Most bytes that the foreign function `uncompress` answers, 16 MiB.
pub const MAX_UNCOMPRESSED: usize = 16 * 1024 * 1024;

/// Most bytes of a text that the foreign functions `sign` and `verify_signature` take, 4 MiB.
pub const MAX_SIGNED: usize = 4 * 1024 * 1024;

/// Most bytes of a `.wasm` file, 256 MiB.
pub const MAX_MODULE_BYTES: u64 = 256 * 1024 * 1024;

/// Most bytes of a file that a filter reads as its configuration, 16 MiB.
pub const MAX_CONFIGURATION_BYTES: u64 = 16 * 1024 * 1024;

/// Most tables of one instance. Every SDK's modules have one.
pub const MAX_TABLES: usize = 4;

/// Bounds on what one instance may take, each with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Bytes of linear memory.
    pub memory: usize,
    /// Elements of each table. Large Go modules need some ten thousand.
    pub table_elements: usize,
    /// Bytes of native stack that guest code may use. nginx's own stack is 8 MiB by default.
    pub stack: usize,
    /// Longest that one callback may run, in time that the process runs.
    pub callback: Duration,
    /// Longest that starting and configuring an instance may take.
    pub configuration: Duration,
    /// Requests that one instance may serve at once, where it is shared.
    pub contexts: usize,
    /// Contexts of requests that are over, which one shared instance may keep by answering false in `on_done`.
    pub deferred: usize,
    /// Lines that the instances of one filter may log in a worker.
    pub log: LogLimit,
    /// Calls out that live at once in a worker.
    pub calls: usize,
    /// Bytes of the response to one call: of its headers, of its body; of one message of gRPC.
    pub call_response: usize,
    /// Longest that a call may take whose guest gives no timeout.
    pub call_timeout: Duration,
}

/// How many lines are logged; what is more is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogLimit {
    /// Lines each second, in the long run; 0: any number.
    pub rate: u32,
    /// Lines at once.
    pub burst: u32,
}

impl Default for LogLimit {
    /// A line for each request stays possible; writing ten thousand lines a second takes a worker some percent of its
    /// time.
    fn default() -> Self {
        Self { rate: 10_000, burst: 10_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 * 1024 * 1024,
            table_elements: 100_000,
            stack: 512 * 1024,
            callback: Duration::from_millis(30),
            configuration: Duration::from_secs(5),
            contexts: 16_384,
            deferred: 1024,
            log: LogLimit::default(),
            calls: 16_384,
            call_response: 1024 * 1024,
            call_timeout: Duration::from_secs(5),
        }
    }
}
