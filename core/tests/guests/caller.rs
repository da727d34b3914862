//! Guests that call others, and what comes back to them.

use weir_core::{
    chain::Chain,
    host::calls::{CallEvent, CallFailure, CallToken, Fields, Response},
    testing::{
        Memory, Request, Worker,
        calls::{Asked, Begun},
    },
};

use crate::support::{Bench, Guest, Step, call, len, serialized};

/// Where the guest has its call's number, once it was made.
pub(crate) const TOKEN: i64 = 2048;

/// Headers of a good call.
pub(crate) const HEADERS: &[(&str, &str)] =
    &[(":method", "POST"), (":path", "/path?query"), (":authority", "origin.test"), ("x-a", "1")];

/// A guest that has what a call takes: `origin` at 0, headers at 512, a body at 64.
pub(crate) fn caller() -> Guest {
    Guest::new().data(0, "origin").data(64, "body").data(512, serialized(HEADERS))
}

/// Arguments of `proxy_http_call` for a good call of [`caller`].
pub(crate) fn args() -> Vec<i64> {
    vec![0, 6, 512, len(serialized(HEADERS)), 64, 4, 0, 0, 1000, TOKEN]
}

/// Makes a good HTTP call.
pub(crate) fn dial() -> Step {
    call("proxy_http_call", args())
}

/// Arguments of `proxy_grpc_stream`, or, with a message and a timeout before the last one, of `proxy_grpc_call`: the
/// guest has `origin` at 0, `a.Service` at 16, `Method` at 32.
pub(crate) fn grpc_args(message: Option<(i64, i64)>) -> Vec<i64> {
    let mut args = vec![0, 6, 16, 9, 32, 6, 0, 0];
    args.extend(message.into_iter().flat_map(|(at, size)| [at, size, 1000]));
    args.push(TOKEN);
    args
}

/// A guest that has what a gRPC call takes.
pub(crate) fn grpc_caller() -> Guest {
    Guest::new().data(0, "origin").data(16, "a.Service").data(32, "Method").data(64, "body")
}

/// The numbers of the calls begun since this was asked last.
pub(crate) fn begun(worker: &Worker) -> Vec<CallToken> {
    worker.take_calls().into_iter().map(|Begun { token, .. }| token).collect()
}

/// The calls cancelled since this was asked last.
pub(crate) fn cancelled(worker: &Worker) -> Vec<CallToken> {
    let asked = worker.take_asked().into_iter();
    let cancelled = asked.filter_map(|asked| match asked {
        Asked::Cancelled(token) => Some(token),
        _ => None,
    });
    cancelled.collect()
}

pub(crate) fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

/// A response of status 200.
pub(crate) fn response(body: &'static [u8]) -> CallEvent {
    let headers = fields(&[(":status", "200"), ("x-b", "2"), ("X-B", "3")]);
    let (half, rest) = body.split_at(body.len() / 2);
    let body = vec![half.into(), rest.into()];
    CallEvent::Response(Response { headers, body, trailers: fields(&[("t", "1")]) })
}

pub(crate) const FAILED: CallEvent = CallEvent::Failed(CallFailure::Timeout);

impl Bench {
    /// A request whose headers have come.
    pub(crate) fn headers(&self, request: &Request) -> Chain<Memory> {
        let mut chain = self.begin(request);
        let _ = chain.headers(weir_core::chain::Direction::Request, true);
        chain
    }
}
