//! Connections that rest between calls: of this worker, for each peer and name, shared by all filters.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use crate::ngx::net::{address::Address, sleep::Sleep, socket::Socket};

/// How connections are kept (`call_keepalive`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// Connections that rest in a worker, for each peer; 0 for none.
    pub(crate) each: usize,
    /// How long one rests.
    pub(crate) time: Duration,
    /// Requests over one.
    pub(crate) requests: usize,
}

/// Connections that rest in a worker at most, for all peers: names that guests choose must not take all descriptors.
const MOST: usize = 1024;

/// How long a connection is used at all, in milliseconds, as long as nginx uses its own (`keepalive_time`).
pub(crate) const OLDEST: usize = 3_600_000;

impl Default for Keeping {
    fn default() -> Self {
        Self { each: 32, time: Duration::from_secs(60), requests: 1000 }
    }
}

/// Whom a connection leads to, and whether it is encrypted, for whose name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PeerKey {
    /// Its address.
    pub(crate) address: Address,
    /// The name that it has proved to have.
    pub(crate) name: Option<Rc<str>>,
}

#[derive(Debug)]
struct Resting {
    key: PeerKey,
    socket: Socket,
    until: Instant,
}

/// Those that rest: the last one that was used comes first.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    keeping: Keeping,
    resting: RefCell<VecDeque<Resting>>,
    /// By which whoever sweeps is told of events of connections that rest.
    sweeper: RefCell<Option<Waker>>,
    is_closed: Cell<bool>,
}

impl Idle {
    /// None yet.
    pub(crate) fn new(keeping: Keeping) -> Self {
        Self { keeping, ..Self::default() }
    }

    /// One that leads there, if there is one.
    pub(crate) fn take(&self, key: &PeerKey) -> Option<Socket> {
        loop {
            let found = {
                let mut resting = self.resting.borrow_mut();
                let at = resting.iter().position(|one| one.key == *key)?;
                resting.remove(at)?
            };
            // What the peer has closed is closed here too, and the next one is looked at.
            if !found.socket.is_stale() {
                found.socket.wake_up();
                return Some(found.socket);
            }
        }
    }

    /// A connection that leads there rests; or is closed, if it has done enough.
    pub(crate) fn keep(&self, key: PeerKey, socket: Socket, used: usize) {
        let Keeping { each, time, requests } = self.keeping;
        if self.is_closed.get()
            || each == 0
            || used >= requests
            || socket.age() >= OLDEST
            || socket.is_stale()
        {
            return;
        }
        let Some(waker) = self.sweeper.borrow().clone() else { return };
        socket.rest(waker.clone());
        let over = {
            let mut resting = self.resting.borrow_mut();
            resting.push_front(Resting { key, socket, until: Instant::now() + time });
            let key = resting.front().map(|first| first.key.clone());
            let same = |one: &Resting| Some(&one.key) == key.as_ref();
            let last = if resting.iter().filter(|one| same(one)).count() > each {
                resting.iter().rposition(same)
            } else {
                None
            };
            match last {
                Some(last) => resting.remove(last),
                None if resting.len() > MOST => resting.pop_back(),
                None => None,
            }
        };
        drop(over);
        // The first one sets the time until which the sweeper sleeps.
        if self.resting.borrow().len() == 1 {
            waker.wake();
        }
    }

    /// How many rest.
    pub(crate) fn len(&self) -> usize {
        self.resting.borrow().len()
    }

    /// Closes all, and keeps no more.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        let all = self.resting.take();
        drop(all);
    }

    /// Closes what has rested long enough or is of no use; answers when to look again.
    fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let (rest, over): (VecDeque<_>, VecDeque<_>) =
            self.resting.take().into_iter().partition(|one| one.until > now && !one.socket.is_stale());
        let next = rest.iter().map(|one| one.until).min();
        self.resting.replace(rest);
        drop(over);
        next
    }

    /// Closes connections when their time has come, or their peers close them; never ends.
    pub(crate) async fn watch(&self) {
        poll_fn(|context| {
            self.sweeper.replace(Some(context.waker().clone()));
            Poll::Ready(())
        })
        .await;
        loop {
            let next = self.sweep();
            // A millisecond more: a timer of nginx's may end a little early by this clock.
            let time =
                |until: Instant| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            let mut sleep = pin!(next.map(|until| Sleep::idly(time(until))));
            let mut was_polled = false;
            poll_fn(|context| {
                // Woken by an event of a connection, or by the timer.
                if std::mem::replace(&mut was_polled, true) {
                    return Poll::Ready(());
                }
                sleep.as_mut().as_pin_mut().map_or(Poll::Pending, |sleep| sleep.poll(context))
            })
            .await;
            // What rests has told its event to this task once; from now on it does so again.
            let waker = self.sweeper.borrow().clone();
            if let Some(waker) = waker {
                self.resting.borrow().iter().for_each(|one| one.socket.rest(waker.clone()));
            }
        }
    }
}
