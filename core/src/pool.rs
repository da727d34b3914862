//! Check-out and return of instances.
//!
//! ```text
//!   begin ──► check_out ──► Lease ── callbacks ──► give_back ──► parked, while
//!                                                      │         its calls live
//!                │            │                        │
//!        own: the one that    │              own: reset in place to what
//!        was used last, or    │              it was after configuration,
//!        a new one            │              and kept; dropped if it
//!                             │              cannot be reset
//!        shared: the          │              shared: stays, unless it
//!        worker's one         │              failed: the next one is new
//! ```
//!
//! Nothing outside this room knows which of both a lease is, or how an own one is put back ([`pristine`]).

pub(crate) mod image;
mod page;
mod pagemap;
mod parked;
pub(crate) mod pristine;
mod protect;
mod scan;
pub(crate) mod slots;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod stock;
pub(crate) mod tracker;

use std::{cell::RefCell, rc::Rc, sync::Arc};

use crate::{
    context::ContextId,
    failure::{Cause, Failure},
    filter::Callback,
    host::{Host, RootHost},
    instance::{Home, Instance},
    plan::{Plans, group::Group},
};
use parked::Parked;
use stats::{Dropped, Stats};
use stock::{Books, Stock};

/// An instance where a lease, and the calls that it waits for, find it. Entered by one callback at a time.
type Shared<H> = Rc<RefCell<Instance<H>>>;

/// An instance that a chain may use until it gives it back.
pub(crate) enum Lease<H: Host> {
    /// Nobody else's.
    Own {
        /// The group it is of.
        group: usize,
        /// The instance.
        instance: Shared<H>,
    },
    /// The worker's: all requests share it.
    Shared(Shared<H>),
    /// It was the request's own and is so no more: there was nothing left for it to do.
    GivenBack,
}

impl<H: Host> std::fmt::Debug for Lease<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own { .. } => "Own",
            Self::Shared(_) => "Shared",
            Self::GivenBack => "GivenBack",
        })
    }
}

impl<H: Host> Lease<H> {
    /// Lends the instance.
    ///
    /// # Errors
    /// [`Failure`] when it is being entered already: a proxy that runs filters from within a hostcall; or when it has
    /// been given back.
    #[inline]
    pub(crate) fn with<R>(
        &mut self,
        callback: Callback,
        lend: impl FnOnce(&mut Instance<H>) -> R,
    ) -> Result<R, Failure> {
        match self.instance().map(|instance| instance.try_borrow_mut()) {
            Some(Ok(mut instance)) => Ok(lend(&mut instance)),
            Some(Err(_)) => Err(Failure::new(callback, Cause::Host("the instance was entered twice"))),
            None => Err(Failure::new(callback, Cause::Host("the instance has been given back"))),
        }
    }

    /// Whether there is an instance to call.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self, Self::GivenBack)
    }

    /// Whether it has failed; not known, and false, while it is entered.
    pub(crate) fn has_failed(&self) -> bool {
        let instance = self.instance().and_then(|instance| instance.try_borrow().ok());
        instance.is_some_and(|instance| instance.has_failed())
    }

    /// Whether it has failed while context `id` was told of its call.
    pub(crate) fn has_failed_in(&self, id: ContextId) -> bool {
        let instance = self.instance().and_then(|instance| instance.try_borrow().ok());
        instance.is_some_and(|instance| instance.has_failed_in(id))
    }

    /// Whether its contexts wait for calls.
    pub(crate) fn has_calls(&self) -> bool {
        let instance = self.instance().and_then(|instance| instance.try_borrow().ok());
        instance.is_some_and(|instance| instance.has_calls())
    }

    /// Visits every stream context in the instance whose request lives: its id, the request, number of its filter.
    pub(crate) fn each_stream(&self, mut visit: impl FnMut(ContextId, &H::Stream, usize)) {
        if let Some(Ok(instance)) = self.instance().map(|instance| instance.try_borrow()) {
            instance.each_stream(&mut visit);
        }
    }

    fn instance(&self) -> Option<&Shared<H>> {
        match self {
            Self::Own { instance, .. } | Self::Shared(instance) => Some(instance),
            Self::GivenBack => None,
        }
    }

    /// Whether it lives on when the request is over.
    pub(crate) fn lasting(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

/// The worker's instance of a group, replaced when it has failed; none before it is needed first.
type Resident<H> = RefCell<Option<Shared<H>>>;

/// The instances of one worker.
#[derive(Debug)]
pub(crate) struct Pool<H: Host> {
    plans: Arc<Plans<H>>,
    home: Home<H>,
    /// For each group the worker's own instance of it: all requests share that, or it is there for what the root
    /// contexts wait for.
    residents: Vec<Resident<H>>,
    /// For each group that is not: instances that wait for a request, the one used last at the end.
    idle: Vec<RefCell<Vec<Shared<H>>>>,
    /// Those of requests that are over, which wait for calls.
    parked: Parked<H>,
    stock: Stock,
    books: Books<H>,
    /// Queues that requests have registered in instances of their own: group, root context, queue. The worker's
    /// instance of the group is told of their messages.
    queues: RefCell<Vec<(usize, usize, u32)>>,
}

impl<H: Host> Pool<H> {
    pub(crate) fn new(plans: Arc<Plans<H>>, home: Home<H>, stock: Stock) -> Self {
        let residents = plans.groups().iter().map(|_| RefCell::default()).collect();
        let idle = plans.groups().iter().map(|_| RefCell::default()).collect();
        let limit = plans.groups().first().map_or(0, |group| group.filter.engine().settings().instances);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let books = Books::new(limit, Stats::new(home.root.metrics(), &plans, limit));
        let (parked, queues) = (Parked::default(), RefCell::default());
        Self { plans, home, residents, idle, parked, stock, books, queues }
    }

    pub(crate) fn plans(&self) -> &Plans<H> {
        &self.plans
    }

    /// An instance for group number `group`.
    ///
    /// # Errors
    /// [`Failure`] when none can be made, or it does not get through its configuration.
    pub(crate) fn check_out(&self, group: usize) -> Result<Lease<H>, Failure> {
        let missing = || Failure::new(Callback::Initialize, Cause::Host("an instance of an unknown group"));
        let plan = self.plans.groups().get(group).ok_or_else(missing)?;
        if !plan.shared {
            let instance = self.take(group, plan)?;
            self.books.went_out();
            return Ok(Lease::Own { group, instance });
        }
        self.resident(group).map(Lease::Shared)
    }

    /// The worker's own instance of group number `group`, made if there is none, or none that works.
    ///
    /// # Errors
    /// As [`check_out`](Self::check_out).
    pub(crate) fn resident(&self, group: usize) -> Result<Shared<H>, Failure> {
        let missing = || Failure::new(Callback::Initialize, Cause::Host("an instance of an unknown group"));
        let resident = self.residents.get(group).ok_or_else(missing)?;
        if let Some(current) = &*resident.borrow()
            // One that is being entered right now has not failed, or its lease would have ended.
            && current.try_borrow().map_or(true, |instance| !instance.has_failed())
        {
            return Ok(Rc::clone(current));
        }
        let plan = self.plans.groups().get(group).ok_or_else(missing)?;
        let mut made = plan.make_resident(&self.home)?;
        self.stats().made(group);
        made.settle(group);
        for (_, root, queue) in self.queues.borrow().iter().filter(|(asked, ..)| *asked == group) {
            made.listen(*root, *queue);
        }
        let made = seat(group, made);
        match resident.replace(Some(Rc::clone(&made))) {
            None => self.books.went_out(),
            Some(_) => self.stats().dropped(&self.plans, group, Dropped::Failed, 1),
        }
        Ok(made)
    }

    /// Whether the worker has an instance of its own of group number `group`.
    pub(crate) fn has_resident(&self, group: usize) -> bool {
        self.residents.get(group).is_some_and(|resident| resident.borrow().is_some())
    }

    /// An instance that waits for a request of group number `group`, or a new one.
    fn take(&self, group: usize, plan: &Group<H>) -> Result<Shared<H>, Failure> {
        let (idle, left) = match self.idle.get(group) {
            Some(idle) => {
                let mut idle = idle.borrow_mut();
                (idle.pop(), idle.len())
            }
            None => (None, 0),
        };
        if left < self.stock.spare && self.books.want(group) {
            self.home.root.when_idle();
        }
        match idle {
            Some(instance) => {
                self.books.taken_up(1);
                Ok(instance)
            }
            None => self.make_own(group, plan).map(|instance| seat(group, instance)),
        }
    }

    /// Takes an instance back: one that was a request's own is kept for the next request, if it can be reset and waits
    /// for nothing any more.
    pub(crate) fn give_back(&self, lease: Lease<H>) {
        if let Lease::Own { group, instance } = lease {
            self.park(group, instance);
        }
    }

    /// Keeps `instance` for the next request, if it can be reset.
    fn put_back(&self, group: usize, instance: Shared<H>) {
        let spare = self.idle.get(group).is_some_and(|idle| idle.borrow().len() < self.stock.idle);
        let (queues, reset) = match instance.try_borrow_mut() {
            Ok(mut instance) => {
                let queues = instance.take_asked_queues();
                let reset = if spare { instance.reset() } else { Err(Dropped::Spare) };
                (queues, reset.map(|()| instance.trimmed()))
            }
            Err(_) => (Vec::new(), Err(Dropped::Failed)),
        };
        self.books.came_back();
        match (reset, self.idle.get(group)) {
            (Ok(trimmed), Some(idle)) => {
                idle.borrow_mut().push(instance);
                self.books.laid_down(1);
                self.stats().reset(group, trimmed);
            }
            (reset, _) => {
                drop(instance);
                self.stats().dropped(&self.plans, group, reset.err().unwrap_or(Dropped::Spare), 1);
            }
        }
        self.adopt_queues(group, &queues);
        self.books.call_next();
    }

    /// Has the worker's instance of group number `group` listen to `queues`, which a request has registered in one of its
    /// own: each with the number of its root context.
    pub(crate) fn adopt_queues(&self, group: usize, queues: &[(usize, u32)]) {
        if queues.is_empty() {
            return;
        }
        let fresh = !self.has_resident(group);
        for (root, queue) in queues {
            let (mut known, one) = (self.queues.borrow_mut(), (group, *root, *queue));
            if !known.contains(&one) {
                known.push(one);
            }
        }
        match self.resident(group) {
            // One that was made now listens to them already.
            Ok(_) if fresh => {}
            Ok(resident) => {
                if let Ok(mut resident) = resident.try_borrow_mut() {
                    queues.iter().for_each(|(root, queue)| resident.listen(*root, *queue));
                }
            }
            Err(failure) => self.report(group, &failure),
        }
    }

    /// The worker has nothing else to do: makes one instance that is wanted.
    pub(crate) fn prepare(&self) {
        if let Some(group) = self.books.take_wanted()
            && let (Some(plan), Some(idle)) = (self.plans.groups().get(group), self.idle.get(group))
            && idle.borrow().len() < self.stock.spare
            && self.books.has_space()
            // Whoever needs one will be told what is wrong.
            && let Ok(instance) = self.make(group, plan)
        {
            let mut idle = idle.borrow_mut();
            idle.push(seat(group, instance));
            self.books.laid_down(1);
            if idle.len() < self.stock.spare {
                self.books.want(group);
            }
        }
        if self.books.is_wanted() {
            self.home.root.when_idle();
        }
    }

    /// Ends the root contexts of the worker's own instances, since the worker ends.
    fn end_residents(&mut self) {
        for (group, resident) in self.residents.iter().enumerate() {
            let Some(instance) = resident.take() else { continue };
            let ended = instance
                .try_borrow_mut()
                .map(|mut instance| if instance.has_failed() { Ok(()) } else { instance.end_roots() });
            if let Ok(Err(failure)) = ended {
                self.report(group, &failure);
            }
        }
    }

    /// Whether each of `groups`, of which there are `most` at the most, can have an instance for a request.
    pub(crate) fn has_room<G: Iterator<Item = usize>>(
        &self,
        most: usize,
        groups: impl FnOnce() -> G,
    ) -> bool {
        let is_own = |group: &usize| self.plans.groups().get(*group).is_some_and(|plan| !plan.shared);
        // Commonly there is enough for all of them, whatever they are.
        self.books.has_room(most) || self.books.has_room(groups().filter(is_own).count())
    }

    /// How many instances are kept ready.
    pub(crate) fn stock(&self) -> &Stock {
        &self.stock
    }

    /// What is counted of the instances.
    pub(crate) fn stats(&self) -> &Stats {
        self.books.stats()
    }

    /// An instance that somebody was told of is there for the next one.
    pub(crate) fn pass_on(&self) {
        self.books.call_next();
    }

    /// `stream` is told when an instance has come free.
    pub(crate) fn wait(&self, stream: H::Stream) {
        self.books.wait(stream);
    }

    /// All who wait for an instance are told to look again.
    pub(crate) fn call_all(&self) {
        self.books.call_all();
    }

    /// An instance for one request at a time. When no more can live, idle ones make room.
    fn make_own(&self, group: usize, plan: &Group<H>) -> Result<Instance<H>, Failure> {
        let mut made = self.make(group, plan);
        if is_unavailable(&made) {
            let mut freed = 0;
            for (other, idle) in self.idle.iter().enumerate() {
                let idle = std::mem::take(&mut *idle.borrow_mut());
                if !idle.is_empty() {
                    freed += idle.len();
                    self.stats().dropped(&self.plans, other, Dropped::Displaced, idle.len());
                }
            }
            self.books.taken_up(freed);
            if freed > 0 {
                made = self.make(group, plan);
            }
        }
        if is_unavailable(&made) {
            self.stats().exhausted();
        }
        made
    }

    fn make(&self, group: usize, plan: &Group<H>) -> Result<Instance<H>, Failure> {
        plan.make(&self.home).inspect(|_| self.stats().made(group))
    }
}

impl<H: Host> Drop for Pool<H> {
    fn drop(&mut self) {
        self.end_all_parked();
        self.end_residents();
    }
}

/// Puts `instance`, of group number `group`, where it lives.
fn seat<H: Host>(group: usize, instance: Instance<H>) -> Shared<H> {
    let instance = Rc::new(RefCell::new(instance));
    instance.borrow().seat().take(group, &instance);
    instance
}

/// Whether there was no room for an instance.
fn is_unavailable<H: Host>(made: &Result<Instance<H>, Failure>) -> bool {
    matches!(made, Err(failure) if matches!(failure.cause, Cause::Unavailable(_)))
}
