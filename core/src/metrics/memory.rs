//! Memory inside the file: lines are given out and never taken back; rows get theirs when they need it.
//!
//! Nothing here locks. A process that is killed between two steps leaves at most lines that nobody uses.

use super::{
    layout::{
        AT_NEXT_CELL, AT_NEXT_LINE, CHUNK, CHUNK_LINES, LINE, MOST_CELLS, ROW_TABLES, TABLE, TABLE_LINES,
        row_at,
    },
    words::{Shared, Words, place},
};

/// Gives out `lines` lines of zeros; `None` when there are not that many left.
pub(crate) fn allocate<W: Shared>(words: &W, lines: usize) -> Option<usize> {
    let mut next = words.load(AT_NEXT_LINE);
    loop {
        let end = place(next).checked_add(lines)?;
        // A process with an older, smaller mapping finds the end earlier.
        if next == 0 || end > words.size() / LINE {
            return None;
        }
        match words.replace(AT_NEXT_LINE, next, end as u64) {
            Ok(()) => return Some(place(next)),
            Err(other) => next = other,
        }
    }
}

/// Lines that have not been given out.
pub(crate) fn free_lines<W: Words>(words: &W) -> usize {
    (words.size() / LINE).saturating_sub(place(words.load(AT_NEXT_LINE)))
}

/// The lines that the word at `at` refers to, of which there are `lines`; new ones, if it refers to none yet.
#[inline]
pub(crate) fn refer<W: Shared>(words: &W, at: usize, lines: usize) -> Option<usize> {
    match words.load(at) {
        0 => make(words, at, lines),
        found => inside(words, found, lines),
    }
}

/// Has the word at `at`, which refers to none, refer to new lines.
#[cold]
fn make<W: Shared>(words: &W, at: usize, lines: usize) -> Option<usize> {
    if at >= words.size() {
        return None;
    }
    let made = allocate(words, lines)? as u64;
    // Where another process was faster its lines are as good, and ours stay unused.
    let found = words.replace(at, 0, made).map_or_else(|other| other, |()| made);
    inside(words, found, lines)
}

/// The lines that the word at `at` refers to; `None` when it refers to none.
pub(crate) fn referred<W: Words + ?Sized>(words: &W, at: usize, lines: usize) -> Option<usize> {
    inside(words, words.load(at), lines)
}

/// The line number that `reference` is, if it is one and `lines` lines are there.
fn inside<W: Words + ?Sized>(words: &W, reference: u64, lines: usize) -> Option<usize> {
    let found = place(reference);
    (found != 0 && found.checked_add(lines)? <= words.size() / LINE).then_some(found)
}

/// Gives out `cells` cells, in every row, the first of them at a multiple of `cells`; `None` when there are none left.
pub(crate) fn allocate_cells<W: Shared>(words: &W, cells: usize) -> Option<usize> {
    let mut next = words.load(AT_NEXT_CELL);
    loop {
        let start = place(next).checked_next_multiple_of(cells)?;
        let end = start.checked_add(cells)?;
        if end > MOST_CELLS {
            return None;
        }
        match words.replace(AT_NEXT_CELL, next, end as u64) {
            Ok(()) => return Some(start),
            Err(other) => next = other,
        }
    }
}

/// Line where chunk number `chunk` of row `row` begins, made if need be.
pub(crate) fn make_chunk<W: Shared>(words: &W, row: usize, chunk: usize) -> Option<usize> {
    let table = refer(words, row_at(row) + ROW_TABLES + chunk / TABLE, TABLE_LINES)?;
    refer(words, table * LINE + chunk % TABLE, CHUNK_LINES)
}

/// Word of cell number `cell` in row `row`; `None` while that row has no memory for it.
pub(crate) fn find_cell<W: Words + ?Sized>(words: &W, row: usize, cell: usize) -> Option<usize> {
    if cell >= MOST_CELLS {
        return None;
    }
    let chunk = cell / CHUNK;
    let table = referred(words, row_at(row) + ROW_TABLES + chunk / TABLE, TABLE_LINES)?;
    let line = referred(words, table * LINE + chunk % TABLE, CHUNK_LINES)?;
    Some(line * LINE + cell % CHUNK)
}
