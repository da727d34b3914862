//! What has become of the calls that guests have made.

use std::{cell::RefCell, rc::Rc};

use super::Shard;
use crate::{
    calls::{Received, Told},
    chain::wake,
    failure::{Cause, Failure},
    host::{
        Calls, Host, RootId,
        calls::{CallEvent, CallToken},
    },
    instance::Instance,
};

impl<H: Host> Shard<H> {
    /// Something has become of call `token`: the context that made it is told. From an event of the proxy's own, never
    /// below a hostcall.
    ///
    /// What the guest asks for meanwhile (that a request goes on, a local response) comes to the proxy as from any
    /// callback that is none of that request's own: each request in an event of its own.
    ///
    /// False when nobody waits for this call any more: the proxy drops it.
    pub fn called(&self, token: CallToken, event: CallEvent) -> bool {
        let (seat, told) = match self.inner.calls.receive(token, event) {
            Received::Nobody => return false,
            Received::Noted => return true,
            Received::Tell(seat, told, cancel) => {
                if cancel {
                    self.inner.root.cancel(token);
                }
                (seat, told)
            }
        };
        let Some((group, instance)) = seat.instance() else {
            self.inner.calls.forget(token);
            return false;
        };
        self.tell(group, &instance, told);
        self.inner.pool.told(&instance);
        self.inner.calls.lives(token)
    }

    /// How many calls of this worker live.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.inner.calls.len()
    }

    fn tell(&self, group: usize, instance: &Rc<RefCell<Instance<H>>>, told: Told) {
        let (callback, root, context) = (told.callback, told.root, told.context);
        let mut maker = None;
        let entered = |_| Failure::new(callback, Cause::Host("the instance was entered twice"));
        let result = instance.try_borrow_mut().map_err(entered).and_then(|mut instance| {
            let result = instance.tell(told);
            if result.is_err() {
                maker = instance.request_of(context);
                // Its own request, and those that live in it too, have lost it.
                instance.each_stream(&mut |_, host, filter| wake::<H>(host, filter));
            }
            result
        });
        if let Err(failure) = result {
            self.inner.failed(RootId { group, root }, maker.as_ref(), false, &failure);
        }
    }
}
