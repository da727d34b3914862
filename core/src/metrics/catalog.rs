//! Reading: which metrics there are, sorted into families as they are exported, and what their values are.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Kind, Unit,
    histogram::Distribution,
    layout::{AT_ROWS, COMMON, MOST_ROWS, ROW_PID, row_at},
    memory, registry,
    registry::Record,
    words::{Words, place},
};

/// Metrics that share name, kind and help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Name, without `_total`.
    pub name: String,
    /// What its metrics count.
    pub kind: Kind,
    /// What their numbers are.
    pub unit: Unit,
    /// One sentence.
    pub help: String,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its family.
    pub family: Arc<Family>,
    /// Labels as they are exported: `a="b",c="d"`.
    pub labels: String,
    /// The filter that defined it; empty for Weir's own.
    pub scope: String,
    cell: usize,
    line: usize,
    transient: bool,
}

/// What a metric says now.
#[derive(Debug, Clone)]
pub enum Reading {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(i64),
    /// Of a histogram.
    Histogram(Box<Distribution>),
    /// Of each worker that runs: the number of its row, and its value.
    Levels(Vec<(usize, u64)>),
}

impl Series {
    /// Whether it is to be shown; transient ones are not once the running configuration does not define them.
    #[must_use]
    pub fn is_current<W: Words + ?Sized>(&self, words: &W) -> bool {
        registry::is_current(words, self.line, self.transient)
    }

    /// What it says now.
    #[must_use]
    pub fn read<W: Words + ?Sized>(&self, words: &W) -> Reading {
        match self.family.kind {
            Kind::Counter => Reading::Counter(self.total(words)),
            Kind::Gauge => Reading::Gauge(self.total(words).cast_signed()),
            Kind::Histogram => {
                let mut distribution = Box::<Distribution>::default();
                self.distribution(words, &mut distribution);
                Reading::Histogram(distribution)
            }
            Kind::Level => Reading::Levels(self.levels(words).collect()),
        }
    }

    /// What all workers have counted, of a counter or gauge.
    pub(super) fn total<W: Words + ?Sized>(&self, words: &W) -> u64 {
        sum(words, self.cell)
    }

    /// Puts a histogram's values into `distribution`.
    pub(super) fn distribution<W: Words + ?Sized>(&self, words: &W, distribution: &mut Distribution) {
        distribution.clear();
        for head in cells(words, self.cell) {
            distribution.add(words, head);
        }
    }

    /// The value in each worker that runs, with the number of its row.
    pub(super) fn levels<'a, W: Words + ?Sized>(
        &'a self,
        words: &'a W,
    ) -> impl Iterator<Item = (usize, u64)> + 'a {
        workers(words).filter_map(|worker| {
            let word = memory::find_cell(words, worker.row, self.cell)?;
            Some((worker.row, words.load(word)))
        })
    }
}

/// Words of `cell` in all rows that have memory for it.
fn cells<W: Words + ?Sized>(words: &W, cell: usize) -> impl Iterator<Item = usize> {
    let rows = place(words.load(AT_ROWS)).min(MOST_ROWS);
    (COMMON..rows).filter_map(move |row| memory::find_cell(words, row, cell))
}

/// What all rows have counted in `cell`.
pub(super) fn sum<W: Words + ?Sized>(words: &W, cell: usize) -> u64 {
    cells(words, cell).fold(0, |sum: u64, word| sum.wrapping_add(words.load(word)))
}

/// A process that has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Number of the row, from 1.
    pub row: usize,
    /// The process.
    pub pid: u64,
    /// When it took the row, in nanoseconds since 1970.
    pub started: u64,
}

/// The workers that have rows: those that run, and those that were killed and whose rows nobody has taken yet.
pub fn workers<W: Words + ?Sized>(words: &W) -> impl Iterator<Item = Worker> {
    let rows = place(words.load(AT_ROWS)).min(MOST_ROWS);
    (COMMON + 1..rows).filter_map(move |row| {
        let pid = words.load(row_at(row) + ROW_PID);
        let started = words.load(row_at(row) + super::layout::ROW_STARTED);
        (pid != 0).then_some(Worker { row, pid, started })
    })
}

/// The metrics of a family, by their labels.
type Members = BTreeMap<String, Arc<Series>>;

/// All metrics, sorted. It learns of new ones, and forgets none.
#[derive(Debug, Default)]
pub struct Catalog {
    /// How many slots of the directory have been looked at.
    seen: usize,
    families: BTreeMap<String, (Arc<Family>, Members)>,
    sorted: Option<Arc<[Arc<Series>]>>,
}

impl Catalog {
    /// A catalog that knows no metric yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns of at most `most` metrics that it does not know; true when it knows them all.
    pub fn learn<W: Words + ?Sized>(&mut self, words: &W, most: usize) -> bool {
        for _ in 0..most {
            let Some(line) = registry::line_of(words, self.seen) else { return true };
            if let Some(record) = Record::read(words, line) {
                self.enter(self.seen, line, record);
                self.sorted = None;
            }
            self.seen += 1;
        }
        registry::line_of(words, self.seen).is_none()
    }

    /// Metrics that are known, family by family.
    pub fn series(&mut self) -> Arc<[Arc<Series>]> {
        let families = &self.families;
        let all = || families.values().flat_map(|(_, series)| series.values().map(Arc::clone)).collect();
        Arc::clone(self.sorted.get_or_insert_with(all))
    }

    fn enter(&mut self, at: usize, line: usize, record: Record) {
        let mut name = record.family;
        // A family has one kind. Filters that disagree on a name have a family each.
        let fits = |found: &Family| found.kind == record.kind && found.unit == record.unit;
        while let Some((family, _)) = self.families.get(&name)
            && !fits(family)
        {
            name.push('_');
            name.push_str(record.kind.name());
        }
        let make = || {
            let (kind, unit, help) = (record.kind, record.unit, record.help.clone());
            (Arc::new(Family { name: name.clone(), kind, unit, help }), BTreeMap::new())
        };
        let (family, series) = self.families.entry(name.clone()).or_insert_with(make);
        let mut labels = record.labels;
        // Names that differ only in what cannot be exported are told apart by their numbers.
        if series.contains_key(&labels) {
            let number = (at + 1).to_string();
            labels = [labels, super::tags::labels(&[("metric", &number)])].join(",");
        }
        let one = Series {
            family: Arc::clone(family),
            labels: labels.clone(),
            scope: record.scope,
            cell: record.cell,
            line,
            transient: record.transient,
        };
        series.insert(labels, Arc::new(one));
    }
}
