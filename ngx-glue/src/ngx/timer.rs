//! What nginx calls a shard for outside any request: timers (`src/event/ngx_event_timer.c`) for the ticks of root
//! contexts and for what is to be written down, and a posted event (`src/event/ngx_event_posted.c`) for what is done when
//! there is nothing else to do.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    fmt,
    ptr::NonNull,
    rc::{Rc, Weak},
};

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t, ngx_msec_t, ngx_post_event,
    ngx_posted_next_events,
};
use weir_core::{host::RootId, shard::Shard};

use super::{cycle::Cycle, guard::guard};
use crate::host::Ngx;

/// Milliseconds that what callbacks have been measured to take stays in this process alone.
const SETTLE: ngx_msec_t = 100;

/// The timers and the event of one shard. Dropping it ends them.
pub(crate) struct Timers {
    idle: UnsafeCell<ngx_event_t>,
    settle: UnsafeCell<ngx_event_t>,
    shard: RefCell<Weak<Shard<Ngx>>>,
    /// One for each root context that has ever asked; none is removed while this lives.
    timers: RefCell<Vec<Rc<Timer>>>,
}

impl Default for Timers {
    fn default() -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        let idle = UnsafeCell::new(unsafe { std::mem::zeroed::<ngx_event_t>() });
        // SAFETY: as above.
        let settle = UnsafeCell::new(unsafe { std::mem::zeroed::<ngx_event_t>() });
        Self { idle, settle, shard: RefCell::default(), timers: RefCell::default() }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("timers", &self.timers.borrow().len()).finish_non_exhaustive()
    }
}

/// The timer of one root context.
struct Timer {
    event: UnsafeCell<ngx_event_t>,
    root: RootId,
    /// Milliseconds; 0 for a timer that rests.
    period: Cell<u32>,
    owner: Weak<Timers>,
}

impl Timers {
    /// What they call when they expire.
    pub(crate) fn serve(&self, shard: &Rc<Shard<Ngx>>) {
        self.shard.replace(Rc::downgrade(shard));
    }

    /// Sets the period of `root`, in milliseconds, and begins it anew; 0 ends it.
    pub(crate) fn set(self: &Rc<Self>, root: RootId, period: u32) {
        let timer = self.timers.borrow().iter().find(|timer| timer.root == root).cloned();
        let timer = match timer {
            Some(timer) => timer,
            None if period == 0 => return,
            None => {
                let timer = Rc::new(Timer::new(root, Rc::downgrade(self)));
                self.timers.borrow_mut().push(Rc::clone(&timer));
                timer
            }
        };
        timer.period.set(period);
        timer.stop();
        timer.begin();
    }
}

impl Timers {
    fn is_posted(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.idle.get() }.posted() != 0
    }

    /// Calls [`Shard::idle`] once nginx has handled what is there to handle now.
    pub(crate) fn when_idle(self: &Rc<Self>) {
        if self.is_posted() {
            return;
        }
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, the event is in no queue, and the reference ends with these lines.
        let event = unsafe { &mut *self.idle.get() };
        event.handler = Some(idle);
        event.data = Rc::as_ptr(self).cast_mut().cast();
        event.log = log;
        let queue = &raw mut ngx_posted_next_events;
        // SAFETY: the event stays where it is until it is dropped, which takes it out of the queue; that is nginx's.
        unsafe { ngx_post_event(self.idle.get(), queue) };
    }
}

impl Timers {
    fn will_settle(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.settle.get() }.timer_set() != 0
    }

    /// Calls [`Shard::settle`] when [`SETTLE`] has passed, unless that is going to happen already.
    pub(crate) fn settle_soon(self: &Rc<Self>) {
        if self.will_settle() {
            return;
        }
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, the event is in no tree, and the reference ends with these lines.
        let event = unsafe { &mut *self.settle.get() };
        event.handler = Some(settle);
        event.data = Rc::as_ptr(self).cast_mut().cast();
        event.log = log;
        // A worker that shuts down does not wait for it: it settles when it ends.
        event.set_cancelable(1);
        // SAFETY: the event stays where it is until it is dropped, which takes it out of the tree.
        unsafe { ngx_add_timer(self.settle.get(), SETTLE) };
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        if self.is_posted() {
            // SAFETY: it is in a queue of nginx's.
            unsafe { ngx_delete_posted_event(self.idle.get()) };
        }
        if self.will_settle() {
            // SAFETY: it is in nginx's tree.
            unsafe { ngx_del_timer(self.settle.get()) };
        }
    }
}

/// Measurements have waited long enough.
unsafe extern "C" fn settle(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `settle_soon` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(timers) = NonNull::new(data.cast::<Timers>()) else { return };
    // SAFETY: `settle_soon` has put them there, and they take their event out of nginx's tree before they are dropped.
    let timers = unsafe { timers.as_ref() };
    let shard = timers.shard.borrow().upgrade();
    if let Some(shard) = shard {
        Cycle::with_current(|cycle| guard("writing times down", cycle.log(), (), || shard.settle()));
    }
}

/// nginx has nothing else to do.
unsafe extern "C" fn idle(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `when_idle` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(timers) = NonNull::new(data.cast::<Timers>()) else { return };
    // SAFETY: `when_idle` has put them there, and they take their event out of nginx's queue before they are dropped.
    let timers = unsafe { timers.as_ref() };
    let shard = timers.shard.borrow().upgrade();
    if let Some(shard) = shard {
        Cycle::with_current(|cycle| guard("making an instance", cycle.log(), (), || shard.idle()));
    }
}

impl Timer {
    fn new(root: RootId, owner: Weak<Timers>) -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        let event = UnsafeCell::new(unsafe { std::mem::zeroed::<ngx_event_t>() });
        Self { event, root, period: Cell::new(0), owner }
    }

    fn is_set(&self) -> bool {
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &*self.event.get() }.timer_set() != 0
    }

    /// Lets it expire when its period has passed, unless it does already or rests.
    fn begin(&self) {
        let period = self.period.get();
        if period == 0 || self.is_set() {
            return;
        }
        let log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        // SAFETY: this is nginx's one thread, the event is in no tree, and the reference ends with these lines.
        let event = unsafe { &mut *self.event.get() };
        event.handler = Some(expire);
        event.data = std::ptr::from_ref(self).cast_mut().cast();
        event.log = log;
        // A worker that shuts down does not wait for it (`ngx_event_no_timers_left()`).
        event.set_cancelable(1);
        let period = ngx_msec_t::try_from(period).unwrap_or(ngx_msec_t::MAX >> 1);
        // SAFETY: the event stays where it is until it is dropped, which takes it out of the tree.
        unsafe { ngx_add_timer(self.event.get(), period) };
    }

    fn stop(&self) {
        if self.is_set() {
            // SAFETY: it is in nginx's tree.
            unsafe { ngx_del_timer(self.event.get()) };
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A timer has expired.
unsafe extern "C" fn expire(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `begin` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(timer) = NonNull::new(data.cast::<Timer>()) else { return };
    // SAFETY: `begin` has put a timer there, which takes its event out of nginx's tree before it is dropped.
    let timer = unsafe { timer.as_ref() };
    // Nothing is dropped below this: whatever ends timers is no guest's doing, and it is kept alive here besides.
    let Some(timers) = timer.owner.upgrade() else { return };
    let Some(shard) = timers.shard.borrow().upgrade() else { return };
    Cycle::with_current(|cycle| guard("a tick", cycle.log(), (), || shard.tick(timer.root)));
    timer.begin();
}
