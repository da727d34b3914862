//! How full zones are, and what has become of their entries and messages: read from the zones themselves, and published
//! by one process for all.

use std::{collections::HashMap, sync::Arc};

use super::{Id, Kind, Metrics, Own, Unit};
use crate::shared::{
    Zones,
    layout::{self, CHUNK_BYTES},
    regions::Region,
};

/// Chunks whose owners are looked at each time, to count entries: 2 MiB of memory, well below a millisecond.
const CHUNKS: usize = 1 << 18;

/// Most characters of a queue's name, and of its vm_id, in a label.
const NAME: usize = 64;

const SIZE: Own<'_> =
    Own::new(Kind::Gauge, "weir_zone_size_bytes", "Bytes that a zone has for what is kept in it.")
        .of(Unit::Bytes);
const USED: Own<'_> =
    Own::new(Kind::Gauge, "weir_zone_used_bytes", "Bytes of a zone that are in use.").of(Unit::Bytes);
const ENTRIES: Own<'_> = Own::new(Kind::Gauge, "weir_zone_entries", "Keys that a zone of shared data holds.");
const EVICTIONS: Own<'_> =
    Own::new(Kind::Counter, "weir_zone_evictions", "Entries that had to make room for others.");
const REFUSALS: Own<'_> =
    Own::new(Kind::Counter, "weir_zone_refusals", "Writes that were refused since a zone was full.");
const DEPTH: Own<'_> = Own::new(Kind::Gauge, "weir_queue_depth", "Messages that wait in a queue.");
const PUT: Own<'_> = Own::new(Kind::Counter, "weir_queue_enqueued", "Messages that were put into a queue.");
const TAKEN: Own<'_> =
    Own::new(Kind::Counter, "weir_queue_dequeued", "Messages that were taken from a queue.");

/// What is published of the zones of one configuration.
pub(super) struct Survey {
    metrics: Arc<Metrics>,
    zones: Vec<Zone>,
}

struct Zone {
    region: Arc<Region>,
    size: Option<Id>,
    used: Option<Id>,
    entries: Option<Id>,
    evictions: Option<Id>,
    refusals: Option<Id>,
    /// Chunks that have been looked at in this round, and the entries among them.
    looked: usize,
    found: usize,
    /// Depth, messages put and taken, of each queue.
    queues: HashMap<u32, [Option<Id>; 3]>,
}

impl Survey {
    pub(super) fn new(metrics: &Arc<Metrics>, zones: &Zones) -> Self {
        let all = zones.tables().iter().chain(zones.queues());
        let zones = all.map(|region| Zone::new(metrics, region)).collect();
        Self { metrics: Arc::clone(metrics), zones }
    }

    /// Publishes what there is now, if that is this process's to do.
    pub(super) fn publish(&mut self) {
        if self.metrics.leads() {
            for zone in &mut self.zones {
                zone.publish(&self.metrics);
            }
        }
    }
}

impl Zone {
    fn new(metrics: &Metrics, region: &Arc<Region>) -> Self {
        let table = region.zone.kind() == layout::Kind::Table;
        let kind = if table { "shm_kv" } else { "shm_queue" };
        let define = |own: &Own<'_>| metrics.define_own(own, &[("zone", region.name()), ("kind", kind)]);
        Self {
            region: Arc::clone(region),
            size: define(&SIZE),
            used: define(&USED),
            entries: table.then(|| define(&ENTRIES)).flatten(),
            evictions: table.then(|| define(&EVICTIONS)).flatten(),
            refusals: define(&REFUSALS),
            looked: 0,
            found: 0,
            queues: HashMap::new(),
        }
    }

    fn publish(&mut self, metrics: &Metrics) {
        let zone = &self.region.zone;
        let publish = |id: Option<Id>, value: u64| {
            if let Some(id) = id {
                metrics.publish(id, value);
            }
        };
        let bytes = |chunks: usize| (chunks * CHUNK_BYTES) as u64;
        publish(self.size, bytes(zone.chunks()));
        publish(self.used, bytes(zone.used_chunks()));
        publish(self.evictions, zone.evictions());
        publish(self.refusals, zone.refusals());
        if self.entries.is_some() {
            self.found += zone.entries_among(self.looked, CHUNKS);
            self.looked += CHUNKS;
            if self.looked >= zone.chunks() {
                publish(self.entries, self.found as u64);
                (self.looked, self.found) = (0, 0);
            }
            return;
        }
        let (region, queues) = (&self.region, &mut self.queues);
        zone.for_each_queue(|queue, scope, name| {
            let ids = queues.entry(queue).or_insert_with(|| {
                let [scope, name] = [scope, name].map(label);
                let labels = [("zone", region.name()), ("vm_id", &scope), ("queue", &name)];
                [&DEPTH, &PUT, &TAKEN].map(|own| metrics.define_own(own, &labels))
            });
            let (put, taken) = zone.passed(queue);
            let [depth, put_id, taken_id] = *ids;
            publish(depth, put.saturating_sub(taken));
            publish(put_id, put);
            publish(taken_id, taken);
        });
    }
}

/// Bytes of a guest's as a label, cut where they are too long for one.
fn label(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(NAME).collect()
}
