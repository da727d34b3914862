//! nginx's error log: read, and waited for.

use super::Nginx;
use crate::wait;

/// How many lines of the log are shown when a test fails.
const TAIL: usize = 60;

impl Nginx {
    /// The whole error log.
    #[must_use]
    pub fn log(&self) -> String {
        self.prefix.log()
    }

    /// A place in the error log: its length now.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.log().len()
    }

    /// The error log from a [`mark`](Nginx::mark) on.
    #[must_use]
    pub fn log_since(&self, mark: usize) -> String {
        self.log().get(mark..).unwrap_or_default().to_owned()
    }

    /// Waits until a line of the error log contains `text`, and gives the first such line.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_since(0, text)
    }

    /// Waits until a line of the error log from a [`mark`](Nginx::mark) on contains `text`, and gives the first one.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn wait_for_log_since(&self, mark: usize, text: &str) -> String {
        match self.poll_log(mark, text, 1) {
            Some(mut lines) => lines.remove(0),
            None => panic!("{text:?} is not in the log:\n{}", tail(&self.log_since(mark))),
        }
    }

    /// Waits until `count` lines of the error log from a [`mark`](Nginx::mark) on contain `text`, and gives them.
    ///
    /// # Panics
    /// When they do not come in time.
    #[track_caller]
    pub fn wait_for_lines(&self, mark: usize, text: &str, count: usize) -> Vec<String> {
        match self.poll_log(mark, text, count) {
            Some(lines) => lines,
            None => panic!("{text:?} is not {count} times in the log:\n{}", tail(&self.log_since(mark))),
        }
    }

    fn poll_log(&self, mark: usize, text: &str, count: usize) -> Option<Vec<String>> {
        wait::poll(|| {
            let log = self.log_since(mark);
            // A line is there once its end is.
            let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
            let lines: Vec<String> =
                whole.lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    }
}

/// The end of a log, for a message: the last [`TAIL`] lines.
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
