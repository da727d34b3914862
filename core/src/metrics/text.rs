//! The text that Prometheus scrapes, in its own format and in OpenMetrics, written a piece at a time.
//!
//! Sources: "Exposition formats" of Prometheus' documentation (text format 0.0.4) and the OpenMetrics specification 1.0.
//! A histogram is exported with fewer buckets than it has: for times two for each power of two from 128 ns to 2.1 s, for
//! other values one for each power of two up to 2^32 - 1. Their bounds are bounds of buckets, so no value is counted in
//! another one.

use std::{fmt::Write as _, sync::Arc};

use super::{
    Kind, Unit,
    catalog::{Family, Series},
    histogram::{self, Distribution},
    words::Words,
};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that a client prefers whose `Accept` header is `accept`.
    #[must_use]
    pub fn accepted(accept: &[u8]) -> Self {
        let quality = |wanted: &[u8]| {
            accept.split(|byte| *byte == b',').filter_map(|range| quality(range, wanted)).fold(0, u32::max)
        };
        let open = quality(b"application/openmetrics-text");
        if open > 0 && open >= quality(b"text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Weight, in thousandths, of media range `range` if it is for `wanted`.
fn quality(range: &[u8], wanted: &[u8]) -> Option<u32> {
    let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    if !parts.next()?.eq_ignore_ascii_case(wanted) {
        return None;
    }
    let weight = parts.find_map(|part| part.strip_prefix(b"q="));
    let Some(weight) = weight else { return Some(1000) };
    let weight: f32 = str::from_utf8(weight).ok()?.parse().ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000, and saturating")]
    Some((weight.clamp(0.0, 1.0) * 1000.0) as u32)
}

/// A text in the making.
#[derive(Debug)]
pub struct Text {
    format: Format,
    series: Arc<[Arc<Series>]>,
    at: usize,
    family: Option<Arc<Family>>,
    distribution: Distribution,
    text: String,
}

impl Text {
    /// The text of `series`, which have to be sorted by family.
    #[must_use]
    pub fn new(format: Format, series: Arc<[Arc<Series>]>) -> Self {
        let (distribution, text) = (Distribution::default(), String::new());
        Self { format, series, at: 0, family: None, distribution, text }
    }

    /// Writes until about `lines` lines more are there; true when the text is complete.
    pub fn write<W: Words + ?Sized>(&mut self, words: &W, lines: usize) -> bool {
        let mut written = 0;
        let series = Arc::clone(&self.series);
        while written < lines {
            let Some(one) = series.get(self.at) else {
                if self.format == Format::OpenMetrics {
                    self.text.push_str("# EOF\n");
                }
                return true;
            };
            self.at += 1;
            written += self.one(words, one);
        }
        false
    }

    /// What has been written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Writes one metric, and answers how many lines that was.
    fn one<W: Words + ?Sized>(&mut self, words: &W, series: &Series) -> usize {
        if !series.is_current(words) {
            return 1;
        }
        let family = &series.family;
        if self.family.as_ref().is_none_or(|current| !Arc::ptr_eq(current, family)) {
            self.head(family);
            self.family = Some(Arc::clone(family));
        }
        match series.read_into(words, &mut self.distribution) {
            Number::Counter(value) => self.sample(family, "_total", &series.labels, "", value),
            Number::Gauge(value) => self.sample(family, "", &series.labels, "", value),
            Number::Levels => {
                let mut count = 1;
                for (row, value) in series.levels(words) {
                    self.sample(family, "", &series.labels, &format!("worker=\"{row}\""), value);
                    count += 1;
                }
                return count;
            }
            Number::Histogram => return self.histogram(series),
        }
        1
    }

    /// HELP, TYPE and UNIT of a family.
    fn head(&mut self, family: &Family) {
        let Family { name, kind, unit, help } = family;
        let (text, open) = (&mut self.text, self.format == Format::OpenMetrics);
        let suffix = if *kind == Kind::Counter && !open { "_total" } else { "" };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let help = if open { help.replace('"', "\\\"") } else { help };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {}", kind.name());
        let unit = match unit {
            Unit::None => None,
            Unit::Nanoseconds => Some("seconds"),
            Unit::Bytes => Some("bytes"),
        };
        // A unit has to be the end of the name.
        if let Some(unit) = unit.filter(|unit| open && name.ends_with(&format!("_{unit}"))) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
    }

    fn sample(
        &mut self,
        family: &Family,
        suffix: &str,
        labels: &str,
        more: &str,
        value: impl std::fmt::Display,
    ) {
        let text = &mut self.text;
        text.push_str(&family.name);
        text.push_str(suffix);
        if !labels.is_empty() || !more.is_empty() {
            text.push('{');
            text.push_str(labels);
            if !labels.is_empty() && !more.is_empty() {
                text.push(',');
            }
            text.push_str(more);
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }

    /// Writes the histogram that `self.distribution` holds.
    fn histogram(&mut self, series: &Series) -> usize {
        let family = &series.family;
        let values = std::mem::take(&mut self.distribution);
        let seconds = family.unit == Unit::Nanoseconds;
        let (mut bucket, mut count, mut lines) = (0, 0_u64, 3);
        let mut le = String::new();
        for bound in bounds(seconds) {
            while histogram::least_of(bucket).is_some_and(|least| least < bound) {
                count = count.wrapping_add(values.counts().get(bucket).copied().unwrap_or_default());
                bucket += 1;
            }
            le.clear();
            let _ = if seconds {
                write!(le, "le=\"{}\"", Seconds(bound))
            } else {
                // The greatest whole number below.
                write!(le, "le=\"{}.0\"", bound - 1)
            };
            self.sample(family, "_bucket", &series.labels, &le, count);
            lines += 1;
        }
        self.sample(family, "_bucket", &series.labels, "le=\"+Inf\"", values.count());
        if seconds {
            self.sample(family, "_sum", &series.labels, "", Seconds(values.sum()));
        } else {
            self.sample(family, "_sum", &series.labels, "", values.sum());
        }
        self.sample(family, "_count", &series.labels, "", values.count());
        self.distribution = values;
        lines
    }
}

/// What one line says, or that it takes more of them.
enum Number {
    Counter(u64),
    Gauge(i64),
    Levels,
    Histogram,
}

impl Series {
    fn read_into<W: Words + ?Sized>(&self, words: &W, distribution: &mut Distribution) -> Number {
        match self.family.kind {
            Kind::Counter => Number::Counter(self.total(words)),
            Kind::Gauge => Number::Gauge(self.total(words).cast_signed()),
            Kind::Level => Number::Levels,
            Kind::Histogram => {
                self.distribution(words, distribution);
                Number::Histogram
            }
        }
    }
}

/// Values below which the exported buckets of a histogram count: bounds of its own buckets.
fn bounds(seconds: bool) -> impl Iterator<Item = u64> {
    // 128 ns to 2^31 ns in halves of powers of two; else 1, 2, 4 … 2^32.
    let times = (7..31).flat_map(|power| [1 << power, 3 << (power - 1)]).chain([1 << 31]);
    let values = (0..=32).map(|power| 1 << power);
    times.filter(move |_| seconds).chain(values.filter(move |_| !seconds))
}

/// Nanoseconds, written as seconds, exactly.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        let (whole, rest) = (self.0 / SECOND, self.0 % SECOND);
        if rest == 0 {
            return write!(f, "{whole}.0");
        }
        let digits = format!("{rest:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Seconds, bounds, histogram};

    #[test]
    fn what_clients_accept() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                          q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus.as_bytes()), Format::OpenMetrics);
        for text in
            ["", "*/*", "text/plain", "application/openmetrics-text;q=0.1, text/plain; q=0.5", "\u{ff}"]
        {
            assert_eq!(Format::accepted(text.as_bytes()), Format::Prometheus, "{text}");
        }
    }

    #[test]
    fn seconds_are_exact() {
        for (ns, text) in [(0, "0.0"), (128, "0.000000128"), (1_500_000_000, "1.5"), (3_000_000_000, "3.0")] {
            assert_eq!(Seconds(ns).to_string(), text);
        }
    }

    #[test]
    fn exported_bounds_are_bounds_of_buckets() {
        for bound in bounds(true).chain(bounds(false)) {
            assert_eq!(histogram::least_of(histogram::bucket(bound)), Some(bound));
        }
        assert_eq!((bounds(true).count(), bounds(false).count()), (49, 33));
    }
}
