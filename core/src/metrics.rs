//! Metrics: what guests define and what Weir counts itself, in memory that all processes of a server share and that
//! anybody with the file can read. docs/METRICS.md tells of it for administrators.
//!
//! ```text
//!  define ──► registry: the directory      one record for each metric, its number in all processes
//!  increment, record ──► the own row       words that nobody else writes
//!  read ──► catalog ──► text               all rows summed up, sorted, as Prometheus reads it
//! ```
//!
//! A worker writes to a row of its own, each metric from one thread, so an increment is a load and a store. What it adds
//! stays in its row when it ends, however it ends, and the next worker goes on there; only how long callbacks took is
//! written down late, and the last of it is lost with a worker that is killed. Nothing is locked between processes, and a process
//! that is killed leaves everything whole. A reload, or a new binary, goes on with the same file.
//!
//! | room | duty |
//! |---|---|
//! | `layout` | what is where in the file |
//! | `words`, `mapped` | the file as shared words |
//! | `memory` | lines of the file, given out to rows |
//! | `registry`, `known` | the directory of metrics, and what a process knows of it |
//! | `rows` | who writes where |
//! | [`histogram`] | buckets |
//! | [`tags`] | names and labels from what guests call their metrics |
//! | [`own`] | metrics of Weir's own |
//! | [`recorder`], `calls`, `clock` | what it counts of a filter |
//! | `ledger`, `tally` | what a worker has measured and will write down; what of it is measured |
//! | [`pulse`], `zones` | what the thread beside a worker notes: how the worker is, how full zones are |
//! | [`catalog`], [`text`], [`snapshot`] | reading |

use std::{
    fmt, io,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

pub(crate) mod calls;
pub mod catalog;
pub mod histogram;
pub(crate) mod ledger;
pub mod own;
pub mod pulse;
pub mod recorder;
pub mod snapshot;
pub mod tags;
pub(crate) mod tally;
pub mod text;

mod clock;
mod kind;
mod known;
mod layout;
mod mapped;
mod memory;
mod registry;
mod rows;
#[cfg(test)]
mod tests;
mod words;
mod zones;

pub use kind::{Kind, Unit};
pub use layout::LEAST_SIZE;
pub use mapped::{OpenError, Origin};
pub use own::{Id, Own, Slot};
pub use words::Words;

use known::Names;
use layout::{AT_GENERATION, AT_NEXT_LINE, CHUNK, CHUNK_LINES, COMMON, LINE, MOST_CHUNKS, MOST_METRICS};
use mapped::Mapped;
use words::{Shared, Word};

/// Whose metrics a guest may define and change: those of its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u32);

/// Says of a line that one process alone writes there. So lines are below it: a file is less than 128 GiB.
const ALONE: u32 = 1 << 31;

/// Weir's own scope.
const OWN: Scope = Scope(0);

/// Why a guest's metric was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricError {
    /// No metric of this filter has that number.
    NotFound,
    /// A metric of that kind cannot do that.
    BadArgument,
    /// The name is longer than the limit, which is this.
    NameTooLong(usize),
    /// There is no memory for another metric.
    Full,
}

/// How metrics are kept, as an administrator says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Bytes of the file.
    pub size: usize,
    /// Most bytes of a name that a guest gives.
    pub name_length: usize,
    /// Whether Weir counts what filters do, and which callbacks it times.
    pub callbacks: Timing,
    /// How tags are taken out of names, before the forms that are known.
    pub tags: Vec<tags::TagRule>,
}

/// What Weir counts of callbacks, and which of them it times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// It counts nothing that filters do.
    Off,
    /// It times callbacks that run seldom, and of others a sample, which stands for all.
    Sampled,
    /// It times each.
    All,
}

impl Default for Options {
    fn default() -> Self {
        Self { size: 16 << 20, name_length: 256, callbacks: Timing::Sampled, tags: Vec::new() }
    }
}

/// Nanoseconds since 1970.
fn realtime() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The metrics of a server, as one process sees them. Made in the master, and inherited by workers through fork.
pub struct Metrics {
    words: Mapped,
    options: Options,
    generation: u64,
    /// The row this process writes to.
    row: AtomicUsize,
    /// By number of a metric: its cell, kind (+ 1) and scope; 0 while that is not known.
    cells: Box<[AtomicU64]>,
    /// By number of a chunk: the line where it begins in the own row, and [`ALONE`] if it is there; 0 while that is not
    /// known.
    own: Box<[AtomicU32]>,
    /// The same in everybody's row.
    common: Box<[AtomicU32]>,
    names: Mutex<Names>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("words", &self.words).field("row", &self.row).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics in the file at `path`: those of a running server go on.
    ///
    /// # Errors
    /// [`OpenError`], whose text is fit for an administrator.
    pub fn open(path: &Path, options: Options) -> Result<(Self, Origin), OpenError> {
        let (words, origin) = Mapped::open(path, options.size, realtime())?;
        Ok((Self::new(words, options), origin))
    }

    /// Whether [`open`](Self::open) can be expected to work. Nothing is made or changed.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn check(path: &Path) -> Result<(), OpenError> {
        Mapped::check(path)
    }

    /// Metrics in memory without a name, which children share.
    ///
    /// # Errors
    /// What the system said.
    pub fn nameless(options: Options) -> io::Result<Self> {
        Ok(Self::new(Mapped::nameless(options.size, realtime())?, options))
    }

    fn new(words: Mapped, options: Options) -> Self {
        let generation = words.load(AT_GENERATION) + 1;
        Self {
            words,
            options,
            generation,
            row: AtomicUsize::new(COMMON),
            cells: (0..MOST_METRICS).map(|_| AtomicU64::new(0)).collect(),
            own: (0..MOST_CHUNKS).map(|_| AtomicU32::new(0)).collect(),
            common: (0..MOST_CHUNKS).map(|_| AtomicU32::new(0)).collect(),
            names: Mutex::default(),
        }
    }

    /// For a process that begins: where somebody has shortened the file, so that whoever touched it was killed, it gets
    /// its length back. Answers whether that was so. What was cut off is gone; nothing is counted there until metrics are
    /// opened anew.
    ///
    /// # Errors
    /// What the system said.
    pub fn lengthen(&self) -> io::Result<bool> {
        self.words.lengthen()
    }

    /// How they are kept.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The words they are in, for readers.
    #[must_use]
    pub fn words(&self) -> &impl Words {
        &self.words
    }

    /// The configuration that these were opened for is the one that runs from now on.
    pub fn begin_generation(&self) {
        self.words.raise(AT_GENERATION, self.generation);
    }

    /// Where `cell` is in the own row, or in everybody's where that has no memory.
    #[inline]
    fn own_word(&self, cell: usize) -> Option<Word> {
        match self.own.get(cell / CHUNK)?.load(Ordering::Relaxed) {
            0 => self.find(&self.own, self.row.load(Ordering::Relaxed), cell),
            line => Some(word_of(line, cell)),
        }
    }

    /// Where `cell` is in everybody's row.
    #[inline]
    fn common_word(&self, cell: usize) -> Option<Word> {
        match self.common.get(cell / CHUNK)?.load(Ordering::Relaxed) {
            0 => self.find(&self.common, COMMON, cell),
            line => Some(word_of(line, cell)),
        }
    }

    #[cold]
    fn find(&self, known: &[AtomicU32], row: usize, cell: usize) -> Option<Word> {
        let chunk = cell / CHUNK;
        let own = if row == COMMON { None } else { memory::make_chunk(&self.words, row, chunk) };
        let (line, alone) = match own {
            Some(line) => (line, ALONE),
            None => (memory::make_chunk(&self.words, COMMON, chunk)?, 0),
        };
        let line = u32::try_from(line).ok().filter(|line| line & ALONE == 0)? | alone;
        known.get(chunk)?.store(line, Ordering::Relaxed);
        Some(word_of(line, cell))
    }

    /// `proxy_increment_metric`: a counter by more, a gauge by more or less.
    ///
    /// # Errors
    /// [`MetricError::BadArgument`] for a histogram, and for a counter that would become less (as in Envoy).
    #[inline]
    pub fn increment(&self, scope: Scope, id: u32, offset: i64) -> Result<(), MetricError> {
        let (cell, kind) = self.cell(scope, id).ok_or(MetricError::NotFound)?;
        match kind {
            Kind::Counter => {
                let offset = u64::try_from(offset).map_err(|_| MetricError::BadArgument)?;
                self.add_to(self.own_word(cell), offset);
            }
            Kind::Gauge => self.add_to(self.common_word(cell), offset.cast_unsigned()),
            Kind::Histogram | Kind::Level => return Err(MetricError::BadArgument),
        }
        Ok(())
    }

    /// `proxy_record_metric`: sets a gauge, records a value in a histogram, and, as in Envoy, adds to a counter.
    ///
    /// # Errors
    /// [`MetricError::NotFound`]
    pub fn record(&self, scope: Scope, id: u32, value: u64) -> Result<(), MetricError> {
        let (cell, kind) = self.cell(scope, id).ok_or(MetricError::NotFound)?;
        match kind {
            Kind::Counter => self.add_to(self.own_word(cell), value),
            Kind::Gauge => self.set_to(self.common_word(cell), value),
            Kind::Histogram => self.record_in(cell, value),
            Kind::Level => self.set_to(self.own_word(cell), value),
        }
        Ok(())
    }

    /// `proxy_get_metric`: what all workers have counted.
    ///
    /// # Errors
    /// [`MetricError::BadArgument`] for a histogram (as in Envoy).
    pub fn get(&self, scope: Scope, id: u32) -> Result<u64, MetricError> {
        let (cell, kind) = self.cell(scope, id).ok_or(MetricError::NotFound)?;
        match kind {
            Kind::Counter | Kind::Gauge => Ok(catalog::sum(&self.words, cell)),
            Kind::Histogram | Kind::Level => Err(MetricError::BadArgument),
        }
    }

    #[inline]
    fn add_to(&self, word: Option<Word>, value: u64) {
        if let Some(word) = word {
            word.add(&self.words, value);
        }
    }

    fn set_to(&self, word: Option<Word>, value: u64) {
        if let Some(word) = word {
            self.words.store(word.at, value);
        }
    }

    #[inline]
    fn record_in(&self, cell: usize, value: u64) {
        if let Some(head) = self.own_word(cell) {
            histogram::record(&self.words, head, value);
        }
    }

    /// Bytes of the file that have been given out, and all of them.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        let line = (LINE * size_of::<u64>()) as u64;
        (self.words.load(AT_NEXT_LINE) * line, self.words.size() as u64 / LINE as u64 * line)
    }
}

/// Where `cell` is, in the chunk that begins at `line`, which is marked [`ALONE`] or not.
#[inline]
fn word_of(line: u32, cell: usize) -> Word {
    Word { at: (line & !ALONE) as usize * LINE + cell % CHUNK, alone: line & ALONE != 0 }
}

/// Chunks are looked up by line in 32 bits.
const _: () = assert!(CHUNK_LINES < u32::MAX as usize);
