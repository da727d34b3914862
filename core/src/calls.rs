//! The calls of a worker that live: which context waits for each, and what it is told when something comes back.
//!
//! ```text
//!  hostcall ─► State::begin_call ─► Pending::begin ─► host::Calls
//!                                        ┆
//!  Shard::called ─► Pending::receive ─► Told ─► Instance::tell ─► the guest's callback
//! ```
//!
//! An entry holds the [`Seat`] of its instance, not the instance: whatever ends the instance ends its calls, too.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    context::ContextId,
    filter::Callback,
    host::{
        Host,
        calls::{ByCall, CallEvent, CallToken},
    },
    instance::{Instance, answer::Answer},
    metrics::{
        Metrics,
        calls::{CallMetrics, Meter, outcome},
    },
};

mod news;

use news::{News, Over};

/// Where an instance is found, once it is where it lives.
#[derive(Debug)]
pub(crate) struct Seat<H: Host>(OnceCell<(usize, Weak<RefCell<Instance<H>>>)>);

impl<H: Host> Default for Seat<H> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<H: Host> Seat<H> {
    /// `instance`, whose seat it is, lives there from now on as one of group number `group`.
    pub(crate) fn take(&self, group: usize, instance: &Rc<RefCell<Instance<H>>>) {
        // An instance moves once.
        let _ = self.0.set((group, Rc::downgrade(instance)));
    }

    /// Number of its group, and the instance; `None` before it is there, and when it is gone.
    pub(crate) fn instance(&self) -> Option<(usize, Rc<RefCell<Instance<H>>>)> {
        let (group, instance) = self.0.get()?;
        Some((*group, instance.upgrade()?))
    }
}

/// Who waits for a call.
#[derive(Debug)]
pub(crate) struct Waiting<H: Host> {
    pub(crate) seat: Rc<Seat<H>>,
    pub(crate) context: ContextId,
    /// Number of the context's root context, counted from 0.
    pub(crate) root: usize,
    pub(crate) kind: Kind,
    /// The callback that has made it.
    pub(crate) made_in: Callback,
    /// Its context has held the response since.
    pub(crate) holds: bool,
    /// Times it.
    pub(crate) meter: Meter,
}

/// What sort of call it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP.
    Http,
    /// gRPC with one message each way: the one that has come back, until it is known that the call was good.
    Unary(Option<Bytes>),
    /// gRPC with messages as they come; the guest may still send.
    Stream {
        /// It has not closed its side.
        open: bool,
    },
    /// A name that is looked up.
    Lookup,
}

/// What a context is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) token: CallToken,
    pub(crate) context: ContextId,
    pub(crate) root: usize,
    pub(crate) callback: Callback,
    /// Parameters after the call's number.
    pub(crate) params: [i32; 3],
    pub(crate) answer: Answer,
    /// The call has ended.
    pub(crate) last: bool,
}

/// What becomes of an event.
#[derive(Debug)]
pub(crate) enum Received<H: Host> {
    /// Nobody waits for it.
    Nobody,
    /// The guest is told later, or never.
    Noted,
    /// The context at that seat is told. The call goes on, has ended, or (`true`) is to be cancelled.
    Tell(Rc<Seat<H>>, Told, bool),
}

/// The calls of a worker.
#[derive(Debug)]
pub(crate) struct Pending<H: Host> {
    waiting: RefCell<ByCall<Waiting<H>>>,
    next: Cell<u32>,
    metrics: CallMetrics,
}

/// The first number that no call has: what is asked for while a configuration is rehearsed gets numbers from here on, so
/// that a guest which is begun where that one was never meets one of them again.
pub(crate) const FIRST_REHEARSED: u32 = 1 << 31;

impl<H: Host> Pending<H> {
    /// No calls yet, of a worker that counts in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { waiting: RefCell::default(), next: Cell::new(1), metrics: CallMetrics::new(metrics) }
    }

    /// Where calls are counted.
    pub(crate) fn metrics(&self) -> &CallMetrics {
        &self.metrics
    }

    /// A number for a call of `waiting`, which waits from now on.
    pub(crate) fn begin(&self, waiting: Waiting<H>) -> CallToken {
        let mut all = self.waiting.borrow_mut();
        loop {
            let number = self.next.get();
            self.next.set(if number + 1 < FIRST_REHEARSED { number + 1 } else { 1 });
            let token = CallToken::new(number);
            if let std::collections::hash_map::Entry::Vacant(place) = all.entry(token) {
                place.insert(waiting);
                self.metrics.live(all.len());
                return token;
            }
        }
    }

    /// Nobody waits for `token` any more.
    pub(crate) fn forget(&self, token: CallToken) {
        if let Some(waiting) = self.remove(token) {
            self.metrics.cancelled(&waiting.meter);
        }
    }

    /// The context that has made `token` holds the response: it waits for an answer.
    pub(crate) fn hold(&self, token: CallToken) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(&token) {
            waiting.holds = true;
        }
    }

    /// The context that has made `token` ends. What it has asked for when its request was over, or while the response came
    /// and it did not hold that (a report of it, say), is to be sent all the same: then the call goes on, and nobody is told
    /// of it. False if that is not so. `waited` says that its `on_done` has put off its end, so that what was asked for
    /// there was waited for.
    pub(crate) fn let_go(&self, token: CallToken, waited: bool) -> bool {
        let mut all = self.waiting.borrow_mut();
        let Some(waiting) = all.get_mut(&token) else { return false };
        let is_last = match waiting.made_in {
            Callback::Log | Callback::Delete => true,
            Callback::ResponseHeaders | Callback::ResponseBody | Callback::ResponseTrailers => !waiting.holds,
            Callback::Done => !waited,
            _ => false,
        };
        let goes_on = is_last && matches!(waiting.kind, Kind::Http | Kind::Unary(_));
        if goes_on {
            waiting.seat = Rc::default();
        }
        goes_on
    }

    /// The proxy has not begun `token`.
    pub(crate) fn withdraw(&self, token: CallToken) {
        self.remove(token);
    }

    fn remove(&self, token: CallToken) -> Option<Waiting<H>> {
        let mut all = self.waiting.borrow_mut();
        let removed = all.remove(&token);
        self.metrics.live(all.len());
        removed
    }

    /// How many calls live.
    pub(crate) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether somebody waits for `token`.
    pub(crate) fn lives(&self, token: CallToken) -> bool {
        self.waiting.borrow().contains_key(&token)
    }

    /// Looks at what sort of call `token` is, if somebody at `seat` waits for it.
    pub(crate) fn look<R>(
        &self,
        seat: &Rc<Seat<H>>,
        token: CallToken,
        look: impl FnOnce(ContextId, &mut Kind) -> R,
    ) -> Option<R> {
        let mut all = self.waiting.borrow_mut();
        let waiting = all.get_mut(&token).filter(|waiting| Rc::ptr_eq(&waiting.seat, seat))?;
        Some(look(waiting.context, &mut waiting.kind))
    }

    /// Something has become of `token`.
    pub(crate) fn receive(&self, token: CallToken, event: CallEvent) -> Received<H> {
        let mut all = self.waiting.borrow_mut();
        let Some(waiting) = all.get_mut(&token) else { return Received::Nobody };
        let outcome = outcome(&event);
        let Some(News { callback, params, answer, over }) = waiting.kind.news(event) else {
            return Received::Noted;
        };
        let (seat, context, root) = (Rc::clone(&waiting.seat), waiting.context, waiting.root);
        let last = over != Over::NotYet;
        if last {
            self.metrics.ended(&waiting.meter, outcome);
            all.remove(&token);
            self.metrics.live(all.len());
        }
        Received::Tell(
            seat,
            Told { token, context, root, callback, params, answer, last },
            over == Over::ByUs,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{FIRST_REHEARSED, Kind, Pending, Seat, Waiting};
    use crate::{
        context::ContextId,
        filter::Callback,
        metrics::{Metrics, Options},
        testing::Memory,
    };

    #[test]
    fn numbers_wrap_past_what_lives() {
        let metrics = Metrics::nameless(Options::default()).expect("memory");
        let pending = Pending::<Memory>::new(metrics.into());
        let seat = Rc::new(Seat::default());
        let waiting = || {
            let meter = pending.metrics().begin("f", b"upstream");
            let seat = Rc::clone(&seat);
            Waiting {
                seat,
                context: ContextId::NONE,
                root: 0,
                kind: Kind::Http,
                holds: false,
                made_in: Callback::Tick,
                meter,
            }
        };
        let first = pending.begin(waiting());
        assert_eq!(first.number(), 1);
        pending.next.set(FIRST_REHEARSED - 1);
        assert_eq!(pending.begin(waiting()).number(), FIRST_REHEARSED - 1);
        assert_eq!(pending.begin(waiting()).number(), 2, "1 lives");
        pending.forget(first);
        assert!(!pending.lives(first));
        assert_eq!(pending.len(), 2);
    }
}
