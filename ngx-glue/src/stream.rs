//! The record of one request: its chain of filters, what they have asked for, and how far the request has come.
//!
//! A stream begins at the first location with filters and lives until the request's pool is destroyed, across internal
//! redirects. Records are made once, never freed, and used again for later requests: so a handle that outlives its
//! request (a [`RequestToken`]) reaches a record at any time, and finds out from
//! the generation that its request is gone. A worker has as many records as it ever had such requests at once.
//!
//! Two halves: [`StreamIo`] is what hostcalls reach while a callback runs; the chain, which is borrowed meanwhile, is
//! only reached from nginx's side.

use std::{cell::RefCell, fmt};

use weir_core::{
    chain::{Chain, Direction, Verdict},
    filter::Callback,
};

use crate::{
    conf::Location,
    host::{Ngx, stream::RequestToken},
    ngx::{
        deadline::Deadline, event::Wake, guard::guard_part, headers_in::HeadersIn, log::Level,
        request::Request,
    },
};

pub(crate) mod io;
pub(crate) mod live;
pub(crate) mod local;
mod progress;
pub(crate) mod resume;
pub(crate) mod uri;

pub(crate) use io::StreamIo;
pub(crate) use progress::{Headers, Progress, Reading, Sending};

/// The record of one request.
pub(crate) struct Stream {
    /// What hostcalls reach.
    pub(crate) io: StreamIo,
    chain: RefCell<Option<Chain<Ngx>>>,
    wake: Wake,
    deadline: Deadline,
    progress: Progress,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("io", &self.io)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// The request's filters could not be begun; this has been logged, or nginx has no memory. It must not be served
/// without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotBegun {
    /// Status to answer with.
    pub(crate) status: u16,
}

/// What is made for each request is moved to its place without calling the C library, which takes what is larger (seen in
/// `scripts/count-instructions --top`).
const _: () = assert!(size_of::<Option<Chain<Ngx>>>() <= 128);

impl NotBegun {
    /// nginx has no memory, or no configuration of ours.
    const FAILED: Self = Self { status: 500 };
}

impl Stream {
    fn new() -> Self {
        Self {
            io: StreamIo::default(),
            chain: RefCell::new(None),
            wake: Wake::new(),
            deadline: Deadline::new(),
            progress: Progress::default(),
        }
    }

    /// Begins a stream for `request`; `None` where no filter is to run. If it `may_wait` and all instances are in use,
    /// it is [`Headers::Waiting`], and woken in time ([`start`](Self::start)).
    ///
    /// # Errors
    /// [`NotBegun`]
    pub(crate) fn begin(request: Request<'_>, may_wait: bool) -> Result<Option<&'static Self>, NotBegun> {
        let Some(location) = request.location().filter(|location| location.has_chain()) else {
            return Ok(None);
        };
        if !request.is_main() {
            if !location.subrequests() {
                return Ok(None);
            }
            // Changes are to stay in the subrequest.
            if !HeadersIn::of(request).separate() {
                return Err(NotBegun::FAILED);
            }
        }
        let stream = live::take();
        if !request.tie(stream) {
            live::give_back(stream);
            return Err(NotBegun::FAILED);
        }
        stream.progress.client_sent_head.set(request.is_head());
        if let Some(bodies) = location.bodies() {
            stream.io.set_bodies(*bodies);
        }
        if may_wait && let Some(time) = location.wait(&stream.token(), false) {
            stream.progress.headers.set(Headers::Waiting);
            stream.deadline.begin(stream, time);
        } else {
            stream.start_in(request, location)?;
        }
        Ok(Some(stream))
    }

    /// Begins the chain. Without one, where this process cannot run filters and the policy is to do without them, nobody
    /// is called.
    fn start_in(&'static self, request: Request<'_>, location: &Location) -> Result<(), NotBegun> {
        self.progress.begins.set(true);
        let begun = location.begin(&self.token(), &mut self.chain.borrow_mut());
        self.progress.begins.set(false);
        if begun.is_none() {
            request.log().write(
                Level::Error,
                "weir: this worker cannot run filters now, as it has said at level alert",
            );
            return location.policy().unavailable().map_or(Ok(()), |status| Err(NotBegun { status }));
        }
        Ok(())
    }

    /// A stream that waits for an instance has been woken: starts it if there is one, or if it has waited long enough.
    /// Answers whether it has started.
    ///
    /// # Errors
    /// [`NotBegun`]
    pub(crate) fn start(&'static self, request: Request<'_>) -> Result<bool, NotBegun> {
        let location = request.location().ok_or(NotBegun::FAILED)?;
        if !self.progress.waited_out.get() && location.wait(&self.token(), true).is_some() {
            return Ok(false);
        }
        self.deadline.cancel();
        self.progress.headers.set(Headers::Pending);
        self.start_in(request, location)?;
        Ok(true)
    }

    /// It has waited for an instance as long as it may.
    pub(crate) fn waited_out(&'static self) {
        self.progress.waited_out.set(true);
        self.wake();
    }

    /// The handle that instances know this request by.
    fn token(&'static self) -> RequestToken {
        RequestToken::new(self)
    }

    /// How far the request has come.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Calls filters through `run`, which sees to what comes in `direction`. Without a chain, or below one of its own
    /// callbacks, nobody is called.
    ///
    /// A filter may take its pause back in the callback that it pauses from. What else callbacks want to go on with has
    /// an event of its own. A panic of ours below a callback is logged, and answered by the location's policy.
    pub(crate) fn drive(
        &'static self,
        direction: Direction,
        run: impl FnOnce(&mut Chain<Ngx>) -> Verdict,
    ) -> Verdict {
        let verdict = match (self.io.request(), self.chain.try_borrow_mut().as_deref_mut()) {
            (Some(request), Ok(Some(chain))) => self.io.lane(direction).open(|| {
                let driven = guard_part("a filter's callback", request.log(), || {
                    let mut verdict = run(chain);
                    while verdict == Verdict::Pause
                        && let Some(filter) = self.io.take_wish(direction)
                    {
                        verdict = chain.resume(direction, filter);
                    }
                    verdict
                });
                driven.unwrap_or_else(|| chain.abandon())
            }),
            _ => Verdict::Continue,
        };
        if self.io.has_wishes() {
            self.wake();
        }
        verdict
    }

    /// A fault of ours, which has been logged, has left filters in a state that nobody knows: none is called any more.
    /// The verdict is what the location's policy makes of that; `None` where there is no chain.
    pub(crate) fn abandon(&self) -> Option<Verdict> {
        match self.chain.try_borrow_mut() {
            Ok(mut chain) => chain.as_mut().map(Chain::abandon),
            Err(_) => Some(Verdict::Closed),
        }
    }

    /// Whether bodies are shown to filters while one of them holds the headers: what that filter says, or the location.
    pub(crate) fn body_comes_while_paused(&self, direction: Direction) -> bool {
        self.look(|chain| chain.shows_body_first(direction, self.io.bodies().while_paused))
    }

    /// Whether some filter holds something of that direction.
    pub(crate) fn holds(&self, direction: Direction) -> bool {
        self.look(|chain| chain.is_held(direction))
    }

    /// Whether the headers have got past the last filter.
    pub(crate) fn headers_passed(&self, direction: Direction) -> bool {
        self.look(|chain| chain.headers_passed(direction))
    }

    /// Whether what has got past the last filter is the end of the body.
    pub(crate) fn body_ended(&self, direction: Direction) -> bool {
        self.look(|chain| chain.ended(direction)) && !self.io.lane(direction).is_held()
    }

    /// Whether trailers, and the body before them, have got past the last filter.
    pub(crate) fn trailers_passed(&self, direction: Direction) -> bool {
        self.look(|chain| chain.trailers_passed(direction)) && !self.io.lane(direction).is_held()
    }

    /// After how many seconds a client whose request has failed may ask again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        let chain = self.chain.try_borrow().ok()?;
        let time = chain.as_ref()?.retry_after()?;
        u32::try_from(time.as_millis().div_ceil(1000)).ok()
    }

    fn look(&self, look: impl FnOnce(&Chain<Ngx>) -> bool) -> bool {
        self.chain.try_borrow().is_ok_and(|chain| chain.as_ref().is_some_and(look))
    }

    /// Whether one of the request's callbacks runs now that answers with a verdict. That of a context that is being created
    /// does not.
    pub(crate) fn is_called(&self) -> bool {
        self.chain.try_borrow().is_err() && !self.progress.begins.get()
    }

    /// Whether some filter has this callback.
    pub(crate) fn wants(&self, callback: Callback) -> bool {
        self.look(|chain| chain.wants(callback))
    }

    /// Lets the request be looked at again when nginx has got control back.
    pub(crate) fn wake(&'static self) {
        self.wake.post(self);
    }

    /// The event that wakes it.
    pub(crate) fn wake_event(&self) -> &Wake {
        &self.wake
    }

    /// A filter holds the request's headers, or the response: the stream is looked at again after a while.
    ///
    /// That is also how a worker that shuts down knows of it: it waits only for what has a timer
    /// (`ngx_event_no_timers_left()`), and what waits for a filter need not have one of nginx's.
    pub(crate) fn watch(&'static self, milliseconds: usize) {
        self.wake.set_timer(self, milliseconds);
    }

    /// No filter holds the request's headers, nor the response.
    pub(crate) fn stop_watching(&self) {
        self.wake.stop_timer();
    }

    /// The request does not wait for an instance any more. Where it has been told of one, whoever waits behind it may have
    /// that.
    pub(crate) fn stop_waiting(&self, request: Request<'_>) {
        if self.progress.headers.get() != Headers::Waiting {
            return;
        }
        self.progress.headers.set(Headers::Seen);
        self.deadline.cancel();
        if self.wake.is_posted() {
            self.pass_on(request);
        } else {
            self.progress.waits_in_vain.set(true);
        }
    }

    /// It has been told of an instance that it does not want any more.
    pub(crate) fn pass_on(&self, request: Request<'_>) {
        if let Some(location) = request.location() {
            location.pass_on();
        }
    }

    /// Ends the contexts of the stream: `on_done`, `on_log`, `on_delete`. Once.
    pub(crate) fn finish(&self) {
        if self.progress.finished.replace(true) {
            return;
        }
        if let Some(request) = self.io.request() {
            self.stop_waiting(request);
        }
        self.io.seal();
        if let Ok(Some(chain)) = self.chain.try_borrow_mut().as_deref_mut() {
            chain.finish();
        }
    }

    /// The request's pool is being destroyed.
    pub(crate) fn end(&'static self) {
        self.wake.cancel();
        self.deadline.cancel();
        self.finish();
        drop(self.chain.take());
        self.io.close();
        self.progress.reset();
        live::give_back(self);
    }
}
