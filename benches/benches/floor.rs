//! What wasmtime alone takes for what the group `instance` of the bench `requests` does: six callbacks by typed functions, host
//! functions that do nothing but to give each header the value that a path has there, and the pages that they have written copied
//! back whole. Nothing is checked out, counted, timed or noted, no page is watched, and no context is kept.
#![allow(missing_docs, reason = "a bench")]

use std::{cell::LazyCell, collections::VecDeque};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wasmtime::{Caller, Config, Engine, Instance, Linker, Memory, Module, Store, TypedFunc};
// For its allocator, which is the other benches'.
use weir_benches as _;

/// Size of a page that is copied back, in bytes.
const PAGE: usize = 4096;

/// The context of the request, and its root.
const CONTEXT: (i32, i32) = (2, 1);

/// Headers, and whether they are all.
const HEADERS: (i32, i32) = (5, 1);

/// Value of each header that a guest asks for.
const VALUE: &[u8] = b"/path?query";

/// A guest's memory, and its function that allocates in it: what a host function needs to give it something.
type Gives = Option<(Memory, TypedFunc<i32, i32>)>;

/// A configured instance of a guest.
struct Guest {
    store: Store<Gives>,
    create: TypedFunc<(i32, i32), ()>,
    headers: [TypedFunc<(i32, i32, i32), i32>; 2],
    done: TypedFunc<i32, i32>,
    ends: [TypedFunc<i32, ()>; 2],
    memory: Memory,
    /// What its memory was like, and which pages a request writes.
    image: Vec<u8>,
    written: Vec<usize>,
}

impl Guest {
    fn new(engine: &Engine, module: &Module) -> Self {
        let mut store = Store::new(engine, None);
        store.set_epoch_deadline(10);
        let mut linker = Linker::new(engine);
        let give = |mut caller: Caller<'_, Gives>, _: u32, _: u32, _: u32, address_at: u32, len_at: u32| {
            give_value(&mut caller, address_at, len_at);
            // OK.
            0_i32
        };
        linker.func_wrap("env", "proxy_get_header_map_value", give).expect("not defined yet");
        linker.define_unknown_imports_as_default_values(&mut store, module).expect("functions only");
        let instance = linker.instantiate(&mut store, module).expect("an instance");
        if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
            initialize.call(&mut store, ()).expect("begins");
        }
        let memory = instance.get_memory(&mut store, "memory").expect("a memory");
        let allocate = func(&instance, &mut store, "proxy_on_memory_allocate");
        *store.data_mut() = Some((memory, allocate));
        let (_, root) = CONTEXT;
        let create = func(&instance, &mut store, "proxy_on_context_create");
        create.call(&mut store, (root, 0)).expect("a root context");
        for name in ["proxy_on_vm_start", "proxy_on_configure"] {
            let func: TypedFunc<(i32, i32), i32> = func(&instance, &mut store, name);
            func.call(&mut store, (root, 0)).expect("begins");
        }
        let headers = ["proxy_on_request_headers", "proxy_on_response_headers"]
            .map(|name| func(&instance, &mut store, name));
        let ends = ["proxy_on_log", "proxy_on_delete"].map(|name| func(&instance, &mut store, name));
        let done = func(&instance, &mut store, "proxy_on_done");
        let image = memory.data(&store).to_vec();
        let mut guest = Self { store, create, headers, done, ends, memory, image, written: Vec::new() };
        guest.begin();
        guest.end();
        let pages = guest.memory.data(&guest.store).chunks(PAGE).zip(guest.image.chunks(PAGE));
        guest.written = pages.enumerate().filter(|(_, (is, was))| is != was).map(|(at, _)| at).collect();
        guest.put_back();
        guest
    }

    fn begin(&mut self) {
        let ((context, root), (count, end)) = (CONTEXT, HEADERS);
        self.store.set_epoch_deadline(10);
        self.create.call(&mut self.store, (context, root)).expect("no trap");
        let [request, _] = &self.headers;
        self.store.set_epoch_deadline(10);
        request.call(&mut self.store, (context, count, end)).expect("no trap");
    }

    fn end(&mut self) {
        let ((context, _), (count, end)) = (CONTEXT, HEADERS);
        let [_, response] = &self.headers;
        self.store.set_epoch_deadline(10);
        response.call(&mut self.store, (context, count, end)).expect("no trap");
        self.store.set_epoch_deadline(10);
        self.done.call(&mut self.store, context).expect("no trap");
        for end in &self.ends {
            self.store.set_epoch_deadline(10);
            end.call(&mut self.store, context).expect("no trap");
        }
    }

    fn put_back(&mut self) {
        let memory = self.memory.data_mut(&mut self.store);
        for at in self.written.iter().map(|page| page * PAGE..(page + 1) * PAGE) {
            memory[at.clone()].copy_from_slice(&self.image[at]);
        }
    }
}

/// Gives a guest [`VALUE`]: in memory that it has allocated, with its address and length where it wants them.
fn give_value(caller: &mut Caller<'_, Gives>, address_at: u32, len_at: u32) {
    let (memory, allocate) = caller.data().clone().expect("an instance that is whole");
    let len = i32::try_from(VALUE.len()).expect("short");
    let address = allocate.call(&mut *caller, len).expect("no trap");
    let place = usize::try_from(address).expect("small");
    let data = memory.data_mut(caller);
    data[place..place + VALUE.len()].copy_from_slice(VALUE);
    for (at, value) in [(address_at, address), (len_at, len)] {
        let at = at as usize;
        data[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn func<P, R>(instance: &Instance, store: &mut Store<Gives>, name: &str) -> TypedFunc<P, R>
where
    P: wasmtime::WasmParams,
    R: wasmtime::WasmResults,
{
    instance.get_typed_func(store, name).expect("a callback of the ABI")
}

fn floor(criterion: &mut Criterion) {
    let mut config = Config::new();
    // As in core's engine.
    config.epoch_interruption(true).memory_reservation(4 << 30).memory_may_move(false);
    let engine = Engine::new(&config).expect("an engine");
    let mut group = criterion.benchmark_group("floor");
    group.throughput(Throughput::Elements(1));
    for name in ["noop", "add_headers", "regexes"] {
        let path = format!("{}/../target/guests/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
        let module = LazyCell::new(|| Module::from_file(&engine, &path).expect("run scripts/build-guests"));
        for (way, puts_back) in [("shared", false), ("own", true)] {
            for in_turn in [1, 64] {
                // Those whose request has begun, the oldest first, and those that have none.
                let (mut begun, mut idle) = (VecDeque::new(), Vec::new());
                group.bench_function(format!("{name}/{way}/{in_turn}"), |bencher| {
                    idle.resize_with(in_turn - begun.len(), || Box::new(Guest::new(&engine, &module)));
                    bencher.iter(|| {
                        if let Some(mut guest) = idle.pop() {
                            guest.begin();
                            begun.push_back(guest);
                        }
                        if idle.is_empty()
                            && let Some(mut guest) = begun.pop_front()
                        {
                            guest.end();
                            if puts_back {
                                guest.put_back();
                            }
                            idle.push(guest);
                        }
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, floor);
criterion_main!(benches);
