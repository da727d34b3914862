//! What a callback is told of a call: maps, buffers and a status that exist only while it runs.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    abi::types::{BufferType, MapType},
    host::calls::{CallFailure, Closed, Fields, Response},
};

/// What has come back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Of HTTP: a response, empty where there is a failure instead.
    Http {
        /// The response.
        response: Response,
        /// Why there is none.
        failure: Option<CallFailure>,
    },
    /// Of gRPC.
    InitialMetadata(Fields),
    /// Of gRPC.
    TrailingMetadata(Fields),
    /// Of gRPC.
    Message(Bytes),
    /// Of gRPC: it is over.
    Closed(Closed),
    /// Of a foreign function.
    Data {
        /// What it found out.
        data: Bytes,
        /// Why it did not.
        failure: Option<CallFailure>,
    },
}

/// What `proxy_get_status` tells of an HTTP call that has failed: BROKEN_CONNECTION, as Envoy does. No hostcall answers
/// with it.
const BROKEN_CONNECTION: u32 = 11;

impl Answer {
    /// The pairs of `map`, if it is one that this has.
    pub(crate) fn map(&self, map: MapType) -> Option<&Fields> {
        match (self, map) {
            (Self::Http { response, .. }, MapType::HttpCallResponseHeaders) => Some(&response.headers),
            (Self::Http { response, .. }, MapType::HttpCallResponseTrailers) => Some(&response.trailers),
            (Self::InitialMetadata(fields), MapType::GrpcReceiveInitialMetadata)
            | (Self::TrailingMetadata(fields), MapType::GrpcReceiveTrailingMetadata) => Some(fields),
            _ => None,
        }
    }

    /// The values of `name` in `map`. A failed call of HTTP has no headers, but one for whoever asks for it: why it failed,
    /// as ngx_wasm_module tells it (its docs/PROXY_WASM.md, "Supported Proxy-Wasm Entrypoints").
    pub(crate) fn value(&self, map: MapType, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        if let (Self::Http { failure: Some(failure), .. }, MapType::HttpCallResponseHeaders) = (self, map)
            && name == b":dispatch_status"
        {
            return Some(Cow::Borrowed(failure.dispatch_status().as_bytes()));
        }
        self.map(map)?.value(name)
    }

    /// The pieces of `buffer`, if it is one that this has.
    pub(crate) fn buffer(&self, buffer: BufferType) -> Option<&[Bytes]> {
        match (self, buffer) {
            (Self::Http { response, .. }, BufferType::HttpCallResponseBody) => Some(&response.body),
            (Self::Message(bytes), BufferType::GrpcReceiveBuffer) => Some(std::slice::from_ref(bytes)),
            (Self::Data { data, .. }, BufferType::CallData) => Some(std::slice::from_ref(data)),
            _ => None,
        }
    }

    /// A status and what is said about it; 0 and nothing where all is well.
    pub(crate) fn status(&self) -> (u32, &[u8]) {
        match self {
            Self::Closed(closed) => (closed.status, &closed.message),
            Self::Http { failure: Some(failure), .. } | Self::Data { failure: Some(failure), .. } => {
                (BROKEN_CONNECTION, failure.word().as_bytes())
            }
            _ => (0, &[]),
        }
    }

    /// What has failed here, if something has.
    pub(crate) fn failure(&self) -> Option<CallFailure> {
        match self {
            Self::Http { failure, .. } | Self::Data { failure, .. } => *failure,
            Self::Closed(closed) => closed.failure,
            _ => None,
        }
    }
}

/// Whether `map` belongs to calls: it is there only while a callback is told of one, and only to be read.
pub(crate) fn is_call_map(map: MapType) -> bool {
    matches!(
        map,
        MapType::GrpcReceiveInitialMetadata
            | MapType::GrpcReceiveTrailingMetadata
            | MapType::HttpCallResponseHeaders
            | MapType::HttpCallResponseTrailers
    )
}

/// Whether `buffer` does.
pub(crate) fn is_call_buffer(buffer: BufferType) -> bool {
    matches!(buffer, BufferType::HttpCallResponseBody | BufferType::GrpcReceiveBuffer | BufferType::CallData)
}
