//! Headers and bodies that several filters of an instance let pass as they are: their callbacks are one entry.
//!
//! Each hostcall in there costs more than in a callback that is entered by itself, since the host has to look whose it is. Where that
//! is more than is saved, filters are entered one by one for a while.
//!
//! The guest goes on by itself to the next context while callbacks answer "continue" and ask for nothing that changes what the next
//! one is told, or whether it is called at all; else the one that did is the last one, and the proxy decides what comes next.

use wasmtime::Val;

use super::{
    Instance, Params, Returned,
    func::Func,
    series::{Globals, number},
};
use crate::{
    context::ContextId,
    failure::Failure,
    filter::{Callback, series::RELAYED},
    host::Host,
    metrics::recorder::{self, Sampling},
};

/// What an entry costs in looks of the host's, roughly: some 300 instructions (the bench `instructions`, five no-ops that are not
/// timed, with and without relays), where reading a global, most of a look, takes some 100 (the same, `Global::get`).
const ENTRY: usize = 3;

/// How often a callback is entered for each filter by itself where a relay did not pay.
const ALONE: u8 = 63;

/// Filters that follow each other: their contexts' ids do so, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// How many there are, one at least.
    pub(crate) count: usize,
    /// Each context's id is less than the one's before it.
    pub(crate) backwards: bool,
}

impl Row {
    /// One filter.
    pub(crate) const ONE: Self = Self { count: 1, backwards: false };

    fn step(self) -> i32 {
        if self.backwards { -1 } else { 1 }
    }

    /// The context of filter number `at` of the row, where the first one's is `first`.
    pub(crate) fn context(self, first: ContextId, at: usize) -> ContextId {
        if self.backwards { first.before(at) } else { first.after(at) }
    }

    fn number(self, first: ContextId, context: ContextId) -> usize {
        let distance = if self.backwards { context.distance(first) } else { first.distance(context) };
        distance.min(self.count - 1)
    }
}

impl<H: Host> Instance<H> {
    /// Calls `callback` of the filters of `row`, one after the other; `params` begin with the first one's context, and the
    /// others are told the same. Answers how many were called, one at least, and what the last one of them has answered:
    /// those before it have answered "continue".
    ///
    /// # Errors
    /// As [`enter`](Self::enter), of the last one.
    #[inline(never)]
    pub(crate) fn relay(
        &mut self,
        callback: Callback,
        first: ContextId,
        row: Row,
        params: Params,
    ) -> (usize, Result<Returned, Failure>) {
        match self.timed_alone.take() {
            Some((timed, left)) if timed == callback => {
                self.timed_alone = (left > 1).then_some((timed, left - 1));
                return (1, self.enter_timed(callback, first, params));
            }
            _ if row.count == 1 => return (1, self.enter_next(callback, first, params)),
            _ => {}
        }
        let Some(at) = RELAYED.iter().position(|relayed| *relayed == callback) else {
            return (1, self.enter_next(callback, first, params));
        };
        if self.alone[at] > 0 {
            self.alone[at] -= 1;
            return (1, self.enter_next(callback, first, params));
        }
        let Some(func) = self.series().map(|series| series.relays[at]) else {
            return (1, self.enter_next(callback, first, params));
        };
        let state = self.store.data();
        let roots = (0..row.count).filter_map(|at| state.contexts.root_of(row.context(first, at)));
        match recorder::sampling(state, roots, &[Some(callback)]) {
            Sampling::None { counts } => {
                let called = self.relay_in_series(func, (callback, first), row, params, counts);
                // What is saved, and what is spent; a relay that is given up early costs an entry.
                let (saved, is_cut) = (called.0 - 1, called.0 < row.count);
                if saved * ENTRY < self.looks + usize::from(is_cut) * ENTRY {
                    self.alone[at] = ALONE;
                }
                called
            }
            Sampling::Each => (1, self.enter_next(callback, first, params)),
            Sampling::All => {
                self.timed_alone = Some((callback, row.count - 1));
                (1, self.enter_timed(callback, first, params))
            }
        }
    }

    /// Whether callbacks that come next are not relayed to, since they are timed.
    pub(crate) fn is_timed_alone(&self) -> bool {
        self.timed_alone.is_some()
    }

    /// Calls one that is timed, if any are.
    fn enter_timed(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
    ) -> Result<Returned, Failure> {
        self.times_all = true;
        let returned = self.enter_next(callback, context, params);
        self.times_all = false;
        returned
    }

    fn relay_in_series(
        &mut self,
        func: Func,
        (callback, first): (Callback, ContextId),
        row: Row,
        [context, a, b, ..]: Params,
        counts: bool,
    ) -> (usize, Result<Returned, Failure>) {
        let params = [context, row.step(), number(row.count), a, b];
        let (ran, result) = match self.enter_series(func, (first, callback), row.count, params) {
            Ok(returned) => {
                let ran = returned.value().unwrap_or_default();
                let action = if ran < 0 { self.action() } else { Returned::from(0) };
                (usize::try_from(ran.unsigned_abs()).unwrap_or(row.count).clamp(1, row.count), Ok(action))
            }
            Err((at, _, failure)) => (row.number(first, at) + 1, Err(failure)),
        };
        if counts {
            let state = self.store.data();
            (0..ran).for_each(|at| recorder::passed(state, row.context(first, at), &[callback]));
        }
        (ran, result)
    }

    /// What the last callback has answered, if that was not "continue".
    #[cold]
    fn action(&mut self) -> Returned {
        let Some(Globals { action, .. }) = self.store.data().globals else { return Returned::NOTHING };
        match action.get(&mut self.store) {
            Val::I32(action) => action.into(),
            _ => Returned::NOTHING,
        }
    }
}
