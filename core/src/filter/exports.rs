//! The functions a guest exports: which ones the ABI knows, and where they are in the module.

use wasmtime::{ExternType, FuncType, Module, ModuleExport, ValType};

use super::{inspect::Unfit, instrument};

/// Makes the enum of callbacks and its table: name of the export, allowed numbers of parameters, whether it returns.
macro_rules! callbacks {
    ($($(#[$meta:meta])* $variant:ident = $name:literal ($($params:literal)|+) $(-> $result:ident)?;)+) => {
        /// A function of the guest that Weir may call. All parameters and results are `i32`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Callback {
            $($(#[$meta])* $variant,)+
        }

        impl Callback {
            /// Every callback.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name of the export.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Numbers of parameters that a guest may give it.
            const fn params(self) -> &'static [usize] {
                match self {
                    $(Self::$variant => &[$($params),+],)+
                }
            }

            /// Whether it returns an `i32`.
            const fn returns(self) -> bool {
                match self {
                    $(Self::$variant => callbacks!(@ $($result)?),)+
                }
            }
        }
    };
    (@) => { false };
    (@ $result:ident) => { true };
}

callbacks! {
    /// Start of a reactor.
    Initialize = "_initialize" (0);
    /// Start of a command.
    Start = "_start" (0);
    /// After `_initialize`: `argc`, `argv`.
    Main = "main" (2) -> i32;
    /// The same, under the name newer wasi-libc gives a `main` without arguments.
    MainVoid = "__main_void" (0) -> i32;
    /// The guest's allocator: bytes.
    MemoryAllocate = "proxy_on_memory_allocate" (1) -> i32;
    /// Its older name.
    Malloc = "malloc" (1) -> i32;
    /// A context is born: its id, its parent's (0 for a root context).
    ContextCreate = "proxy_on_context_create" (2);
    /// The module starts: root context, bytes of its configuration.
    VmStart = "proxy_on_vm_start" (2) -> i32;
    /// The directive is configured: root context, bytes of its configuration.
    Configure = "proxy_on_configure" (2) -> i32;
    /// The timer of a root context.
    Tick = "proxy_on_tick" (1);
    /// Request headers: context, number of pairs, end of stream (not in 0.1.0).
    RequestHeaders = "proxy_on_request_headers" (3 | 2) -> i32;
    /// Part of the request's body: context, bytes readable, end of stream.
    RequestBody = "proxy_on_request_body" (3) -> i32;
    /// Request trailers: context, number of pairs.
    RequestTrailers = "proxy_on_request_trailers" (2) -> i32;
    /// HTTP/2 metadata of the request: no version lists it, some SDKs export it, it is never called.
    RequestMetadata = "proxy_on_request_metadata" (2) -> i32;
    /// Response headers: context, number of pairs, end of stream (not in 0.1.0).
    ResponseHeaders = "proxy_on_response_headers" (3 | 2) -> i32;
    /// Part of the response's body: context, bytes readable, end of stream.
    ResponseBody = "proxy_on_response_body" (3) -> i32;
    /// Response trailers: context, number of pairs.
    ResponseTrailers = "proxy_on_response_trailers" (2) -> i32;
    /// HTTP/2 metadata of the response: like that of the request.
    ResponseMetadata = "proxy_on_response_metadata" (2) -> i32;
    /// Answer of an HTTP call: root context, call, headers, bytes, trailers.
    HttpCallResponse = "proxy_on_http_call_response" (5);
    /// gRPC: root context, call, number of pairs.
    GrpcReceiveInitialMetadata = "proxy_on_grpc_receive_initial_metadata" (3);
    /// gRPC: root context, call, bytes.
    GrpcReceive = "proxy_on_grpc_receive" (3);
    /// gRPC: root context, call, number of pairs.
    GrpcReceiveTrailingMetadata = "proxy_on_grpc_receive_trailing_metadata" (3);
    /// gRPC: root context, call, status.
    GrpcClose = "proxy_on_grpc_close" (3);
    /// A queue has a message: root context, queue.
    QueueReady = "proxy_on_queue_ready" (2);
    /// A foreign function calls back: root context, function, bytes.
    ForeignFunction = "proxy_on_foreign_function" (3);
    /// The stream has ended: context. False defers the rest until `proxy_done`.
    Done = "proxy_on_done" (1) -> i32;
    /// Time to log the stream: context.
    Log = "proxy_on_log" (1);
    /// The context goes away.
    Delete = "proxy_on_delete" (1);
}

/// Where one export is in the module, and its shape.
#[derive(Clone)]
pub(crate) struct Export {
    pub(crate) index: ModuleExport,
    pub(crate) returns: bool,
}

/// Everything a module exports of what [`Callback`] lists, resolved once.
pub(crate) struct Exports {
    table: Vec<Option<Export>>,
    memory: ModuleExport,
    /// The mutable globals, which [`instrument`] has made visible.
    globals: Vec<ModuleExport>,
}

impl Exports {
    /// Resolves all exports of `module` and checks their signatures.
    pub(crate) fn resolve(module: &Module) -> Result<Self, Unfit> {
        let memory = module.get_export_index("memory").ok_or(Unfit::NoMemory)?;
        let mut table = Vec::with_capacity(Callback::ALL.len());
        for callback in Callback::ALL {
            table.push(resolve_one(module, *callback)?);
        }
        let globals = module
            .exports()
            .filter(|export| instrument::is_global_export(export.name()))
            .filter_map(|export| module.get_export_index(export.name()))
            .collect();
        let exports = Self { table, memory, globals };
        if exports.allocator().is_none() {
            return Err(Unfit::NoAllocator);
        }
        Ok(exports)
    }

    pub(crate) fn get(&self, callback: Callback) -> Option<&Export> {
        self.table.get(callback as usize)?.as_ref()
    }

    /// The allocator: the specification's, else C's.
    pub(crate) fn allocator(&self) -> Option<&Export> {
        self.get(Callback::MemoryAllocate).or_else(|| self.get(Callback::Malloc))
    }

    pub(crate) fn memory(&self) -> &ModuleExport {
        &self.memory
    }

    pub(crate) fn globals(&self) -> &[ModuleExport] {
        &self.globals
    }
}

/// Other names that SDKs give a callback.
const OTHER_NAMES: &[(Callback, &str)] =
    &[(Callback::GrpcReceiveTrailingMetadata, "proxy_on_grpc_trailing_metadata")];

fn resolve_one(module: &Module, callback: Callback) -> Result<Option<Export>, Unfit> {
    let found = resolve_name(module, callback, callback.name())?;
    let other = OTHER_NAMES.iter().find(|(named, _)| *named == callback);
    match (found, other) {
        (None, Some((_, name))) => resolve_name(module, callback, name),
        (found, _) => Ok(found),
    }
}

fn resolve_name(module: &Module, callback: Callback, name: &str) -> Result<Option<Export>, Unfit> {
    let (Some(index), Some(ExternType::Func(found))) =
        (module.get_export_index(name), module.get_export(name))
    else {
        return Ok(None);
    };
    let fits = found.params().all(|ty| ty.matches(&ValType::I32))
        && found.results().all(|ty| ty.matches(&ValType::I32))
        && callback.params().contains(&found.params().len())
        && found.results().len() == usize::from(callback.returns());
    match callback {
        _ if fits => Ok(Some(Export { index, returns: callback.returns() })),
        // Names that a program may use for its own purposes: another shape is not ours to call.
        Callback::Main | Callback::MainVoid | Callback::Malloc => Ok(None),
        _ => Err(Unfit::WrongSignature {
            name: name.to_owned(),
            found: signature(&found),
            expected: callback
                .params()
                .iter()
                .map(|params| {
                    let result = if callback.returns() { " -> i32" } else { "" };
                    format!("({}){result}", vec!["i32"; *params].join(", "))
                })
                .collect::<Vec<_>>()
                .join(" or "),
        }),
    }
}

/// A function's type in words.
pub(crate) fn signature(ty: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| {
        types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ")
    };
    let params = list(&mut ty.params());
    match list(&mut ty.results()) {
        results if results.is_empty() => format!("({params})"),
        results => format!("({params}) -> {results}"),
    }
}
