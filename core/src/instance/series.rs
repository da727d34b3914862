//! Several callbacks in one entry: contexts that are created, or that end, one after the other; headers and bodies that go from
//! one filter to the next ([`relay`](super::relay)).
//!
//! What is the effective context, and which callback runs, the guest notes as it goes along; the host looks when it is
//! asked for something, when a callback has taken too long, and when one has failed.
//!
//! A single context is created by its callback itself, which is one entry as well.

use wasmtime::{AsContextMut, Caller, Extern, Global, StoreContextMut, UpdateDeadline, Val};

use super::{Instance, Params, Returned, State, func::Func};
use crate::{
    context::{ContextId, ContextsOf, Life},
    failure::{Cause, Failure},
    filter::{
        Callback,
        series::{Place, RELAYED},
    },
    host::Host,
    metrics::recorder::{self, Sampling},
    wasi,
};

/// The callbacks that end a context, in their order.
const ENDS: [Callback; 3] = [Callback::Done, Callback::Log, Callback::Delete];

/// Those of them that the guest exports.
type Ends = [Option<Callback>; 3];

/// The functions of series in one instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    create: Func,
    end: Func,
    /// In the order of [`RELAYED`].
    pub(super) relays: [Func; RELAYED.len()],
    ends: Ends,
}

/// Where they are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Slot {
    /// Not looked for yet.
    Unresolved,
    /// Nothing was added to the module.
    Absent,
    /// There.
    Found(Series),
}

/// The globals that go with them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Globals {
    /// Where the guest notes what runs.
    place: Global,
    /// Where it looks whether the callback that is relayed to is to be the last one.
    breaks: Global,
    /// What that has answered.
    pub(super) action: Global,
}

/// What the host knows of a series that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// What ran when the host looked last.
    seen: i64,
    /// What was granted time last.
    granted: i64,
    /// How often time may be granted: the guest has no part in that global, but it is not trusted with it either.
    grants: usize,
    /// It can be ended after the callback that runs, and has not been.
    goes_on: bool,
    /// How often the host has looked.
    pub(super) looks: usize,
}

/// Stream contexts that were created.
#[derive(Debug)]
pub(crate) struct Created {
    /// The first one's id; the others follow it.
    pub(crate) first: ContextId,
    /// How many there are.
    pub(crate) count: usize,
    /// Why there is no further one.
    pub(crate) failure: Option<Failure>,
}

impl<H: Host> Instance<H> {
    /// New stream contexts for the request behind `host`: for `count` filters, from number `filter` on, under root contexts
    /// from number `root` on. There may be fewer, and is at least one, or a failure.
    pub(crate) fn create_streams(
        &mut self,
        root: usize,
        filter: usize,
        count: usize,
        host: &H::Stream,
    ) -> Created {
        let contexts = &self.store.data().contexts;
        let is_row =
            count > 1 && contexts.live().saturating_add(count) <= self.most && contexts.are_next_free(count);
        let count = if is_row { count } else { 1 };
        let mut sampling = Sampling::Each;
        if count > 1
            && let Some(Series { create, .. }) = self.series()
        {
            let func = *create;
            let state = self.store.data();
            sampling = recorder::sampling(state, root..root + count, &[Some(Callback::ContextCreate)]);
            if let Sampling::None { counts } = sampling {
                return self.create_in_series(func, (root, filter, count), host, counts);
            }
        }
        self.times_all = sampling == Sampling::All;
        let mut created = Created { first: ContextId::NONE, count: 0, failure: None };
        while created.count < count && created.failure.is_none() {
            match self.create_stream(root + created.count, filter + created.count, host) {
                Ok(id) => {
                    created.first = if created.count == 0 { id } else { created.first };
                    created.count += 1;
                }
                Err(failure) => created.failure = Some(failure),
            }
        }
        self.times_all = false;
        created
    }

    fn create_in_series(
        &mut self,
        func: Func,
        (root, filter, count): (usize, usize, usize),
        host: &H::Stream,
        counts: bool,
    ) -> Created {
        let state = self.store.data_mut();
        let mut first = ContextId::NONE;
        for at in 0..count {
            let id =
                state.contexts.add_stream(ContextsOf::<H>::root_id(root + at), filter + at, host.clone());
            first = if at == 0 { id } else { first };
        }
        state.recount();
        let params = [first.raw(), ContextsOf::<H>::root_id(root).raw(), number(count), 0, 0];
        let entered = self.enter_series(func, (first, Callback::ContextCreate), count, params);
        let (created, failure) = match entered {
            Ok(_) => (count, None),
            Err((at, _, failure)) => {
                let created = first.distance(at).min(count - 1);
                // There never were any after it.
                self.forget_streams(first.after(created + 1), count - created - 1);
                (created, Some(failure))
            }
        };
        if counts {
            let ran = created + usize::from(failure.is_some());
            let state = self.store.data();
            (0..ran).for_each(|at| recorder::passed(state, first.after(at), &[Callback::ContextCreate]));
        }
        Created { first, count: created, failure }
    }

    /// Ends `count` stream contexts from `first` on, as [`end_stream`](Self::end_stream) does. Answers how many have been
    /// dealt with: all, or those before one that has failed, or those up to one that is put off.
    pub(crate) fn end_streams(
        &mut self,
        first: ContextId,
        count: usize,
        lasting: bool,
    ) -> (usize, Result<(), Failure>) {
        let mut sampling = Sampling::Each;
        if let Some(Series { end, ends, .. }) = self.series() {
            let (end, ends) = (*end, *ends);
            let state = self.store.data();
            let roots = (0..count).filter_map(|at| state.contexts.root_of(first.after(at)));
            sampling = recorder::sampling(state, roots, &ends);
            if let Sampling::None { counts } = sampling {
                return self.end_in_series((end, ends), (first, count), lasting, counts);
            }
        }
        self.times_all = sampling == Sampling::All;
        let (mut ended, mut result) = (0, Ok(()));
        while ended < count && result.is_ok() {
            result = self.end_stream(first.after(ended), lasting).and_then(|()| self.end_completed());
            ended += usize::from(result.is_ok());
        }
        self.times_all = false;
        (ended, result)
    }

    fn end_in_series(
        &mut self,
        (func, ends): (Func, Ends),
        (first, count): (ContextId, usize),
        lasting: bool,
        counts: bool,
    ) -> (usize, Result<(), Failure>) {
        let ran = if counts { ends } else { Ends::default() };
        let params = [first.raw(), number(count), 0, 0, 0];
        self.set_life(first, Life::Ending);
        match self.enter_series(func, (first, Callback::Done), count, params) {
            Ok(returned) => {
                let ended = returned.value().and_then(|ended| ended.try_into().ok()).unwrap_or(0).min(count);
                let all = ended == count;
                if all {
                    self.forget_ended(ran, first, count);
                    return (count, self.end_completed());
                }
                self.end_some(ran, first, (ended, Callback::Done));
                // The next one's on_done has put the rest off.
                let result = self.put_off(first.after(ended), lasting).and_then(|()| self.end_completed());
                (ended + usize::from(result.is_ok()), result)
            }
            Err((at, callback, failure)) => {
                let ended = first.distance(at).min(count - 1);
                self.end_some(ran, first, (ended, callback));
                (ended, Err(failure))
            }
        }
    }

    /// `count` contexts from `first` on have ended, for which these callbacks ran and are to be counted.
    fn forget_ended(&mut self, ran: Ends, first: ContextId, count: usize) {
        if ran != Ends::default() {
            let state = self.store.data();
            (0..count).for_each(|at| recorder::passed(state, first.after(at), ran.iter().flatten()));
        }
        self.forget_streams(first, count);
    }

    /// So many have, and the next one got as far as that callback.
    #[cold]
    fn end_some(&mut self, ran: Ends, first: ContextId, (count, last): (usize, Callback)) {
        let of_last = ran.iter().flatten().filter(|callback| **callback as u8 <= last as u8);
        recorder::passed(self.store.data(), first.after(count), of_last);
        self.forget_ended(ran, first, count);
    }

    /// Calls a function that calls callbacks of `count` contexts, the first of which is `begins`.
    ///
    /// # Errors
    /// Which callback has failed, of which context.
    pub(super) fn enter_series(
        &mut self,
        func: Func,
        begins: (ContextId, Callback),
        count: usize,
        params: Params,
    ) -> Result<Returned, (ContextId, Callback, Failure)> {
        let (context, callback) = begins;
        if self.failed {
            return Err((context, callback, Failure::new(callback, Cause::Gone)));
        }
        let place = Place { context: context.raw().cast_unsigned(), callback };
        let granted = place.raw();
        let (grants, goes_on) = (count * ENDS.len(), is_relayed(callback));
        self.store.data_mut().series = Some(Running { seen: granted, granted, grants, goes_on, looks: 0 });
        self.ended = None;
        let result = self.run(func, begins, params, self.limit);
        let series = self.store.data_mut().series.take();
        self.looks = series.as_ref().map_or(0, |series| series.looks);
        let seen = series.and_then(|series| Place::of(series.seen));
        result.map_err(|error| {
            let Place { context: at, callback } = seen.unwrap_or(place);
            (ContextId::from_raw(at.cast_signed()), callback, Failure::in_series(callback, Cause::of(error)))
        })
    }

    /// The functions of series, looked for the first time they are wanted.
    #[inline]
    pub(super) fn series(&mut self) -> Option<&Series> {
        if matches!(self.series, Slot::Unresolved) {
            self.series = self.resolve_series().map_or(Slot::Absent, Slot::Found);
        }
        match &self.series {
            Slot::Found(series) => Some(series),
            Slot::Unresolved | Slot::Absent => None,
        }
    }

    #[cold]
    fn resolve_series(&mut self) -> Option<Series> {
        let filter = std::sync::Arc::clone(&self.store.data().filter);
        let exports = filter.resolved().series()?;
        let mut global =
            |export| self.instance.get_module_export(&mut self.store, export).and_then(Extern::into_global);
        let globals = Globals {
            place: global(&exports.place)?,
            breaks: global(&exports.breaks)?,
            action: global(&exports.action)?,
        };
        let mut func = |export| Func::find(&self.instance, &mut self.store, export);
        let [request_headers, request_body, response_headers, response_body] = &exports.relays;
        let relays =
            [func(request_headers)?, func(request_body)?, func(response_headers)?, func(response_body)?];
        let (create, end) = (func(&exports.create)?, func(&exports.end)?);
        let ends = ENDS.map(|callback| filter.exports(callback).then_some(callback));
        self.store.data_mut().globals = Some(globals);
        Some(Series { create, end, relays, ends })
    }
}

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Whether `callback` is one that headers or bodies are relayed to.
fn is_relayed(callback: Callback) -> bool {
    RELAYED.contains(&callback)
}

/// The guest asks for something: in a series that may be another callback, of another context, than it was at the last time.
#[inline]
pub(crate) fn follow<H: Host>(caller: &mut Caller<'_, State<H>>) {
    if caller.data().series.is_some() {
        look(caller);
    }
}

/// The same where what it asks for may change what is relayed, or who is called next: if headers or a body are relayed, the
/// callback that runs is the last one.
#[inline]
pub(crate) fn interrupt<H: Host>(caller: &mut Caller<'_, State<H>>) {
    if caller.data().series.is_some() {
        look(&mut *caller);
        end_relay(caller);
    }
}

fn end_relay<H: Host>(caller: &mut Caller<'_, State<H>>) {
    let state = caller.data_mut();
    let Some(series) = state.series.as_mut().filter(|series| series.goes_on) else { return };
    series.goes_on = false;
    if let Some(Globals { breaks, .. }) = state.globals {
        // A value fits the global that was added for it.
        let set = breaks.set(caller, Val::I32(1));
        debug_assert!(set.is_ok(), "{set:?}");
    }
}

/// Looks what of the series runs, if one does: its context becomes the effective one, if it has begun since.
pub(super) fn look<H: Host>(mut store: impl AsContextMut<Data = State<H>>) {
    let mut store = store.as_context_mut();
    let Some(raw) = running(&mut store) else { return };
    let state = store.data_mut();
    let Some(series) = state.series.as_mut() else { return };
    series.looks += 1;
    if series.seen == raw {
        return;
    }
    let Some(Place { context, callback }) = Place::of(raw) else { return };
    series.seen = raw;
    // What the callbacks before it have written and not ended is theirs.
    if !state.output.is_empty() {
        wasi::flush(state);
    }
    let context = ContextId::from_raw(context.cast_signed());
    state.begin(context, callback);
    match callback {
        Callback::Done => state.contexts.set_life(context, Life::Ending),
        Callback::Log | Callback::Delete => state.contexts.set_life(context, Life::Active),
        _ => {}
    }
}

/// What of a series runs, as the guest has noted it.
fn running<H: Host>(store: &mut StoreContextMut<'_, State<H>>) -> Option<i64> {
    let state = store.data();
    let place = state.series.as_ref().and(state.globals)?.place;
    match place.get(store) {
        Val::I64(raw) => Some(raw),
        _ => None,
    }
}

/// The time of what runs is over. That of one callback is: in a series the next one gets as much, so one that follows
/// others there may have up to twice its time.
pub(super) fn deadline<H: Host>(mut store: StoreContextMut<'_, State<H>>) -> UpdateDeadline {
    let Some(raw) = running(&mut store) else { return UpdateDeadline::Interrupt };
    let state = store.data_mut();
    let limit = state.filter.engine().deadlines().callback;
    match state.series.as_mut() {
        Some(series) if series.granted != raw && series.grants > 0 => {
            series.granted = raw;
            series.grants -= 1;
            UpdateDeadline::Continue(limit.get())
        }
        _ => UpdateDeadline::Interrupt,
    }
}
