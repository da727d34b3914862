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
//! | `registry` | the directory of metrics |
//! | [`histogram`] | buckets |
//! | [`tags`] | names and labels from what guests call their metrics |
//! | [`own`] | metrics of Weir's own |
//! | [`recorder`], `calls`, `clock` | what it counts of a filter |
//! | `ledger` | what a worker has measured and will write down |
//! | [`pulse`], `zones` | what the thread beside a worker notes: how the worker is, how full zones are |
//! | [`catalog`], [`text`], [`snapshot`] | reading |

use std::{
    collections::HashMap,
    fmt, io,
    path::Path,
    sync::{
        Mutex, PoisonError,
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
pub mod text;

mod clock;
mod kind;
mod layout;
mod mapped;
mod memory;
mod registry;
#[cfg(test)]
mod tests;
mod words;
mod zones;

pub use kind::{Kind, Unit};
pub use layout::LEAST_SIZE;
pub use mapped::{OpenError, Origin};
pub use own::{Id, Own, Slot};
pub use words::Words;

use layout::{
    AT_GENERATION, AT_LEADER, AT_NEXT_LINE, AT_ROWS, CHUNK, CHUNK_LINES, COMMON, LINE, MOST_CHUNKS,
    MOST_METRICS, MOST_ROWS, ROW_PID, ROW_STARTED, row_at,
};
use mapped::Mapped;
use registry::{Definition, Record};
use words::{Shared, Word, place};

/// Whose metrics a guest may define and change: those of its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(u32);

/// Milliseconds between two times that what belongs to all processes is published.
const LEAD: u64 = 900;

/// Milliseconds after which another process does.
const SUCCEED: u64 = 3000;

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
    /// Weir counts what filters do.
    pub callbacks: bool,
    /// How tags are taken out of names, before the forms that are known.
    pub tags: Vec<tags::TagRule>,
}

impl Default for Options {
    fn default() -> Self {
        Self { size: 16 << 20, name_length: 256, callbacks: true, tags: Vec::new() }
    }
}

/// Nanoseconds since 1970.
fn realtime() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What this process has learned of the directory.
#[derive(Default)]
struct Names {
    /// Numbers of metrics by scope, kind and name.
    known: HashMap<(String, Kind, Vec<u8>), u32>,
    /// How many slots of the directory have been looked at.
    seen: usize,
    /// Scopes that have a number: 0 is Weir's own.
    scopes: HashMap<String, u32>,
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

    /// Takes a row for this process, `pid`: one that no process has. Rows of processes that have died become free.
    /// `is_alive` tells whether one still runs.
    ///
    /// Where all rows are taken everybody's has to do, which costs time but loses nothing.
    pub fn claim_row(&self, pid: u32, is_alive: impl Fn(u32) -> bool) {
        let mut claimed = COMMON;
        for row in COMMON + 1..MOST_ROWS {
            let at = row_at(row) + ROW_PID;
            let mut owner = self.words.load(at);
            if owner != 0 && owner != u64::from(pid) && !u32::try_from(owner).is_ok_and(&is_alive) {
                // Somebody else's by now, if that fails.
                let freed = self.words.replace(at, owner, 0);
                owner = freed.map_or_else(|other| other, |()| 0);
            }
            let free = claimed == COMMON && (owner == 0 || owner == u64::from(pid));
            if free && self.words.replace(at, owner, u64::from(pid)).is_ok() {
                claimed = row;
            }
            if claimed != COMMON && row >= place(self.words.load(AT_ROWS)) {
                break;
            }
        }
        self.row.store(claimed, Ordering::Relaxed);
        for chunk in &self.own {
            chunk.store(0, Ordering::Relaxed);
        }
        if claimed != COMMON {
            self.words.store(row_at(claimed) + ROW_STARTED, realtime());
            self.words.raise(AT_ROWS, claimed as u64 + 1);
            self.clear_levels(claimed);
        }
    }

    /// Whether this process is the one that publishes what belongs to all of them: one at a time, at most once in
    /// [`LEAD`], and only of those that run the newest configuration. Another one takes its place when it has been
    /// silent for [`SUCCEED`].
    pub(crate) fn leads(&self) -> bool {
        if self.words.load(AT_GENERATION) != self.generation {
            return false;
        }
        let now = realtime() / 1_000_000;
        let row = self.row.load(Ordering::Relaxed) as u64;
        let word = self.words.load(AT_LEADER);
        // A clock that is set back makes a while pass, too.
        let silent = now.abs_diff(word >> 8);
        let wait = if word & 0xff == row { LEAD } else { SUCCEED };
        silent >= wait && self.words.replace(AT_LEADER, word, now << 8 | row).is_ok()
    }

    /// Whether this process has a row.
    #[must_use]
    pub fn has_row(&self) -> bool {
        self.row.load(Ordering::Relaxed) != COMMON
    }

    /// Gives the row back: what is in it stays.
    pub fn release_row(&self, pid: u32) {
        let row = self.row.swap(COMMON, Ordering::Relaxed);
        if row != COMMON {
            self.clear_levels(row);
            // Somebody else's, if this process was thought to be dead: it keeps it.
            let _ = self.words.replace(row_at(row) + ROW_PID, u64::from(pid), 0);
        }
        for chunk in &self.own {
            chunk.store(0, Ordering::Relaxed);
        }
    }

    /// There is nothing in a row that nobody has yet, or has any more.
    fn clear_levels(&self, row: usize) {
        for at in 0.. {
            let Some(line) = registry::line_of(&self.words, at) else { return };
            let Some(record) = Record::read(&self.words, line) else { continue };
            if record.kind == Kind::Level
                && let Some(word) = memory::find_cell(&self.words, row, record.cell)
            {
                self.words.store(word, 0);
            }
        }
    }

    /// The scope of filter `name`.
    pub fn scope(&self, name: &str) -> Scope {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        Scope(names.scope(name))
    }

    /// Defines a guest's metric, and returns its number: the same in all workers, and after a reload.
    ///
    /// # Errors
    /// [`MetricError`]
    pub fn define(&self, filter: &str, kind: Kind, name: &[u8]) -> Result<u32, MetricError> {
        if name.len() > self.options.name_length {
            return Err(MetricError::NameTooLong(self.options.name_length));
        }
        if let Some(id) = self.known(filter, kind, name) {
            return Ok(id);
        }
        let named = tags::name(filter, kind, name, &self.options.tags);
        let definition = Definition {
            kind,
            unit: Unit::None,
            transient: false,
            scope: filter,
            name,
            family: &named.family,
            labels: &named.labels,
            help: "Defined by a filter.",
        };
        // An eighth is left for Weir's own metrics and for rows and buckets of those that are there.
        let reserve = self.words.size() / LINE / 8;
        self.define_in(&definition, reserve).ok_or(MetricError::Full)
    }

    fn known(&self, scope: &str, kind: Kind, name: &[u8]) -> Option<u32> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.learn(&mut names);
        names.known.get(&(scope.to_owned(), kind, name.to_vec())).copied()
    }

    fn define_in(&self, definition: &Definition<'_>, reserve: usize) -> Option<u32> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.learn(&mut names);
        let key = (definition.scope.to_owned(), definition.kind, definition.name.to_vec());
        let from = names.known.get(&key).map_or(names.seen, |id| place(u64::from(*id)) - 1);
        let at = registry::define(&self.words, definition, from, self.generation, reserve).ok()?;
        self.learn(&mut names);
        u32::try_from(at + 1).ok()
    }

    /// Looks at slots of the directory that have been filled since, by whichever process.
    fn learn(&self, names: &mut Names) {
        while let Some(line) = registry::line_of(&self.words, names.seen) {
            let at = names.seen;
            names.seen += 1;
            // One that lies behind the end of an older, smaller mapping is nobody's here.
            let Some(record) = Record::read(&self.words, line) else { continue };
            let scope = names.scope(&record.scope);
            let (Some(known), Ok(id)) = (self.cells.get(at), u32::try_from(at + 1)) else { continue };
            known.store(pack(record.cell, record.kind, Scope(scope)), Ordering::Relaxed);
            names.known.insert((record.scope, record.kind, record.name), id);
        }
    }

    /// Cell and kind of metric number `id`, if it belongs to `scope`.
    #[inline]
    fn cell(&self, scope: Scope, id: u32) -> Option<(usize, Kind)> {
        let at = place(u64::from(id)).checked_sub(1)?;
        let mut packed = self.cells.get(at)?.load(Ordering::Relaxed);
        if packed == 0 {
            self.learn_now();
            packed = self.cells.get(at)?.load(Ordering::Relaxed);
        }
        let (cell, kind, owner) = unpack(packed)?;
        (owner == scope).then_some((cell, kind))
    }

    #[cold]
    fn learn_now(&self) {
        self.learn(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner));
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

impl Names {
    fn scope(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return OWN.0;
        }
        let next = u32::try_from(self.scopes.len() + 1).unwrap_or(u32::MAX);
        *self.scopes.entry(name.to_owned()).or_insert(next)
    }
}

/// Where `cell` is, in the chunk that begins at `line`, which is marked [`ALONE`] or not.
#[inline]
fn word_of(line: u32, cell: usize) -> Word {
    Word { at: (line & !ALONE) as usize * LINE + cell % CHUNK, alone: line & ALONE != 0 }
}

/// 32 bits of cell, 8 of kind, 24 of scope. Not 0, since the kind is counted from 1.
fn pack(cell: usize, kind: Kind, scope: Scope) -> u64 {
    // A cell that does not fit is beyond every row: there are 2^18.
    let cell = u32::try_from(cell).unwrap_or(u32::MAX);
    u64::from(cell) | (kind as u64 + 1) << 32 | u64::from(scope.0) << 40
}

#[inline]
fn unpack(packed: u64) -> Option<(usize, Kind, Scope)> {
    let [_, _, _, _, kind, ..] = packed.to_le_bytes();
    let kind = Kind::from_raw(kind.checked_sub(1)?)?;
    let scope = u32::try_from(packed >> 40).ok()?;
    Some((place(packed & u64::from(u32::MAX)), kind, Scope(scope)))
}

/// Chunks are looked up by line in 32 bits.
const _: () = assert!(CHUNK_LINES < u32::MAX as usize);
