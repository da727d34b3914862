//! `on_queue_ready`: root contexts are told that a queue of theirs has messages.
//!
//! A worker is woken once for all messages that have come meanwhile ([`Shared::waker`]); then each root context is
//! called as long as it takes messages and there are more.

use std::{cell::RefCell, rc::Rc};

use super::Shard;
use crate::{
    chain::wake,
    failure::{Cause, Failure},
    filter::Callback,
    host::{Host, RootHost, RootId},
    instance::Instance,
    shared::Shared,
};

/// Most calls for one queue before requests get their turn again.
const CALLS: usize = 64;

impl<H: Host> Shard<H> {
    /// This worker was woken: calls the root contexts whose queues have messages, those of suspended filters apart. What
    /// is left after a while wakes the worker again; what a filter did not take, because it has failed or is suspended,
    /// waits for the next message.
    pub fn queues_ready(&self) {
        let Some(shared) = self.inner.root.shared() else { return };
        let pool = &self.inner.pool;
        let residents = || (0..pool.plans().groups().len()).filter(|group| pool.has_resident(*group));
        let mut ready = Vec::new();
        for group in residents() {
            let Ok(trial) = self.inner.admit(group) else { continue };
            match pool.resident(group) {
                Ok(instance) => ready.push((group, trial, instance)),
                Err(failure) => self.inner.failed(RootId { group, root: 0 }, None, trial, &failure),
            }
        }
        // An instance that took the place of one that had failed has listened anew, and so woken this worker for
        // messages that it is told of now. If it fails as well the next message is the next occasion.
        if let Some(waker) = shared.waker() {
            waker.clear();
        }
        for (group, trial, instance) in ready {
            if let Err((root, failure)) = tell(&instance, &shared) {
                if let Ok(instance) = instance.try_borrow() {
                    // Requests that live in it too have lost it.
                    instance.each_stream(&mut |_, host, filter| wake::<H>(host, filter));
                }
                self.inner.failed(RootId { group, root }, None, trial, &failure);
            }
        }
    }
}

/// Tells the root contexts of an instance of their queues; an error is of the one with that number.
fn tell<H: Host>(instance: &Rc<RefCell<Instance<H>>>, shared: &Shared) -> Result<(), (usize, Failure)> {
    let entered = |_| (0, Failure::new(Callback::QueueReady, Cause::Host("the instance was entered twice")));
    let mut instance = instance.try_borrow_mut().map_err(entered)?;
    for root in 0..instance.roots() {
        let mut at = 0;
        while let Some(queue) = instance.queue(root, at) {
            tell_of(&mut instance, root, queue, shared).map_err(|failure| (root, failure))?;
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
