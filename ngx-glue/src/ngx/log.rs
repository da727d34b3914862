//! nginx's error log (`src/core/ngx_log.h`): levels, and lines that cannot be forged by what is logged.

use std::{
    fmt::{self, Display, Write},
    marker::PhantomData,
    ptr::NonNull,
};

use nginx_sys::{ngx_log_error_core, ngx_log_t, ngx_uint_t};
use weir_core::{
    abi::types::LogLevel,
    host::{LogLine, Speaker},
};

/// Bytes of one line's text that are given to nginx at a time; longer text goes on in further lines. nginx cuts at
/// 2048 (`NGX_MAX_ERROR_STR`) with time, level, and the request's description, which follows the text, included.
const PIECE: usize = 1536;

/// Most bytes of a line's prefix; a longer one (an absurd filter name) is cut.
const MAX_PREFIX: usize = 256;

/// Severity, with nginx's numbers (`NGX_LOG_*` in `src/core/ngx_log.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The configuration or the process is unusable.
    Emerg = 1,
    /// A bug, of ours for example.
    Alert = 2,
    /// A filter cannot go on.
    Crit = 3,
    /// Something failed.
    Error = 4,
    /// Something to look at.
    Warn = 5,
    /// Ordinary.
    Info = 7,
    /// Detail for developers.
    Debug = 8,
}

impl Level {
    const fn raw(self) -> ngx_uint_t {
        self as ngx_uint_t
    }

    /// The level that a guest's level is written at. nginx has one level of debugging only.
    pub(crate) const fn of_guest(level: LogLevel) -> Self {
        match level {
            LogLevel::Trace | LogLevel::Debug => Self::Debug,
            LogLevel::Info => Self::Info,
            LogLevel::Warn => Self::Warn,
            LogLevel::Error => Self::Error,
            LogLevel::Critical => Self::Crit,
        }
    }
}

/// A log that can be written to as long as `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Log<'a> {
    raw: NonNull<ngx_log_t>,
    owner: PhantomData<&'a ngx_log_t>,
}

impl fmt::Debug for Log<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.raw).finish()
    }
}

impl Log<'_> {
    /// The log at `raw`.
    ///
    /// # Safety
    /// `raw` points to a log of nginx's that lives as long as `'a`.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_log_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// nginx's pointer to it.
    pub(crate) const fn as_ptr(self) -> *mut ngx_log_t {
        self.raw.as_ptr()
    }

    fn raw_level(self) -> ngx_uint_t {
        // SAFETY: `raw` points to a live log, by the promise made to `new`; the field is a plain integer.
        unsafe { (*self.raw.as_ptr()).log_level }
    }

    /// Whether lines of this level are written (`ngx_log_error()` in `src/core/ngx_log.h`). `error_log … debug` sets
    /// bits above every level, so one comparison serves debugging too.
    pub(crate) fn enabled(self, level: Level) -> bool {
        self.raw_level() >= level.raw()
    }

    /// The least severe level of guests that is written.
    pub(crate) fn guest_level(self) -> LogLevel {
        match self.raw_level() {
            level if level >= Level::Debug.raw() => LogLevel::Trace,
            level if level >= Level::Info.raw() => LogLevel::Info,
            level if level >= Level::Warn.raw() => LogLevel::Warn,
            level if level >= Level::Error.raw() => LogLevel::Error,
            _ => LogLevel::Critical,
        }
    }

    /// Writes `message`, one line for each of its own.
    pub(crate) fn write(self, level: Level, message: impl Display) {
        if !self.enabled(level) {
            return;
        }
        let mut text = Text::new(Newlines::Split, |line| self.emit(level, line));
        // Writing to `Text` never fails; a `Display` that does has still given what it had.
        let _ = write!(text, "{message}");
        text.finish();
    }

    /// Writes a line about a filter. A guest's text follows `weir: [FILTER] `, Weir's own `weir: filter "FILTER": `,
    /// which no guest can write at the start of a line.
    pub(crate) fn write_line(self, line: LogLine<'_>) {
        let level = Level::of_guest(line.level);
        if !self.enabled(level) {
            return;
        }
        let newlines = match line.speaker {
            Speaker::Guest => Newlines::Escape,
            Speaker::Weir => Newlines::Split,
        };
        let mut text = Text::new(newlines, |line| self.emit(level, line));
        // Writing to `Text` never fails.
        let _ = match line.speaker {
            Speaker::Guest => write!(text, "weir: [{}] ", line.filter),
            Speaker::Weir => write!(text, "weir: filter \"{}\": ", line.filter),
        };
        text.end_prefix();
        text.push_bytes(line.message);
        text.finish();
    }

    fn emit(self, level: Level, line: &[u8]) {
        // SAFETY: the log is live by the promise made to `new`; `%*s` (src/core/ngx_string.c) takes a `size_t` and
        // as many bytes, which `line` has; the function keeps neither pointer.
        unsafe {
            ngx_log_error_core(level.raw(), self.raw.as_ptr(), 0, c"%*s".as_ptr(), line.len(), line.as_ptr());
        }
    }
}

/// What becomes of a newline inside a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newlines {
    /// It is one more control character.
    Escape,
    /// It begins a further line, with the same prefix.
    Split,
}

/// Collects text into lines that fit nginx's buffer, without allocating. Control characters and bytes that are not
/// UTF-8 come out as `\xNN`, so no message can forge a line or reach into a terminal.
struct Text<E: FnMut(&[u8])> {
    emit: E,
    newlines: Newlines,
    bytes: [u8; PIECE],
    used: usize,
    prefix: usize,
}

impl<E: FnMut(&[u8])> Text<E> {
    const fn new(newlines: Newlines, emit: E) -> Self {
        Self { emit, newlines, bytes: [0; PIECE], used: 0, prefix: 0 }
    }

    /// What has been written so far (up to [`MAX_PREFIX`]) is repeated in front of every line.
    fn end_prefix(&mut self) {
        self.used = self.used.min(MAX_PREFIX);
        self.prefix = self.used;
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                self.push_char(character);
            }
            for byte in chunk.invalid() {
                self.push_escaped(*byte);
            }
        }
    }

    fn push_char(&mut self, character: char) {
        let mut buffer = [0; 4];
        let encoded = character.encode_utf8(&mut buffer).as_bytes();
        if character == '\n' && self.newlines == Newlines::Split {
            self.flush();
        } else if character.is_control() {
            for byte in encoded {
                self.push_escaped(*byte);
            }
        } else {
            self.push_whole(encoded);
        }
    }

    fn push_escaped(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]);
        self.push_whole(&[b'\\', b'x', high, low]);
    }

    /// Appends a few bytes that stay together in one line.
    fn push_whole(&mut self, bytes: &[u8]) {
        if self.used + bytes.len() > PIECE {
            self.flush();
        }
        if let Some(room) = self.bytes.get_mut(self.used..self.used + bytes.len()) {
            room.copy_from_slice(bytes);
            self.used += bytes.len();
        }
    }

    fn flush(&mut self) {
        (self.emit)(&self.bytes[..self.used]);
        self.used = self.prefix;
    }

    /// Writes what is left; a trailing newline has left nothing.
    fn finish(mut self) {
        if self.used > self.prefix || self.prefix > 0 && self.newlines == Newlines::Escape {
            self.flush();
        }
    }
}

impl<E: FnMut(&[u8])> Write for Text<E> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_bytes(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Newlines, PIECE, Text};

    fn lines(newlines: Newlines, prefix: &[u8], message: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut text =
            Text::new(newlines, |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned()));
        text.push_bytes(prefix);
        text.end_prefix();
        text.push_bytes(message);
        text.finish();
        lines
    }

    #[test]
    fn a_guest_cannot_begin_a_line_of_its_own() {
        let lines =
            lines(Newlines::Escape, b"weir: [a] ", b"one\n2024/01/01 [emerg] two\x1b[2J\xff\x7f\xc2\x9b");
        assert_eq!(lines, ["weir: [a] one\\x0A2024/01/01 [emerg] two\\x1B[2J\\xFF\\x7F\\xC2\\x9B"]);
    }

    #[test]
    fn text_that_is_no_control_character_stays() {
        assert_eq!(lines(Newlines::Escape, b"p ", "größer \\x41 🦀".as_bytes()), ["p größer \\x41 🦀"]);
    }

    #[test]
    fn our_own_lines_are_split_and_keep_their_prefix() {
        assert_eq!(lines(Newlines::Split, b"p: ", b"one\ntwo\n"), ["p: one", "p: two"]);
    }

    #[test]
    fn long_text_goes_on_in_further_lines_and_loses_nothing() {
        let message = "ä".repeat(PIECE);
        let lines = lines(Newlines::Escape, b"p: ", message.as_bytes());
        assert!(lines.len() > 1);
        assert!(lines.iter().all(|line| line.len() <= PIECE && line.starts_with("p: ")));
        let joined: String = lines.iter().map(|line| &line["p: ".len()..]).collect();
        assert_eq!(joined, message);
    }

    #[test]
    fn an_empty_message_is_still_a_line_of_the_guest() {
        assert_eq!(lines(Newlines::Escape, b"p: ", b""), ["p: "]);
    }

    #[test]
    fn a_prefix_never_fills_the_line() {
        let lines = lines(Newlines::Escape, &[b'n'; PIECE], &[b'm'; 3]);
        assert!(lines.last().is_some_and(|line| line.ends_with("mmm")));
    }
}
