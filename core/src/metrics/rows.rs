//! Who writes where: each process in a row of its own, and one at a time what belongs to all.

use std::sync::atomic::Ordering;

use super::{
    Kind, Metrics,
    layout::{AT_GENERATION, AT_LEADER, AT_ROWS, COMMON, MOST_ROWS, ROW_PID, ROW_STARTED, row_at},
    memory, realtime,
    registry::{self, Record},
    words::{Shared, Words, place},
};

/// Milliseconds between two times that what belongs to all processes is published.
const LEAD: u64 = 900;

/// Milliseconds after which another process does.
const SUCCEED: u64 = 3000;

impl Metrics {
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
}
