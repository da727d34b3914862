//! What an instance was like after its configuration, and the way back to it.

use std::ptr::NonNull;

use wasmtime::{AsContext, AsContextMut, Global, Memory, Val};

use super::dirty::{Entered, Tracker};

/// The state that an instance goes back to: memory and mutable globals. Tables and segments are not in it; a module
/// whose code changes those is never frozen ([`instrument`](crate::filter::instrument)).
#[derive(Debug)]
pub(crate) struct Pristine {
    tracker: Tracker,
    memory: Memory,
    globals: Vec<(Global, Val)>,
}

impl Pristine {
    /// Freezes `memory` and notes the values of `globals`; `None` when the system has no means for that.
    #[allow(unsafe_code, reason = "freezing a memory is a promise about it")]
    pub(crate) fn new(memory: &Memory, store: impl AsContext, globals: Vec<(Global, Val)>) -> Option<Self> {
        let base = NonNull::new(memory.data_ptr(&store))?;
        let len = memory.data_size(&store);
        // SAFETY: it is a guest's linear memory of `len` bytes. wasmtime keeps it mapped there as long as the store
        // lives, which `Instance` drops after this; if the guest makes it larger it may move, and what was here is
        // unmapped or reserved then, which `restore` notices before anything is written. A store is not shared
        // between threads.
        let tracker = unsafe { Tracker::freeze(base, len) }.ok()?;
        Some(Self { tracker, memory: *memory, globals })
    }

    /// The instance is being entered, until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        self.tracker.enter()
    }

    /// Puts memory and globals back; false when they cannot be.
    pub(crate) fn restore(&mut self, mut store: impl AsContextMut) -> bool {
        let base = self.memory.data_ptr(&store);
        if !self.tracker.is_of(base, self.memory.data_size(&store)) || !self.tracker.reset() {
            return false;
        }
        self.globals.iter().all(|(global, value)| global.set(&mut store, *value).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use proptest::prelude::*;

    use crate::{
        engine::{Engine, Settings, cache::Cache},
        filter::{Callback, Filter, FilterSpec},
        instance::Instance,
        testing::{Memory, Request, Worker},
    };

    /// Stores a value at an address, sets two globals, and grows the memory where it is asked to: the number of pairs
    /// of the request's headers is the address, a context's number says nothing.
    const GUEST: &str = r#"(module
        (import "env" "proxy_get_current_time_nanoseconds" (func $time (param i32) (result i32)))
        (memory (export "memory") 40)
        (global $count (mut i64) (i64.const 7))
        (global $float (mut f32) (f32.const 1.5))
        (data (i32.const 4096) "kept")
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
            (global.set $count (i64.const 8))
            (i32.store (i32.const 70000) (i32.const 0x12345678)) (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (global.set $count (i64.add (global.get $count) (i64.const 1)))
            (global.set $float (f32.add (global.get $float) (f32.const 1)))
            (i32.store (local.get 1) (i32.const -1))
            (memory.fill (i32.add (local.get 1) (i32.const 9000)) (i32.const 3) (i32.const 5000))
            (drop (call $time (i32.add (local.get 1) (i32.const 30000))))
            (if (local.get 2) (then (drop (memory.grow (i32.const 1)))))
            (i32.const 0)))"#;

    fn filter() -> Arc<Filter<Memory>> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&wat::parse_str(GUEST).expect("well-formed")).expect("written");
        let spec = FilterSpec {
            name: "guest".into(),
            path: file.path().to_owned(),
            configuration: Vec::new(),
            vm_id: "guest".into(),
            environment: Vec::new(),
        };
        let engine = Engine::shared(&Settings { instances: 4, ..Settings::default() }).expect("an engine");
        let filter = Filter::load(&engine, &Cache::disabled(), spec, &Worker::default()).expect("loads");
        assert_eq!(filter.reset_obstacle(), None);
        filter
    }

    fn instance(filter: &Arc<Filter<Memory>>) -> Instance<Memory> {
        let plugin = Arc::new(crate::plan::Plugin {
            filter: Arc::clone(filter),
            configuration: Vec::new(),
            root_id: String::new(),
            isolation: crate::plan::Isolation::Stream,
            place: String::new(),
        });
        Instance::new(filter, &[plugin], &Worker::default()).map_err(|(_, failure)| failure).expect("made")
    }

    /// One request that writes around `address`.
    fn request(instance: &mut Instance<Memory>, address: i32, grow: bool) {
        let stream = instance.create_stream(0, 0, &Request::new(&Worker::default())).expect("created");
        let params = [stream.raw(), address, i32::from(grow), 0, 0];
        instance.enter(Callback::RequestHeaders, stream, params).expect("no trap");
        instance.end_stream(stream, false).expect("ended");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn after_a_reset_an_instance_equals_a_new_one(addresses in prop::collection::vec(0..2_500_000_i32, 1..30)) {
            let filter = filter();
            let fresh = instance(&filter).contents();
            let mut kept = instance(&filter);
            prop_assert!(kept.freeze());
            for address in addresses {
                request(&mut kept, address, false);
                prop_assert_ne!(&kept.contents(), &fresh);
                prop_assert!(kept.reset());
                prop_assert_eq!(&kept.contents(), &fresh);
            }
        }
    }

    #[test]
    fn an_instance_whose_memory_has_grown_is_given_up() {
        let filter = filter();
        let mut kept = instance(&filter);
        assert!(kept.freeze());
        request(&mut kept, 100, true);
        assert!(!kept.reset());
    }
}
