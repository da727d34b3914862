//! wasmtime's backtrace of a guest, for a log in which each line stands alone.

use crate::engine::limits::MAX_LOG_LINE;

/// The frames of `trace` one after the other: number, offset in the module, function, and, where the guest has
/// debugging information, its place in the sources. What is longer than a line of the log may be is cut: names are the
/// guest's.
pub(super) fn in_one_line(trace: &str) -> String {
    let mut line = String::new();
    // The first line says that this is a backtrace.
    for part in trace.lines().skip(1) {
        let part = part.trim();
        if let Some(place) = part.strip_prefix("at ") {
            line.extend([" (", place, ")"]);
        } else if let Some(function) = part.strip_prefix("- ") {
            line.extend([" inlined into ", function]);
        } else {
            if !line.is_empty() {
                line.push_str(", ");
            }
            let (frame, function) = part.split_once(" - ").unwrap_or((part, ""));
            let function = function.strip_prefix("<unknown>!").unwrap_or(function);
            let words = frame.split_whitespace().chain([function]);
            line.push_str(&words.collect::<Vec<_>>().join(" "));
        }
        if line.len() > MAX_LOG_LINE {
            line.truncate(line.floor_char_boundary(MAX_LOG_LINE));
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::in_one_line;

    #[test]
    fn frames_follow_one_another() {
        let trace = "error while executing at wasm backtrace:\n\
                     \x20   0:    0x23c - <unknown>!allocate\n\
                     \x20   1:   0x1234 - guest::inner\n\
                     \x20                   at src/lib.rs:7:9\n\
                     \x20               - guest::outer\n\
                     \x20                   at src/lib.rs:3:1\n\
                     \x20   2:   0x5678 - filter.wasm!proxy_on_log";
        assert_eq!(
            in_one_line(trace),
            "0: 0x23c allocate, 1: 0x1234 guest::inner (src/lib.rs:7:9) inlined into guest::outer (src/lib.rs:3:1), \
             2: 0x5678 filter.wasm!proxy_on_log"
        );
    }

    #[test]
    fn names_without_end_are_cut() {
        let trace = format!("backtrace:\n 0: 0x1 - {}\n 1: 0x2 - f", "ä".repeat(100_000));
        assert!(in_one_line(&trace).len() <= crate::engine::limits::MAX_LOG_LINE);
    }
}
