//! Moves what a zone has into another one, when its size has changed.

use std::{fs::File, io};

use super::{
    layout::{Kind, Layout},
    map::Mapping,
    members::Lifelines,
    table::Eviction,
    word::Memory,
    zone::Zone,
};

/// A new zone in `file`, with a hash key of its own, or that of the zone that it comes after: queues stay in their
/// places then.
///
/// # Errors
/// When the system has no memory or no random numbers to give.
pub(super) fn create<M: Memory>(
    file: &File,
    layout: Layout,
    before: Option<&Zone<M>>,
) -> io::Result<Zone<Mapping>> {
    let seed = match before {
        Some(before) => before.seed().into(),
        None => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            let (words, _) = bytes.as_chunks::<8>();
            [0, 1].map(|at| words.get(at).map_or(0, |word: &[u8; 8]| u64::from_le_bytes(*word)))
        }
    };
    Zone::create(Mapping::new(file)?, layout, seed)
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the file is too short"))
}

/// Moves everything that `from` has into `to`, and gives how many entries or messages there was no room for. Entries
/// are copied, for processes that still use `from`; messages are taken out there, so that none is seen twice.
pub(super) fn carry<A: Memory, B: Memory>(
    (from, from_lifelines): (&Zone<A>, &Lifelines),
    (to, to_lifelines): (&Zone<B>, &Lifelines),
    kind: Kind,
    eviction: Eviction,
) -> usize {
    let (Some(giver), Some(taker)) = (from.join(from_lifelines), to.join(to_lifelines)) else { return 0 };
    let mut lost = 0;
    match kind {
        Kind::Table => {
            to.continue_cas(from);
            from.for_each_entry(|scope, key, value, cas| {
                let written = to.write(&taker, eviction, (scope, key), value, 0, Some(cas));
                lost += usize::from(written.is_err());
            });
        }
        Kind::Queues => {
            let mut message = Vec::new();
            from.for_each_queue(|queue, scope, name| {
                let added = to.add_at(&taker, queue, scope, name).is_ok();
                while from.dequeue(&giver, queue, &mut message) {
                    lost += usize::from(!added || to.enqueue(&taker, queue, &message).is_err());
                }
            });
        }
    }
    from.leave(&giver, from_lifelines);
    to.leave(&taker, to_lifelines);
    lost
}
