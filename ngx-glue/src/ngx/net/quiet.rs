//! A log that writes nothing, but keeps what nginx said last: what goes wrong with a peer is said once, by the call.

use std::{cell::RefCell, ptr::NonNull, slice};

use nginx_sys::{NGX_LOG_INFO, ngx_log_t, ngx_uint_t};

/// Most bytes of a line that are kept.
const MOST: usize = 512;

thread_local! {
    /// One for the process: connections in nginx's hands may point to it for as long as it runs.
    static QUIET: NonNull<ngx_log_t> = {
        // SAFETY: pointers, integers and optional functions, for all of which zeros are valid.
        let mut log = unsafe { std::mem::zeroed::<ngx_log_t>() };
        log.log_level = NGX_LOG_INFO as ngx_uint_t;
        log.writer = Some(keep);
        NonNull::from(Box::leak(Box::new(log)))
    };

    /// What was said last.
    static WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The log.
pub(super) fn log() -> *mut ngx_log_t {
    QUIET.with(|log| log.as_ptr())
}

/// What nginx has said since this was asked last, in one line.
pub(super) fn last_words() -> Option<String> {
    WORDS.take()
}

/// nginx writes a line (`ngx_log_error_core()`): `TIME [LEVEL] PID#TID: MESSAGE`.
unsafe extern "C" fn keep(_log: *mut ngx_log_t, _level: ngx_uint_t, text: *mut u8, length: usize) {
    let Some(text) = NonNull::new(text) else { return };
    // SAFETY: nginx has written as many bytes there.
    let line = unsafe { slice::from_raw_parts(text.as_ptr(), length.min(MOST)) };
    WORDS.set(Some(message(line)));
}

/// What is said in `line`, without when and by whom.
fn message(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let said = line.split_once("#").and_then(|(_, rest)| rest.split_once(": ")).map(|(_, said)| said);
    said.unwrap_or(&line).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn when_and_by_whom_is_not_kept() {
        let line =
            b"2026/01/02 03:04:05 [error] 12#12: connect() to [::1]:80 failed (111: Connection refused)\n";
        assert_eq!(message(line), "connect() to [::1]:80 failed (111: Connection refused)");
        assert_eq!(message(b"odd\n"), "odd");
    }
}
