//! How the name that a guest defines becomes a name and labels.
//!
//! The ABI has names only, so filters put tags into them, and Envoy's users tell Envoy how to take them out again.
//! Weir knows the forms that SDKs and filters use, and takes regular expressions for others:
//!
//! | form | example | becomes |
//! |---|---|---|
//! | Istio | `reporter=.=source;.;istio_requests_total` | `istio_requests{reporter="source"}` |
//! | `_tag=value` | `hits_phase=body_rule=100` | `hits{phase="body",rule="100"}` |
//! | an expression, as Envoy's `stats_tags` | `hits.rule.100` with `(\.rule\.(\d+))` | `hits{rule="100"}` |

use std::fmt::Write as _;

use regex_lite::Regex;

use super::Kind;

/// Separates a tag from its value in Istio's form.
const ISTIO_VALUE: &str = "=.=";

/// Ends a tag in Istio's form.
const ISTIO_END: &str = ";.;";

/// One `tag NAME REGEX;`.
#[derive(Debug, Clone)]
pub struct TagRule {
    label: String,
    regex: Regex,
}

/// Two rules are the same when they read the same.
impl PartialEq for TagRule {
    fn eq(&self, other: &Self) -> bool {
        self.label == other.label && self.regex.as_str() == other.regex.as_str()
    }
}

impl TagRule {
    /// What `regex`'s first group matches is cut out of a name; its second group, or the first where there is no other,
    /// is the value of `label`. These are the rules of Envoy's `TagSpecifier`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn new(label: &str, regex: &str) -> Result<Self, String> {
        if label_name(label) != label || label.is_empty() {
            return Err(format!("\"{label}\" is no name of a label: it may have letters, digits and \"_\""));
        }
        let regex =
            Regex::new(regex).map_err(|error| format!("\"{regex}\" is no regular expression: {error}"))?;
        if regex.captures_len() < 2 {
            return Err(format!(
                "\"{}\" has no group: what its first group matches is cut out of the metric's name",
                regex.as_str()
            ));
        }
        Ok(Self { label: label.to_owned(), regex })
    }

    /// Cuts the tag out of `name`, and returns its value.
    fn apply(&self, name: &mut String) -> Option<String> {
        let captures = self.regex.captures(name)?;
        let cut = captures.get(1)?;
        let value = captures.get(2).unwrap_or(cut).as_str().to_owned();
        let range = cut.range();
        name.replace_range(range, "");
        Some(value)
    }
}

/// A metric's name and labels, fit for export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) family: String,
    /// `a="b",c="d"`
    pub(crate) labels: String,
}

/// What `raw`, defined by filter `filter`, is exported as.
pub(crate) fn name(filter: &str, kind: Kind, raw: &[u8], rules: &[TagRule]) -> Named {
    let mut name = String::from_utf8_lossy(raw).into_owned();
    let mut tags = Vec::new();
    for rule in rules {
        tags.extend(rule.apply(&mut name).map(|value| (rule.label.clone(), value)));
    }
    istio(&mut name, &mut tags);
    equations(&mut name, &mut tags);
    let mut labels = labels(&[("filter", filter)]);
    let mut seen = vec![String::from("filter")];
    for (tag, value) in tags {
        let mut label = label_name(&tag);
        // What Prometheus does when a scrape has a label that it sets itself.
        while seen.contains(&label) {
            label.insert_str(0, "exported_");
        }
        push_label(&mut labels, &label, &value);
        seen.push(label);
    }
    Named { family: family_name(&name, kind), labels }
}

/// Takes `tag=.=value;.;` out of `name`.
fn istio(name: &mut String, tags: &mut Vec<(String, String)>) {
    if !name.contains(ISTIO_END) {
        return;
    }
    let mut rest = String::new();
    for part in name.split(ISTIO_END) {
        match part.split_once(ISTIO_VALUE) {
            Some((tag, value)) => tags.push((tag.to_owned(), value.to_owned())),
            None => rest.push_str(part),
        }
    }
    *name = rest;
}

/// Takes `_tag=value` off the end of `name`. A tag begins at the last `_` before its `=`, so it has none itself; a
/// value ends at the last `_` before the next `=`, so it may.
fn equations(name: &mut String, tags: &mut Vec<(String, String)>) {
    let mut parts = name.split('=');
    let Some(first) = parts.next() else { return };
    let Some((base, tag)) = first.rsplit_once('_') else { return };
    if base.is_empty() || tag.is_empty() {
        return;
    }
    let mut tag = tag.to_owned();
    let base = base.to_owned();
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return;
    }
    while let Some(part) = parts.next() {
        let next = part.rsplit_once('_').filter(|_| parts.peek().is_some());
        match next {
            Some((value, following)) => {
                tags.push((std::mem::replace(&mut tag, following.to_owned()), value.to_owned()));
            }
            None => tags.push((std::mem::take(&mut tag), part.to_owned())),
        }
    }
    tags.retain(|(tag, _)| !tag.is_empty());
    *name = base;
}

/// `name` with what Prometheus allows in names of metrics, without what is added when it is exported.
fn family_name(name: &str, kind: Kind) -> String {
    let mut family: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' }).collect();
    if kind == Kind::Counter
        && let Some(base) = family.strip_suffix("_total").filter(|base| !base.is_empty())
    {
        family.truncate(base.len());
    }
    if family.is_empty() || family.starts_with(|c: char| c.is_ascii_digit()) {
        family.insert(0, '_');
    }
    family
}

/// `name` with what Prometheus allows in names of labels.
fn label_name(name: &str) -> String {
    let mut label: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if label.is_empty() || label.starts_with(|c: char| c.is_ascii_digit()) {
        label.insert(0, '_');
    }
    // Two of them are Prometheus' own, and `le` is a histogram's.
    if label.starts_with("__") || label == "le" {
        label.insert_str(0, "exported_");
    }
    label
}

/// Labels as they are exported.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut labels = String::new();
    for (label, value) in pairs {
        push_label(&mut labels, label, value);
    }
    labels
}

fn push_label(labels: &mut String, label: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    // Writing to a string cannot fail.
    let _ = write!(labels, "{label}=\"");
    for c in value.chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            c => labels.push(c),
        }
    }
    labels.push('"');
}

/// The labels that `labels` has written.
#[must_use]
pub fn parse_labels(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let mut end = quoted.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c)) => value.push(c),
                    None => {}
                },
                c => value.push(c),
            }
        }
        pairs.push((label.trim_start_matches(',').to_owned(), value));
        rest = quoted.get(end..).unwrap_or_default();
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, TagRule, labels, name, parse_labels};

    fn named(raw: &str, rules: &[TagRule]) -> (String, String) {
        let named = name("f", Kind::Counter, raw.as_bytes(), rules);
        (named.family, named.labels)
    }

    fn check(raw: &str, family: &str, labels: &str) {
        assert_eq!(named(raw, &[]), (family.to_owned(), format!("filter=\"f\"{labels}")), "{raw}");
    }

    #[test]
    fn names_without_tags() {
        check("requests", "requests", "");
        check("requests_total", "requests", "");
        check("proxy_wasm_go.request-counter", "proxy_wasm_go_request_counter", "");
        check("4xx", "_4xx", "");
        check("", "_", "");
        check("_total", "_total", "");
        check("größe", "gr__e", "");
    }

    #[test]
    fn istios_form() {
        check(
            "reporter=.=source;.;source_workload=.=a.b;.;istio_requests_total",
            "istio_requests",
            r#",reporter="source",source_workload="a.b""#,
        );
        check("reporter=.=;.;x", "x", r#",reporter="""#);
    }

    #[test]
    fn equations_at_the_end() {
        check(
            "custom_header_value_counts_value=foo_reporter=wasmgosdk",
            "custom_header_value_counts",
            r#",value="foo",reporter="wasmgosdk""#,
        );
        check(
            "waf_filter.tx.interruptions_ruleid=949110_phase=http_request_headers",
            "waf_filter_tx_interruptions",
            r#",ruleid="949110",phase="http_request_headers""#,
        );
        check("a=b", "a_b", "");
        check("_a=b", "_a_b", "");
        check("x_filter=y", "x", r#",exported_filter="y""#);
        check("x_le=1", "x", r#",exported_le="1""#);
    }

    #[test]
    fn expressions_as_envoys() {
        let rules = [
            TagRule::new("rule_id", r"(_rule_id=(\d+))").expect("a rule"),
            TagRule::new("phase", r"\.phase(\.\w+)$").expect("a rule"),
        ];
        let expected = ("hits_phase".to_owned(), r#"filter="f",rule_id="7",phase=".body""#.to_owned());
        assert_eq!(named("hits_rule_id=7.phase.body", &rules), expected);
        assert!(TagRule::new("a b", "(x)").is_err());
        assert!(TagRule::new("a", "x").is_err_and(|error| error.contains("no group")));
        assert!(TagRule::new("a", "(").is_err());
    }

    proptest! {
        #[test]
        fn labels_are_read_as_they_were_written(value: String, other: String) {
            let text = labels(&[("a", &value), ("b_c", &other)]);
            prop_assert_eq!(
                parse_labels(&text),
                vec![("a".to_owned(), value), ("b_c".to_owned(), other)]
            );
        }

        #[test]
        fn any_name_becomes_a_name(raw: Vec<u8>) {
            let named = name("f", Kind::Gauge, &raw, &[]);
            prop_assert!(named.family.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':'));
            prop_assert!(named.family.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)));
        }
    }
}
