//! How an instance comes to be: instantiated, then started and configured, or begun where another one was then.

use std::{io, ptr::NonNull, sync::Arc};

use wasmtime::{AsContextMut, Store};

use super::{
    Home, Instance, State,
    func::{Func, Slot},
    series,
};
use crate::{
    context::ContextId,
    failure::{Cause, Failure},
    filter::{Callback, Filter, instrument, series::RELAYED},
    host::Host,
    plan::Plugin,
    pool::{image::Images, pristine::Pristine, snapshot::Snapshot, tracker::Tracking},
};

/// Memory, mutable globals and store of an instance.
type Parts<'a, H> = (wasmtime::Memory, Vec<wasmtime::Global>, &'a mut Store<State<H>>);

impl<H: Host> Instance<H> {
    /// A new instance of `filter`, started and with every one of `plugins` configured as a root context.
    ///
    /// # Errors
    /// [`Failure`], with the index of the directive that was being configured, if any.
    pub(crate) fn new(
        filter: &Arc<Filter<H>>,
        plugins: &[Arc<Plugin<H>>],
        home: &Home<H>,
    ) -> Result<Self, (Option<usize>, Failure)> {
        let mut instance = Self::instantiate(filter, home).map_err(|failure| (None, failure))?;
        instance.start().map_err(|failure| (None, failure))?;
        for (index, plugin) in plugins.iter().enumerate() {
            instance.configure(plugin).map_err(|failure| (Some(index), failure))?;
        }
        Ok(instance)
    }

    /// A new instance that begins where the one of `snapshot` was after its configuration. `tracking` says how it is
    /// put back there after a request; with `None` it is not.
    ///
    /// # Errors
    /// [`Failure`]
    pub(crate) fn begin(
        filter: &Arc<Filter<H>>,
        plugins: &[Arc<Plugin<H>>],
        home: &Home<H>,
        snapshot: &Snapshot,
        tracking: Option<Tracking>,
    ) -> Result<Self, Failure> {
        let mut instance = Self::instantiate(filter, home)?;
        instance.pristine = Some(instance.become_like(snapshot, tracking)?);
        let state = instance.store.data_mut();
        for plugin in plugins {
            state.contexts.add_root(Arc::clone(plugin), home.ledger.tallies(&plugin.recorder));
        }
        Ok(instance)
    }

    fn instantiate(filter: &Arc<Filter<H>>, home: &Home<H>) -> Result<Self, Failure> {
        let engine = filter.engine();
        if !engine.slots().has_room() {
            let full = wasmtime::format_err!("all instances that a process may have are in use");
            return Err(Failure::new(Callback::Initialize, Cause::Unavailable(full)));
        }
        let mut store = Store::new(engine.wasmtime(), State::new(filter, home));
        store.limiter(|state| &mut state.bounds);
        store.set_epoch_deadline(engine.deadlines().configuration.get());
        store.epoch_deadline_callback(|store| Ok(series::deadline(store)));
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
        let allocator = exports.allocator().and_then(|export| Func::find(&instance, &mut store, export));
        let allocator =
            allocator.and_then(|allocator| allocator.allocator(&store).ok()).ok_or_else(missing)?;
        let state = store.data_mut();
        state.memory = Some(memory);
        state.allocator = Some(allocator);
        Ok(Self {
            pristine: None,
            limit: engine.deadlines().callback,
            most: engine.settings().limits.contexts,
            failed: false,
            failed_in: None,
            ended: None,
            times_all: false,
            timed_alone: None,
            alone: [0; RELAYED.len()],
            looks: 0,
            funcs: [Slot::Unresolved; Callback::ALL.len()],
            series: series::Slot::Unresolved,
            store,
            instance,
        })
    }

    /// Puts the module's data into memory and runs what the module itself wants to be run first: its start function, a
    /// reactor's `_initialize` and then `main`, or a command's `_start`.
    fn start(&mut self) -> Result<(), Failure> {
        self.fill().map_err(|error| Failure::new(Callback::Initialize, Cause::of(error)))?;
        if self.exports(Callback::Initialize) {
            self.enter_configuring(Callback::Initialize, ContextId::NONE, [0; 5])?;
            let main = if self.exports(Callback::Main) { Callback::Main } else { Callback::MainVoid };
            self.enter_configuring(main, ContextId::NONE, [0; 5])?;
        } else {
            self.enter_configuring(Callback::Start, ContextId::NONE, [0; 5])?;
        }
        Ok(())
    }

    /// What instantiation does in a module that has not been changed.
    fn fill(&mut self) -> wasmtime::Result<()> {
        let filter = Arc::clone(&self.store.data().filter);
        if let Some(memory) = self.store.data().memory {
            for segment in filter.segments() {
                memory
                    .write(&mut self.store, segment.offset as usize, &segment.bytes)
                    .map_err(|_| wasmtime::Error::from(wasmtime::Trap::MemoryOutOfBounds))?;
            }
        }
        let Some(start) = self.instance.get_func(&mut self.store, instrument::START) else { return Ok(()) };
        let start = start.typed::<(), ()>(&self.store)?;
        // An allocator is for later: nothing in the guest has been initialized.
        let allocator = self.store.data_mut().allocator.take();
        start.call(&mut self.store, ())?;
        self.store.data_mut().allocator = allocator;
        Ok(())
    }

    /// Makes the root context of `plugin`, starts and configures it.
    fn configure(&mut self, plugin: &Arc<Plugin<H>>) -> Result<(), Failure> {
        let state = self.store.data_mut();
        let tallies = state.ledger.tallies(&plugin.recorder);
        let root = state.contexts.add_root(Arc::clone(plugin), tallies);
        let size = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.enter_configuring(Callback::ContextCreate, root, [root.raw(), 0, 0, 0, 0])?;
        let vm_size = size(&self.store.data().filter.spec().configuration);
        let steps = [(Callback::VmStart, vm_size), (Callback::Configure, size(&plugin.configuration))];
        for (callback, size) in steps {
            if self.enter_configuring(callback, root, [root.raw(), size, 0, 0, 0])?.value() == Some(0) {
                self.failed = true;
                return Err(Failure::new(callback, Cause::Refused));
            }
        }
        Ok(())
    }

    /// Memory, mutable globals and store.
    fn parts(&mut self) -> Option<Parts<'_, H>> {
        let filter = Arc::clone(&self.store.data().filter);
        let memory = self.store.data().memory?;
        let globals = filter.resolved().globals().iter();
        let globals = globals
            .map(|export| self.instance.get_module_export(&mut self.store, export)?.into_global())
            .collect::<Option<Vec<_>>>()?;
        Some((memory, globals, &mut self.store))
    }

    /// What it is like now. The image is added to `images`.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn snapshot(&mut self, images: &mut Images) -> io::Result<Snapshot> {
        let missing = || io::Error::other("memory or globals of an instance cannot be reached");
        let (memory, globals, store) = self.parts().ok_or_else(missing)?;
        Snapshot::take(memory, &globals, store, images)
    }

    /// Gives memory and globals the contents of `snapshot`.
    #[allow(unsafe_code, reason = "mapping an image over a memory is a promise about it")]
    fn become_like(&mut self, snapshot: &Snapshot, tracking: Option<Tracking>) -> Result<Pristine, Failure> {
        let host = |what| Failure::new(Callback::Initialize, Cause::Host(what));
        let (memory, globals, store) =
            self.parts().ok_or_else(|| host("memory or globals of an instance cannot be reached"))?;
        let image = snapshot.image();
        let more =
            image.bytes().len().saturating_sub(memory.data_size(&*store)) as u64 / memory.page_size(&*store);
        if more > 0 {
            let grown = memory.grow(&mut *store, more);
            grown.map_err(|error| Failure::new(Callback::Initialize, Cause::of(error)))?;
        }
        if memory.data_size(&*store) != image.bytes().len() {
            return Err(host("an image is not as long as the memory it is for"));
        }
        let base = NonNull::new(memory.data_ptr(&*store)).ok_or_else(|| host("a memory is nowhere"))?;
        let filter = Arc::clone(&store.data().filter);
        let (slots, most) = (filter.engine().slots(), filter.engine().settings().keep_resident);
        // SAFETY: it is a guest's linear memory, as long as the image: anonymous memory in one of the engine's slots
        // (`engine/slots.rs`), which stays there as long as the store lives. `Instance` drops that after `pristine`. A
        // store is not shared between threads.
        let pristine = unsafe {
            Pristine::new(memory, (base, slots), snapshot, globals, (tracking, most), store.as_context_mut())
        };
        pristine.map_err(|error| Failure::new(Callback::Initialize, Cause::Unavailable(error.into())))
    }
}
