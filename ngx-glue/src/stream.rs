//! The record of one request: its chain of filters, what they have asked for, and how far the request has come.
//!
//! A stream begins at the first location with filters and lives until the request's pool is destroyed, across internal
//! redirects. Records are made once, never freed, and used again for later requests: so a handle that outlives its
//! request (a [`RequestToken`]) reaches a record at any time, and finds out from
//! the generation that its request is gone. A worker has as many records as it ever had such requests at once.
//!
//! Two halves: [`StreamIo`] is what hostcalls reach while a callback runs; the chain, which is borrowed meanwhile, is
//! only reached from nginx's side.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use weir_core::{
    chain::{Chain, Verdict},
    filter::Callback,
};

use crate::{
    host::{Ngx, stream::RequestToken},
    ngx::{event::Wake, headers_in::HeadersIn, request::Request},
};

pub(crate) mod io;
pub(crate) mod live;
pub(crate) mod local;
pub(crate) mod resume;
pub(crate) mod uri;

pub(crate) use io::StreamIo;

/// How far the request's headers have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Headers {
    /// The filters have not seen all of them.
    #[default]
    Pending,
    /// A filter holds them: phases have stopped.
    Paused,
    /// All filters that are to see them have.
    Seen,
}

/// The record of one request.
pub(crate) struct Stream {
    /// What hostcalls reach.
    pub(crate) io: StreamIo,
    chain: RefCell<Option<Chain<Ngx>>>,
    wake: Wake,
    progress: Progress,
}

/// How far the request has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The request's headers.
    pub(crate) headers: Cell<Headers>,
    /// No further callback for the request's body follows.
    pub(crate) request_ended: Cell<bool>,
    /// The response's headers have come by.
    pub(crate) response_seen: Cell<bool>,
    /// No further callback for the response's body follows.
    pub(crate) response_ended: Cell<bool>,
    /// What nginx still has of the response's body is thrown away: another one was sent instead.
    pub(crate) swallow: Cell<bool>,
    /// The client has asked with HEAD, so no body is sent, whatever the method has become.
    pub(crate) client_sent_head: Cell<bool>,
    /// The contexts have ended.
    pub(crate) finished: Cell<bool>,
}

impl Progress {
    fn reset(&self) {
        self.headers.set(Headers::Pending);
        let flags = [
            &self.request_ended,
            &self.response_seen,
            &self.response_ended,
            &self.swallow,
            &self.client_sent_head,
            &self.finished,
        ];
        for flag in flags {
            flag.set(false);
        }
    }
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
pub(crate) struct NotBegun;

impl Stream {
    fn new() -> Self {
        Self {
            io: StreamIo::default(),
            chain: RefCell::new(None),
            wake: Wake::new(),
            progress: Progress::default(),
        }
    }

    /// Begins a stream for `request`; `None` where no filter is to run.
    ///
    /// # Errors
    /// [`NotBegun`]
    pub(crate) fn begin(request: Request<'_>) -> Result<Option<&'static Self>, NotBegun> {
        let Some(location) = request.location().filter(|location| location.has_chain()) else {
            return Ok(None);
        };
        if !request.is_main() {
            if !location.subrequests() {
                return Ok(None);
            }
            // Changes are to stay in the subrequest.
            if !HeadersIn::of(request).separate() {
                return Err(NotBegun);
            }
        }
        let stream = live::take();
        if !request.tie(stream) {
            live::give_back(stream);
            return Err(NotBegun);
        }
        stream.progress.client_sent_head.set(request.is_head());
        let chain = location.begin(&stream.token()).ok_or(NotBegun)?;
        stream.chain.replace(Some(chain));
        Ok(Some(stream))
    }

    /// The handle that instances know this request by.
    fn token(&'static self) -> RequestToken {
        RequestToken::new(self)
    }

    /// How far the request has come.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Calls filters through `run`. Without a chain, or below one of its own callbacks, nobody is called.
    pub(crate) fn drive(&self, run: impl FnOnce(&mut Chain<Ngx>) -> Verdict) -> Verdict {
        match self.chain.try_borrow_mut().as_deref_mut() {
            Ok(Some(chain)) => run(chain),
            _ => Verdict::Continue,
        }
    }

    /// Whether one of the request's callbacks runs now.
    pub(crate) fn is_called(&self) -> bool {
        self.chain.try_borrow().is_err()
    }

    /// Whether some filter has this callback.
    pub(crate) fn wants(&self, callback: Callback) -> bool {
        self.chain.try_borrow().is_ok_and(|chain| chain.as_ref().is_some_and(|chain| chain.wants(callback)))
    }

    /// Lets the request be looked at again when nginx has got control back.
    pub(crate) fn wake(&'static self) {
        self.wake.post(self);
    }

    /// Ends the contexts of the stream: `on_done`, `on_log`, `on_delete`. Once.
    pub(crate) fn finish(&self) {
        if self.progress.finished.replace(true) {
            return;
        }
        self.io.seal();
        if let Ok(Some(chain)) = self.chain.try_borrow_mut().as_deref_mut() {
            chain.finish();
        }
    }

    /// The request's pool is being destroyed.
    pub(crate) fn end(&'static self) {
        self.wake.cancel();
        self.finish();
        drop(self.chain.take());
        self.io.close();
        self.progress.reset();
        live::give_back(self);
    }
}
