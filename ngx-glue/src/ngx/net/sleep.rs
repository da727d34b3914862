//! Sleeping on nginx's timers (`src/event/ngx_event_timer.c`).

use std::{
    cell::{Cell, UnsafeCell},
    fmt,
    future::Future,
    pin::Pin,
    ptr::NonNull,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use nginx_sys::{ngx_add_timer, ngx_del_timer, ngx_event_t, ngx_msec_t};

use crate::ngx::{cycle::Cycle, guard::guard};

/// A future that is ready when its time has passed. Dropping it takes the timer back.
pub(crate) struct Sleep(Rc<Timer>);

struct Timer {
    event: UnsafeCell<ngx_event_t>,
    waker: Cell<Option<Waker>>,
    is_over: Cell<bool>,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("is_over", &self.0.is_over.get()).finish_non_exhaustive()
    }
}

impl Sleep {
    /// Sleeps for `time` from now on. A worker that shuts down waits for it.
    pub(crate) fn new(time: Duration) -> Self {
        Self::start(time, false)
    }

    /// The same, but a worker that shuts down does not wait for it (`ngx_event_no_timers_left()`).
    pub(crate) fn idly(time: Duration) -> Self {
        Self::start(time, true)
    }

    fn start(time: Duration, cancelable: bool) -> Self {
        // SAFETY: pointers, integers, flags and an optional function, for all of which zeros are valid.
        let mut event = unsafe { std::mem::zeroed::<ngx_event_t>() };
        event.handler = Some(expire);
        event.log = Cycle::with_current(|cycle| cycle.log().as_ptr());
        event.set_cancelable(u32::from(cancelable));
        let timer = Rc::new(Timer {
            event: UnsafeCell::new(event),
            waker: Cell::default(),
            is_over: Cell::default(),
        });
        // SAFETY: this is nginx's one thread, and the reference ends here.
        unsafe { &mut *timer.event.get() }.data = Rc::as_ptr(&timer).cast_mut().cast();
        let time = ngx_msec_t::try_from(time.as_millis()).unwrap_or(ngx_msec_t::MAX >> 1);
        // SAFETY: the event stays where it is until it is dropped, which takes it out of the tree.
        unsafe { ngx_add_timer(timer.event.get(), time.max(1)) };
        Self(timer)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.is_over.get() {
            return Poll::Ready(());
        }
        self.0.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if self.event.get_mut().timer_set() != 0 {
            // SAFETY: it is in nginx's tree.
            unsafe { ngx_del_timer(self.event.get()) };
        }
    }
}

/// The time has passed.
unsafe extern "C" fn expire(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event that `start` has filled.
    let data = unsafe { event.as_ref() }.data;
    let Some(timer) = NonNull::new(data.cast::<Timer>()) else { return };
    // SAFETY: `start` has put a timer there, which takes its event out of nginx's tree before it is dropped. Waking
    // only posts an event, so nothing is dropped below this.
    let timer = unsafe { timer.as_ref() };
    timer.is_over.set(true);
    Cycle::with_current(|cycle| {
        guard("the end of a call's wait", cycle.log(), (), || {
            if let Some(waker) = timer.waker.take() {
                waker.wake();
            }
        });
    });
}
