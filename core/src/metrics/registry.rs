//! The directory: which metrics there are. Only ever appended to, without a lock, by any process.
//!
//! Whoever defines a metric walks along the directory's slots. In each there is a record, which it compares with its
//! own, or none, which it replaces by its own; if another process is faster, it compares again. So two processes that
//! define the same metric get the same slot, no slot is skipped, and one that is killed leaves either nothing or a whole
//! record.

use super::{
    Kind, Unit,
    layout::{
        AT_GENERATION, CHUNK, CHUNK_LINES, COMMON, DIRECTORY, HISTOGRAM_CELLS, LINE, MOST_METRICS,
        RECORD_CELL, RECORD_GENERATION, RECORD_HASH, RECORD_HELP, RECORD_KIND, RECORD_LENGTHS, RECORD_TEXT,
        TABLE, TABLE_LINES,
    },
    memory,
    words::{Shared, Words, place},
};

/// What is said of a metric when it is defined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Definition<'a> {
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    /// It is shown only while the configuration that runs has defined it.
    pub(crate) transient: bool,
    /// Whose it is: the filter's name; empty for Weir's own.
    pub(crate) scope: &'a str,
    /// What it is known by in its scope, along with its kind.
    pub(crate) name: &'a [u8],
    /// Name of its family, as it is exported but for `_total`.
    pub(crate) family: &'a str,
    /// Its labels as they are exported: `a="b",c="d"`.
    pub(crate) labels: &'a str,
    /// One sentence.
    pub(crate) help: &'a str,
}

impl Definition<'_> {
    /// FNV-1a of what a metric is known by.
    fn hash(&self) -> u64 {
        let bytes = self.scope.bytes().chain([0, self.kind as u8]).chain(self.name.iter().copied());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    fn texts(&self) -> [&[u8]; 5] {
        [
            self.scope.as_bytes(),
            self.name,
            self.family.as_bytes(),
            self.labels.as_bytes(),
            self.help.as_bytes(),
        ]
    }

    fn is_at<W: Words>(&self, words: &W, line: usize) -> bool {
        let word = line * LINE;
        words.load(word + RECORD_HASH) == self.hash()
            && words.load(word + RECORD_KIND) & 0xff == self.kind as u64 + 1
            && Record::read(words, line)
                .is_some_and(|record| record.scope == self.scope && record.name == self.name)
    }
}

/// There is no room for another metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// What the file says of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) transient: bool,
    pub(crate) cell: usize,
    pub(crate) scope: String,
    pub(crate) name: Vec<u8>,
    pub(crate) family: String,
    pub(crate) labels: String,
    pub(crate) help: String,
}

impl Record {
    /// The record at `line`; `None` where there is none that makes sense.
    pub(crate) fn read<W: Words + ?Sized>(words: &W, line: usize) -> Option<Self> {
        let word = line.checked_mul(LINE)?;
        let flags = words.load(word + RECORD_KIND);
        let [kind, unit, transient, ..] = flags.to_le_bytes();
        let lengths = words.load(word + RECORD_LENGTHS);
        let length = |number: usize| place(lengths >> (16 * number) & 0xffff);
        let help = place(words.load(word + RECORD_HELP)) & 0xffff;
        let sizes = [length(0), length(1), length(2), length(3), help];
        let mut bytes = Vec::with_capacity(sizes.iter().sum());
        let count = sizes.iter().sum::<usize>().div_ceil(8);
        for at in 0..count {
            bytes.extend_from_slice(&words.load(word + RECORD_TEXT + at).to_ne_bytes());
        }
        let mut rest = &bytes[..];
        let mut next = |size: usize| {
            let (text, others) = rest.split_at_checked(size)?;
            rest = others;
            Some(text.to_vec())
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
        Some(Self {
            kind: Kind::from_raw(kind.checked_sub(1)?)?,
            unit: Unit::from_raw(unit)?,
            transient: transient != 0,
            cell: place(words.load(word + RECORD_CELL)),
            scope: text(next(sizes[0])?)?,
            name: next(sizes[1])?,
            family: text(next(sizes[2])?)?,
            labels: text(next(sizes[3])?)?,
            help: text(next(sizes[4])?)?,
        })
    }
}

/// Word of slot number `at`; `None` when its table has not been made.
fn slot<W: Words + ?Sized>(words: &W, at: usize) -> Option<usize> {
    if at >= MOST_METRICS {
        return None;
    }
    let table = memory::referred(words, DIRECTORY + at / TABLE, TABLE_LINES)?;
    Some(table * LINE + at % TABLE)
}

/// Line of the record of metric number `at`; `None` when there are not that many.
pub(crate) fn line_of<W: Words + ?Sized>(words: &W, at: usize) -> Option<usize> {
    let line = place(words.load(slot(words, at)?));
    (line != 0).then_some(line)
}

/// The number of the metric that is known by what `definition` says: it has been there, or is made.
///
/// `from` is a number below which none is; `reserve` lines are left for others when a new one is made.
///
/// # Errors
/// [`Full`]
pub(crate) fn define<W: Shared>(
    words: &W,
    definition: &Definition<'_>,
    from: usize,
    generation: u64,
    reserve: usize,
) -> Result<usize, Full> {
    let mut made = None;
    let mut at = from;
    while at < MOST_METRICS {
        let slot = match slot(words, at) {
            Some(slot) => slot,
            None => {
                let table = memory::refer(words, DIRECTORY + at / TABLE, TABLE_LINES).ok_or(Full)?;
                table * LINE + at % TABLE
            }
        };
        let line = place(words.load(slot));
        if line == 0 {
            let record = match made {
                Some(record) => record,
                None => *made.insert(make(words, definition, generation, reserve).ok_or(Full)?),
            };
            if words.replace(slot, 0, record as u64).is_ok() {
                return Ok(at);
            }
        } else if definition.is_at(words, line) {
            words.raise(line * LINE + RECORD_GENERATION, generation);
            return Ok(at);
        } else {
            at += 1;
        }
    }
    Err(Full)
}

/// A record that is in no slot yet, with its cells, for which everybody's row has memory.
fn make<W: Shared>(words: &W, definition: &Definition<'_>, generation: u64, reserve: usize) -> Option<usize> {
    let texts = definition.texts();
    if texts.iter().any(|text| text.len() > 0xffff) {
        return None;
    }
    let bytes = texts.concat();
    let lines = (RECORD_TEXT + bytes.len().div_ceil(8)).div_ceil(LINE);
    // Asked for all that may be needed, so that an attempt that fails leaves nothing behind.
    if memory::free_lines(words) < lines + CHUNK_LINES + TABLE_LINES + reserve {
        return None;
    }
    let cells = if definition.kind == Kind::Histogram { HISTOGRAM_CELLS } else { 1 };
    let cell = memory::allocate_cells(words, cells)?;
    memory::make_chunk(words, COMMON, cell / CHUNK)?;
    let line = memory::allocate(words, lines)?;
    let word = line * LINE;
    let [scope, name, family, labels, help] = texts.map(|text| text.len() as u64);
    let flags = [definition.kind as u8 + 1, definition.unit as u8, u8::from(definition.transient)];
    let [kind, unit, transient] = flags.map(u64::from);
    words.store(word + RECORD_KIND, kind | unit << 8 | transient << 16);
    words.store(word + RECORD_CELL, cell as u64);
    words.store(word + RECORD_GENERATION, generation);
    words.store(word + RECORD_HASH, definition.hash());
    words.store(word + RECORD_LENGTHS, scope | name << 16 | family << 32 | labels << 48);
    words.store(word + RECORD_HELP, help);
    for (at, chunk) in bytes.chunks(8).enumerate() {
        let mut text = [0; 8];
        text[..chunk.len()].copy_from_slice(chunk);
        words.store(word + RECORD_TEXT + at, u64::from_ne_bytes(text));
    }
    Some(line)
}

/// Whether the record at `line` is to be shown: a transient one is not once the running configuration does not
/// define it.
pub(crate) fn is_current<W: Words + ?Sized>(words: &W, line: usize, transient: bool) -> bool {
    !transient || words.load(line * LINE + RECORD_GENERATION) >= words.load(AT_GENERATION)
}
