//! Which context waits for which calls.

use super::{ContextId, Contexts};
use crate::host::calls::CallToken;

impl<S, P> Contexts<S, P> {
    /// How many calls are waited for.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// The calls of context `id`.
    fn calls_of(&mut self, id: ContextId) -> Option<&mut Vec<CallToken>> {
        if let Some(stream) = self.streams.get_mut(id.0) {
            return Some(&mut stream.calls);
        }
        let root = self.roots.get_mut(Self::root_index(id)?)?;
        Some(&mut root.calls)
    }

    /// Context `id` waits for `token`.
    pub(crate) fn add_call(&mut self, id: ContextId, token: CallToken) {
        if let Some(calls) = self.calls_of(id) {
            calls.push(token);
            self.calls += 1;
        }
    }

    /// Context `id` does not wait for `token` any more.
    pub(crate) fn remove_call(&mut self, id: ContextId, token: CallToken) {
        if let Some(calls) = self.calls_of(id)
            && let Some(at) = calls.iter().position(|known| *known == token)
        {
            calls.swap_remove(at);
            self.calls -= 1;
        }
    }

    /// What stream context `id` waits for.
    pub(crate) fn calls_of_stream(&self, id: ContextId) -> &[CallToken] {
        if self.calls == 0 {
            return &[];
        }
        self.stream(id).map(|stream| &*stream.calls).unwrap_or_default()
    }

    /// Whether context `id` waits for a call.
    pub(crate) fn waits(&self, id: ContextId) -> bool {
        !self.calls_of_stream(id).is_empty()
    }

    /// Whether a root context waits for `token`.
    pub(crate) fn has_call(&self, token: CallToken) -> bool {
        self.roots.iter().any(|root| root.calls.contains(&token))
    }

    /// What context `id` waits for; it does not any more.
    pub(crate) fn take_calls(&mut self, id: ContextId) -> Vec<CallToken> {
        if self.calls == 0 {
            return Vec::new();
        }
        let taken = self.calls_of(id).map(std::mem::take).unwrap_or_default();
        self.calls -= taken.len();
        taken
    }

    /// What any context waits for; none does any more.
    pub(crate) fn take_all_calls(&mut self) -> Vec<CallToken> {
        if self.calls == 0 {
            return Vec::new();
        }
        self.calls = 0;
        let streams = self.streams.values_mut().map(|stream| &mut stream.calls);
        let roots = self.roots.iter_mut().map(|root| &mut root.calls);
        streams.chain(roots).flat_map(std::mem::take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{CallToken, Contexts};

    #[test]
    fn calls_belong_to_their_context() {
        let mut contexts = Contexts::<(), ()>::new();
        let root = contexts.add_root((), None);
        let stream = contexts.add_stream(root, 0, ());
        let [a, b, c] = [1, 2, 3].map(CallToken::new);
        contexts.add_call(root, a);
        contexts.add_call(stream, b);
        contexts.add_call(stream, c);
        assert!(contexts.waits(stream) && contexts.has_call(a) && !contexts.has_call(b));
        contexts.remove_call(stream, a);
        assert_eq!(contexts.calls(), 3, "it is the root context's");
        contexts.remove_call(stream, b);
        assert_eq!(contexts.take_calls(stream), [c]);
        assert!(!contexts.waits(stream));
        assert_eq!(contexts.take_all_calls(), [a]);
        assert_eq!(contexts.calls(), 0);
    }
}
