//! The functions of a guest that Weir may call: their names and types, as the versions of the ABI have them.

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
            pub(super) const fn params(self) -> &'static [usize] {
                match self {
                    $(Self::$variant => &[$($params),+],)+
                }
            }

            /// Whether it returns an `i32`.
            pub(super) const fn returns(self) -> bool {
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
