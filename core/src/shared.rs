//! What all workers share: data and queues, in memory that is mapped before they are made.
//!
//! ```text
//!  Zones      the zones of one configuration, made in the master; a reload finds those that stay
//!    Region     one zone: its memory, and the kernel's locks that tell who of its members lives
//!  Shared     one process's part in them: its memberships, and how it is woken
//! ```
//!
//! A key or name of the form `ZONE/rest` goes to the zone of that name, if there is one, and everything else to the
//! zone `*`, as in Kong's ngx_wasm_module. The `vm_id` of a filter is part of each key and name.
//!
//! How zones are read and written without locks, and survive whoever dies in between: [`zone`], [`table`], [`queue`].

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

pub mod layout;
pub mod map;
pub mod members;
pub mod queue;
pub mod regions;
pub mod table;
pub mod wake;
pub mod word;
pub mod zone;

mod bucket;
mod carry;
mod census;
mod claims;
mod hash;
mod kept;
mod settle;

pub use claims::Claims;
pub use regions::{OpenError, Zones, ZonesSpec};
pub use table::{Eviction, WriteError};

use members::Member;
use regions::Region;

/// One process's part in the zones of a configuration. Single-threaded, like a worker.
#[derive(Debug)]
pub struct Shared {
    zones: Arc<Zones>,
    tables: Vec<Part>,
    queues: Vec<Part>,
    /// The number that this process can be woken by.
    listener: Cell<Option<usize>>,
    /// How many messages this process has taken.
    taken: Cell<u64>,
    /// Room for a value while it is on its way to a guest.
    buffer: RefCell<Vec<u8>>,
}

/// A process's part in one zone.
#[derive(Debug)]
struct Part {
    region: Arc<Region>,
    member: OnceCell<Option<Member>>,
    /// A write that was refused has been spoken of.
    warned: Cell<bool>,
}

impl Part {
    fn new(region: &Arc<Region>) -> Self {
        Self { region: Arc::clone(region), member: OnceCell::new(), warned: Cell::new(false) }
    }

    /// The membership, which begins with the first change that this process makes, at the latest.
    fn member(&self) -> Option<&Member> {
        self.member.get_or_init(|| self.region.zone.join(&self.region.lifelines)).as_ref()
    }

    fn warn(&self) -> Option<&str> {
        (!self.warned.replace(true)).then(|| self.region.name())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(Some(member)) = self.member.get() {
            self.region.zone.leave(member, &self.region.lifelines);
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// There is no queue of that number.
    #[error("there is no such queue")]
    NotFound,
    /// There is no message.
    #[error("the queue is empty")]
    Empty,
    /// The message was refused.
    #[error(transparent)]
    Refused(#[from] WriteError),
}

impl Shared {
    /// This process's part in `zones`. It must have ended (been dropped) before this process forks.
    #[must_use]
    pub fn new(zones: &Arc<Zones>) -> Rc<Self> {
        Rc::new(Self {
            tables: zones.tables().iter().map(Part::new).collect(),
            queues: zones.queues().iter().map(Part::new).collect(),
            zones: Arc::clone(zones),
            listener: Cell::new(None),
            taken: Cell::new(0),
            buffer: RefCell::default(),
        })
    }

    /// Joins every zone, which puts in order what dead processes have left there.
    pub fn join(&self) {
        for part in self.tables.iter().chain(&self.queues) {
            part.member();
        }
    }

    /// Lends room for a value. What is in it is of no interest.
    pub(crate) fn with_buffer<T>(&self, with: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut buffer = self.buffer.take();
        let result = with(&mut buffer);
        self.buffer.replace(buffer);
        result
    }

    /// Copies the value of `key` to `value` and gives its `cas` number; `None` when there is none.
    pub fn get(&self, scope: &[u8], key: &[u8], value: &mut Vec<u8>) -> Option<u32> {
        let region = &part(&self.tables, key)?.region;
        region.zone.get(region.eviction, scope, key, value)
    }

    /// Sets the value of `key`, if its `cas` number is that, or that is 0. `None` takes the value away.
    ///
    /// # Errors
    /// [`WriteError`]; nothing has changed.
    pub fn set(&self, scope: &[u8], key: &[u8], value: Option<&[u8]>, cas: u32) -> Result<(), WriteError> {
        let part = part(&self.tables, key).ok_or(WriteError::Full)?;
        let member = part.member().ok_or(WriteError::Full)?;
        part.region.zone.set(member, part.region.eviction, scope, key, value, cas).map(|_| ())
    }

    /// The number of the queue `name`, which is made if there is none.
    ///
    /// # Errors
    /// [`WriteError`] when it cannot be made.
    pub fn register(&self, scope: &[u8], name: &[u8]) -> Result<u32, WriteError> {
        let part = part(&self.queues, name).ok_or(WriteError::Full)?;
        let member = part.member().ok_or(WriteError::Full)?;
        Ok(part.region.number_of(part.region.zone.register(member, scope, name)?))
    }

    /// The number of the queue `name`; `None` when there is none.
    #[must_use]
    pub fn resolve(&self, scope: &[u8], name: &[u8]) -> Option<u32> {
        let region = &part(&self.queues, name)?.region;
        Some(region.number_of(region.zone.resolve(scope, name)?))
    }

    /// The zone of queue number `number`, and its number there.
    fn queue(&self, number: u32) -> Result<(&Part, u32), QueueError> {
        let found = self.queues.iter().find_map(|part| Some((part, part.region.queue_of(number)?)));
        found.ok_or(QueueError::NotFound)
    }

    /// Appends `message` to a queue, and wakes who listens to it.
    ///
    /// # Errors
    /// [`QueueError`]
    pub fn enqueue(&self, number: u32, message: &[u8]) -> Result<(), QueueError> {
        let (part, queue) = self.queue(number)?;
        let member = part.member().ok_or(WriteError::Full)?;
        if let Some(listener) = part.region.zone.enqueue(member, queue, message)? {
            self.zones.wakes().wake(listener);
        }
        Ok(())
    }

    /// Takes the first message of a queue and copies it to `message`.
    ///
    /// # Errors
    /// [`QueueError`]
    pub fn dequeue(&self, number: u32, message: &mut Vec<u8>) -> Result<(), QueueError> {
        let (part, queue) = self.queue(number)?;
        let member = part.member().ok_or(WriteError::Full)?;
        if !part.region.zone.dequeue(member, queue, message) {
            return Err(QueueError::Empty);
        }
        self.taken.set(self.taken.get() + 1);
        Ok(())
    }

    /// How many messages this process has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// What this process is woken by: a descriptor that is readable when some queue that it listens to has messages.
    /// `None` where nobody has made that possible before processes were made, or too many listen already.
    pub fn waker(&self) -> Option<&wake::Wake> {
        let wakes = self.zones.wakes();
        if self.listener.get().is_none() {
            self.listener.set(wakes.take());
        }
        wakes.get(self.listener.get()?)
    }

    /// Makes this process the one that is woken when a queue has messages, now if it has some already.
    pub(crate) fn listen(&self, number: u32) {
        let (Ok((part, queue)), Some(waker)) = (self.queue(number), self.waker()) else { return };
        if let Some(listener) = self.listener.get()
            && part.region.zone.listen(queue, wake::listener(listener))
        {
            waker.wake();
        }
    }

    /// Messages that come to the queue from now on wake this process again. True when there are some already.
    pub(crate) fn look_at(&self, number: u32) -> bool {
        let Ok((part, queue)) = self.queue(number) else { return false };
        part.region.zone.heard(queue);
        !part.region.zone.is_empty(queue)
    }

    /// Whether the queue has messages.
    pub(crate) fn has_messages(&self, number: u32) -> bool {
        self.queue(number).is_ok_and(|(part, queue)| !part.region.zone.is_empty(queue))
    }

    /// The zone of `key`, if a write that it refused has to be spoken of: once in each process.
    pub(crate) fn is_first_refusal(&self, key: &[u8]) -> Option<&str> {
        part(&self.tables, key)?.warn()
    }

    /// The same for the zone of a queue.
    pub(crate) fn is_first_refused_message(&self, number: u32) -> Option<&str> {
        self.queue(number).ok()?.0.warn()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            self.zones.wakes().give_back(listener);
        }
    }
}

/// The zone that `key` goes to.
fn part<'p>(parts: &'p [Part], key: &[u8]) -> Option<&'p Part> {
    // The zone `*` comes first, and is the only one as a rule.
    let (default, named) = parts.split_first()?;
    if named.is_empty() {
        return Some(default);
    }
    let prefix = key.iter().position(|byte| *byte == b'/').and_then(|end| key.get(..end));
    let found = prefix.and_then(|prefix| named.iter().find(|part| part.region.name().as_bytes() == prefix));
    Some(found.unwrap_or(default))
}
