//! What is wrong with a configuration is found by `nginx -t`, with file, line and a sentence that helps.
#![allow(missing_docs, reason = "a test")]

mod directives;
mod files;
mod starts;

use weir_tests::{Conf, Nginx};

/// One wrong configuration.
pub(crate) struct Case {
    name: &'static str,
    conf: Conf,
    /// A text in the line of nginx.conf that the message has to name.
    line: &'static str,
    /// What the message has to say.
    says: &'static [&'static str],
}

pub(crate) fn case(
    name: &'static str,
    conf: Conf,
    line: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { name, conf, line, says }
}

#[track_caller]
pub(crate) fn assert_refused(cases: impl IntoIterator<Item = Case>) {
    for Case { name, conf, line, says } in cases {
        let ended = Nginx::check(&conf);
        assert_eq!(ended.status.code(), Some(1), "{name}: {} {}", ended.status, ended.stderr);
        let emerg: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("[emerg]")).collect();
        let message = *emerg.first().unwrap_or_else(|| panic!("{name}: no [emerg] in {}", ended.stderr));
        let place = ended.place(line);
        assert!(message.contains(&place), "{name}: {place} is not in {message}");
        for text in says {
            assert!(ended.stderr.contains(text), "{name}: {text:?} is not in {}", ended.stderr);
        }
        assert!(ended.stderr.contains("test failed"), "{name}: {}", ended.stderr);
    }
}

/// A configuration that declares and uses a file of the prefix as a filter.
pub(crate) fn with_module(content: impl Into<Vec<u8>>) -> Conf {
    Conf::new()
        .file("the.wasm", content)
        .wasm("module broken the.wasm;")
        .server("location / { proxy_wasm broken; return 200 x; }")
}

pub(crate) const MODULE: &str = "module broken";
