//! Where everything is in the file: numbers of words (8 bytes) and lines (64 bytes, what a cache line holds).
//!
//! ```text
//!  line 0    header                       magic, layout, size, next free line and cell, generation
//!  line 8    directory                    64 references to tables of 256 references to records
//!  line 16   rows: 256 of 2 lines         row 0 is everybody's, the others a worker's each
//!  line 528  free memory, given out line by line and never taken back:
//!              records                    kind, name, labels, help of a metric, and the number of its first cell
//!              tables, chunks             a row's cells: reference → 256 references → 128 cells
//!              buckets                    256 of a histogram's buckets in a row, when the first value falls there
//! ```
//!
//! A metric has the same *cell* numbers in every row: a counter one, a histogram sixteen. A row has memory for a cell
//! only once it was written to. References are line numbers; 0 is none. All numbers are in the byte order of the
//! machine.

/// Words of a line.
pub(crate) const LINE: usize = 8;

/// The first word of a file that is whole.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"WEIRMETR");

/// Word: [`MAGIC`], written last.
pub(crate) const AT_MAGIC: usize = 0;
/// Word: [`FINGERPRINT`].
pub(crate) const AT_LAYOUT: usize = 1;
/// Word: words of the file. Grows.
pub(crate) const AT_SIZE: usize = 2;
/// Word: number of the next free line.
pub(crate) const AT_NEXT_LINE: usize = 3;
/// Word: number of the next free cell.
pub(crate) const AT_NEXT_CELL: usize = 4;
/// Word: number of the configuration that runs, counted from 1.
pub(crate) const AT_GENERATION: usize = 5;
/// Word: when the file was made, nanoseconds since 1970.
pub(crate) const AT_CREATED: usize = 6;
/// Word: how many rows, from 0, have been used.
pub(crate) const AT_ROWS: usize = 7;

/// Word: who publishes what belongs to all processes: milliseconds since 1970, and in the low 8 bits the row.
pub(crate) const AT_LEADER: usize = 8;

/// Word where references to the directory's tables begin.
pub(crate) const DIRECTORY: usize = 64;
/// Tables of the directory.
pub(crate) const DIRECTORY_TABLES: usize = 64;
/// References in a table, of the directory or of a row.
pub(crate) const TABLE: usize = 256;
/// Lines of a table.
pub(crate) const TABLE_LINES: usize = TABLE / LINE;
/// Most metrics.
pub(crate) const MOST_METRICS: usize = DIRECTORY_TABLES * TABLE;

/// Word where the rows begin.
pub(crate) const ROWS: usize = 128;
/// Words of a row's entry.
pub(crate) const ROW: usize = 16;
/// Rows.
pub(crate) const MOST_ROWS: usize = 256;
/// The row that is nobody's own: gauges, what the master counts, and workers that find no memory for a row.
pub(crate) const COMMON: usize = 0;
/// In a row: process that owns it; 0 when none does.
pub(crate) const ROW_PID: usize = 0;
/// In a row: when it was taken, nanoseconds since 1970.
pub(crate) const ROW_STARTED: usize = 1;
/// In a row: references to its tables of chunks.
pub(crate) const ROW_TABLES: usize = 8;
/// How many.
pub(crate) const TABLES_IN_ROW: usize = 8;

/// Cells of a chunk.
pub(crate) const CHUNK: usize = 128;
/// Lines of a chunk.
pub(crate) const CHUNK_LINES: usize = CHUNK / LINE;
/// Most chunks of a row.
pub(crate) const MOST_CHUNKS: usize = TABLES_IN_ROW * TABLE;
/// Most cells.
pub(crate) const MOST_CELLS: usize = MOST_CHUNKS * CHUNK;

/// First line that is given out.
pub(crate) const FIRST_FREE: usize = (ROWS + MOST_ROWS * ROW) / LINE;

/// In a record: kind (+ 1) and flags.
pub(crate) const RECORD_KIND: usize = 0;
/// In a record: its first cell.
pub(crate) const RECORD_CELL: usize = 1;
/// In a record: the last generation that defined it.
pub(crate) const RECORD_GENERATION: usize = 2;
/// In a record: hash of what it is known by.
pub(crate) const RECORD_HASH: usize = 3;
/// In a record: lengths of scope, name, family and labels, 16 bits each.
pub(crate) const RECORD_LENGTHS: usize = 4;
/// In a record: length of the help text.
pub(crate) const RECORD_HELP: usize = 5;
/// In a record: where its texts begin, in the same order.
pub(crate) const RECORD_TEXT: usize = 6;

/// Cells of a histogram: sum, minimum, maximum, values without a bucket, and references to buckets.
pub(crate) const HISTOGRAM_CELLS: usize = 16;
/// In a histogram: sum of all values, wrapping around.
pub(crate) const HISTOGRAM_SUM: usize = 0;
/// In a histogram: bitwise complement of the least value; 0 while there is none.
pub(crate) const HISTOGRAM_LEAST: usize = 1;
/// In a histogram: the greatest value.
pub(crate) const HISTOGRAM_MOST: usize = 2;
/// In a histogram: how many values found no memory for their bucket.
pub(crate) const HISTOGRAM_LOST: usize = 3;
/// In a histogram: references to groups of buckets; those of a million nanoseconds and less are in the sum's line.
pub(crate) const HISTOGRAM_GROUPS: usize = 4;
/// Buckets of a group.
pub(crate) const GROUP: usize = 256;
/// Lines of a group.
pub(crate) const GROUP_LINES: usize = GROUP / LINE;

/// Least size of a file in bytes: the fixed part, and room for a few metrics.
pub const LEAST_SIZE: usize = 128 << 10;

/// Tells layouts apart: every number that a reader depends on goes in, and so does the order of bytes.
pub(crate) const FINGERPRINT: u64 = {
    let numbers = [
        1, // version of what the numbers below do not say
        DIRECTORY,
        DIRECTORY_TABLES,
        TABLE,
        ROWS,
        ROW,
        MOST_ROWS,
        TABLES_IN_ROW,
        CHUNK,
        RECORD_TEXT,
        HISTOGRAM_CELLS,
        HISTOGRAM_GROUPS,
        GROUP,
        super::histogram::SUB_BUCKETS,
        cfg!(target_endian = "big") as usize,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < numbers.len() {
        hash = (hash ^ numbers[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
};

/// Word where the entry of row number `row` begins.
pub(crate) const fn row_at(row: usize) -> usize {
    ROWS + row * ROW
}
