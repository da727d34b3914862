//! The callbacks that the guest `trace` has logged.

use std::collections::BTreeMap;

use crate::nginx::Nginx;

/// One line of the guest `trace`: `NAME trace: CALLBACK ctx=ID KEY=VALUE …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The filter's configuration, which is its name in the log.
    pub name: String,
    /// The callback, such as `on_request_headers`.
    pub callback: String,
    /// The context's id.
    pub context: u32,
    /// Further arguments.
    pub arguments: BTreeMap<String, String>,
}

impl Call {
    /// Reads a line of the error log; `None` if it is none of the guest's.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once("trace: ")?;
        let name = before.rsplit_once("] ").map_or("", |(_, name)| name).trim().to_owned();
        // nginx adds ", client: …" and more.
        let text = after.split(", ").next()?;
        let mut words = text.split_whitespace();
        let callback = words.next()?.to_owned();
        let mut arguments: BTreeMap<String, String> = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let context = arguments.remove("ctx")?.parse().ok()?;
        Some(Self { name, callback, context, arguments })
    }

    /// The value of an argument.
    ///
    /// # Panics
    /// When the callback has no such argument.
    #[must_use]
    pub fn argument(&self, key: &str) -> &str {
        self.arguments.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

    /// A size or a count.
    ///
    /// # Panics
    /// When the callback has no such argument, or it is no number.
    #[must_use]
    pub fn number(&self, key: &str) -> usize {
        self.argument(key).parse().unwrap_or_else(|_| panic!("{key} is no number in {self:?}"))
    }

    /// Whether `end_of_stream` was set.
    ///
    /// # Panics
    /// When the callback has no such argument.
    #[must_use]
    pub fn end_of_stream(&self) -> bool {
        self.argument("eos") == "true"
    }
}

/// All calls in a log, in order.
#[must_use]
pub fn calls(log: &str) -> Vec<Call> {
    log.lines().filter_map(Call::parse).collect()
}

/// The calls on stream contexts, those of requests, in order.
#[must_use]
pub fn stream_calls(log: &str) -> Vec<Call> {
    let all = calls(log);
    let mut out = Vec::new();
    let mut live: Vec<(String, u32)> = Vec::new();
    for call in all {
        let key = (call.name.clone(), call.context);
        if call.callback == "on_context_create" {
            live.retain(|other| *other != key);
            if call.argument("kind") == "http" {
                live.push(key.clone());
            }
        }
        if live.contains(&key) {
            out.push(call);
        }
    }
    out
}

/// Gets `path`, waits until nothing of that request is left, and gives its calls.
///
/// # Panics
/// When the answer has not that status and body.
#[track_caller]
#[must_use]
pub fn calls_of(nginx: &Nginx, path: &str, status: u16, body: &str) -> Vec<Call> {
    let mark = nginx.mark();
    let response = nginx.get(path).expect_status(status);
    assert_eq!(response.text(), body, "{path}");
    nginx.wait_for_log_since(mark, "trace: on_delete");
    stream_calls(&nginx.log_since(mark))
}

/// How often `callback` is among `calls`.
#[must_use]
pub fn count(calls: &[Call], callback: &str) -> usize {
    calls.iter().filter(|call| call.callback == callback).count()
}

/// Callbacks in order, each with its `eos` where it has one: `on_request_headers:true`.
#[must_use]
pub fn outline(calls: &[Call]) -> Vec<String> {
    let brief = |call: &Call| match call.arguments.get("eos") {
        Some(eos) => format!("{}:{eos}", call.callback),
        None => call.callback.clone(),
    };
    calls.iter().map(brief).collect()
}

#[cfg(test)]
mod tests {
    use super::{Call, outline, stream_calls};

    const LOG: &str = "\
2026/01/31 12:00:00 [info] 7#7: weir: [t] trace: on_context_create ctx=1 kind=root
2026/01/31 12:00:00 [notice] 7#7: something else
2026/01/31 12:00:00 [info] 7#7: *1 weir: [t] A trace: on_context_create ctx=2 kind=http parent=1, client: 127.0.0.1, x
2026/01/31 12:00:00 [info] 7#7: *1 weir: [t] A trace: on_request_headers ctx=2 n=5 eos=true, client: 127.0.0.1
2026/01/31 12:00:00 [info] 7#7: *1 weir: [t] A trace: on_delete ctx=2, client: 127.0.0.1
";

    #[test]
    fn a_line_is_read() {
        let line = LOG.lines().nth(3).expect("a line");
        let call = Call::parse(line).expect("a call");
        assert_eq!(
            (call.name.as_str(), call.callback.as_str(), call.context),
            ("A", "on_request_headers", 2)
        );
        assert_eq!((call.number("n"), call.end_of_stream()), (5, true));
        assert_eq!(Call::parse("2026/01/31 12:00:00 [notice] 7#7: start worker process 9"), None);
    }

    #[test]
    fn calls_on_root_contexts_are_left_out() {
        let outline = outline(&stream_calls(LOG));
        assert_eq!(outline, ["on_context_create", "on_request_headers:true", "on_delete"]);
    }
}
