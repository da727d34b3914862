//! What the thread beside a worker notes, each time it wakes up: whether it still does so in time, how large the worker
//! is, and how full the zones are. It costs requests nothing, and goes on while a callback keeps the worker busy.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc, time::Duration};

use super::{Id, Kind, Metrics, Own, Slot, Unit, zones::Survey};
use crate::{engine::Beat, shared::Zones};

/// How often what is no matter of each tick is looked at.
const SURVEY: Duration = Duration::from_secs(1);

const WAKEUPS: Own<'_> = Own::new(
    Kind::Counter,
    "weir_epoch_wakeups",
    "How often the threads that make epochs pass have woken up.",
);
const EPOCHS: Own<'_> =
    Own::new(Kind::Counter, "weir_epochs", "Epochs, in which callbacks' time is measured, that have passed.");
const DELAY: Own<'_> = Own::new(
    Kind::Histogram,
    "weir_epoch_delay_seconds",
    "How late the threads that make epochs pass have woken up.",
)
.of(Unit::Nanoseconds);
const RESIDENT: Own<'_> =
    Own::new(Kind::Level, "weir_worker_resident_bytes", "Memory of a worker that is in RAM.").of(Unit::Bytes);

/// What one worker's thread notes.
pub struct Pulse {
    metrics: Arc<Metrics>,
    wakeups: Slot,
    epochs: Slot,
    delay: Option<Id>,
    resident: Slot,
    /// Says how large this process is.
    status: Option<File>,
    survey: Survey,
    tick: Duration,
    /// Time until the next survey.
    left: Duration,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").field("tick", &self.tick).finish_non_exhaustive()
    }
}

impl Pulse {
    /// For the worker that calls this, which has its row; its thread wakes up each `tick`.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, zones: &Zones, tick: Duration) -> Self {
        Self {
            wakeups: metrics.slot(&WAKEUPS, &[]),
            epochs: metrics.slot(&EPOCHS, &[]),
            delay: metrics.define_own(&DELAY, &[]),
            resident: metrics.slot(&RESIDENT, &[]),
            // Where there is none the size stays 0.
            status: File::open("/proc/self/status").ok(),
            survey: Survey::new(metrics, zones),
            metrics: Arc::clone(metrics),
            tick,
            left: Duration::ZERO,
        }
    }

    /// The thread has woken up.
    pub fn beat(&mut self, beat: Beat) {
        self.metrics.count(self.wakeups, 1);
        self.metrics.count(self.epochs, u64::from(beat.epoch));
        if let Some(delay) = self.delay {
            self.metrics.observe(delay, u64::try_from(beat.late.as_nanos()).unwrap_or(u64::MAX));
        }
        match self.left.checked_sub(self.tick) {
            Some(left) if !left.is_zero() => self.left = left,
            _ => {
                self.left = SURVEY;
                self.metrics.put(self.resident, self.status.as_ref().and_then(resident).unwrap_or(0));
                self.survey.publish();
            }
        }
    }
}

/// Bytes in RAM of the process that `status` is of: VmRSS in proc_pid_status(5), in KiB.
fn resident(status: &File) -> Option<u64> {
    // All of it has some 1500.
    let mut text = [0; 4096];
    let length = status.read_at(&mut text, 0).ok()?;
    let text = str::from_utf8(text.get(..length)?).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::Pulse;
    use crate::{
        engine::Beat,
        metrics::{
            Metrics, Options,
            catalog::Catalog,
            text::{Format, Text},
        },
        shared::{
            Eviction, Shared, Zones, ZonesSpec,
            regions::{QueuesSpec, TableSpec},
        },
    };

    fn text(metrics: &Metrics) -> String {
        let mut catalog = Catalog::new();
        catalog.learn(metrics.words(), usize::MAX);
        let mut text = Text::new(Format::Prometheus, catalog.series());
        while !text.write(metrics.words(), usize::MAX) {}
        text.into_text()
    }

    #[track_caller]
    fn assert_shows(metrics: &Metrics, lines: &[&str]) {
        let text = text(metrics);
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn it_notes_how_worker_and_zones_are() {
        let metrics = Arc::new(Metrics::nameless(Options::default()).expect("memory"));
        metrics.begin_generation();
        metrics.claim_row(7, |_| true);
        let table = TableSpec { name: "t".into(), size: 64 << 10, eviction: Eviction::None, persist: None };
        let queues = QueuesSpec { name: "pulse".into(), size: 64 << 10 };
        let zones = Zones::open(&ZonesSpec { tables: vec![table], queues: vec![queues] }).expect("zones");
        let shared = Shared::new(&zones);
        let value = [0; 200];
        for key in ["t/a", "t/b"] {
            shared.set(b"vm", key.as_bytes(), Some(&value), 0).expect("room");
        }
        shared.set(b"vm", b"t/b", None, 0).expect("it is there");
        assert!(shared.set(b"vm", b"t/c", Some(&[0; 100 << 10]), 0).is_err());
        let queue = shared.register(b"vm", b"pulse/jobs").expect("room");
        for _ in 0..3 {
            shared.enqueue(queue, b"x").expect("room");
        }
        shared.dequeue(queue, &mut Vec::new()).expect("a message");
        let mut pulse = Pulse::new(&metrics, &zones, Duration::from_millis(400));
        let late = Duration::from_micros(50);
        for epoch in [true, false, true] {
            pulse.beat(Beat { epoch, late });
        }
        assert_shows(
            &metrics,
            &[
                "weir_epoch_wakeups_total 3",
                "weir_epochs_total 2",
                "weir_epoch_delay_seconds_sum 0.00015",
                "weir_zone_size_bytes{zone=\"t\",kind=\"shm_kv\"} 65536",
                "weir_zone_entries{zone=\"t\",kind=\"shm_kv\"} 1",
                "weir_zone_refusals_total{zone=\"t\",kind=\"shm_kv\"} 1",
                "weir_zone_evictions_total{zone=\"t\",kind=\"shm_kv\"} 0",
                "weir_zone_refusals_total{zone=\"pulse\",kind=\"shm_queue\"} 0",
                "weir_queue_depth{zone=\"pulse\",vm_id=\"vm\",queue=\"pulse/jobs\"} 2",
                "weir_queue_enqueued_total{zone=\"pulse\",vm_id=\"vm\",queue=\"pulse/jobs\"} 3",
                "weir_queue_dequeued_total{zone=\"pulse\",vm_id=\"vm\",queue=\"pulse/jobs\"} 1",
            ],
        );
        let resident = text(&metrics).lines().find_map(|line| {
            line.strip_prefix("weir_worker_resident_bytes{worker=\"1\"} ")?.parse::<u64>().ok()
        });
        assert!(resident.is_some_and(|bytes| bytes > 1 << 20), "{resident:?}");
    }

    #[test]
    fn one_process_publishes_for_all_and_an_old_configuration_s_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics");
        let open = |pid| {
            let (metrics, _) = Metrics::open(&path, Options::default()).expect("a file");
            metrics.claim_row(pid, |_| true);
            metrics
        };
        let (first, second) = (open(1), open(2));
        first.begin_generation();
        assert!(first.leads());
        assert!(!first.leads(), "not again at once");
        assert!(!second.leads(), "the first one does");
        let newer = open(3);
        newer.begin_generation();
        assert!(!first.leads() && !second.leads());
    }
}
