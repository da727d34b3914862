//! Calls out, made by the worker's client.

use std::rc::Rc;

use weir_core::host::{
    Calls,
    calls::{By, CallError, CallToken, GrpcCall, HttpCall},
};

use super::{root::Worker, stream::RequestToken};
use crate::{
    calls::{Client, Maker},
    ngx::cycle::is_ending,
    stream::live,
};

/// What is answered in the master, which tries a configuration out.
const NOT_HERE: CallError = CallError::Overloaded(std::borrow::Cow::Borrowed("only workers make calls"));

/// What root contexts are answered in a worker that shuts down and has no requests with filters any more.
const NOT_NOW: CallError = CallError::Overloaded(std::borrow::Cow::Borrowed("this worker shuts down"));

impl Worker {
    /// Lends the client, and who calls by it.
    fn with_client<T>(
        &self,
        by: By<'_, RequestToken>,
        call: impl FnOnce(&Rc<Client>, Maker<'_>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let (client, allowed) = self.calls.as_ref().ok_or(NOT_HERE)?;
        // A worker that shuts down waits for calls, and would never end as long as a root context makes new ones.
        if by.is_root && is_ending() && !live::any() {
            return Err(NOT_NOW);
        }
        let request = by.stream.and_then(RequestToken::request);
        let rules = request.and_then(|request| request.location()?.call_rules().map(Rc::clone));
        let rules = rules.unwrap_or_else(|| allowed.get(by.rules));
        call(client, Maker { request, rules: &rules, filter: by.filter })
    }
}

impl Calls<RequestToken> for Worker {
    fn http(&self, token: CallToken, by: By<'_, RequestToken>, call: &HttpCall<'_>) -> Result<(), CallError> {
        self.with_client(by, |client, maker| client.http(token, maker, call))
    }

    fn grpc(&self, token: CallToken, by: By<'_, RequestToken>, call: &GrpcCall<'_>) -> Result<(), CallError> {
        self.with_client(by, |client, maker| client.grpc(token, maker, call))
    }

    fn send(&self, token: CallToken, message: &[u8], last: bool) -> Result<(), CallError> {
        let (client, _) = self.calls.as_ref().ok_or(NOT_HERE)?;
        client.send(token, message, last)
    }

    fn close(&self, token: CallToken) {
        if let Some((client, _)) = &self.calls {
            client.close(token);
        }
    }

    fn cancel(&self, token: CallToken) {
        if let Some((client, _)) = &self.calls {
            client.cancel(token);
        }
    }

    fn resolve(&self, token: CallToken, by: By<'_, RequestToken>, name: &str) -> Result<(), CallError> {
        self.with_client(by, |client, maker| client.resolve(token, maker, name))
    }
}
