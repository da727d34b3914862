//! How many instances a worker has, keeps and holds ready, and who waits for one.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::Duration,
};

use super::stats::Stats;
use crate::host::{Host, StreamHost};

/// How many instances of a group are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Instances that wait for a request: so many are made while the worker has nothing else to do.
    pub spare: usize,
    /// Most instances that wait for a request; one that comes back to more of them is dropped.
    pub idle: usize,
    /// Longest that a request waits for an instance, where all are in use; zero for not at all.
    pub wait: Duration,
}

impl Default for Stock {
    fn default() -> Self {
        Self { spare: 1, idle: usize::MAX, wait: Duration::from_secs(1) }
    }
}

/// The books of a pool: what is alive, what is wanted.
#[derive(Debug)]
pub(super) struct Books<H: Host> {
    /// Most instances alive at once.
    limit: usize,
    /// Instances that requests have, or the worker itself.
    out: Cell<usize>,
    /// Instances that wait for a request.
    idle: Cell<usize>,
    /// Groups that have fewer instances waiting than they should.
    hungry: RefCell<Vec<usize>>,
    /// Requests that wait for an instance, the first one first.
    waiting: RefCell<VecDeque<H::Stream>>,
    /// Where all of that is told.
    stats: Stats,
}

impl<H: Host> Books<H> {
    /// Nothing is alive yet.
    pub(super) fn new(limit: usize, stats: Stats) -> Self {
        Self {
            limit,
            out: Cell::new(0),
            idle: Cell::new(0),
            hungry: RefCell::default(),
            waiting: RefCell::default(),
            stats,
        }
    }

    /// Where it is told.
    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether `more` requests can have an instance, if idle ones give way.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.out.get().saturating_add(more) <= self.limit
    }

    /// Whether one more can live beside all others.
    pub(super) fn has_space(&self) -> bool {
        self.out.get() + self.idle.get() < self.limit
    }

    /// An instance begins to be used.
    pub(super) fn went_out(&self) {
        self.set_out(self.out.get() + 1);
    }

    /// It ends to be.
    pub(super) fn came_back(&self) {
        self.set_out(self.out.get().saturating_sub(1));
    }

    fn set_out(&self, count: usize) {
        self.out.set(count);
        self.stats.in_use(count);
    }

    /// `count` instances begin to wait for a request.
    pub(super) fn laid_down(&self, count: usize) {
        self.set_idle(self.idle.get() + count);
    }

    /// They end to.
    pub(super) fn taken_up(&self, count: usize) {
        self.set_idle(self.idle.get().saturating_sub(count));
    }

    fn set_idle(&self, count: usize) {
        self.idle.set(count);
        self.stats.idle(count);
    }

    /// Group number `group` has too few instances. Answers whether it is the first to say so.
    pub(super) fn want(&self, group: usize) -> bool {
        let mut hungry = self.hungry.borrow_mut();
        if !hungry.contains(&group) {
            hungry.push(group);
        }
        hungry.len() == 1
    }

    /// A group that has too few instances; forgets that.
    pub(super) fn take_wanted(&self) -> Option<usize> {
        self.hungry.borrow_mut().pop()
    }

    /// Whether some group has too few instances.
    pub(super) fn is_wanted(&self) -> bool {
        !self.hungry.borrow().is_empty()
    }

    /// `stream` waits for an instance, behind those that do already.
    pub(super) fn wait(&self, stream: H::Stream) {
        self.waiting.borrow_mut().push_back(stream);
    }

    /// An instance may have come free: the first of those that wait, and are still there, is told.
    pub(super) fn call_next(&self) {
        // The borrow ends before the proxy is called.
        let next = || self.waiting.borrow_mut().pop_front();
        while let Some(stream) = next() {
            if stream.instance_free() {
                break;
            }
        }
    }

    /// Everybody who waits is told to look again. Those who have to wait on do so in the same order.
    pub(super) fn call_all(&self) {
        // The borrow ends before the proxy is called.
        for stream in self.waiting.take() {
            // A stream that is gone waits for nothing.
            let _ = stream.instance_free();
        }
    }
}
