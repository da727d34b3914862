//! The end of contexts: `on_done`, `on_log`, `on_delete`, one after the other or put off.

use super::Instance;
use crate::{
    context::{ContextId, Life},
    failure::Failure,
    filter::Callback,
    host::Host,
};

impl<H: Host> Instance<H> {
    /// Ends stream context `id`: `on_done`, then, unless that defers, `on_log` and `on_delete`.
    ///
    /// `lasting` says that the instance lives on: what is deferred there may come long after the request is gone, so
    /// its context loses sight of it. In an instance that ends with its request [`end_deferred`](Self::end_deferred)
    /// has to follow.
    pub(crate) fn end_stream(&mut self, id: ContextId, lasting: bool) -> Result<(), Failure> {
        self.set_life(id, Life::Ending);
        let completed = self.enter_next(Callback::Done, id, [id.raw(), 0, 0, 0, 0])?.value() != Some(0);
        if completed {
            return self.delete_done(id);
        }
        self.put_off(id, lasting)
    }

    /// The `on_done` of stream context `id` has answered false: the rest comes after `proxy_done`, which may have been called
    /// meanwhile. `lasting` as in [`end_stream`](Self::end_stream).
    pub(super) fn put_off(&mut self, id: ContextId, lasting: bool) -> Result<(), Failure> {
        let contexts = &mut self.store.data_mut().contexts;
        if contexts.stream(id).is_some_and(|stream| stream.life == Life::Done) {
            return self.delete_done(id);
        }
        contexts.set_life(id, Life::Ending);
        contexts.set_effective(id);
        contexts.set_waited(id);
        if !lasting {
            return Ok(());
        }
        let state = self.store.data_mut();
        let most = state.filter.engine().settings().limits.deferred;
        if state.contexts.deferred() < most {
            state.contexts.defer(id);
            state.recount();
            return Ok(());
        }
        let sentence = format!(
            "{most} contexts wait for proxy_done already, as many as \"deferred_limit\" allows: one more ends at once"
        );
        state.warn(&sentence);
        self.delete_stream(id)
    }

    /// Ends stream context `id`, whose request is gone, if its `on_done` has deferred and `proxy_done` has not come: the
    /// instance ends, and nothing is left to wait for. If it waits for calls the instance stays until they are answered.
    pub(crate) fn end_deferred(&mut self, id: ContextId) -> Result<(), Failure> {
        let contexts = &mut self.store.data_mut().contexts;
        if contexts.waits(id) {
            contexts.defer(id);
            return Ok(());
        }
        if contexts.stream(id).is_some() { self.delete_stream(id) } else { Ok(()) }
    }

    fn delete_stream(&mut self, id: ContextId) -> Result<(), Failure> {
        self.ended = None;
        self.delete_done(id)
    }

    /// The same right after a callback.
    fn delete_done(&mut self, id: ContextId) -> Result<(), Failure> {
        // Not `Done` any more, or the search for completed contexts would find it again.
        self.set_life(id, Life::Active);
        let result = self
            .enter_next(Callback::Log, id, [id.raw(), 0, 0, 0, 0])
            .and_then(|_| self.enter_next(Callback::Delete, id, [id.raw(), 0, 0, 0, 0]));
        self.forget_stream(id);
        result.map(|_| ())
    }

    /// Ends every context that is left, since the worker ends: `on_log` and `on_delete` of those whose `on_done` has
    /// deferred, then `on_done` and `on_delete` of each root context, whatever that answers.
    ///
    /// # Errors
    /// The first [`Failure`]: the instance is not entered again.
    pub(crate) fn end_roots(&mut self) -> Result<(), Failure> {
        self.end_deferred_streams()?;
        for root in 0..self.store.data().contexts.roots() {
            for callback in [Callback::Done, Callback::Delete] {
                self.enter_root(callback, root, [0; 4])?;
            }
        }
        Ok(())
    }

    /// Ends each stream context whose `on_done` has deferred.
    pub(super) fn end_deferred_streams(&mut self) -> Result<(), Failure> {
        while let Some(id) = self.store.data().contexts.next_deferred() {
            self.delete_stream(id)?;
        }
        Ok(())
    }

    /// Ends contexts whose deferred `on_done` has been completed by `proxy_done`.
    pub(crate) fn end_completed(&mut self) -> Result<(), Failure> {
        while let Some(id) = self.store.data().contexts.next_done() {
            self.delete_stream(id)?;
        }
        Ok(())
    }
}
