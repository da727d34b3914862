//! The calls of an instance: begun by its hostcalls, told to its callbacks, ended with its contexts.

use std::rc::Rc;

use super::{Instance, State};
use crate::{
    calls::{FIRST_REHEARSED, Kind, Told, Waiting},
    context::{ContextId, ContextsOf},
    failure::Failure,
    host::{
        Calls, Host, StreamHost,
        calls::{By, CallError, CallToken},
    },
};

impl<H: Host> State<H> {
    /// The effective context makes a call of `upstream`: `begin` has the proxy begin it.
    ///
    /// While a configuration is rehearsed nothing is begun, but it is noted that the root context waits for something:
    /// it will be configured in each worker, and make its call there.
    ///
    /// # Errors
    /// [`CallError`], of `begin` or because there are too many.
    pub(crate) fn begin_call(
        &mut self,
        kind: Kind,
        upstream: &[u8],
        begin: impl FnOnce(&H::Root, CallToken, By<'_, H::Stream>) -> Result<(), CallError>,
    ) -> Result<CallToken, CallError> {
        let nobody = || CallError::Refused("it is made in no context".into());
        let context = self.contexts.effective();
        let root = self.contexts.effective_root().ok_or_else(nobody)?;
        let most = self.filter.engine().settings().limits.calls;
        if self.calls.as_ref().map_or(self.contexts.calls(), |calls| calls.len()) >= most {
            let sentence = format!("{most} calls live already, as many as \"calls_limit\" allows");
            let error = CallError::Overloaded(sentence.into());
            if let Some(calls) = &self.calls {
                calls.metrics().refused(&self.filter.spec().name, &error);
            }
            return Err(error);
        }
        let Some(calls) = &self.calls else {
            let token = CallToken::new(FIRST_REHEARSED + self.rehearsed_calls);
            self.rehearsed_calls += 1;
            self.contexts.add_call(context, token);
            return Ok(token);
        };
        let by = By {
            stream: self.contexts.effective_host(),
            is_root: self.contexts.root(context).is_some(),
            rules: self.contexts.effective_plugin().map_or(0, |plugin| plugin.calls),
            filter: &self.filter.spec().name,
        };
        let filter = &*self.filter.spec().name;
        let meter = calls.metrics().begin(filter, upstream);
        let (seat, made_in) = (Rc::clone(&self.seat), self.callback);
        let token = calls.begin(Waiting { seat, context, root, kind, made_in, holds: false, meter });
        match begin(&self.root, token, by) {
            Ok(()) => {
                self.contexts.add_call(context, token);
                Ok(token)
            }
            Err(error) => {
                calls.withdraw(token);
                calls.metrics().refused(filter, &error);
                Err(error)
            }
        }
    }

    /// Looks at what sort of call `token` of this instance is; `None` when it is none of its calls that live.
    pub(crate) fn call_kind<R>(&self, token: CallToken, look: impl FnOnce(&mut Kind) -> R) -> Option<R> {
        self.calls.as_ref()?.look(&self.seat, token, |_, kind| look(kind))
    }

    /// Whether `token` stands for a call that was asked for while the configuration is rehearsed.
    pub(crate) fn is_rehearsed(&self, token: CallToken) -> bool {
        self.calls.is_none() && self.contexts.has_call(token)
    }

    /// Cancels a call that lives.
    pub(crate) fn cancel_call(&mut self, token: CallToken) {
        let context = self.calls.as_ref().and_then(|calls| calls.look(&self.seat, token, |id, _| id));
        if let Some(context) = context {
            self.contexts.remove_call(context, token);
        }
        self.end_call(token);
    }

    /// Cancels calls that no context knows any more.
    pub(super) fn end_calls(&self, calls: Vec<CallToken>) {
        calls.into_iter().for_each(|token| self.end_call(token));
    }

    fn end_call(&self, token: CallToken) {
        if let Some(calls) = &self.calls {
            calls.forget(token);
            self.root.cancel(token);
        }
    }
}

impl<H: Host> Drop for State<H> {
    fn drop(&mut self) {
        let calls = self.contexts.take_all_calls();
        self.end_calls(calls);
        self.contexts.reset();
        self.recount();
    }
}

impl<H: Host> Instance<H> {
    /// Where it is found.
    pub(crate) fn seat(&self) -> &crate::calls::Seat<H> {
        &self.store.data().seat
    }

    /// Whether some context of it waits for a call.
    pub(crate) fn has_calls(&self) -> bool {
        self.store.data().contexts.calls() > 0
    }

    /// Stream context `id` holds the response: it waits for the calls that it has made.
    pub(crate) fn hold_for_calls(&self, id: ContextId) {
        let state = self.store.data();
        if let Some(calls) = &state.calls {
            state.contexts.calls_of_stream(id).iter().for_each(|token| calls.hold(*token));
        }
    }

    /// Tells a context what has become of its call.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub(crate) fn tell(&mut self, told: Told) -> Result<(), Failure> {
        let Told { token, context, root, callback, params, answer, last } = told;
        let state = self.store.data_mut();
        if last {
            state.contexts.remove_call(context, token);
        }
        if self.failed {
            return Ok(());
        }
        let root = ContextsOf::<H>::root_id(root);
        let [a, b, c] = params;
        state.answer = Some(Rc::new(answer));
        let params = [root.raw(), token.number().cast_signed(), a, b, c];
        let entered = self.enter(callback, context, params);
        self.store.data_mut().answer = None;
        let told = entered.and_then(|_| self.end_completed());
        if told.is_err() {
            self.failed_in = Some(context);
            self.withdraw();
        }
        told
    }

    /// The callback that has failed may have sent a local response: it is not to be sent.
    fn withdraw(&mut self) {
        let state = self.store.data();
        let context = state.asked.local_response;
        if let Some(host) = state.contexts.stream(context).and_then(|stream| stream.host.as_ref()) {
            host.withdraw_local_response();
        }
    }

    /// Nothing is waited for any more: contexts whose `on_done` has deferred end, calls are cancelled.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub(crate) fn end_waiting(&mut self) -> Result<(), Failure> {
        if !self.failed {
            self.end_deferred_streams()?;
        }
        let state = self.store.data_mut();
        let calls = state.contexts.take_all_calls();
        state.end_calls(calls);
        Ok(())
    }

    /// Cancels what context `id`, which ends, waits for; what it has asked for at its end goes on.
    #[inline]
    pub(super) fn end_calls_of(&mut self, id: ContextId) {
        if self.has_calls() {
            self.end_some_calls_of(id);
        }
    }

    #[cold]
    fn end_some_calls_of(&mut self, id: ContextId) {
        let state = self.store.data_mut();
        let waited = state.contexts.stream(id).is_some_and(|stream| stream.waited);
        let mut calls = state.contexts.take_calls(id);
        if let Some(pending) = &state.calls {
            calls.retain(|token| !pending.let_go(*token, waited));
        }
        state.end_calls(calls);
    }
}
