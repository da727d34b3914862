//! What is counted of a worker's instances. Each number has its place in the worker's row, so it is written by one store
//! or one add.

use std::{cell::Cell, sync::Arc};

use crate::{
    host::Host,
    metrics::{Kind, Metrics, Own, Slot},
    plan::{Plans, group::Group},
};

const CAPACITY: Own<'_> =
    Own::new(Kind::Level, "weir_pool_capacity", "Most instances that a worker may have.");
const IN_USE: Own<'_> = Own::new(
    Kind::Level,
    "weir_pool_in_use",
    "Instances of a worker that requests have, or the worker itself for what root contexts wait for.",
);
const MOST: Own<'_> =
    Own::new(Kind::Level, "weir_pool_in_use_most", "Most instances that were in use at once in a worker.");
const IDLE: Own<'_> = Own::new(Kind::Level, "weir_pool_idle", "Instances that wait for a request.");
const WAITS: Own<'_> =
    Own::new(Kind::Counter, "weir_pool_waits", "Requests that had to wait for an instance.");
const EXHAUSTIONS: Own<'_> =
    Own::new(Kind::Counter, "weir_pool_exhaustions", "Requests that got no instance, since all were in use.");
const MADE: Own<'_> = Own::new(Kind::Counter, "weir_instances_made", "Instances that were made.");
const RESET: Own<'_> = Own::new(
    Kind::Counter,
    "weir_instances_reset",
    "How often instances were put back in place after a request.",
);
const TRIMMED: Own<'_> = Own::new(
    Kind::Counter,
    "weir_instances_trimmed",
    "How often instances gave memory back to the system, since a request had used more than keep_resident.",
);
const DROPPED: Own<'_> =
    Own::new(Kind::Counter, "weir_instances_dropped", "Instances that were given up, by reason.");
const SUSPENDED: Own<'_> = Own::new(
    Kind::Level,
    "weir_filter_suspended",
    "1 in a worker where a filter has failed too often and is not run, or is on trial; else 0.",
);
const SUSPENSIONS: Own<'_> =
    Own::new(Kind::Counter, "weir_filter_suspensions", "How often a filter was suspended.");

/// Why an instance is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// It has failed.
    Failed,
    /// There is no image that it could be put back to.
    Configured,
    /// It is made anew for each request.
    Renewed,
    /// Its memory has grown, and the system did not take that back.
    Grown,
    /// More of its memory was written than is kept, and the system did not map it again.
    Written,
    /// Enough others wait for a request.
    Spare,
    /// It has made room for an instance of another filter.
    Displaced,
}

impl Dropped {
    /// Every reason, in order.
    const ALL: [Self; 7] = [
        Self::Failed,
        Self::Configured,
        Self::Renewed,
        Self::Grown,
        Self::Written,
        Self::Spare,
        Self::Displaced,
    ];

    /// The word for a label.
    const fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Configured => "configured",
            Self::Renewed => "renewed",
            Self::Grown => "grown",
            Self::Written => "written",
            Self::Spare => "spare",
            Self::Displaced => "displaced",
        }
    }
}

/// The numbers of one worker.
#[derive(Debug)]
pub(crate) struct Stats {
    metrics: Arc<Metrics>,
    in_use: Slot,
    most: Slot,
    /// The most that was written there.
    peak: Cell<usize>,
    idle: Slot,
    waits: Slot,
    exhaustions: Slot,
    groups: Vec<GroupStats>,
}

/// The numbers of one group.
#[derive(Debug)]
struct GroupStats {
    made: Slot,
    reset: Slot,
    trimmed: Slot,
    /// By reason; found when it happens first.
    dropped: [Cell<Option<Slot>>; Dropped::ALL.len()],
    suspended: Slot,
    suspensions: Slot,
}

/// What the metrics of a group have as labels: name of the filter, places of its directives.
pub(crate) fn labels<H: Host>(group: &Group<H>) -> (&str, String) {
    let places: Vec<_> = group.plugins.iter().map(|plugin| plugin.place.as_str()).collect();
    (&group.filter.spec().name, places.join(", "))
}

impl GroupStats {
    fn new<H: Host>(metrics: &Metrics, group: &Group<H>) -> Self {
        let (filter, directive) = labels(group);
        let slot = |own| metrics.slot(own, &[("filter", filter), ("directive", &directive)]);
        let suspended = slot(&SUSPENDED);
        metrics.put(suspended, 0);
        Self {
            made: slot(&MADE),
            reset: slot(&RESET),
            trimmed: slot(&TRIMMED),
            dropped: Default::default(),
            suspended,
            suspensions: slot(&SUSPENSIONS),
        }
    }
}

impl Stats {
    /// All zero, for a worker that may have `capacity` instances.
    pub(super) fn new<H: Host>(metrics: Arc<Metrics>, plans: &Plans<H>, capacity: usize) -> Self {
        let slot = |own| metrics.slot(own, &[]);
        metrics.put(slot(&CAPACITY), capacity as u64);
        let groups = plans.groups().iter().map(|group| GroupStats::new(&metrics, group)).collect();
        Self {
            in_use: slot(&IN_USE),
            most: slot(&MOST),
            peak: Cell::new(0),
            idle: slot(&IDLE),
            waits: slot(&WAITS),
            exhaustions: slot(&EXHAUSTIONS),
            groups,
            metrics,
        }
    }

    /// So many instances are in use now.
    pub(super) fn in_use(&self, count: usize) {
        self.metrics.put(self.in_use, count as u64);
        if count > self.peak.get() {
            self.peak.set(count);
            self.metrics.put(self.most, count as u64);
        }
    }

    /// So many wait for a request now.
    pub(super) fn idle(&self, count: usize) {
        self.metrics.put(self.idle, count as u64);
    }

    /// A request has to wait for an instance.
    pub(crate) fn waits(&self) {
        self.metrics.count(self.waits, 1);
    }

    /// A request gets none.
    pub(super) fn exhausted(&self) {
        self.metrics.count(self.exhaustions, 1);
    }

    /// An instance of group number `group` was made.
    pub(super) fn made(&self, group: usize) {
        if let Some(group) = self.groups.get(group) {
            self.metrics.count(group.made, 1);
        }
    }

    /// One was put back in place. Whether it was `trimmed`: gave memory back to the system.
    pub(super) fn reset(&self, group: usize, trimmed: bool) {
        if let Some(group) = self.groups.get(group) {
            self.metrics.count(group.reset, 1);
            if trimmed {
                self.metrics.count(group.trimmed, 1);
            }
        }
    }

    /// `count` instances of group number `number` were given up.
    pub(super) fn dropped<H: Host>(&self, plans: &Plans<H>, number: usize, reason: Dropped, count: usize) {
        let (Some(group), Some(plan)) = (self.groups.get(number), plans.groups().get(number)) else { return };
        let Some(known) = group.dropped.get(reason as usize) else { return };
        let slot = known.get().unwrap_or_else(|| {
            let (filter, directive) = labels(plan);
            let labels = [("filter", filter), ("directive", &directive), ("reason", reason.label())];
            self.metrics.slot(&DROPPED, &labels)
        });
        known.set(Some(slot));
        self.metrics.count(slot, count as u64);
    }

    /// Group number `group` is suspended from now on, or on trial again.
    pub(crate) fn suspended(&self, group: usize) {
        if let Some(group) = self.groups.get(group) {
            self.metrics.count(group.suspensions, 1);
            self.metrics.put(group.suspended, 1);
        }
    }

    /// It runs again.
    pub(crate) fn recovered(&self, group: usize) {
        if let Some(group) = self.groups.get(group) {
            self.metrics.put(group.suspended, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dropped;

    #[test]
    fn reasons_are_listed_in_their_order() {
        for (at, reason) in Dropped::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at, "{}", reason.label());
        }
    }
}
