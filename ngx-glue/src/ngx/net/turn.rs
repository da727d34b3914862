//! A turn in nginx's event loop (`src/event/ngx_event_posted.h`): when futures that were woken are polled.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    fmt,
    ptr::NonNull,
    rc::Weak,
};

use nginx_sys::{
    ngx_delete_posted_event, ngx_event_t, ngx_post_event, ngx_posted_events, ngx_posted_next_events,
};

use crate::ngx::{cycle::Cycle, guard::guard};

/// What a turn is for.
pub(crate) trait Run {
    /// The turn has come.
    fn run(&self);
}

/// An event that is posted whenever there is something to run. Dropping it takes it back.
pub(crate) struct Turn(Box<Inner>);

/// nginx has a pointer to this while the event is posted.
struct Inner {
    event: UnsafeCell<ngx_event_t>,
    run: RefCell<Option<Weak<dyn Run>>>,
    /// Whether nginx's loop has run this event before.
    looping: Cell<bool>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

impl Default for Turn {
    fn default() -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        let event = UnsafeCell::new(unsafe { std::mem::zeroed::<ngx_event_t>() });
        Self(Box::new(Inner { event, run: RefCell::default(), looping: Cell::default() }))
    }
}

impl Turn {
    /// What it runs from now on.
    pub(crate) fn serve(&self, run: Weak<dyn Run>) {
        self.0.run.replace(Some(run));
    }

    /// Runs what is served when nginx has got control back. Posting twice is posting once.
    pub(crate) fn post(&self) {
        self.0.post();
    }
}

impl Inner {
    fn is_posted(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.event.get() }.posted() != 0
    }

    fn post(&self) {
        if self.is_posted() {
            return;
        }
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, the event is in no queue, and the reference ends with these lines.
        let event = unsafe { &mut *self.event.get() };
        event.handler = Some(take);
        event.data = std::ptr::from_ref(self).cast_mut().cast();
        event.log = log;
        // Before its loop nginx looks at the second queue only, and goes to sleep otherwise
        // (`ngx_process_events_and_timers()`).
        let queue =
            if self.looping.get() { &raw mut ngx_posted_events } else { &raw mut ngx_posted_next_events };
        // SAFETY: the event stays where it is until it is dropped, which takes it out of the queue; that is nginx's.
        unsafe { ngx_post_event(self.event.get(), queue) };
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_posted() {
            // SAFETY: it is in a queue of nginx's.
            unsafe { ngx_delete_posted_event(self.event.get()) };
        }
    }
}

/// nginx handles the event.
unsafe extern "C" fn take(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `post` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(turn) = NonNull::new(data.cast::<Inner>()) else { return };
    // SAFETY: `post` has put it there, and it takes its event out of nginx's queue before it is dropped.
    let turn = unsafe { turn.as_ref() };
    turn.looping.set(true);
    // Kept alive while it runs.
    let run = turn.run.borrow().as_ref().and_then(Weak::upgrade);
    if let Some(run) = run {
        Cycle::with_current(|cycle| guard("running calls", cycle.log(), (), || run.run()));
    }
}
