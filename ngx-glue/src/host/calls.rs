//! Calls out, made by the worker's client.

use std::rc::Rc;

use weir_core::host::{
    Calls,
    calls::{By, CallError, CallToken, HttpCall},
};

use super::{root::Worker, stream::RequestToken};
use crate::calls::Maker;

/// What is answered in the master, which tries a configuration out.
const NOT_HERE: CallError = CallError::Overloaded(std::borrow::Cow::Borrowed("only workers make calls"));

impl Calls<RequestToken> for Worker {
    fn http(&self, token: CallToken, by: By<'_, RequestToken>, call: &HttpCall<'_>) -> Result<(), CallError> {
        let (client, allowed) = self.calls.as_ref().ok_or(NOT_HERE)?;
        let request = by.stream.and_then(RequestToken::request);
        let rules = request.and_then(|request| request.location()?.call_rules().map(Rc::clone));
        let rules = rules.unwrap_or_else(|| allowed.get(by.rules));
        client.http(token, Maker { request, rules: &rules, filter: by.filter }, call)
    }

    fn cancel(&self, token: CallToken) {
        if let Some((client, _)) = &self.calls {
            client.cancel(token);
        }
    }
}
