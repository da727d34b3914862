//! wasmtime's backtrace of a guest, for the log.

use std::fmt::Write as _;

use wasmtime::FrameInfo;

use crate::{engine::limits::MAX_LOG_LINE, profile::names};

/// A frame: where it is in its module, and its function with those that were inlined into it, the innermost first.
struct Frame<'a> {
    offset: Option<usize>,
    /// The function's number in its module, for one that has no name.
    index: u32,
    functions: Vec<Function<'a>>,
}

/// A function, and, where the guest has debugging information, its place in the sources.
struct Function<'a> {
    name: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    column: Option<u32>,
}

/// Those `frames` with `between` between them: number, offset in the module, function, place in the sources. What is
/// longer than a line of the log may be is cut. Names are the guest's, and wasmtime's own text would have them at any
/// length before it could be cut: a short name of C++ may stand for a very long one.
pub(super) fn text(frames: &[FrameInfo], between: &str) -> String {
    let frames = frames.iter().map(|frame| {
        let mut functions: Vec<_> = frame
            .symbols()
            .iter()
            .map(|symbol| Function {
                name: symbol.name(),
                file: symbol.file(),
                line: symbol.line(),
                column: symbol.column(),
            })
            .collect();
        if functions.is_empty() {
            functions.push(Function { name: None, file: None, line: None, column: None });
        }
        // Where debugging information names the outermost function not at all, the module may.
        if let Some(outermost) = functions.last_mut().filter(|function| function.name.is_none()) {
            outermost.name = frame.func_name();
        }
        Frame { offset: frame.module_offset(), index: frame.func_index(), functions }
    });
    written(frames, between)
}

fn written<'a>(frames: impl Iterator<Item = Frame<'a>>, between: &str) -> String {
    let mut line = String::new();
    for (number, frame) in frames.enumerate() {
        if number > 0 {
            line.push_str(between);
        }
        // Writing to a string never fails.
        let _ = write!(line, "{number}:");
        if let Some(offset) = frame.offset {
            let _ = write!(line, " {offset:#x}");
        }
        for (depth, function) in frame.functions.iter().enumerate() {
            line.push_str(if depth > 0 { " inlined into " } else { " " });
            let number = || format!("function {}", frame.index);
            line.push_str(&function.name.map_or_else(number, names::readable));
            if let Some(file) = function.file {
                let _ = write!(line, " ({file}");
                for number in [function.line, function.column].into_iter().map_while(|number| number) {
                    let _ = write!(line, ":{number}");
                }
                line.push(')');
            }
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
    use super::{Frame, Function, MAX_LOG_LINE, written};

    fn function(name: &str) -> Function<'_> {
        Function { name: Some(name), file: None, line: None, column: None }
    }

    fn placed<'a>(name: &'a str, file: &'a str, line: u32, column: Option<u32>) -> Function<'a> {
        Function { name: Some(name), file: Some(file), line: Some(line), column }
    }

    #[test]
    fn frames_follow_one_another() {
        let frames = [
            Frame { offset: Some(0x23c), index: 1, functions: vec![function("allocate")] },
            Frame {
                offset: Some(0x1234),
                index: 2,
                functions: vec![
                    placed("_ZN4deep5Diver4diveEj", "src/deep.cc", 7, Some(9)),
                    placed("_ZN5guest5outer17h0123456789abcdefE", "src/lib.rs", 3, None),
                ],
            },
            Frame { offset: None, index: 7, functions: vec![Function { name: None, ..function("") }] },
        ];
        assert_eq!(
            written(frames.into_iter(), ", "),
            "0: 0x23c allocate, 1: 0x1234 deep::Diver::dive(unsigned int) (src/deep.cc:7:9) inlined into \
             guest::outer (src/lib.rs:3), 2: function 7"
        );
    }

    #[test]
    fn names_without_end_are_cut() {
        let name = "ä".repeat(100_000);
        let frame = || Frame { offset: Some(1), index: 0, functions: vec![function(&name)] };
        assert!(written([frame(), frame()].into_iter(), ", ").len() <= MAX_LOG_LINE);
    }
}
