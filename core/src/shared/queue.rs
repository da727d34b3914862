//! Shared queues: lists of messages that processes append to and take from without locks.
//!
//! ```text
//!  name ─► record: head ─────────► taken ─► message ─► message ◄── tail
//!                  the chunk that   │
//!                  was taken last ──┘ stays until the next is taken
//! ```
//!
//! The list is Michael and Scott's ("Simple, fast, and practical non-blocking and blocking concurrent queue
//! algorithms", 1996): a message is in the queue once the link of the last one names it; a tail that is behind is moved
//! on by whoever finds it so; links and ends count their changes, since chunks are used again.
//!
//! Queues are found by name in a directory that is only added to. A queue's number is its place there, so it is the
//! same for every process as long as the zone lives.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{
    layout::{CHUNK_BYTES, Chunk, Kind, Layout, QUEUES, header},
    members::Member,
    table::{MAX_KEY, MAX_SCOPE, MAX_VALUE, WriteError},
    word::{Memory, Word},
    zone::{Id, NoRoom, Role, Zone, head, sizes},
};

/// Words of a queue's record.
mod record {
    /// Chunk of its name; 0 while there is no queue.
    pub(super) const NAME: usize = 0;
    /// The chunk before the first message, and how often it has changed.
    pub(super) const HEAD: usize = 1;
    /// The last message, or one before it.
    pub(super) const TAIL: usize = 2;
    /// Who is to be told of messages; 0 when nobody is.
    pub(super) const LISTENER: usize = 3;
    /// 1 while the listener has been told and has not looked yet.
    pub(super) const TOLD: usize = 4;
}

/// Owner of the chunks that new queues begin with.
const RESERVED: Id = Id::new(0, 1);

/// A chunk (or none), and a count of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link(u64);

impl Link {
    const CHUNK: u64 = (1 << 27) - 1;

    fn chunk<M: Memory>(self, zone: &Zone<M>) -> Option<Chunk> {
        zone.layout.chunk(self.0 & Self::CHUNK)
    }

    /// How often it has changed, counted to 2^37.
    const fn changes(self) -> u64 {
        self.0 >> Self::CHUNK.count_ones()
    }

    /// The link that comes after this one.
    fn next(self, chunk: Option<Chunk>) -> Self {
        let changes = (self.0 & !Self::CHUNK).wrapping_add(Self::CHUNK + 1);
        Self(changes | chunk.map_or(0, |chunk| u64::from(chunk.raw())))
    }
}

/// Who is told of a queue's messages: any number but 0 that its process can be woken by.
pub type Listener = u64;

impl<M: Memory> Zone<M> {
    fn queue_word(&self, queue: u32, word: usize) -> &M::Word {
        self.at(Layout::queue(queue as usize) + word)
    }

    fn link(&self, chunk: Chunk) -> Link {
        Link(self.word(chunk, head::LINK).load(Acquire))
    }

    fn end_of(&self, queue: u32, word: usize) -> Link {
        Link(self.queue_word(queue, word).load(Acquire))
    }

    /// Gives each record the chunk that its queue begins with.
    pub(crate) fn create_queues(&self) {
        let numbers = 0..u32::try_from(QUEUES).unwrap_or(0);
        for (queue, chunk) in numbers.zip(self.layout.all_chunks()) {
            self.owner(chunk).store(RESERVED.owns(Role::Head), Relaxed);
            let (word, bit) = self.layout.used(chunk);
            self.at(word).set_bits(bit);
            for end in [record::HEAD, record::TAIL] {
                self.queue_word(queue, end).store(u64::from(chunk.raw()), Relaxed);
            }
        }
    }

    /// The number of the queue of that name, which is added if there is none.
    ///
    /// # Errors
    /// [`WriteError`] when it cannot be added: the name is too large, or there are too many queues.
    pub fn register(&self, member: &Member, scope: &[u8], name: &[u8]) -> Result<u32, WriteError> {
        debug_assert_eq!(self.layout.kind(), Kind::Queues);
        if scope.len() > MAX_SCOPE || name.len() > MAX_KEY {
            return Err(WriteError::TooLarge);
        }
        if let Ok(queue) = self.look_up(scope, name) {
            return Ok(queue);
        }
        let id = self.begin(member);
        let added = self.add(member, id, scope, name);
        self.end(member);
        if added.is_err() {
            self.header(header::REFUSALS).add(1);
        }
        added
    }

    /// The number of the queue of that name.
    #[must_use]
    pub fn resolve(&self, scope: &[u8], name: &[u8]) -> Option<u32> {
        self.look_up(scope, name).ok()
    }

    fn add(&self, member: &Member, id: Id, scope: &[u8], name: &[u8]) -> Result<u32, WriteError> {
        let entry = self.make_name(member, id, scope, name).map_err(|NoRoom| WriteError::Full)?;
        let give_up = || self.free_entry(member, entry, id);
        loop {
            match self.look_up(scope, name) {
                Ok(queue) => {
                    give_up();
                    return Ok(queue);
                }
                Err(None) => {
                    give_up();
                    return Err(WriteError::Full);
                }
                Err(Some(place)) => {
                    let word = self.queue_word(place, record::NAME);
                    if word.replace(0, u64::from(entry.raw())).is_ok() {
                        return Ok(place);
                    }
                }
            }
        }
    }

    /// Adds the queue `name` with the number that it has in the zone that this one comes after. Nobody else uses this
    /// one yet.
    pub(crate) fn add_at(
        &self,
        member: &Member,
        queue: u32,
        scope: &[u8],
        name: &[u8],
    ) -> Result<(), NoRoom> {
        let id = self.begin(member);
        let made = self.make_name(member, id, scope, name);
        if let Ok(entry) = made {
            // It may have been registered in the meantime, and by the same rule has got the same place.
            if self.queue_word(queue, record::NAME).replace(0, u64::from(entry.raw())).is_err() {
                self.free_entry(member, entry, id);
            }
        }
        self.end(member);
        made.map(|_| ())
    }

    fn make_name(&self, member: &Member, id: Id, scope: &[u8], name: &[u8]) -> Result<Chunk, NoRoom> {
        let (entry, _) = self.claim(member, || id, Role::Head, || false)?;
        if let Err(NoRoom) = self.writer(member, id, entry, || false).key(scope, name) {
            self.free_entry(member, entry, id);
            return Err(NoRoom);
        }
        self.word(entry, head::SIZES).store(sizes(scope, name), Relaxed);
        Ok(entry)
    }

    /// The queue of that name, or the place where it would be added, if there is one.
    fn look_up(&self, scope: &[u8], name: &[u8]) -> Result<u32, Option<u32>> {
        let count = QUEUES as u64;
        let start = self.hash_key(scope, name);
        for probe in 0..count {
            let place = u32::try_from(start.wrapping_add(probe) % count).unwrap_or(0);
            let word = self.queue_word(place, record::NAME).load(Acquire);
            // Names are never freed, so what they are can be read without asking again.
            let Some(entry) = self.layout.chunk(word) else { return Err(Some(place)) };
            if self.word(entry, head::SIZES).load(Relaxed) == sizes(scope, name)
                && self.reader(entry).is_key(scope, name) == Ok(true)
            {
                return Ok(place);
            }
        }
        Err(None)
    }

    /// Whether there is a queue of that number.
    #[must_use]
    pub fn has_queue(&self, queue: u32) -> bool {
        (queue as usize) < QUEUES && self.queue_word(queue, record::NAME).load(Acquire) != 0
    }

    /// Appends a message to queue number `queue`, which exists. Gives the listener that has to be woken, if there is
    /// one that has not been told already.
    ///
    /// # Errors
    /// [`WriteError`] when there is no room for it.
    pub fn enqueue(
        &self,
        member: &Member,
        queue: u32,
        message: &[u8],
    ) -> Result<Option<Listener>, WriteError> {
        if message.len() > MAX_VALUE {
            return Err(WriteError::TooLarge);
        }
        let id = self.begin(member);
        let Ok(entry) = self.make_message(member, id, queue, message) else {
            self.end(member);
            self.header(header::REFUSALS).add(1);
            return Err(WriteError::Full);
        };
        self.intend(member, queue, std::iter::empty());
        loop {
            let tail = self.end_of(queue, record::TAIL);
            let Some(last) = tail.chunk(self) else { break };
            let link = self.link(last);
            if self.end_of(queue, record::TAIL) != tail {
                continue;
            }
            let end = self.queue_word(queue, record::TAIL);
            match link.chunk(self) {
                Some(next) => {
                    let _ = end.replace(tail.0, tail.next(Some(next)).0);
                }
                None => {
                    if self.word(last, head::LINK).replace(link.0, link.next(Some(entry)).0).is_ok() {
                        let _ = end.replace(tail.0, tail.next(Some(entry)).0);
                        break;
                    }
                }
            }
        }
        self.end(member);
        Ok(self.tell(queue))
    }

    fn make_message(&self, member: &Member, id: Id, queue: u32, message: &[u8]) -> Result<Chunk, NoRoom> {
        if message.len() / CHUNK_BYTES > self.layout.chunks() {
            return Err(NoRoom);
        }
        let (entry, _) = self.claim(member, || id, Role::Head, || false)?;
        if let Err(NoRoom) = self.writer(member, id, entry, || false).bytes(message) {
            self.free_entry(member, entry, id);
            return Err(NoRoom);
        }
        let next = self.word(entry, head::NEXT);
        next.store(u64::from(queue) << 32 | next.load(Relaxed) & u64::from(u32::MAX), Relaxed);
        self.word(entry, head::VALUE).store(message.len() as u64, Relaxed);
        // The last message of the queue, as long as nothing follows.
        let link = self.link(entry);
        self.word(entry, head::LINK).store(link.next(None).0, Release);
        Ok(entry)
    }

    /// Takes the first message of queue number `queue` and copies it to `message`. False when there is none.
    pub fn dequeue(&self, member: &Member, queue: u32, message: &mut Vec<u8>) -> bool {
        loop {
            let first = self.end_of(queue, record::HEAD);
            let tail = self.end_of(queue, record::TAIL);
            let Some(taken) = first.chunk(self) else { return false };
            let link = self.link(taken);
            let owner = self.owner(taken).load(Acquire);
            if self.end_of(queue, record::HEAD) != first {
                continue;
            }
            let Some(next) = link.chunk(self) else { return false };
            if tail.chunk(self) == Some(taken) {
                let _ = self.queue_word(queue, record::TAIL).replace(tail.0, tail.next(Some(next)).0);
                continue;
            }
            // What is copied is whole if the head is still the same when it is moved: until then `next` is in the queue.
            let size = self.word(next, head::VALUE).load(Relaxed) & u64::from(u32::MAX);
            message.resize(usize::try_from(size).unwrap_or(0).min(MAX_VALUE), 0);
            if self.reader(next).copy(message).is_err() {
                // It was taken meanwhile; or the zone contradicts itself, and then nothing can be taken any more.
                if self.end_of(queue, record::HEAD) == first {
                    return false;
                }
                continue;
            }
            M::Word::fence(Acquire);
            let old = Id::of(owner, Role::Head).filter(|id| *id != RESERVED);
            self.intend(member, queue, old.into_iter());
            let moved =
                self.queue_word(queue, record::HEAD).replace(first.0, first.next(Some(next)).0).is_ok();
            if let (true, Some(id)) = (moved, old) {
                self.free_entry(member, taken, id);
            }
            self.end_removal(member);
            if moved {
                return true;
            }
        }
    }

    /// Whether the queue has no message.
    #[must_use]
    pub fn is_empty(&self, queue: u32) -> bool {
        loop {
            let first = self.end_of(queue, record::HEAD);
            let Some(taken) = first.chunk(self) else { return true };
            let link = self.link(taken);
            if self.end_of(queue, record::HEAD) == first {
                return link.chunk(self).is_none();
            }
        }
    }

    /// How many messages have been put into the queue, and how many taken from it, since the zone was made: each moves
    /// an end of it by one. While somebody is about to put one in, or was killed then, the first may be one behind.
    pub fn passed(&self, queue: u32) -> (u64, u64) {
        let taken = self.end_of(queue, record::HEAD).changes();
        (self.end_of(queue, record::TAIL).changes().max(taken), taken)
    }

    /// Makes `listener` the one that is told of the queue's messages, in place of whoever was. True when there are
    /// messages already, of which it is not told.
    pub fn listen(&self, queue: u32, listener: Listener) -> bool {
        self.queue_word(queue, record::LISTENER).store(listener, Release);
        self.heard(queue);
        !self.is_empty(queue)
    }

    /// The queues that `listener` is told of.
    pub fn queues_of(&self, listener: Listener) -> impl Iterator<Item = u32> + '_ {
        (0..u32::try_from(QUEUES).unwrap_or(0))
            .filter(move |queue| self.queue_word(*queue, record::LISTENER).load(Relaxed) == listener)
    }

    /// The listener looks at the queue from now on: of what comes later it is told again.
    pub fn heard(&self, queue: u32) {
        self.queue_word(queue, record::TOLD).swap(0);
    }

    /// The listener that has to be told, unless it has been. A queue without one is told of nothing.
    fn tell(&self, queue: u32) -> Option<Listener> {
        if self.queue_word(queue, record::TOLD).swap(1) != 0 {
            return None;
        }
        Some(self.queue_word(queue, record::LISTENER).load(Acquire)).filter(|listener| *listener != 0)
    }

    /// Whether `id` is the name of a queue, or a message of queue number `queue`.
    pub(crate) fn queue_reaches(&self, queue: u64, id: Id) -> bool {
        let has = |chunk: Option<Chunk>| {
            chunk.is_some_and(|chunk| self.owner(chunk).load(Acquire) == id.owns(Role::Head))
        };
        let numbers = || 0..u32::try_from(QUEUES).unwrap_or(0);
        if numbers().any(|queue| has(self.layout.chunk(self.queue_word(queue, record::NAME).load(Acquire)))) {
            return true;
        }
        let Some(queue) = numbers().find(|number| u64::from(*number) == queue) else { return false };
        loop {
            let first = self.end_of(queue, record::HEAD);
            let mut at = first.chunk(self);
            let mut left = self.layout.chunks();
            while let Some(chunk) = at.filter(|_| left > 0) {
                if has(Some(chunk)) {
                    break;
                }
                at = self.link(chunk).chunk(self);
                left -= 1;
            }
            // While the head stands still nothing behind it is freed, so all of it was looked at.
            if self.end_of(queue, record::HEAD) == first {
                return at.is_some();
            }
        }
    }

    /// Calls `each` with number, scope and name of every queue.
    pub(crate) fn for_each_queue(&self, mut each: impl FnMut(u32, &[u8], &[u8])) {
        let (mut scope, mut name) = (Vec::new(), Vec::new());
        for queue in 0..u32::try_from(QUEUES).unwrap_or(0) {
            let word = self.queue_word(queue, record::NAME).load(Acquire);
            let Some(entry) = self.layout.chunk(word) else { continue };
            let sizes = self.word(entry, head::SIZES).load(Relaxed);
            scope.resize(usize::try_from(sizes & 0xffff).unwrap_or(0).min(MAX_SCOPE), 0);
            name.resize(usize::try_from(sizes >> 16 & 0xff_ffff).unwrap_or(0).min(MAX_KEY), 0);
            let mut reader = self.reader(entry);
            if reader.copy(&mut scope).is_ok() && reader.copy(&mut name).is_ok() {
                each(queue, &scope, &name);
            }
        }
    }
}
