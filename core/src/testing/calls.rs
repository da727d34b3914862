//! Calls out of the proxy in memory: they lead nowhere. A test looks at what was asked for, and says what comes back.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use super::{Pair, Request, Worker};
use crate::host::calls::{By, CallError, CallFields, CallToken, Calls, GrpcCall, HttpCall};

/// A call that a guest has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub token: CallToken,
    /// Whether the context that made it had a request.
    pub by_stream: bool,
    /// The directive's number for what it may call.
    pub rules: u32,
    /// What is called.
    pub what: What,
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// HTTP.
    Http {
        /// Where to.
        upstream: Vec<u8>,
        /// Method, path, authority.
        target: [Vec<u8>; 3],
        /// Scheme, where there was one.
        scheme: Option<Vec<u8>>,
        /// Headers that are sent as they are.
        headers: Vec<Pair>,
        /// The body.
        body: Vec<u8>,
        /// Trailers.
        trailers: Vec<Pair>,
        /// Longest that it may take.
        timeout: Duration,
        /// Most bytes of the response.
        most: usize,
    },
    /// gRPC.
    Grpc {
        /// Where to.
        upstream: Vec<u8>,
        /// Service and method.
        target: [Vec<u8>; 2],
        /// Metadata that goes first.
        metadata: Vec<Pair>,
        /// The one message, where there is just one.
        message: Option<Vec<u8>>,
        /// Longest that it may take.
        timeout: Option<Duration>,
    },
    /// A name is looked up.
    Resolve(String),
}

/// What was asked of a call that had been begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// One more message; the last one?
    Sent(CallToken, Vec<u8>, bool),
    /// No message follows.
    Closed(CallToken),
    /// It was cancelled.
    Cancelled(CallToken),
}

/// The calls of one worker.
#[derive(Debug, Default)]
pub(super) struct Log {
    begun: RefCell<Vec<Begun>>,
    asked: RefCell<Vec<Asked>>,
    refusal: RefCell<Option<CallError>>,
    full: Cell<bool>,
}

impl Worker {
    /// The calls begun since this was called last.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Begun> {
        self.calls.begun.take()
    }

    /// What was asked of calls since this was called last.
    #[must_use]
    pub fn take_asked(&self) -> Vec<Asked> {
        self.calls.asked.take()
    }

    /// No call is begun from now on, for this reason; with `None` they are again.
    pub fn refuse_calls(&self, reason: Option<CallError>) {
        self.calls.refusal.replace(reason);
    }

    /// Whether no message can be sent on a stream for now.
    pub fn block_sending(&self, full: bool) {
        self.calls.full.set(full);
    }

    fn begin(&self, token: CallToken, by: By<'_, Request>, what: What) -> Result<(), CallError> {
        if let Some(reason) = &*self.calls.refusal.borrow() {
            return Err(reason.clone());
        }
        let begun = Begun { token, by_stream: by.stream.is_some(), rules: by.rules, what };
        self.calls.begun.borrow_mut().push(begun);
        Ok(())
    }
}

fn owned(fields: &CallFields<'_>) -> Vec<Pair> {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

impl Calls<Request> for Worker {
    fn http(&self, token: CallToken, by: By<'_, Request>, call: &HttpCall<'_>) -> Result<(), CallError> {
        let what = What::Http {
            upstream: call.upstream.to_vec(),
            target: [call.method, call.path, call.authority].map(<[u8]>::to_vec),
            scheme: call.scheme.map(<[u8]>::to_vec),
            headers: owned(&call.headers),
            body: call.body.to_vec(),
            trailers: owned(&call.trailers),
            timeout: call.timeout,
            most: call.most,
        };
        self.begin(token, by, what)
    }

    fn grpc(&self, token: CallToken, by: By<'_, Request>, call: &GrpcCall<'_>) -> Result<(), CallError> {
        let what = What::Grpc {
            upstream: call.upstream.to_vec(),
            target: [call.service, call.method].map(<[u8]>::to_vec),
            metadata: owned(&call.metadata),
            message: call.message.map(<[u8]>::to_vec),
            timeout: call.timeout,
        };
        self.begin(token, by, what)
    }

    fn send(&self, token: CallToken, message: &[u8], last: bool) -> Result<(), CallError> {
        if self.calls.full.get() {
            return Err(CallError::Overloaded("too much waits to be sent".into()));
        }
        self.calls.asked.borrow_mut().push(Asked::Sent(token, message.to_vec(), last));
        Ok(())
    }

    fn close(&self, token: CallToken) {
        self.calls.asked.borrow_mut().push(Asked::Closed(token));
    }

    fn cancel(&self, token: CallToken) {
        self.calls.asked.borrow_mut().push(Asked::Cancelled(token));
    }

    fn resolve(&self, token: CallToken, by: By<'_, Request>, name: &str) -> Result<(), CallError> {
        self.begin(token, by, What::Resolve(name.to_owned()))
    }
}
