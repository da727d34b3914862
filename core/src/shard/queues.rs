//! `on_queue_ready`: root contexts are told that a queue of theirs has messages.
//!
//! A worker is woken once for all messages that have come meanwhile ([`Shared::waker`]); then each root context is
//! called as long as it takes messages and there are more.

use std::{cell::RefCell, rc::Rc};

use super::Shard;
use crate::{
    failure::{Cause, Failure},
    filter::Callback,
    host::{Host, RootHost},
    instance::Instance,
    shared::Shared,
};

/// Most calls for one queue before requests get their turn again.
const CALLS: usize = 64;

impl<H: Host> Shard<H> {
    /// This worker was woken: calls the root contexts whose queues have messages. What is left after a while wakes the
    /// worker again.
    pub fn queues_ready(&self) {
        let Some(shared) = self.inner.root.shared() else { return };
        let pool = &self.inner.pool;
        let residents = || (0..pool.plans().groups().len()).filter(|group| pool.has_resident(*group));
        let mut ready = Vec::new();
        for group in residents() {
            match pool.resident(group) {
                Ok(instance) => ready.push((group, instance)),
                Err(failure) => self.report(group, &failure),
            }
        }
        // An instance that took the place of one that had failed has listened anew, and so woken this worker for
        // messages that it is told of now. If it fails as well the next message is the next occasion.
        if let Some(waker) = shared.waker() {
            waker.clear();
        }
        for (group, instance) in ready {
            if let Err(failure) = tell(&instance, &shared) {
                self.report(group, &failure);
            }
        }
    }

    fn report(&self, group: usize, failure: &Failure) {
        if let Some(group) = self.inner.pool.plans().groups().get(group) {
            self.inner.report(&group.filter.spec().name, failure);
        }
    }
}

/// Tells the root contexts of an instance of their queues.
fn tell<H: Host>(instance: &Rc<RefCell<Instance<H>>>, shared: &Shared) -> Result<(), Failure> {
    let entered = |_| Failure::new(Callback::QueueReady, Cause::Host("the instance was entered twice"));
    let mut instance = instance.try_borrow_mut().map_err(entered)?;
    for root in 0..instance.roots() {
        let mut at = 0;
        while let Some(queue) = instance.queue(root, at) {
            tell_of(&mut instance, root, queue, shared)?;
            at += 1;
        }
    }
    Ok(())
}

/// Tells root context number `root` of `queue`, as long as it takes messages.
fn tell_of<H: Host>(
    instance: &mut Instance<H>,
    root: usize,
    queue: u32,
    shared: &Shared,
) -> Result<(), Failure> {
    let mut messages = shared.look_at(queue);
    for _ in 0..CALLS {
        if !messages {
            return Ok(());
        }
        let before = shared.taken();
        instance.enter_root(Callback::QueueReady, root, [queue.cast_signed(), 0, 0, 0])?;
        if shared.taken() == before {
            // It does not want them now. The next message is the next occasion.
            return Ok(());
        }
        messages = shared.has_messages(queue);
    }
    if messages && let Some(waker) = shared.waker() {
        waker.wake();
    }
    Ok(())
}
