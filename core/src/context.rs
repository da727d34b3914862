//! Contexts of one instance: their ids, roots and streams, and which one is effective.
//!
//! Root contexts come first (ids 1 to n, one for each directive that lives in the instance); stream contexts follow
//! and are never given an id that was used before. The table holds only handles: a stream context that outlives its
//! request (a deferred `on_done`) has none any more.

use std::{rc::Rc, sync::Arc};

use crate::{host::calls::CallToken, metrics::tally::Tallies, plan::Plugin};

mod calls;
mod streams;

pub use streams::IdHasher;
use streams::Streams;

/// Number of a context, unique in its instance. 0 is nobody: the parent of root contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(u32);

impl ContextId {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// As the guest sees it.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0.cast_signed()
    }

    /// What the guest means by `raw`.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw.cast_unsigned())
    }

    /// The one whose number is greater by `count`.
    pub(crate) fn after(self, count: usize) -> Self {
        Self(self.0.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// The one whose number is less by `count`.
    pub(crate) fn before(self, count: usize) -> Self {
        Self(self.0.wrapping_sub(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// By how much the number of `later` is greater.
    pub(crate) fn distance(self, later: Self) -> usize {
        usize::try_from(later.0.wrapping_sub(self.0)).unwrap_or(usize::MAX)
    }
}

/// How far a stream context is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Its request lives.
    Active,
    /// `on_done` runs, or has answered false: `proxy_done` is awaited.
    Ending,
    /// `proxy_done` was called: `on_log` and `on_delete` are next.
    Done,
}

/// One stream context.
#[derive(Debug)]
pub(crate) struct StreamContext<S> {
    /// Its root context.
    pub(crate) root: ContextId,
    /// Number of its filter in the request's chain.
    pub(crate) filter: usize,
    /// The request, until it is gone.
    pub(crate) host: Option<S>,
    pub(crate) life: Life,
    /// Its `on_done` has answered false.
    pub(crate) waited: bool,
    /// Calls that it waits for.
    calls: Vec<CallToken>,
}

/// One root context.
#[derive(Debug)]
struct Root<P> {
    plugin: P,
    /// Milliseconds between two ticks; 0 for none.
    tick: u32,
    /// Queues whose messages it is told of.
    queues: Vec<u32>,
    /// Calls that it waits for.
    calls: Vec<CallToken>,
    /// How often its callbacks have run, if they are counted.
    tallies: Option<Rc<Tallies>>,
}

/// The contexts of one instance. `P` is what a directive is known by, `S` a handle of a request.
#[derive(Debug)]
pub(crate) struct Contexts<S, P> {
    roots: Vec<Root<P>>,
    streams: Streams<StreamContext<S>>,
    next: u32,
    effective: ContextId,
    /// How many stream contexts are [`Life::Done`] and wait for their end.
    completed: u32,
    /// How many stream contexts have outlived their request.
    deferred: usize,
    /// How many calls are waited for.
    calls: usize,
}

/// The contexts of an instance on host `H`.
pub(crate) type ContextsOf<H> = Contexts<<H as crate::host::Host>::Stream, Arc<Plugin<H>>>;

impl<S, P> Contexts<S, P> {
    pub(crate) fn new() -> Self {
        Self {
            roots: Vec::new(),
            streams: Streams::default(),
            next: 1,
            effective: ContextId::NONE,
            completed: 0,
            deferred: 0,
            calls: 0,
        }
    }

    /// How many stream contexts have a request.
    pub(crate) fn live(&self) -> usize {
        self.streams.len() - self.deferred
    }

    /// The `on_done` of stream context `id` has answered false.
    pub(crate) fn set_waited(&mut self, id: ContextId) {
        if let Some(stream) = self.streams.get_mut(id.0) {
            stream.waited = true;
        }
    }

    /// How many stream contexts have outlived their request.
    pub(crate) fn deferred(&self) -> usize {
        self.deferred
    }

    /// The request of stream context `id` goes, the context stays.
    pub(crate) fn defer(&mut self, id: ContextId) {
        let gone = self.streams.get_mut(id.0).and_then(|stream| stream.host.take());
        self.deferred += usize::from(gone.is_some());
    }

    /// A new root context for `plugin`, whose callbacks count in `tallies`. Roots are made before any stream.
    pub(crate) fn add_root(&mut self, plugin: P, tallies: Option<Rc<Tallies>>) -> ContextId {
        self.roots.push(Root { plugin, tick: 0, queues: Vec::new(), calls: Vec::new(), tallies });
        self.next = self.first_stream();
        Self::root_id(self.roots.len() - 1)
    }

    /// A new stream context under `root`.
    pub(crate) fn add_stream(&mut self, root: ContextId, filter: usize, host: S) -> ContextId {
        let id = self.take_id();
        let (host, life, calls) = (Some(host), Life::Active, Vec::new());
        self.streams.insert(id.0, StreamContext { root, filter, host, life, waited: false, calls });
        id
    }

    /// Whether the next `count` ids follow one another.
    pub(crate) fn are_next_free(&self, count: usize) -> bool {
        let last = u32::try_from(count).ok().and_then(|count| self.next.checked_add(count));
        last.is_some_and(|last| (self.next..last).all(|id| !self.streams.contains(id)))
    }

    /// The first id that is no root's.
    fn first_stream(&self) -> u32 {
        u32::try_from(self.roots.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// After 2^32 - 1 contexts in one instance ids start again, past the roots and whatever still lives.
    fn take_id(&mut self) -> ContextId {
        loop {
            let id = self.next;
            self.next = id.checked_add(1).unwrap_or(self.first_stream());
            if !self.streams.contains(id) {
                return ContextId(id);
            }
        }
    }

    /// The id of the root context number `index`, counted from 0 in the order they were added.
    pub(crate) fn root_id(index: usize) -> ContextId {
        ContextId(u32::try_from(index + 1).unwrap_or(u32::MAX))
    }

    pub(crate) fn root(&self, id: ContextId) -> Option<&P> {
        Some(&self.roots.get(Self::root_index(id)?)?.plugin)
    }

    fn root_index(id: ContextId) -> Option<usize> {
        usize::try_from(id.0).ok()?.checked_sub(1)
    }

    /// How many root contexts there are.
    pub(crate) fn roots(&self) -> usize {
        self.roots.len()
    }

    /// Number, counted from 0, of the effective context's root context.
    pub(crate) fn effective_root(&self) -> Option<usize> {
        let root = self.stream(self.effective).map_or(self.effective, |stream| stream.root);
        Self::root_index(root).filter(|index| *index < self.roots.len())
    }

    /// Milliseconds between two ticks of root context number `index`; 0 for none.
    pub(crate) fn tick(&self, index: usize) -> u32 {
        self.roots.get(index).map_or(0, |root| root.tick)
    }

    /// Sets that.
    pub(crate) fn set_tick(&mut self, index: usize, period: u32) {
        if let Some(root) = self.roots.get_mut(index) {
            root.tick = period;
        }
    }

    /// Whether root context number `index` waits for something that comes later, outside any request.
    pub(crate) fn root_lasts(&self, index: usize) -> bool {
        let has_calls = self.roots.get(index).is_some_and(|root| !root.calls.is_empty());
        self.tick(index) > 0 || self.queue(index, 0).is_some() || has_calls
    }

    /// Root context number `index` has registered `queue`: no other one in this instance is told of it any more.
    pub(crate) fn add_queue(&mut self, index: usize, queue: u32) {
        self.roots.iter_mut().for_each(|root| root.queues.retain(|known| *known != queue));
        if let Some(root) = self.roots.get_mut(index) {
            root.queues.push(queue);
        }
    }

    /// Queue number `at` of root context number `index`.
    pub(crate) fn queue(&self, index: usize, at: usize) -> Option<u32> {
        self.roots.get(index)?.queues.get(at).copied()
    }

    pub(crate) fn stream(&self, id: ContextId) -> Option<&StreamContext<S>> {
        self.streams.get(id.0)
    }

    pub(crate) fn remove_stream(&mut self, id: ContextId) {
        let look = |stream: &StreamContext<S>| (stream.host.is_none(), stream.life == Life::Done);
        if let Some((is_deferred, is_done)) = self.streams.remove(id.0, look) {
            self.deferred -= usize::from(is_deferred);
            self.completed = self.completed.saturating_sub(is_done.into());
        }
        if self.effective == id {
            self.effective = ContextId::NONE;
        }
    }

    /// Forgets every stream context, none of which waits for calls any more: ids start again behind the roots, as in a new instance.
    pub(crate) fn reset(&mut self) {
        self.streams.clear();
        self.next = self.first_stream();
        self.completed = 0;
        self.deferred = 0;
        self.effective = ContextId::NONE;
    }

    /// Whether there is a context of that id.
    pub(crate) fn contains(&self, id: ContextId) -> bool {
        self.root(id).is_some() || self.streams.contains(id.0)
    }

    pub(crate) fn effective(&self) -> ContextId {
        self.effective
    }

    pub(crate) fn set_effective(&mut self, id: ContextId) {
        self.effective = id;
    }

    /// The effective context's directive.
    pub(crate) fn effective_plugin(&self) -> Option<&P> {
        self.plugin(self.effective)
    }

    /// The directive of context `id`.
    #[inline]
    pub(crate) fn plugin(&self, id: ContextId) -> Option<&P> {
        self.root(self.stream(id).map_or(id, |stream| stream.root))
    }

    /// Number, counted from 0, of the root context of context `id`, or of one that there is not.
    #[inline]
    pub(crate) fn root_of(&self, id: ContextId) -> Option<usize> {
        Self::root_index(self.stream(id).map_or(id, |stream| stream.root))
    }

    /// Where callbacks of root context number `index`, and of those below it, count; `None` where they do not.
    #[inline]
    pub(crate) fn tallies(&self, index: usize) -> Option<&Tallies> {
        self.roots.get(index)?.tallies.as_deref()
    }

    /// The effective context's request.
    pub(crate) fn effective_host(&self) -> Option<&S> {
        self.stream(self.effective)?.host.as_ref()
    }

    /// Every stream context whose request lives: its id, the request, number of its filter in the request's chain.
    pub(crate) fn each_stream(&self) -> impl Iterator<Item = (ContextId, &S, usize)> {
        self.streams
            .iter()
            .filter_map(|(id, stream)| stream.host.as_ref().map(|host| (ContextId(id), host, stream.filter)))
    }

    /// Number of the effective context's filter in its request's chain.
    pub(crate) fn effective_filter(&self) -> Option<usize> {
        self.stream(self.effective).map(|stream| stream.filter)
    }

    /// `proxy_done`: the effective context, if it is ending, is done. False when it is not ending.
    pub(crate) fn complete_effective(&mut self) -> bool {
        match self.streams.get_mut(self.effective.0) {
            Some(stream) if stream.life == Life::Ending => {
                stream.life = Life::Done;
                self.completed += 1;
                true
            }
            _ => false,
        }
    }

    /// The oldest stream context whose `on_done` has deferred.
    pub(crate) fn next_deferred(&self) -> Option<ContextId> {
        let ending = |(_, stream): &(u32, &StreamContext<S>)| stream.life != Life::Active;
        self.streams.iter().filter(ending).map(|(id, _)| ContextId(id)).min()
    }

    /// Sets how far stream context `id` is.
    pub(crate) fn set_life(&mut self, id: ContextId, life: Life) {
        if let Some(stream) = self.streams.get_mut(id.0) {
            if stream.life == Life::Done {
                self.completed = self.completed.saturating_sub(1);
            }
            if life == Life::Done {
                self.completed += 1;
            }
            stream.life = life;
        }
    }

    /// A stream context whose `proxy_done` has been called after its `on_done` had deferred.
    pub(crate) fn next_done(&self) -> Option<ContextId> {
        if self.completed == 0 {
            return None;
        }
        let done = |(_, stream): &(u32, &StreamContext<S>)| stream.life == Life::Done;
        self.streams.iter().find(done).map(|(id, _)| ContextId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::{ContextId, Contexts};

    #[test]
    fn roots_come_first_and_streams_find_their_directive() {
        let mut contexts = Contexts::<(), &str>::new();
        let first = contexts.add_root("first", None);
        let second = contexts.add_root("second", None);
        assert_eq!((first, second), (ContextId(1), ContextId(2)));
        assert_eq!(Contexts::<(), &str>::root_id(1), second);
        let stream = contexts.add_stream(second, 0, ());
        contexts.set_effective(stream);
        assert_eq!(contexts.effective_plugin(), Some(&"second"));
        assert!(contexts.effective_host().is_some());
        contexts.set_effective(first);
        assert_eq!(contexts.effective_plugin(), Some(&"first"));
        assert!(contexts.effective_host().is_none(), "a root context has no request");
    }

    #[test]
    fn ids_are_not_used_again_and_wrap_past_what_lives() {
        let mut contexts = Contexts::<(), ()>::new();
        let root = contexts.add_root((), None);
        let first = contexts.add_stream(root, 0, ());
        contexts.remove_stream(first);
        assert_ne!(contexts.add_stream(root, 0, ()), first);
        contexts.next = u32::MAX;
        assert_eq!(contexts.add_stream(root, 0, ()), ContextId(u32::MAX));
        assert_eq!(contexts.add_stream(root, 0, ()), ContextId(2), "1 is the root");
        assert_eq!(contexts.add_stream(root, 0, ()), ContextId(4), "3 lives");
    }

    #[test]
    fn a_removed_context_is_no_longer_effective() {
        let mut contexts = Contexts::<(), ()>::new();
        let root = contexts.add_root((), None);
        let stream = contexts.add_stream(root, 0, ());
        contexts.set_effective(stream);
        contexts.remove_stream(stream);
        assert_eq!(contexts.effective, ContextId::NONE);
        assert!(!contexts.contains(stream));
    }
}
