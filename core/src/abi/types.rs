//! The numbers of the ABI as Rust types: map, buffer, stream, log level, action.
//!
//! Source of every value: Proxy-Wasm specification v0.2.1, section "Types".

use crate::filter::Callback;

/// Makes an enum whose discriminants are the ABI's numbers, with a checked conversion from a guest's `i32`.
macro_rules! abi_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vmeta])* $variant = $value,)+
        }

        impl $name {
            /// Every value, in the ABI's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value a guest means by `raw`; `None` when the ABI has no such number.
            #[must_use]
            pub const fn from_raw(raw: i32) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The ABI's number of this value.
            #[must_use]
            pub const fn raw(self) -> i32 {
                self as i32
            }
        }
    };
}

abi_enum! {
    /// Which list of name/value pairs a call is about (`proxy_map_type_t`).
    MapType {
        /// Headers of the request.
        HttpRequestHeaders = 0,
        /// Trailers of the request.
        HttpRequestTrailers = 1,
        /// Headers of the response.
        HttpResponseHeaders = 2,
        /// Trailers of the response.
        HttpResponseTrailers = 3,
        /// Initial metadata of a gRPC call out.
        GrpcReceiveInitialMetadata = 4,
        /// Trailing metadata of a gRPC call out.
        GrpcReceiveTrailingMetadata = 5,
        /// Headers of the answer to an HTTP call out.
        HttpCallResponseHeaders = 6,
        /// Trailers of the answer to an HTTP call out.
        HttpCallResponseTrailers = 7,
    }
}

abi_enum! {
    /// Which bytes a call is about (`proxy_buffer_type_t`).
    BufferType {
        /// Body of the request, as far as it is readable now.
        HttpRequestBody = 0,
        /// Body of the response, as far as it is readable now.
        HttpResponseBody = 1,
        /// Bytes from the client of a TCP stream.
        DownstreamData = 2,
        /// Bytes from the upstream of a TCP stream.
        UpstreamData = 3,
        /// Body of the answer to an HTTP call out.
        HttpCallResponseBody = 4,
        /// Message of a gRPC call out.
        GrpcReceiveBuffer = 5,
        /// The configuration of the module (`module NAME PATH 'configuration'`).
        VmConfiguration = 6,
        /// The configuration of the directive (`proxy_wasm NAME 'configuration'`).
        PluginConfiguration = 7,
        /// Arguments of a foreign function that calls back.
        CallData = 8,
    }
}

abi_enum! {
    /// Which direction of a stream a call is about (`proxy_stream_type_t`).
    StreamType {
        /// The request of an HTTP stream.
        HttpRequest = 0,
        /// The response of an HTTP stream.
        HttpResponse = 1,
        /// The client's side of a TCP stream.
        Downstream = 2,
        /// The upstream's side of a TCP stream.
        Upstream = 3,
    }
}

abi_enum! {
    /// Severity of a log line (`proxy_log_level_t`).
    LogLevel {
        /// Finest detail.
        Trace = 0,
        /// Detail for developers.
        Debug = 1,
        /// Ordinary events.
        Info = 2,
        /// Something to look at.
        Warn = 3,
        /// Something failed.
        Error = 4,
        /// The filter cannot go on.
        Critical = 5,
    }
}

/// What a callback wants to happen next (`proxy_action_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Go on to the next filter, then to the proxy.
    Continue,
    /// Hold the stream here until it is resumed.
    Pause,
    /// The same, without what the body's callback has seen: that is dropped.
    PauseAndDrop,
}

impl Action {
    /// The action a guest means: 0 continues, 1 pauses.
    ///
    /// The C++ SDK has further values, which stop the iteration: so they pause. But for `ContinueAndEndStream`, 2 from a
    /// headers callback, which goes on; and `StopIterationNoBuffer`, 3 from a body callback, which keeps nothing (Envoy's
    /// `FilterDataStatus`).
    #[must_use]
    pub const fn from_raw(raw: i32, callback: Callback) -> Self {
        let is_headers = matches!(callback, Callback::RequestHeaders | Callback::ResponseHeaders);
        match raw {
            0 => Self::Continue,
            2 if is_headers => Self::Continue,
            3 if matches!(callback, Callback::RequestBody | Callback::ResponseBody) => Self::PauseAndDrop,
            _ => Self::Pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, BufferType, Callback, LogLevel, MapType, StreamType};

    #[test]
    fn numbers_outside_the_specification_are_refused() {
        assert_eq!(MapType::from_raw(8), None);
        assert_eq!(MapType::from_raw(-1), None);
        assert_eq!(BufferType::from_raw(9), None);
        assert_eq!(StreamType::from_raw(4), None);
        assert_eq!(LogLevel::from_raw(6), None);
    }

    #[test]
    fn every_number_comes_back_as_itself() {
        for map in MapType::ALL {
            assert_eq!(MapType::from_raw(map.raw()), Some(*map));
        }
        for buffer in BufferType::ALL {
            assert_eq!(BufferType::from_raw(buffer.raw()), Some(*buffer));
        }
    }

    #[test]
    fn any_action_but_zero_pauses() {
        let action =
            |raw| [Callback::RequestHeaders, Callback::RequestBody].map(|at| Action::from_raw(raw, at));
        assert_eq!(action(0), [Action::Continue; 2]);
        for raw in [1, 4, -7] {
            assert_eq!(action(raw), [Action::Pause; 2], "{raw}");
        }
        assert_eq!(action(3), [Action::Pause, Action::PauseAndDrop]);
        assert_eq!(action(2), [Action::Continue, Action::Pause]);
    }
}
