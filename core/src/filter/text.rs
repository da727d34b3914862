//! Filters in WebAssembly's text format (`.wat`), which nginx hosts have always taken beside the binary one: made binary
//! as they are read.

use std::borrow::Cow;

/// Whether `bytes` are meant to be the text format.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    wat::Detect::from_bytes(bytes) == wat::Detect::WasmText
}

/// The module whose text is `bytes`.
///
/// # Errors
/// What is wrong with it, and in which line and column, in one line.
pub(super) fn assemble(bytes: &[u8]) -> Result<Vec<u8>, String> {
    wat::parse_bytes(bytes).map(Cow::into_owned).map_err(|error| {
        // The place is on a line of its own, `--> <anon>:LINE:COLUMN`, above a copy of the text.
        let said = error.to_string();
        let mut lines = said.lines().map(str::trim);
        let what = lines.next().unwrap_or_default();
        match lines.find_map(|line| line.strip_prefix("--> <anon>:")).and_then(|place| place.split_once(':'))
        {
            Some((line, column)) => format!("{what} (line {line}, column {column})"),
            None => what.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{assemble, is_text};

    #[test]
    fn text_begins_with_a_parenthesis_or_a_comment() {
        for text in
            ["(module)", " \n\t(module)", ";; a filter\n;; of mine\r\n  (module)", "(; a filter ;) (module)"]
        {
            assert!(is_text(text.as_bytes()), "{text}");
            assert!(assemble(text.as_bytes()).is_ok(), "{text}");
        }
        for other in
            ["", " ", ";;", ";; (module)", "; (module)", "\0asm\x01\0\0", "<html>", "#!/bin/sh\n(module)"]
        {
            assert!(!is_text(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        assert_eq!(
            assemble(b"(module\n  (memory 1)\n  (funk))").expect_err("refused"),
            "expected valid module field (line 3, column 4)"
        );
        assert_eq!(assemble(b"(module (func call $x))").expect_err("refused").lines().count(), 1);
        assert!(assemble(b"(module \xff)").expect_err("refused").contains("utf-8"));
        assert!(assemble(b"(").is_err());
    }
}
