//! A live instance: store, state and resolved functions; the only place from which guest code is entered.
//!
//! ```text
//!  instantiate ──► start ──► configure (each root) ──► callbacks ... ──► dropped (here) or reset
//!                                   │                      │
//!                                   └── trap, deadline ────┴──► failed: never entered again
//! ```

use std::{num::NonZeroU64, sync::Arc};

use wasmtime::{AsContextMut, Memory, Store, TypedFunc};

use crate::{
    abi::{
        status::{Hostcall, HostcallError, Status},
        types::LogLevel,
    },
    context::{ContextId, Contexts, ContextsOf, Life},
    failure::{Cause, Failure},
    filter::{Callback, Filter},
    host::{Host, LogLine, LogSink, Speaker},
    plan::Plugin,
    pool::pristine::Pristine,
};

/// What the guest's hostcalls find: the data of its store.
pub struct State<H: Host> {
    pub(crate) filter: Arc<Filter<H>>,
    pub(crate) root: H::Root,
    pub(crate) contexts: ContextsOf<H>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocator: Option<TypedFunc<i32, i32>>,
    /// The guest's allocator runs for us: bytes of the host are lent out.
    pub(crate) allocating: bool,
    /// Which callback runs: `proxy_get_configuration` and the configuration buffers depend on it.
    pub(crate) callback: Callback,
    /// What the callback that runs has asked the proxy for.
    pub(crate) asked: Asked,
    /// Functions that are listed as missing and have been warned of.
    pub(crate) warned_missing: bool,
}

/// What a callback asked the proxy for, besides its return value, and in which context: that need not be the one that
/// was called (`proxy_set_effective_context`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A local response was recorded.
    pub(crate) local_response: Option<ContextId>,
    /// The stream is to be closed.
    pub(crate) close: Option<ContextId>,
}

impl<H: Host> std::fmt::Debug for State<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("callback", &self.callback).finish_non_exhaustive()
    }
}

impl<H: Host> State<H> {
    /// Writes a log line in the effective context's place: its request's log, else the worker's.
    pub(crate) fn log(&self, level: LogLevel, speaker: Speaker, message: &[u8]) {
        let line = LogLine { level, filter: &self.filter.spec().name, speaker, message };
        match self.contexts.effective_host() {
            Some(stream) => stream.log(line),
            None => self.root.log(line),
        }
    }

    /// The least severe level that is logged at all, in the effective context's place.
    pub(crate) fn log_level(&self) -> LogLevel {
        self.contexts.effective_host().map_or_else(|| self.root.log_level(), LogSink::log_level)
    }

    /// The effective context's request; `None` in a root context, and once the request is gone.
    ///
    /// # Errors
    /// A trap when the guest's allocator asks for it: what the host lends must not change while it runs.
    pub(crate) fn stream(&self) -> Hostcall<Option<H::Stream>> {
        if self.allocating {
            return Err(HostcallError::Trap(wasmtime::Error::msg(
                "the guest's allocator called a host function that reaches the request",
            )));
        }
        Ok(self.contexts.effective_host().cloned())
    }

    /// A warning of ours about what the guest does.
    pub(crate) fn warn(&self, message: &str) {
        self.log(LogLevel::Warn, Speaker::Weir, message.as_bytes());
    }

    /// What an edit that was refused is answered with: BAD_ARGUMENT, but OK where the SDK would panic at that
    /// (abi.md §5). The refusal has been logged.
    pub(crate) fn refused(&self) -> Result<(), Status> {
        if self.filter.panics_on_status() { Ok(()) } else { Err(Status::BadArgument) }
    }
}

/// A function of the guest, typed once for this instance.
enum Func {
    Unresolved,
    Absent,
    P0R0(TypedFunc<(), ()>),
    P0R1(TypedFunc<(), i32>),
    P1R0(TypedFunc<i32, ()>),
    P1R1(TypedFunc<i32, i32>),
    P2R0(TypedFunc<(i32, i32), ()>),
    P2R1(TypedFunc<(i32, i32), i32>),
    P3R0(TypedFunc<(i32, i32, i32), ()>),
    P3R1(TypedFunc<(i32, i32, i32), i32>),
    P5R0(TypedFunc<(i32, i32, i32, i32, i32), ()>),
}

/// Parameters of a callback; those that the guest's function does not take are left out.
pub(crate) type Params = [i32; 5];

/// A live instance.
pub struct Instance<H: Host> {
    /// Before `store`: it must be dropped first, since it gives the memory's protection back.
    pristine: Option<Pristine>,
    store: Store<State<H>>,
    instance: wasmtime::Instance,
    funcs: [Func; Callback::ALL.len()],
    failed: bool,
}

impl<H: Host> std::fmt::Debug for Instance<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl<H: Host> Instance<H> {
    /// A new instance of `filter`, started and with every one of `plugins` configured as a root context.
    ///
    /// # Errors
    /// [`Failure`], with the index of the directive that was being configured, if any.
    pub(crate) fn new(
        filter: &Arc<Filter<H>>,
        plugins: &[Arc<Plugin<H>>],
        root: &H::Root,
    ) -> Result<Self, (Option<usize>, Failure)> {
        let mut instance = Self::instantiate(filter, root).map_err(|failure| (None, failure))?;
        instance.start().map_err(|failure| (None, failure))?;
        for (index, plugin) in plugins.iter().enumerate() {
            instance.configure(plugin).map_err(|failure| (Some(index), failure))?;
        }
        Ok(instance)
    }

    fn instantiate(filter: &Arc<Filter<H>>, root: &H::Root) -> Result<Self, Failure> {
        let engine = filter.engine();
        let state = State {
            filter: Arc::clone(filter),
            root: root.clone(),
            contexts: Contexts::new(),
            memory: None,
            allocator: None,
            allocating: false,
            callback: Callback::Initialize,
            asked: Asked::default(),
            warned_missing: false,
        };
        let mut store = Store::new(engine.wasmtime(), state);
        store.set_epoch_deadline(engine.deadlines().configuration.get());
        let instance = filter
            .pre()
            .instantiate(&mut store)
            .map_err(|error| Failure::new(Callback::Initialize, Cause::of(error)))?;
        let exports = filter.resolved();
        let missing = || Failure::new(Callback::Initialize, Cause::Host("an export has vanished"));
        let memory = instance
            .get_module_export(&mut store, exports.memory())
            .and_then(wasmtime::Extern::into_memory)
            .ok_or_else(missing)?;
        let allocator =
            exports.allocator().and_then(|export| typed(&instance, store.as_context_mut(), export));
        let Some(Func::P1R1(allocator)) = allocator else { return Err(missing()) };
        let state = store.data_mut();
        state.memory = Some(memory);
        state.allocator = Some(allocator);
        let funcs = [const { Func::Unresolved }; Callback::ALL.len()];
        Ok(Self { pristine: None, store, instance, funcs, failed: false })
    }

    /// Runs the module's own start: a reactor's `_initialize`, then `main`; else a command's `_start`.
    fn start(&mut self) -> Result<(), Failure> {
        if self.exports(Callback::Initialize) {
            self.enter_configuring(Callback::Initialize, ContextId::NONE, [0; 5])?;
            let main = if self.exports(Callback::Main) { Callback::Main } else { Callback::MainVoid };
            self.enter_configuring(main, ContextId::NONE, [0; 5])?;
        } else {
            self.enter_configuring(Callback::Start, ContextId::NONE, [0; 5])?;
        }
        Ok(())
    }

    /// Makes the root context of `plugin`, starts and configures it.
    fn configure(&mut self, plugin: &Arc<Plugin<H>>) -> Result<(), Failure> {
        let root = self.store.data_mut().contexts.add_root(Arc::clone(plugin));
        let size = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.enter_configuring(Callback::ContextCreate, root, [root.raw(), 0, 0, 0, 0])?;
        let vm_size = size(&self.store.data().filter.spec().configuration);
        let steps = [(Callback::VmStart, vm_size), (Callback::Configure, size(&plugin.configuration))];
        for (callback, size) in steps {
            if self.enter_configuring(callback, root, [root.raw(), size, 0, 0, 0])? == Some(0) {
                self.failed = true;
                return Err(Failure::new(callback, Cause::Refused));
            }
        }
        Ok(())
    }

    /// Notes what the instance is like now, so that [`reset`](Self::reset) can go back to it. False when this instance
    /// cannot be reset.
    pub(crate) fn freeze(&mut self) -> bool {
        let state = self.store.data();
        let (filter, Some(memory)) = (Arc::clone(&state.filter), state.memory) else { return false };
        if filter.reset_obstacle().is_some() || self.failed {
            return false;
        }
        let globals = filter.resolved().globals().iter().map(|export| {
            let global = self.instance.get_module_export(&mut self.store, export)?.into_global()?;
            let value = global.get(&mut self.store);
            Some((global, value))
        });
        let Some(globals) = globals.collect() else { return false };
        self.pristine = Pristine::new(&memory, &self.store, globals);
        self.pristine.is_some()
    }

    /// Puts the instance back to what it was when it was frozen, for another request. False when that cannot be done:
    /// it has to be given up.
    pub(crate) fn reset(&mut self) -> bool {
        let (Some(pristine), false) = (&mut self.pristine, self.failed) else { return false };
        if !pristine.restore(&mut self.store) {
            return false;
        }
        let state = self.store.data_mut();
        state.contexts.reset();
        state.allocating = false;
        state.asked = Asked::default();
        state.warned_missing = false;
        true
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

    /// A new stream context under root number `root`, for filter number `filter` of the request behind `host`.
    pub(crate) fn create_stream(
        &mut self,
        root: usize,
        filter: usize,
        host: &H::Stream,
    ) -> Result<ContextId, Failure> {
        let root = ContextsOf::<H>::root_id(root);
        let id = self.store.data_mut().contexts.add_stream(root, filter, host.clone());
        self.enter(Callback::ContextCreate, id, [id.raw(), root.raw(), 0, 0, 0])?;
        Ok(id)
    }

    /// Ends stream context `id`: `on_done`, then, unless that defers, `on_log` and `on_delete`.
    ///
    /// `lasting` says that the instance lives on: what is deferred there may come long after the request is gone, so
    /// its context loses sight of it. In an instance that ends with its request [`end_deferred`](Self::end_deferred)
    /// has to follow.
    pub(crate) fn end_stream(&mut self, id: ContextId, lasting: bool) -> Result<(), Failure> {
        self.set_life(id, Life::Ending);
        let completed = self.enter(Callback::Done, id, [id.raw(), 0, 0, 0, 0])? != Some(0);
        let done = self.store.data().contexts.stream(id).is_some_and(|stream| stream.life == Life::Done);
        if completed || done {
            return self.delete_stream(id);
        }
        if lasting && let Some(stream) = self.store.data_mut().contexts.stream_mut(id) {
            stream.host = None;
        }
        Ok(())
    }

    /// Ends stream context `id` if its `on_done` has deferred and `proxy_done` has not come: the instance ends, and
    /// nothing is left to wait for.
    pub(crate) fn end_deferred(&mut self, id: ContextId) -> Result<(), Failure> {
        let contexts = &self.store.data().contexts;
        if contexts.stream(id).is_some() { self.delete_stream(id) } else { Ok(()) }
    }

    fn delete_stream(&mut self, id: ContextId) -> Result<(), Failure> {
        // Not `Done` any more, or the search for completed contexts would find it again.
        self.set_life(id, Life::Active);
        let result = self
            .enter(Callback::Log, id, [id.raw(), 0, 0, 0, 0])
            .and_then(|_| self.enter(Callback::Delete, id, [id.raw(), 0, 0, 0, 0]));
        self.forget_stream(id);
        result.map(|_| ())
    }

    fn set_life(&mut self, id: ContextId, life: Life) {
        self.store.data_mut().contexts.set_life(id, life);
    }

    /// Drops stream context `id` without a word to the guest.
    pub(crate) fn forget_stream(&mut self, id: ContextId) {
        self.store.data_mut().contexts.remove_stream(id);
    }

    /// Ends contexts whose deferred `on_done` has been completed by `proxy_done`.
    pub(crate) fn end_completed(&mut self) -> Result<(), Failure> {
        while let Some(id) = self.store.data().contexts.next_done() {
            self.delete_stream(id)?;
        }
        Ok(())
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Visits every stream context whose request lives: its id, the request, number of its filter.
    pub(crate) fn each_stream(&self, visit: &mut dyn FnMut(ContextId, &H::Stream, usize)) {
        for (id, host, filter) in self.store.data().contexts.each_stream() {
            visit(id, host, filter);
        }
    }

    pub(crate) fn exports(&self, callback: Callback) -> bool {
        self.store.data().filter.exports(callback)
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
    ) -> Result<Option<i32>, Failure> {
        let limit = self.store.data().filter.engine().deadlines().configuration;
        self.enter_within(callback, context, params, limit)
    }

    /// Calls `callback` with `context` effective; `None` where the guest does not export it or it returns nothing.
    ///
    /// # Errors
    /// [`Failure`]: the instance must not be entered again, and is not.
    pub(crate) fn enter(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
    ) -> Result<Option<i32>, Failure> {
        let limit = self.store.data().filter.engine().deadlines().callback;
        self.enter_within(callback, context, params, limit)
    }

    fn enter_within(
        &mut self,
        callback: Callback,
        context: ContextId,
        params: Params,
        limit: NonZeroU64,
    ) -> Result<Option<i32>, Failure> {
        if self.failed {
            return Err(Failure::new(callback, Cause::Gone));
        }
        self.resolve(callback);
        let state = self.store.data_mut();
        state.contexts.set_effective(context);
        state.callback = callback;
        state.asked = Asked::default();
        self.store.set_epoch_deadline(limit.get());
        let Some(func) = self.funcs.get(callback as usize) else { return Ok(None) };
        if matches!(func, Func::Unresolved | Func::Absent) {
            return Ok(None);
        }
        let _entered = self.pristine.as_ref().map(Pristine::enter);
        // A panic of ours in a hostcall leaves it so.
        self.failed = true;
        let store = &mut self.store;
        let [a, b, c, d, e] = params;
        let result = match func {
            Func::Unresolved | Func::Absent => return Ok(None),
            Func::P0R0(func) => func.call(store, ()).map(|()| None),
            Func::P0R1(func) => func.call(store, ()).map(Some),
            Func::P1R0(func) => func.call(store, a).map(|()| None),
            Func::P1R1(func) => func.call(store, a).map(Some),
            Func::P2R0(func) => func.call(store, (a, b)).map(|()| None),
            Func::P2R1(func) => func.call(store, (a, b)).map(Some),
            Func::P3R0(func) => func.call(store, (a, b, c)).map(|()| None),
            Func::P3R1(func) => func.call(store, (a, b, c)).map(Some),
            Func::P5R0(func) => func.call(store, (a, b, c, d, e)).map(|()| None),
        };
        self.failed = result.is_err();
        result.map_err(|error| Failure::new(callback, Cause::of(error)))
    }

    /// Finds the function of `callback` in this instance, the first time it is wanted.
    fn resolve(&mut self, callback: Callback) {
        let Some(slot) = self.funcs.get_mut(callback as usize) else { return };
        if matches!(slot, Func::Unresolved) {
            let export = self.store.data().filter.resolved().get(callback).cloned();
            *slot = export
                .and_then(|export| typed(&self.instance, self.store.as_context_mut(), &export))
                .unwrap_or(Func::Absent);
        }
    }
}

/// The function behind `export`, typed by its shape.
///
/// The shape was checked when the module was loaded ([`exports`](crate::filter::exports)): checking each function of
/// each new instance again would cost more than calling it.
#[allow(unsafe_code, reason = "types that were checked once for the module need no check in each instance")]
fn typed<H: Host>(
    instance: &wasmtime::Instance,
    mut store: wasmtime::StoreContextMut<'_, State<H>>,
    export: &crate::filter::exports::Export,
) -> Option<Func> {
    /// One arm for each shape: the block below is the same for all of them.
    macro_rules! shapes {
        ($func:ident, $store:ident; $(($params:literal, $returns:literal) => $shape:ident,)+) => {
            match (export.params, export.returns) {
                $(($params, $returns) => {
                    // SAFETY: `Exports::resolve` has checked that all parameters and results of the export at this
                    // index are i32, and counted them; this arm is the one for these counts.
                    Some(Func::$shape(unsafe { TypedFunc::new_unchecked(&$store, $func) }))
                })+
                _ => None,
            }
        };
    }
    let func = instance.get_module_export(&mut store, &export.index)?.into_func()?;
    shapes! { func, store;
        (0, false) => P0R0,
        (0, true) => P0R1,
        (1, false) => P1R0,
        (1, true) => P1R1,
        (2, false) => P2R0,
        (2, true) => P2R1,
        (3, false) => P3R0,
        (3, true) => P3R1,
        (5, false) => P5R0,
    }
}
