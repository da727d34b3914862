//! The tie of a live instance to its snapshot, and the way back to it.

use std::{io, mem, ptr::NonNull, sync::Arc};

use wasmtime::{AsContextMut, Global, Memory, Val};

use super::{
    image::{Mapped, PAGE, Writes},
    protect::Entered,
    slots::Slots,
    snapshot::Snapshot,
    stats::Dropped,
    tracker::{IDLE_IN_A_ROW, Reset, Tracker, Tracking},
};

/// An instance's memory as its image is mapped over it, and its mutable globals with the values they began with.
#[derive(Debug)]
pub(crate) struct Pristine {
    /// Before `mapped`, which it watches; `None` where the instance is not put back.
    tracker: Option<Tracker>,
    mapped: Mapped,
    memory: Memory,
    /// Those of the engine, in one of which the memory is.
    slots: Arc<Slots>,
    /// Most bytes that it keeps of what it has grown by.
    keep: usize,
    /// Bytes that it has kept, and how many requests in a row have not used them.
    kept: (usize, u8),
    /// At the last reset memory was given back to the system, since a request had used more than is kept.
    pub(crate) trimmed: bool,
    globals: Vec<(Global, Val)>,
}

impl Pristine {
    /// Gives `memory`, which begins at `base` in one of `slots`, and `globals` the contents of `snapshot`. Where
    /// `tracking` says how, they can be put back to it. `most` bytes of what has been written are kept then, and as many
    /// of what the memory has grown by.
    ///
    /// # Errors
    /// What the system said.
    ///
    /// # Safety
    /// As [`Mapped::new`].
    #[allow(unsafe_code, reason = "mapping an image over a memory is a promise about it")]
    pub(crate) unsafe fn new(
        memory: Memory,
        (base, slots): (NonNull<u8>, &Arc<Slots>),
        snapshot: &Snapshot,
        globals: Vec<Global>,
        (tracking, most): (Option<Tracking>, usize),
        mut store: impl AsContextMut,
    ) -> io::Result<Self> {
        let writes = tracking.and_then(Tracker::writes).unwrap_or(Writes::Allowed);
        // SAFETY: the caller's promise.
        let mapped = unsafe { Mapped::new(base, Arc::clone(snapshot.image()), writes) }?;
        let globals: Vec<_> = globals.into_iter().zip(snapshot.globals().iter().copied()).collect();
        for (global, value) in &globals {
            global.set(&mut store, *value).map_err(io::Error::other)?;
        }
        let pages = (most / PAGE).min(mapped.image().bytes().len() / PAGE);
        let tracker = match tracking {
            Some(tracking) => Tracker::new(tracking, &mapped, pages)?,
            None => None,
        };
        Ok(Self {
            tracker,
            mapped,
            memory,
            slots: Arc::clone(slots),
            keep: most,
            kept: (0, 0),
            trimmed: false,
            globals,
        })
    }

    /// The instance is being entered, until the guard is dropped.
    pub(crate) fn enter(&self) -> Option<Entered> {
        self.tracker.as_ref()?.enter()
    }

    /// Puts memory and globals back.
    ///
    /// # Errors
    /// When they cannot be.
    #[allow(unsafe_code, reason = "only the store's owner knows that nobody uses its memory")]
    pub(crate) fn restore(&mut self, mut store: impl AsContextMut) -> Result<(), Dropped> {
        let tracker = self.tracker.as_mut().ok_or(Dropped::Renewed)?;
        self.trimmed = false;
        let more = self.memory.data_size(&store).saturating_sub(self.mapped.image().bytes().len());
        if more > 0 {
            shrink(self.memory, &self.mapped, (&self.slots, self.keep), &mut store)?;
            self.trimmed = more > self.keep;
            self.kept = if self.trimmed { (0, 0) } else { (self.kept.0.max(more), 0) };
        } else if self.kept.0 > 0 {
            self.kept.1 = self.kept.1.saturating_add(1);
            if self.kept.1 >= IDLE_IN_A_ROW {
                let (kept, _) = mem::take(&mut self.kept);
                // SAFETY: whoever has the store for himself has it between two entries into the guest.
                let released = unsafe { self.slots.release(self.mapped.base(), kept) };
                released.map_err(|_| Dropped::Grown)?;
            }
        }
        match tracker.reset(&self.mapped) {
            Reset::Done => {}
            Reset::Trimmed => self.trimmed = true,
            Reset::GivenUp => return Err(Dropped::Written),
        }
        let set = self.globals.iter().all(|(global, value)| {
            // Commonly a stack pointer, which a guest has put back itself; to look takes a third of what setting does.
            is_same(global.get(&mut store), *value) || global.set(&mut store, *value).is_ok()
        });
        // A value fits the global that it was read from.
        if set { Ok(()) } else { Err(Dropped::Failed) }
    }
}

/// Takes back what a guest has made its memory larger by.
#[cold]
#[allow(unsafe_code, reason = "only the store's owner knows that nobody uses its memory")]
fn shrink(
    memory: Memory,
    mapped: &Mapped,
    (slots, keep): (&Slots, usize),
    mut store: impl AsContextMut,
) -> Result<(), Dropped> {
    let len = mapped.image().bytes().len();
    // SAFETY: whoever has the store for himself has it between two entries into the guest, and holds no reference into
    // its memory; the next call tells wasmtime.
    let shrunk = unsafe { slots.shrink(mapped.base(), len, keep) };
    // Growing by nothing makes wasmtime look at the memory's size again (`vm::Instance::memory_grow`).
    let told = memory.grow(&mut store, 0);
    let done = shrunk.is_ok() && told.is_ok() && memory.data_size(&store) == len;
    if done { Ok(()) } else { Err(Dropped::Grown) }
}

/// Whether two values surely are the same, bit by bit.
fn is_same(value: Val, other: Val) -> bool {
    match (value, other) {
        (Val::I32(value), Val::I32(other)) => value == other,
        (Val::I64(value), Val::I64(other)) => value == other,
        (Val::F32(value), Val::F32(other)) => value == other,
        (Val::F64(value), Val::F64(other)) => value == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path, sync::Arc};

    use proptest::prelude::*;

    use crate::{
        chain::Direction,
        context::ContextId,
        engine::{Engine, Settings, cache::Cache},
        failure::Failure,
        filter::{Callback, Filter, FilterSpec},
        instance::{Home, Instance},
        plan::{Declared, Isolation, Plugin},
        pool::{image::Images, snapshot::Snapshot, stats::Dropped, tracker::Tracking},
        testing::{Memory, Request, Worker},
    };

    /// Stores a value at an address, sets two globals, and grows the memory where it is asked to: the number of pairs
    /// of the request's headers is the address, a context's number says nothing. Its configuration makes the memory
    /// larger than the module has it.
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
            (drop (memory.grow (i32.const 2)))
            (i32.store (i32.const 2700000) (i32.const 0x12345678))
            (i32.store (i32.const 70000) (i32.const 0x12345678)) (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (global.set $count (i64.add (global.get $count) (i64.const 1)))
            (global.set $float (f32.add (global.get $float) (f32.const 1)))
            (i32.store (local.get 1) (i32.const -1))
            (memory.fill (i32.add (local.get 1) (i32.const 9000)) (i32.const 3) (i32.const 5000))
            (drop (call $time (i32.add (local.get 1) (i32.const 30000))))
            (drop (memory.grow (local.get 2)))
            (i32.const 0)))"#;

    fn home() -> Home<Memory> {
        Home::rehearsal(Worker::default())
    }

    struct Bench {
        filter: Arc<Filter<Memory>>,
        plugins: [Arc<Plugin<Memory>>; 1],
        snapshot: Snapshot,
        /// What the configured instance was like.
        contents: (Vec<u8>, Vec<String>),
    }

    impl Bench {
        fn new() -> Self {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(&wat::parse_str(GUEST).expect("well-formed")).expect("written");
            Self::of(file.path(), "")
        }

        fn of(path: &Path, configuration: &str) -> Self {
            let spec = FilterSpec {
                name: "guest".into(),
                path: path.to_owned(),
                configuration: Vec::new(),
                vm_id: "guest".into(),
                environment: Vec::new(),
            };
            let engine =
                Engine::shared(&Settings { instances: 4, ..Settings::default() }).expect("an engine");
            let filter = Filter::load(&engine, &Cache::disabled(), spec, &Worker::default()).expect("loads");
            assert_eq!(filter.obstacle(), None);
            let plugins = [Arc::new(Plugin {
                filter: Arc::clone(&filter),
                configuration: configuration.as_bytes().to_vec(),
                root_id: String::new(),
                isolation: Isolation::Stream,
                snapshot: true,
                singleton: false,
                calls: 0,
                place: String::new(),
                recorder: crate::metrics::recorder::Recorder::default(),
                declared: Declared::default(),
            })];
            let configured = Instance::new(&filter, &plugins, &home());
            let mut configured = configured.map_err(|(_, failure)| failure).expect("made");
            let mut images = Images::new().expect("a file");
            let snapshot = configured.snapshot(&mut images).expect("taken");
            images.seal();
            Self { filter, plugins, snapshot, contents: configured.contents() }
        }

        fn begin(&self, tracking: Option<Tracking>) -> Instance<Memory> {
            let begun = Instance::begin(&self.filter, &self.plugins, &home(), &self.snapshot, tracking);
            begun.expect("begun")
        }
    }

    /// Guests of every language, as `scripts/build-guests` has made them, and what they are configured with.
    const GUESTS: &[(&str, &str)] = &[
        ("add_headers", ""),
        ("add_headers_cpp", ""),
        ("add_headers_as", ""),
        ("add_headers_go", ""),
        ("bodies_cpp", "aaa=bb"),
        ("bodies_as", "aaa=bb"),
        ("bodies_go", "aaa=bb"),
        ("properties_cpp", ""),
        ("properties_as", ""),
        ("properties_go", ""),
        ("local_cpp", ""),
        ("local_as", ""),
        ("local_go", ""),
        ("runtime_cpp", ""),
        ("runtime_as", ""),
        ("legacy_cpp", ""),
        ("noop", ""),
        ("leak", ""),
        ("edits", "reqb.collect reqb.append=more resb.set=less"),
        ("maps", "request add x-a 1\nresponse dump"),
        ("properties", "request.path response.code node.id"),
        ("local", r#"{"when": "request_body", "status": 403, "body": "no"}"#),
    ];

    #[test]
    fn guests_of_every_language_are_put_back() {
        let guests = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guests");
        for (name, configuration) in GUESTS {
            let path = Path::new(guests).join(name).with_extension("wasm");
            assert!(path.exists(), "{} is missing: run scripts/build-guests", path.display());
            let bench = Bench::of(&path, configuration);
            for tracking in trackers() {
                let mut kept = bench.begin(Some(tracking));
                let mut resets = 0;
                for round in 0..20 {
                    assert_eq!(kept.contents(), bench.contents, "{name}, {tracking:?}, round {round}");
                    whole_request(&mut kept, round);
                    if kept.reset().is_ok() {
                        resets += 1;
                    } else {
                        // It has made its memory larger.
                        kept = bench.begin(Some(tracking));
                    }
                }
                // Those that try out their runtime make their memory larger each time.
                let grows = name.starts_with("runtime");
                assert!(resets > 0 || grows, "{name}, {tracking:?}: never put back");
            }
        }
    }

    /// A request with headers and bodies, through all callbacks; what the guest makes of it does not matter.
    fn whole_request(instance: &mut Instance<Memory>, round: usize) {
        let request = Request::new(&Worker::default());
        let stream = instance.create_stream(0, 0, &request).expect("created");
        let size = i32::try_from(round * 700).expect("small");
        for (callback, direction) in [
            (Callback::RequestHeaders, Direction::Request),
            (Callback::RequestBody, Direction::Request),
            (Callback::ResponseHeaders, Direction::Response),
            (Callback::ResponseBody, Direction::Response),
        ] {
            let body = vec![b'a'; round * 700];
            request.edit().buffers.insert(direction.buffer(), vec![body]);
            instance.enter(callback, stream, [stream.raw(), size, 1, 0, 0]).expect("no trap");
        }
        instance.end_stream(stream, false).expect("ended");
    }

    /// The trackers that this system has.
    fn trackers() -> impl Iterator<Item = Tracking> {
        [Tracking::Protect, Tracking::Scan].into_iter().filter(|tracking| {
            let has = tracking.available() == *tracking;
            if !has {
                eprintln!("not tested, since this system does not have it: {tracking:?}");
            }
            has
        })
    }

    /// One request that writes around `address` and makes the memory larger by `pages`.
    fn request(instance: &mut Instance<Memory>, address: i32, pages: usize) {
        let stream = enter(instance, address, pages).expect("no trap");
        instance.end_stream(stream, false).expect("ended");
    }

    /// The same; it does not end.
    fn enter(instance: &mut Instance<Memory>, address: i32, pages: usize) -> Result<ContextId, Failure> {
        let stream = instance.create_stream(0, 0, &Request::new(&Worker::default())).expect("created");
        let params = [stream.raw(), address, i32::try_from(pages).expect("small"), 0, 0];
        instance.enter(Callback::RequestHeaders, stream, params)?;
        Ok(stream)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn after_a_reset_an_instance_equals_a_configured_one(
            addresses in prop::collection::vec(0..2_600_000_i32, 1..30)
        ) {
            let bench = Bench::new();
            for tracking in trackers() {
                let mut kept = bench.begin(Some(tracking));
                for address in &addresses {
                    prop_assert_eq!(&kept.contents(), &bench.contents);
                    request(&mut kept, *address, 0);
                    prop_assert_ne!(&kept.contents(), &bench.contents);
                    prop_assert_eq!(kept.reset(), Ok(()));
                }
                prop_assert_eq!(&kept.contents(), &bench.contents);
            }
        }
    }

    #[test]
    fn what_a_memory_has_grown_by_is_taken_back() {
        let bench = Bench::new();
        for tracking in trackers() {
            let mut kept = bench.begin(Some(tracking));
            let end = i32::try_from(bench.contents.0.len()).expect("small");
            // Some are kept, some are more than that; some are given back when nobody has needed them for long.
            for (pages, small) in [(1, 0), (7, 1), (3, 70), (100, 2), (1, 0), (900, 1), (20, 70), (20, 0)] {
                request(&mut kept, 100, pages);
                let grown = kept.contents().0;
                assert_eq!(grown.len(), bench.contents.0.len() + pages * 0x1_0000);
                assert!(grown[bench.contents.0.len()..].iter().all(|byte| *byte == 0), "{pages} pages");
                // Into what is new, which the next one may not find.
                request(&mut kept, end + 40_000 * i32::try_from(pages / 2).expect("small"), 0);
                for turn in 0..=small {
                    assert_eq!(kept.reset(), Ok(()));
                    assert_eq!(kept.trimmed(), turn == 0 && pages > 128, "more than 8 MiB");
                    assert!(kept.contents() == bench.contents, "{tracking:?}, {pages} pages");
                }
            }
            let beyond = enter(&mut kept, end, 0).expect_err("a trap");
            assert_eq!(beyond.cause.label(), "trap", "{beyond}");
        }
    }

    #[test]
    fn an_instance_that_is_not_tracked_is_used_once_and_leaves_nothing() {
        let bench = Bench::new();
        for tracking in [None, Some(Tracking::Renew)].into_iter().cycle().take(10) {
            let mut once = bench.begin(tracking);
            assert_eq!(once.contents(), bench.contents);
            request(&mut once, 5000, 0);
            assert_eq!(once.reset(), Err(Dropped::Renewed));
        }
    }
}
