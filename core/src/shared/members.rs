//! The processes that use a zone, each with a record of what it is about to change, and what is done when one dies.
//!
//! A member holds a lock of the kernel's on its record's number ([`Lifelines`]), which goes away with the process,
//! however that ends. Whoever joins looks at every record whose lock is free: one that still has something in it
//! belonged to a process that died, and is put in order first.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs::File,
    process,
    sync::{
        Mutex, PoisonError,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
};

use super::{
    layout::{Chunk, Kind, Layout, MEMBER, MEMBERS, header},
    map,
    word::{Memory, Word},
    zone::{Id, Zone},
};

/// Words of a record.
mod record {
    /// Number of the member whose record it is; 0 when it is nobody's.
    pub(super) const INCARNATION: usize = 0;
    /// The entry that is being made.
    pub(super) const MAKING: usize = 1;
    /// The list of a bucket that is being made.
    pub(super) const MAKING_NODE: usize = 2;
    /// The chunk that is kept for making room.
    pub(super) const SPARE: usize = 3;
    /// The bucket or queue that what is made or removed is in.
    pub(super) const PLACE: usize = 4;
    /// What is being removed, up to the first 0.
    pub(super) const REMOVING: usize = 5;
}

/// Most things that are removed at once: the entries of a bucket and their list.
pub(crate) const MOST_REMOVED: usize = MEMBER - record::REMOVING - 1;

/// Largest number of a member: [`Id`] has 30 bits for it.
const LAST_INCARNATION: u32 = (1 << 30) - 1;

/// Tells which records belong to processes that live: locks that the kernel drops when their holder dies.
#[derive(Debug)]
pub struct Lifelines {
    /// Its byte number n is locked by the member with record n. `None` in a zone of one process.
    file: Option<File>,
    /// Records that this process holds. The kernel's locks do not tell a process's own members apart.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The process that these are of; a child of fork has none of its parent's.
    process: u32,
    slots: BTreeSet<usize>,
}

impl Lifelines {
    /// For a zone that other processes use too: `file` must be the same one for all, and no other descriptor of it may
    /// be closed by a member, since that would drop its locks.
    #[must_use]
    pub fn in_file(file: File) -> Self {
        Self { file: Some(file), held: Mutex::default() }
    }

    /// For a zone of this process alone.
    #[must_use]
    pub fn local() -> Self {
        Self { file: None, held: Mutex::default() }
    }

    /// Takes lock number `slot`, if nobody alive has it.
    pub(crate) fn take(&self, slot: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.process != process::id() {
            *held = Held { process: process::id(), slots: BTreeSet::new() };
        }
        if held.slots.contains(&slot) || self.file.as_ref().is_some_and(|file| !map::lock(file, slot)) {
            return false;
        }
        held.slots.insert(slot)
    }

    /// Gives lock number `slot` back, if this process has it.
    pub(crate) fn give_back(&self, slot: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.process == process::id()
            && held.slots.remove(&slot)
            && let Some(file) = &self.file
        {
            map::unlock(file, slot);
        }
    }

    /// Whether another process holds any of the locks.
    #[must_use]
    pub fn others(&self) -> bool {
        self.file.as_ref().is_some_and(|file| map::is_locked(file, MEMBERS))
    }
}

/// A process's own part in a zone: where its record is, and which id comes next. Used by one thread.
#[derive(Debug)]
pub struct Member {
    pub(crate) slot: usize,
    incarnation: Cell<u32>,
    number: Cell<u32>,
    /// Word of used-bits where the next search for a free chunk begins.
    pub(crate) cursor: Cell<usize>,
    /// A chunk to make room with.
    pub(crate) spare: Cell<Option<(Chunk, Id)>>,
    /// For how many more searches it is taken for granted that chunks are scarce.
    pub(crate) scarce: Cell<u32>,
}

impl<M: Memory> Zone<M> {
    /// Joins the zone: takes a record, and puts in order what dead members have left. `None` when all records are
    /// taken by the living.
    pub fn join(&self, lifelines: &Lifelines) -> Option<Member> {
        let mut mine = None;
        let mut mended = false;
        let member = |slot| Member {
            slot,
            incarnation: Cell::new(0),
            number: Cell::new(0),
            cursor: Cell::new(slot * self.layout.used_words() / MEMBERS),
            spare: Cell::new(None),
            scarce: Cell::new(0),
        };
        for slot in 0..MEMBERS {
            let left = self.record(slot, record::INCARNATION).load(Acquire) != 0;
            if !(left || mine.is_none()) || !lifelines.take(slot) {
                continue;
            }
            // Looked at again, since its lock is mine only now.
            if self.record(slot, record::INCARNATION).load(Acquire) != 0 {
                self.mend(&member(slot));
                self.record(slot, record::INCARNATION).store(0, Release);
                mended = true;
            }
            if mine.is_none() {
                mine = Some(member(slot));
            } else {
                lifelines.give_back(slot);
            }
        }
        if mended {
            self.mend_used();
        }
        let member = mine?;
        self.be_born(&member);
        if self.layout.kind() == Kind::Table {
            self.take_spare(&member);
        }
        Some(member)
    }

    /// Ends a membership. What it was doing is finished or undone.
    pub fn leave(&self, member: &Member, lifelines: &Lifelines) {
        self.mend(member);
        self.record(member.slot, record::INCARNATION).store(0, Release);
        lifelines.give_back(member.slot);
    }

    fn record(&self, slot: usize, word: usize) -> &M::Word {
        self.at(Layout::member(slot) + word)
    }

    /// Gives the member a number that no member has had.
    fn be_born(&self, member: &Member) {
        let count = self.header(header::INCARNATIONS).add(1);
        // After 2^30 members numbers come again, from 1.
        let incarnation = u32::try_from(count % u64::from(LAST_INCARNATION)).unwrap_or(0) + 1;
        self.record(member.slot, record::INCARNATION).store(u64::from(incarnation), Release);
        member.incarnation.set(incarnation);
        member.number.set(0);
    }

    /// An id that was never used.
    fn next_id(&self, member: &Member) -> Id {
        if member.number.get() == u32::MAX {
            self.be_born(member);
        }
        member.number.set(member.number.get() + 1);
        Id::new(member.incarnation.get(), member.number.get())
    }

    /// Notes that an entry is going to be made, and gives its id.
    pub(crate) fn begin(&self, member: &Member) -> Id {
        if self.record(member.slot, record::MAKING).load(Relaxed) != 0 {
            // A panic has ended what this process did last.
            self.mend(member);
        }
        let id = self.next_id(member);
        self.record(member.slot, record::MAKING).store(id.raw(), Release);
        id
    }

    /// Notes that a list is going to be made, and gives its id.
    pub(crate) fn begin_node(&self, member: &Member) -> Id {
        let id = self.next_id(member);
        self.record(member.slot, record::MAKING_NODE).store(id.raw(), Release);
        id
    }

    /// Notes that a chunk is going to be kept, and gives its id.
    pub(crate) fn begin_spare(&self, member: &Member) -> Id {
        let id = self.next_id(member);
        self.record(member.slot, record::SPARE).store(id.raw(), Release);
        id
    }

    /// The chunk that was kept becomes a list that is being made.
    pub(crate) fn spare_becomes_node(&self, member: &Member, id: Id) {
        self.record(member.slot, record::MAKING_NODE).store(id.raw(), Release);
        self.record(member.slot, record::SPARE).store(0, Release);
    }

    /// Notes where the step that publishes or removes is going to be made, and what it removes.
    pub(crate) fn intend(&self, member: &Member, place: u32, removed: impl Iterator<Item = Id>) {
        self.record(member.slot, record::PLACE).store(u64::from(place), Release);
        let mut at = record::REMOVING;
        for id in removed.take(MOST_REMOVED) {
            self.record(member.slot, at).store(id.raw(), Release);
            at += 1;
        }
        self.record(member.slot, at).store(0, Release);
    }

    /// The list has been published or given up.
    pub(crate) fn end_node(&self, member: &Member) {
        self.record(member.slot, record::MAKING_NODE).store(0, Release);
    }

    /// The entry has been published or given up.
    pub(crate) fn end(&self, member: &Member) {
        self.record(member.slot, record::MAKING).store(0, Release);
    }

    /// What was removed has been freed.
    pub(crate) fn end_removal(&self, member: &Member) {
        self.record(member.slot, record::REMOVING).store(0, Release);
    }

    /// Frees whatever the member's record names and nothing reaches. May be done over again.
    fn mend(&self, member: &Member) {
        let word = |word| self.record(member.slot, word).load(Acquire);
        let place = word(record::PLACE);
        let mut named = [0; MEMBER];
        let words = [record::MAKING, record::MAKING_NODE, record::SPARE].into_iter();
        let words = words.chain(record::REMOVING..MEMBER);
        for (slot, at) in named.iter_mut().zip(words) {
            *slot = word(at);
            if *slot == 0 && at >= record::REMOVING {
                break;
            }
        }
        for id in named.into_iter().filter_map(Id::from_raw) {
            let reached = match self.layout.kind() {
                Kind::Table => self.bucket_reaches(place, id),
                Kind::Queues => self.queue_reaches(place, id),
            };
            if !reached {
                self.free_everywhere(member, id);
            }
        }
        self.end(member);
        self.end_node(member);
        self.record(member.slot, record::SPARE).store(0, Release);
        member.spare.set(None);
        self.end_removal(member);
    }
}
