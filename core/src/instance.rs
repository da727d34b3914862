//! A live instance: store, state and resolved functions; the only place from which guest code is entered.
//!
//! ```text
//!  instantiate ──► start ──► configure (each root) ──► snapshot               once for a group, in the master
//!
//!  instantiate ──► begin (from the snapshot) ──► callbacks ... ──► dropped (here) or reset
//!                                                    │
//!                                                    └── trap, deadline ──► failed: never entered again
//! ```

use std::num::NonZeroU64;
#[cfg(test)]
use std::sync::Arc;

use wasmtime::Store;

use crate::{
    context::{ContextId, ContextsOf, Life},
    failure::{Cause, Failure},
    filter::{Callback, series::RELAYED},
    host::{Host, RootHost},
    metrics::recorder::{self, Moment},
    pool::{pristine::Pristine, stats::Dropped},
    wasi,
};

pub(crate) mod answer;
mod bounds;
mod calls;
mod ending;
mod func;
mod make;
pub(crate) mod relay;
mod series;
mod state;

pub(crate) use func::Returned;
use func::{Func, Slot};
pub(crate) use series::{Created, follow, interrupt};
pub use state::State;
pub(crate) use state::{Asked, Home, Place};

/// Parameters of a callback; those that the guest's function does not take are left out.
pub(crate) type Params = [i32; 5];

/// A live instance.
pub struct Instance<H: Host> {
    /// Before `store`: it must be dropped first, since it gives the memory back as wasmtime knows it. `None` in an
    /// instance that was configured itself.
    pristine: Option<Pristine>,
    store: Store<State<H>>,
    /// How many epochs a callback may take.
    limit: NonZeroU64,
    /// Most stream contexts with a request.
    most: usize,
    failed: bool,
    /// The context that was told of its call when it failed, if it was then. That has been logged.
    failed_in: Option<ContextId>,
    /// When the last callback ended, if it was timed and the next one begins right then.
    ended: Option<Moment>,
    /// Each callback is timed, if any are.
    times_all: bool,
    /// So many callbacks of that kind, which might have been relayed to together, are timed instead.
    timed_alone: Option<(Callback, usize)>,
    /// For each callback that can be relayed to: that does not pay, so it is not tried so many times.
    alone: [u8; RELAYED.len()],
    /// How often the host has looked what of the last series ran.
    looks: usize,
    funcs: [Slot; Callback::ALL.len()],
    /// Functions that call several callbacks.
    series: series::Slot,
    instance: wasmtime::Instance,
}

impl<H: Host> std::fmt::Debug for Instance<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl<H: Host> Instance<H> {
    /// Puts the instance back to what it was when it began, for another request.
    ///
    /// # Errors
    /// When that cannot be done: it has to be given up.
    pub(crate) fn reset(&mut self) -> Result<(), Dropped> {
        if self.failed {
            return Err(Dropped::Failed);
        }
        self.pristine.as_mut().ok_or(Dropped::Configured)?.restore(&mut self.store)?;
        self.store.data_mut().reset();
        self.timed_alone = None;
        Ok(())
    }

    /// Whether the last reset gave memory back to the system, since a request had used more than is kept.
    pub(crate) fn trimmed(&self) -> bool {
        self.pristine.as_ref().is_some_and(|pristine| pristine.trimmed)
    }

    /// From now on it lives in the worker, as the instance of group number `group`: what its root contexts have asked
    /// for begins.
    pub(crate) fn settle(&mut self, group: usize) {
        let place = Place(group);
        let state = self.store.data_mut();
        state.place = Some(place);
        for root in 0..state.contexts.roots() {
            state.root.set_tick(place.root(root), state.contexts.tick(root));
            if let Some(shared) = &state.shared {
                let queues = (0..).map_while(|at| state.contexts.queue(root, at));
                queues.for_each(|queue| shared.listen(queue));
            }
        }
    }

    /// Queue number `at` of root context number `root`, both counted from 0; `None` where there is no such root context
    /// or queue.
    pub(crate) fn queue(&self, root: usize, at: usize) -> Option<u32> {
        self.store.data().contexts.queue(root, at)
    }

    /// Whether queues were registered in it that [`take_asked_queues`](Self::take_asked_queues) would tell of.
    pub(crate) fn has_asked_queues(&self) -> bool {
        !self.store.data().asked_queues.is_empty()
    }

    /// Queues that were registered in it, while it is a request's own, since this was asked last: with the numbers of
    /// their root contexts.
    pub(crate) fn take_asked_queues(&mut self) -> Vec<(usize, u32)> {
        std::mem::take(&mut self.store.data_mut().asked_queues)
    }

    /// Root context number `root` is told of messages in `queue` from now on.
    pub(crate) fn listen(&mut self, root: usize, queue: u32) {
        self.store.data_mut().listen(root, queue);
    }

    /// How many root contexts live in it.
    pub(crate) fn roots(&self) -> usize {
        self.store.data().contexts.roots()
    }

    /// Whether root context number `index`, counted from 0, has asked for something that comes later.
    pub(crate) fn root_lasts(&self, index: usize) -> bool {
        self.store.data().contexts.root_lasts(index)
    }

    /// Whether random numbers have been drawn.
    pub(crate) fn drew_random(&self) -> bool {
        self.store.data().drew_random
    }

    /// Memory and mutable globals, for comparison with another instance's.
    #[cfg(test)]
    pub(crate) fn contents(&mut self) -> (Vec<u8>, Vec<String>) {
        let memory = self.store.data().memory.map(|memory| memory.data(&self.store).to_vec());
        let filter = Arc::clone(&self.store.data().filter);
        let globals = filter.resolved().globals().iter().map(|export| {
            let global = self.instance.get_module_export(&mut self.store, export);
            let value =
                global.and_then(wasmtime::Extern::into_global).map(|global| global.get(&mut self.store));
            format!("{value:?}")
        });
        let globals = globals.collect();
        (memory.unwrap_or_default(), globals)
    }

    /// The next callback begins at the moment that another one, perhaps of another instance, has ended; `None` where it
    /// does not follow one.
    pub(crate) fn follow(&mut self, ended: Option<Moment>) {
        self.ended = ended;
    }

    /// When the last callback ended, where that is known: for one that follows it.
    pub(crate) fn ended(&self) -> Option<Moment> {
        self.ended
    }

    /// A new stream context under root number `root`, for filter number `filter` of the request behind `host`.
    pub(crate) fn create_stream(
        &mut self,
        root: usize,
        filter: usize,
        host: &H::Stream,
    ) -> Result<ContextId, Failure> {
        let state = self.store.data_mut();
        if state.contexts.live() >= self.most {
            return Err(Failure::new(Callback::ContextCreate, Cause::Crowded(self.most)));
        }
        let root = ContextsOf::<H>::root_id(root);
        let id = state.contexts.add_stream(root, filter, host.clone());
        state.recount();
        self.enter_next(Callback::ContextCreate, id, [id.raw(), root.raw(), 0, 0, 0])?;
        Ok(id)
    }

    fn set_life(&mut self, id: ContextId, life: Life) {
        self.store.data_mut().contexts.set_life(id, life);
    }

    /// Drops stream context `id` without a word to the guest; its calls are cancelled.
    pub(crate) fn forget_stream(&mut self, id: ContextId) {
        self.forget_streams(id, 1);
    }

    /// The same of `count` stream contexts from `first` on.
    fn forget_streams(&mut self, first: ContextId, count: usize) {
        for id in (0..count).map(|at| first.after(at)) {
            self.end_calls_of(id);
            self.store.data_mut().contexts.remove_stream(id);
        }
        self.store.data_mut().recount();
    }

    /// Calls `callback` of root context number `root`, outside any request. `params` follow the context's number.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub(crate) fn enter_root(
        &mut self,
        callback: Callback,
        root: usize,
        params: [i32; 4],
    ) -> Result<(), Failure> {
        let id = ContextsOf::<H>::root_id(root);
        let [a, b, c, d] = params;
        self.enter(callback, id, [id.raw(), a, b, c, d])?;
        self.end_completed()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether it has failed while context `id` was told of its call.
    pub(crate) fn has_failed_in(&self, id: ContextId) -> bool {
        self.failed_in == Some(id)
    }

    /// The request of stream context `id`, while it lives.
    pub(crate) fn request_of(&self, id: ContextId) -> Option<H::Stream> {
        self.store.data().contexts.stream(id)?.host.clone()
    }

    /// Visits every stream context whose request lives: its id, the request, number of its filter.
    pub(crate) fn each_stream(&self, visit: &mut dyn FnMut(ContextId, &H::Stream, usize)) {
        for (id, host, filter) in self.store.data().contexts.each_stream() {
            visit(id, host, filter);
        }
    }

    /// Whether the guest exports `callback`.
    #[inline]
    pub(crate) fn exports(&self, callback: Callback) -> bool {
        match self.funcs.get(callback as usize) {
            Some(Slot::Found(_)) => true,
            Some(Slot::Unresolved) => self.store.data().filter.exports(callback),
            Some(Slot::Absent) | None => false,
        }
    }

    /// What the last callback asked the proxy for.
    pub(crate) fn asked(&self) -> Asked {
        self.store.data().asked
    }

    fn enter_configuring(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
    ) -> Result<Returned, Failure> {
        let limit = self.store.data().filter.engine().deadlines().configuration;
        self.ended = None;
        self.enter_within(callback, context, params, limit)
    }

    /// Calls `callback` with `context` effective; [`Returned::NOTHING`] where the guest does not export it.
    ///
    /// # Errors
    /// [`Failure`]: the instance must not be entered again, and is not.
    pub(crate) fn enter(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
    ) -> Result<Returned, Failure> {
        self.ended = None;
        self.enter_next(callback, context, params)
    }

    /// The same for one that may [`follow`](Self::follow) another one: it began when that one ended, and the clock need
    /// not be read for it.
    pub(crate) fn enter_next(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
    ) -> Result<Returned, Failure> {
        self.enter_within(callback, context, params, self.limit)
    }

    fn enter_within(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
        limit: NonZeroU64,
    ) -> Result<Returned, Failure> {
        if self.failed {
            return Err(Failure::new(callback, Cause::Gone));
        }
        let Some(func) = self.func(callback) else {
            self.store.data_mut().begin(context, callback);
            return Ok(Returned::NOTHING);
        };
        let timed = recorder::begin(self.store.data(), context, callback, self.ended, self.times_all);
        let result = self.run(func, (context, callback), params, limit);
        self.ended = timed.map(|timed| recorder::end(self.store.data(), callback, timed));
        result.map_err(|error| Failure::new(callback, Cause::of(error)))
    }

    /// Runs a function of the guest, which is or begins with `callback` of `context`; for `limit` epochs at the most.
    ///
    /// Not inlined: of all that a request runs, this is what it runs most often, and each copy would have to be fetched
    /// into a processor's caches by itself.
    #[inline(never)]
    fn run(
        &mut self,
        func: Func,
        (context, callback): (ContextId, Callback),
        params: Params,
        limit: NonZeroU64,
    ) -> wasmtime::Result<Returned> {
        self.store.data_mut().begin(context, callback);
        self.store.set_epoch_deadline(limit.get());
        let _entered = self.pristine.as_ref().and_then(Pristine::enter);
        // A panic of ours in a hostcall leaves it so.
        self.failed = true;
        let result = func.call(&mut self.store, params);
        self.failed = result.is_err();
        if self.failed {
            series::look(&mut self.store);
            self.store.data_mut().explain();
        }
        let state = self.store.data_mut();
        if !state.output.is_empty() {
            wasi::flush(state);
        }
        result
    }

    /// The function of `callback` in this instance, looked for the first time it is wanted; `None` where the guest does
    /// not export it.
    #[inline]
    fn func(&mut self, callback: Callback) -> Option<Func> {
        match self.funcs.get(callback as usize) {
            Some(Slot::Found(func)) => Some(*func),
            Some(Slot::Unresolved) => self.resolve(callback),
            Some(Slot::Absent) | None => None,
        }
    }

    #[cold]
    fn resolve(&mut self, callback: Callback) -> Option<Func> {
        let export = self.store.data().filter.resolved().get(callback).cloned();
        let func = export.and_then(|export| Func::find(&self.instance, &mut self.store, &export));
        *self.funcs.get_mut(callback as usize)? = func.map_or(Slot::Absent, Slot::Found);
        func
    }
}
