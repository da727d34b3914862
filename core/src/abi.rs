//! The table of all host functions, from which the linker and the support table in docs/ABI.md are made.
//!
//! One row for each function of each version of the ABI, and for all of WASI preview 1.

use wasmtime::{Caller, ExternType, FuncType, Linker, Module, ValType};

use crate::{
    filter::exports::signature,
    host::Host,
    instance::{self, State},
    wasi,
};

pub mod docs;
pub mod pairs;
pub mod properties;
pub mod status;
pub mod types;

mod buffers;
mod calls;
mod clock;
mod foreign;
mod grpc;
mod http_call;
mod lifecycle;
mod log;
mod maps;
pub(crate) mod memory;
mod metrics;
mod proto;
mod shared_data;
mod shared_queue;
mod stream;
mod timers;

pub use status::Status;
use status::answer;
pub use stream::LocalHeaders;

/// Versions of the ABI that list a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// 0.1.0, 0.2.0, 0.2.1
    All,
    /// 0.1.0 only
    Only010,
    /// 0.2.0, 0.2.1
    Since020,
    /// 0.2.1 only
    Since021,
    /// None of them: what SDKs and their runtimes import besides.
    Runtime,
    /// WASI preview 1.
    Wasi,
}

/// Whether a function works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Complete, with its errors and limits.
    Full,
    /// Answers the errno that says that there is no such thing here; nothing more is promised.
    Refuses,
}

/// One host function.
pub struct Entry<H: Host> {
    /// `env`, or `wasi_snapshot_preview1` (which stands for `wasi_unstable` too).
    pub module: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Types of its parameters, `i32` or `i64`.
    pub params: &'static [&'static str],
    /// Whether it returns an `i32`.
    pub returns: bool,
    /// Versions that list it.
    pub versions: Versions,
    /// Whether it works.
    pub support: Support,
    /// What a reader of the table should know.
    pub note: &'static str,
    link: fn(&mut Linker<State<H>>, &str, &str) -> wasmtime::Result<()>,
}

impl<H: Host> std::fmt::Debug for Entry<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("module", &self.module)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Name of the module that Proxy-Wasm functions are imported from.
const ENV: &str = "env";

/// Name of the module that WASI functions are imported from today.
const WASI: &str = "wasi_snapshot_preview1";

/// The name it had before; modules built then still import from it.
const WASI_UNSTABLE: &str = "wasi_unstable";

/// Rows of the table: they name the function that does the work. `acts` rows are of what may change what the next filter is told,
/// or whether it is called ([`instance::interrupt`]); `full` and `void` ones of what does not.
macro_rules! rows {
    ($rows:ident; $($kind:ident $versions:ident $name:ident ($($arg:ident: $ty:ident),*) $does:tt $(. $more:ident)* $note:literal;)+) => {
        $($rows.push(rows!(@$kind $versions $name ($($arg: $ty),*) $does $(. $more)* $note));)+
    };
    (@full $($row:tt)+) => { rows!(@env follow true $($row)+) };
    (@void $($row:tt)+) => { rows!(@env follow false $($row)+) };
    (@acts $($row:tt)+) => { rows!(@env interrupt true $($row)+) };
    (@acts_void $($row:tt)+) => { rows!(@env interrupt false $($row)+) };
    (@env $look:ident $returns:tt $versions:ident $name:ident ($($arg:ident: $ty:ident),*) $room:ident . $does:ident $note:literal) => {
        Entry::<H> {
            module: ENV, name: stringify!($name), params: &[$(stringify!($ty)),*], returns: $returns,
            versions: Versions::$versions, support: Support::Full, note: $note,
            link: |linker, module, name| {
                linker.func_wrap(module, name, |mut caller: Caller<'_, State<H>>, $($arg: $ty),*| {
                    instance::$look(&mut caller);
                    rows!(@answer $returns answer($room::$does(&mut caller, $($arg),*)))
                }).map(|_| ())
            },
        }
    };
    (@answer true $answer:expr) => { $answer };
    (@answer false $answer:expr) => { $answer.map(|_| ()) };
    (@wasi $support:ident $name:ident ($($arg:ident: $ty:ident),*) $does:ident $note:literal) => {
        Entry::<H> {
            module: WASI, name: stringify!($name), params: &[$(stringify!($ty)),*], returns: true,
            versions: Versions::Wasi, support: Support::$support, note: $note,
            link: |linker, module, name| {
                linker.func_wrap(module, name, |mut caller: Caller<'_, State<H>>, $($arg: $ty),*| {
                    instance::follow(&mut caller);
                    wasi::answer(wasi::$does(&mut caller, $($arg),*))
                }).map(|_| ())
            },
        }
    };
    (@badf Wasi $name:ident ($($arg:ident: $ty:ident),*) - $note:literal) => {
        Entry::<H> {
            module: WASI, name: stringify!($name), params: &[$(stringify!($ty)),*], returns: true,
            versions: Versions::Wasi, support: Support::Refuses, note: $note,
            link: |linker, module, name| {
                linker.func_wrap(module, name, |_: Caller<'_, State<H>>, $($arg: $ty),*| -> i32 {
                    let _ = ($($arg,)*);
                    wasi::Errno::Badf.raw()
                }).map(|_| ())
            },
        }
    };
}

/// Every host function, in the order of the specification.
#[must_use]
pub fn table<H: Host>() -> Vec<Entry<H>> {
    let mut rows = Vec::with_capacity(128);
    rows! { rows;
        full All proxy_log(level: i32, data: i32, size: i32) log.log "lines are cut at 16 KiB; one newline at the end is dropped";
        full Since021 proxy_get_log_level(return_level: i32) log.get_log_level "";
        full All proxy_get_current_time_nanoseconds(return_time: i32) clock.get_current_time "";
        full All proxy_set_tick_period_milliseconds(period: i32) timers.set_tick_period "0 ends the ticks";
        acts All proxy_set_effective_context(context: i32) lifecycle.set_effective_context "";
        acts All proxy_done() lifecycle.done "";
        full Only010 proxy_get_configuration(return_data: i32, return_size: i32) lifecycle.get_configuration "";
        full All proxy_get_buffer_bytes(buffer: i32, start: i32, max_size: i32, return_data: i32, return_size: i32)
            buffers.get_buffer_bytes
            "bodies, VM and plugin configuration; NOT_FOUND for a buffer that does not exist in a phase; what a filter holds of \
             a body is there in each callback";
        full All proxy_get_buffer_status(buffer: i32, return_size: i32, return_unused: i32)
            buffers.get_buffer_status "as proxy_get_buffer_bytes";
        acts All proxy_set_buffer_bytes(buffer: i32, start: i32, size: i32, data: i32, data_size: i32)
            buffers.set_buffer_bytes "bodies";
        full All proxy_get_header_map_size(map: i32, return_size: i32) maps.get_size
            "headers and trailers; a map that does not exist in a phase is empty";
        full All proxy_get_header_map_pairs(map: i32, return_data: i32, return_size: i32) maps.get_pairs
            "as proxy_get_header_map_size";
        acts All proxy_set_header_map_pairs(map: i32, data: i32, size: i32) maps.set_pairs
            "headers and trailers that have not been sent";
        full All proxy_get_header_map_value(map: i32, key: i32, key_size: i32, return_data: i32, return_size: i32)
            maps.get_value "as proxy_get_header_map_size";
        acts All proxy_add_header_map_value(map: i32, key: i32, key_size: i32, value: i32, value_size: i32)
            maps.add "as proxy_set_header_map_pairs";
        acts All proxy_replace_header_map_value(map: i32, key: i32, key_size: i32, value: i32, value_size: i32)
            maps.replace "as proxy_set_header_map_pairs";
        acts All proxy_remove_header_map_value(map: i32, key: i32, key_size: i32)
            maps.remove "as proxy_set_header_map_pairs";
        acts Since020 proxy_continue_stream(stream: i32) stream.continue_stream "";
        acts Since020 proxy_close_stream(stream: i32) stream.close_stream "";
        acts Only010 proxy_continue_request() stream.continue_request "";
        acts_void Only010 proxy_continue_request() stream.continue_request "as the specification's text has it";
        acts Only010 proxy_continue_response() stream.continue_response "";
        acts_void Only010 proxy_continue_response() stream.continue_response "as the specification's text has it";
        full Only010 proxy_clear_route_cache() stream.clear_route_cache
            "accepted in every version; a location that was chosen stays chosen";
        full All proxy_get_status(return_code: i32, return_data: i32, return_size: i32) calls.get_status
            "in `on_grpc_close`, and in `on_http_call_response` of a call that failed (11 and the word); else 0";
        acts All proxy_send_local_response(status: i32, details: i32, details_size: i32, body: i32, body_size: i32,
            headers: i32, headers_size: i32, grpc_status: i32) stream.send_local_response "";
        full All proxy_http_call(upstream: i32, upstream_size: i32, headers: i32, headers_size: i32, body: i32,
            body_size: i32, trailers: i32, trailers_size: i32, timeout: i32, return_call: i32) http_call.http_call
            "see Calls below";
        full Runtime proxy_dispatch_http_call(upstream: i32, upstream_size: i32, headers: i32, headers_size: i32,
            body: i32, body_size: i32, trailers: i32, trailers_size: i32, timeout: i32, return_call: i32)
            http_call.http_call "the same, as a draft of the specification calls it";
        full All proxy_grpc_call(upstream: i32, upstream_size: i32, service: i32, service_size: i32, method: i32,
            method_size: i32, metadata: i32, metadata_size: i32, message: i32, message_size: i32, timeout: i32,
            return_call: i32) grpc.grpc_call "one message each way; `on_grpc_receive` or `on_grpc_close` is called";
        full All proxy_grpc_stream(upstream: i32, upstream_size: i32, service: i32, service_size: i32, method: i32,
            method_size: i32, metadata: i32, metadata_size: i32, return_stream: i32) grpc.grpc_stream "";
        full All proxy_grpc_send(stream: i32, message: i32, message_size: i32, end_stream: i32) grpc.grpc_send "";
        full All proxy_grpc_cancel(call: i32) grpc.grpc_cancel "";
        full All proxy_grpc_close(call: i32) grpc.grpc_close
            "closes the guest's side of a stream; cancels a call";
        full All proxy_set_shared_data(key: i32, key_size: i32, value: i32, value_size: i32, cas: i32)
            shared_data.set_shared_data "keys to 64 KiB, values to 1 MiB; a null value makes the entry empty and lets \
             it go when room is wanted";
        full All proxy_get_shared_data(key: i32, key_size: i32, return_data: i32, return_size: i32, return_cas: i32)
            shared_data.get_shared_data "";
        full All proxy_register_shared_queue(name: i32, name_size: i32, return_queue: i32)
            shared_queue.register_shared_queue "at most 256 queues in a zone";
        full All proxy_resolve_shared_queue(vm_id: i32, vm_id_size: i32, name: i32, name_size: i32,
            return_queue: i32) shared_queue.resolve_shared_queue "an empty vm_id is the filter's own";
        full All proxy_enqueue_shared_queue(queue: i32, data: i32, size: i32) shared_queue.enqueue_shared_queue
            "messages to 1 MiB";
        full All proxy_dequeue_shared_queue(queue: i32, return_data: i32, return_size: i32)
            shared_queue.dequeue_shared_queue "";
        full All proxy_define_metric(kind: i32, name: i32, name_size: i32, return_metric: i32) metrics.define
            "see docs/METRICS.md";
        full All proxy_increment_metric(metric: i32, delta: i64) metrics.increment
            "counters and gauges; a counter cannot become less";
        full All proxy_record_metric(metric: i32, value: i64) metrics.record
            "sets a gauge, adds to a counter, puts a value into a histogram";
        full All proxy_get_metric(metric: i32, return_value: i32) metrics.get
            "counters and gauges: what all workers have counted";
        full All proxy_get_property(path: i32, path_size: i32, return_data: i32, return_size: i32)
            properties.get_property "see the list of properties below";
        full All proxy_set_property(path: i32, path_size: i32, value: i32, value_size: i32)
            properties.set_property "kept for the stream, seen by the filters after it; ngx.NAME sets nginx's variable";
        full All proxy_call_foreign_function(name: i32, name_size: i32, arguments: i32, arguments_size: i32,
            return_data: i32, return_size: i32) foreign.call_foreign_function "see docs/FOREIGN.md";
        void Runtime emscripten_notify_memory_growth(memory: i32) lifecycle.notify_memory_growth "nothing to do";
        void Runtime abort(message: i32, file: i32, line: i32, column: i32) lifecycle.abort
            "AssemblyScript: logged, and ends the instance";
    }
    rows.push(Entry {
        module: ENV,
        name: "pthread_equal",
        params: &["i32", "i32"],
        returns: true,
        versions: Versions::Runtime,
        support: Support::Full,
        note: "C++ guests of older versions of emscripten call it",
        link: |linker, module, name| {
            let equal = |_: Caller<'_, State<H>>, left: i32, right: i32| i32::from(left == right);
            linker.func_wrap(module, name, equal).map(|_| ())
        },
    });
    wasi_rows(&mut rows);
    rows
}

/// WASI preview 1, whole (`wasi_snapshot_preview1.witx`).
fn wasi_rows<H: Host>(rows: &mut Vec<Entry<H>>) {
    rows! { rows;
        wasi Full args_get(argv: i32, buffer: i32) args_get "there are no arguments";
        wasi Full args_sizes_get(return_count: i32, return_size: i32) args_sizes_get "there are no arguments";
        wasi Full environ_get(environ: i32, buffer: i32) environ_get "what the configuration grants";
        wasi Full environ_sizes_get(return_count: i32, return_size: i32) environ_sizes_get
            "what the configuration grants";
        wasi Full clock_res_get(clock: i32, return_resolution: i32) clock_res_get "realtime and monotonic";
        wasi Full clock_time_get(clock: i32, precision: i64, return_time: i32) clock_time_get "realtime and monotonic";
        badf Wasi fd_advise(fd: i32, offset: i64, len: i64, advice: i32) - "BADF";
        badf Wasi fd_allocate(fd: i32, offset: i64, len: i64) - "BADF";
        wasi Refuses fd_close(fd: i32) standard_only "NOTSUP for 0, 1, 2; else BADF";
        badf Wasi fd_datasync(fd: i32) - "BADF";
        wasi Full fd_fdstat_get(fd: i32, return_stat: i32) fd_fdstat_get "0, 1, 2 are character devices; else BADF";
        wasi Refuses fd_fdstat_set_flags(fd: i32, flags: i32) standard_only_flags "NOTSUP for 0, 1, 2; else BADF";
        badf Wasi fd_fdstat_set_rights(fd: i32, base: i64, inheriting: i64) - "BADF";
        wasi Full fd_filestat_get(fd: i32, return_stat: i32) fd_filestat_get
            "0, 1, 2 are character devices; else BADF";
        badf Wasi fd_filestat_set_size(fd: i32, size: i64) - "BADF";
        badf Wasi fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, flags: i32) - "BADF";
        badf Wasi fd_pread(fd: i32, iovs: i32, iovs_len: i32, offset: i64, return_size: i32) - "BADF";
        badf Wasi fd_prestat_get(fd: i32, return_prestat: i32) - "BADF: nothing is opened beforehand";
        badf Wasi fd_prestat_dir_name(fd: i32, path: i32, path_len: i32) - "BADF";
        badf Wasi fd_pwrite(fd: i32, iovs: i32, iovs_len: i32, offset: i64, return_size: i32) - "BADF";
        wasi Full fd_read(fd: i32, iovs: i32, iovs_len: i32, return_size: i32) fd_read
            "standard input is at its end; else BADF";
        badf Wasi fd_readdir(fd: i32, buffer: i32, size: i32, cookie: i64, return_size: i32) - "BADF";
        badf Wasi fd_renumber(from: i32, to: i32) - "BADF";
        wasi Refuses fd_seek(fd: i32, offset: i64, whence: i32, return_offset: i32) fd_seek
            "SPIPE for 0, 1, 2; else BADF";
        badf Wasi fd_sync(fd: i32) - "BADF";
        wasi Refuses fd_tell(fd: i32, return_offset: i32) fd_tell "SPIPE for 0, 1, 2; else BADF";
        wasi Full fd_write(fd: i32, iovs: i32, iovs_len: i32, return_size: i32) fd_write
            "1 logs at level info, 2 at level error; else BADF";
        badf Wasi path_create_directory(fd: i32, path: i32, path_len: i32) - "BADF";
        badf Wasi path_filestat_get(fd: i32, flags: i32, path: i32, path_len: i32, return_stat: i32) - "BADF";
        badf Wasi path_filestat_set_times(fd: i32, flags: i32, path: i32, path_len: i32, atim: i64, mtim: i64,
            fst_flags: i32) - "BADF";
        badf Wasi path_link(fd: i32, flags: i32, old: i32, old_len: i32, new_fd: i32, new: i32, new_len: i32) - "BADF";
        badf Wasi path_open(fd: i32, dirflags: i32, path: i32, path_len: i32, oflags: i32, base: i64, inheriting: i64,
            fdflags: i32, return_fd: i32) - "BADF";
        badf Wasi path_readlink(fd: i32, path: i32, path_len: i32, buffer: i32, size: i32, return_size: i32) - "BADF";
        badf Wasi path_remove_directory(fd: i32, path: i32, path_len: i32) - "BADF";
        badf Wasi path_rename(fd: i32, old: i32, old_len: i32, new_fd: i32, new: i32, new_len: i32) - "BADF";
        badf Wasi path_symlink(old: i32, old_len: i32, fd: i32, new: i32, new_len: i32) - "BADF";
        badf Wasi path_unlink_file(fd: i32, path: i32, path_len: i32) - "BADF";
        wasi Full poll_oneoff(subscriptions: i32, events: i32, count: i32, return_count: i32) poll_oneoff
            "clocks are due at once";
        wasi Refuses proc_raise(signal: i32) proc_raise "NOSYS";
        wasi Full sched_yield() sched_yield "";
        wasi Full random_get(buffer: i32, size: i32) random_get "the system's random numbers; at most 64 KiB at once";
        badf Wasi sock_accept(fd: i32, flags: i32, return_fd: i32) - "BADF";
        badf Wasi sock_recv(fd: i32, iovs: i32, iovs_len: i32, flags: i32, return_size: i32, return_flags: i32)
            - "BADF";
        badf Wasi sock_send(fd: i32, iovs: i32, iovs_len: i32, flags: i32, return_size: i32) - "BADF";
        badf Wasi sock_shutdown(fd: i32, how: i32) - "BADF";
    }
    rows.push(Entry {
        module: WASI,
        name: "proc_exit",
        params: &["i32"],
        returns: false,
        versions: Versions::Wasi,
        support: Support::Full,
        note: "ends the instance as a failure",
        link: |linker, module, name| {
            linker
                .func_wrap(module, name, |_: Caller<'_, State<H>>, code: i32| -> wasmtime::Result<()> {
                    Err(wasmtime::Error::new(crate::failure::Exit(code)))
                })
                .map(|_| ())
        },
    });
}

/// A linker that has what one module imports.
pub(crate) struct Linked<H: Host> {
    pub(crate) linker: Linker<State<H>>,
    /// Imports that no version of the ABI has, in words: linked to a function that traps.
    pub(crate) unknown: Vec<String>,
}

/// Links every function that `module` imports.
///
/// A function that has two shapes in the wild is linked in the shape that is imported. What nobody knows is linked
/// to a trap, so that the module still loads.
pub(crate) fn link<H: Host>(engine: &wasmtime::Engine, module: &Module) -> wasmtime::Result<Linked<H>> {
    let table = table::<H>();
    let mut linked = Linked { linker: Linker::new(engine), unknown: Vec::new() };
    linked.linker.allow_shadowing(true);
    for import in module.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let from = if import.module() == WASI_UNSTABLE { WASI } else { import.module() };
        let row =
            table.iter().find(|row| row.module == from && row.name == import.name() && has_type(row, &ty));
        if let Some(row) = row {
            (row.link)(&mut linked.linker, import.module(), import.name())?;
            continue;
        }
        let name = format!("{}.{}", import.module(), import.name());
        let text = format!("called {name}, which no version of the ABI has in this form");
        let known = table.iter().find(|row| row.module == from && row.name == import.name());
        linked.unknown.push(match known {
            Some(row) => format!(
                "\"{name}\" as {}, but the ABI has it as ({}){}",
                signature(&ty),
                row.params.join(", "),
                if row.returns { " -> i32" } else { "" }
            ),
            None => format!("\"{name}\", which no version of the ABI has"),
        });
        linked.linker.func_new(import.module(), import.name(), ty, move |_, _, _| {
            Err(wasmtime::Error::msg(text.clone()))
        })?;
    }
    Ok(linked)
}

fn has_type<H: Host>(row: &Entry<H>, ty: &FuncType) -> bool {
    let name = |ty: ValType| match ty {
        ValType::I32 => "i32",
        ValType::I64 => "i64",
        _ => "",
    };
    ty.params().map(name).eq(row.params.iter().copied())
        && ty.results().map(name).eq(row.returns.then_some("i32"))
}
