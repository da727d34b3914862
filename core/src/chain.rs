//! The filters of one request, in order: who is called next, who holds the stream, who has failed.
//!
//! Requests go through the filters in the order of the configuration, responses in the reverse order. A filter that
//! sends a local response ends the request's way; that response then goes through the others' response callbacks,
//! once. A filter that fails is not called again, and the verdict tells the proxy to fail the request (policy
//! `closed`).

use std::rc::Rc;

use crate::{
    abi::types::{Action, LogLevel, MapType},
    context::ContextId,
    failure::{Cause, Failure},
    filter::Callback,
    host::{Host, LogLine, LogSink, Maps, Speaker},
    instance::{Asked, Params},
    plan::ChainId,
    shard::Inner,
};

/// What the proxy has to do once callbacks have returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on: every filter has seen it.
    Continue,
    /// Hold the stream until a filter asks for it to be resumed ([`Chain::resume_request`]).
    Pause,
    /// Send the local response that was recorded with the host. From [`Chain::response_headers`] it replaces the
    /// response; call that again for the filters that have not seen it.
    LocalResponse,
    /// Close the stream.
    Closed,
    /// A filter failed; this has been logged. Answer with `status`, or reset where the headers have left.
    Failed {
        /// Status to answer with.
        status: u16,
    },
}

/// One filter of a request.
#[derive(Debug)]
pub(crate) struct Step {
    /// Index of its lease.
    lease: usize,
    context: ContextId,
    /// Has failed, or could not be begun.
    failed: bool,
    /// Has sent the local response that is on its way: it does not see it again.
    sender: bool,
}

/// The filters of one request. Ended by [`finish`](Self::finish), at the latest when dropped.
#[derive(Debug)]
pub struct Chain<H: Host> {
    shard: Rc<Inner<H>>,
    id: ChainId,
    stream: H::Stream,
    steps: Vec<Step>,
    leases: Vec<crate::pool::Lease<H>>,
    /// First filter that has not seen the request's headers.
    request_next: usize,
    /// Filters before this one have not seen the response's headers.
    response_next: usize,
    /// A filter failed: what the proxy was or will be told.
    failed: Option<u16>,
    warned_of_pause: bool,
    finished: bool,
}

/// Status of a request whose filter failed (policy `closed`).
const FAILED: u16 = 500;

/// Status of a request for which there is no instance.
const UNAVAILABLE: u16 = 503;

impl<H: Host> Chain<H> {
    pub(crate) fn begin(shard: Rc<Inner<H>>, id: ChainId, stream: H::Stream) -> Self {
        let (steps, leases) = shard.take_vecs();
        let mut chain = Self {
            shard,
            id,
            stream,
            steps,
            leases,
            request_next: 0,
            response_next: 0,
            failed: None,
            warned_of_pause: false,
            finished: false,
        };
        chain.create_contexts();
        chain.response_next = chain.steps.len();
        chain
    }

    /// Checks one instance out for each group, and creates each filter's stream context.
    fn create_contexts(&mut self) {
        let shard = Rc::clone(&self.shard);
        let Some(plan) = shard.pool.plans().chain(self.id) else { return };
        for (at, step) in plan.steps.iter().enumerate() {
            let earlier = plan.steps.iter().take(at).position(|other| other.group == step.group);
            let lease = match earlier.and_then(|earlier| self.steps.get(earlier)) {
                Some(earlier) => Ok(earlier.lease),
                None => shard.pool.check_out(step.group).map(|lease| {
                    self.leases.push(lease);
                    self.leases.len() - 1
                }),
            };
            let created = lease.and_then(|lease| {
                let context = self.leases[lease].with(Callback::ContextCreate, |instance| {
                    instance.create_stream(step.root, &self.stream)
                })??;
                Ok((lease, context))
            });
            let (lease, context) = created.unwrap_or_else(|failure| {
                // Whoever looks this lease up finds none, or one that has failed: no callback follows.
                self.steps.push(Step {
                    lease: usize::MAX,
                    context: ContextId::NONE,
                    failed: true,
                    sender: false,
                });
                self.report(at, &failure);
                (usize::MAX, ContextId::NONE)
            });
            if self.steps.len() == at {
                self.steps.push(Step { lease, context, failed: false, sender: false });
            }
            if self.failed.is_some() {
                return;
            }
        }
    }

    /// Whether some filter exports `callback`.
    #[must_use]
    pub fn wants(&self, callback: Callback) -> bool {
        self.shard.pool.plans().chain(self.id).is_some_and(|plan| plan.wants(callback))
    }

    /// The request's headers have come; `end_of_stream` says that no body follows.
    pub fn request_headers(&mut self, end_of_stream: bool) -> Verdict {
        self.request_next = 0;
        self.resume_request_with(end_of_stream)
    }

    /// Goes on with the filter after the one that paused the request's headers.
    pub fn resume_request(&mut self, end_of_stream: bool) -> Verdict {
        self.resume_request_with(end_of_stream)
    }

    fn resume_request_with(&mut self, end_of_stream: bool) -> Verdict {
        let callback = Callback::RequestHeaders;
        while self.request_next < self.steps.len() {
            if let Some(status) = self.failed {
                return Verdict::Failed { status };
            }
            let at = self.request_next;
            self.request_next += 1;
            match self.headers(at, callback, MapType::HttpRequestHeaders, end_of_stream) {
                Verdict::Continue => {}
                verdict => return verdict,
            }
        }
        self.failed.map_or(Verdict::Continue, |status| Verdict::Failed { status })
    }

    /// `size` bytes of the request's body are readable.
    pub fn request_body(&mut self, size: usize, end_of_stream: bool) -> Verdict {
        self.body(Callback::RequestBody, size, end_of_stream, false)
    }

    /// The request's trailers have come.
    pub fn request_trailers(&mut self) -> Verdict {
        self.trailers(Callback::RequestTrailers, MapType::HttpRequestTrailers, false)
    }

    /// The response's headers have come; `end_of_stream` says that no body follows.
    ///
    /// Called again after a verdict other than `Continue`, it goes on with the filters that have not seen them.
    pub fn response_headers(&mut self, end_of_stream: bool) -> Verdict {
        while let Some(at) = self.response_next.checked_sub(1) {
            self.response_next = at;
            let verdict =
                self.headers(at, Callback::ResponseHeaders, MapType::HttpResponseHeaders, end_of_stream);
            match verdict {
                Verdict::Continue => {}
                Verdict::Pause => self.warn_of_pause(at, Callback::ResponseHeaders),
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }

    /// `size` bytes of the response's body are readable.
    pub fn response_body(&mut self, size: usize, end_of_stream: bool) -> Verdict {
        self.body(Callback::ResponseBody, size, end_of_stream, true)
    }

    /// The response's trailers have come.
    pub fn response_trailers(&mut self) -> Verdict {
        self.trailers(Callback::ResponseTrailers, MapType::HttpResponseTrailers, true)
    }

    /// Ends every context (`on_done`, `on_log`, `on_delete`) and gives the instances back. Does nothing the second
    /// time.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        for at in 0..self.steps.len() {
            let Some(step) = self.steps.get(at) else { continue };
            let (context, failed) = (step.context, step.failed);
            let Some(lease) = self.leases.get_mut(step.lease) else { continue };
            let lasting = lease.lasting();
            let ended = lease.with(Callback::Done, |instance| {
                if failed || instance.has_failed() {
                    instance.forget_stream(context);
                    return Ok(());
                }
                instance.end_stream(context, lasting).and_then(|()| instance.end_completed())
            });
            if let Err(failure) = ended.flatten() {
                self.report(at, &failure);
            }
        }
        for lease in self.leases.drain(..) {
            self.shard.pool.give_back(lease);
        }
        let vecs = (std::mem::take(&mut self.steps), std::mem::take(&mut self.leases));
        self.shard.keep_vecs(vecs);
    }

    fn headers(&mut self, at: usize, callback: Callback, map: MapType, end_of_stream: bool) -> Verdict {
        if !self.wants(callback) {
            return Verdict::Continue;
        }
        let count = i32::try_from(self.stream.map_len(map)).unwrap_or(i32::MAX);
        self.call(at, callback, [0, count, i32::from(end_of_stream), 0, 0])
    }

    fn body(&mut self, callback: Callback, size: usize, end_of_stream: bool, reverse: bool) -> Verdict {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        self.each(callback, [0, size, i32::from(end_of_stream), 0, 0], reverse)
    }

    fn trailers(&mut self, callback: Callback, map: MapType, reverse: bool) -> Verdict {
        let count = i32::try_from(self.stream.map_len(map)).unwrap_or(i32::MAX);
        self.each(callback, [0, count, 0, 0, 0], reverse)
    }

    /// Calls `callback` of every filter, in the request's order or in `reverse`.
    fn each(&mut self, callback: Callback, params: Params, reverse: bool) -> Verdict {
        if !self.wants(callback) {
            return Verdict::Continue;
        }
        let len = self.steps.len();
        for at in 0..len {
            let at = if reverse { len - 1 - at } else { at };
            match self.call(at, callback, params) {
                Verdict::Continue => {}
                Verdict::Pause => self.warn_of_pause(at, callback),
                verdict => return verdict,
            }
        }
        Verdict::Continue
    }

    /// Calls `callback` of filter number `at`, with its context as the first parameter.
    fn call(&mut self, at: usize, callback: Callback, params: Params) -> Verdict {
        let Some(step) = self.steps.get(at) else { return Verdict::Continue };
        let response = matches!(
            callback,
            Callback::ResponseHeaders | Callback::ResponseBody | Callback::ResponseTrailers
        );
        if step.failed || (step.sender && response) {
            return Verdict::Continue;
        }
        let (context, lease_at) = (step.context, step.lease);
        let doomed = self.failed.is_some();
        let Some(lease) = self.leases.get_mut(lease_at) else { return Verdict::Continue };
        let called = lease.with(callback, |instance| {
            // The instance failed with another filter of this request: that has been reported.
            if (doomed && instance.has_failed()) || !instance.exports(callback) {
                return Ok((None, Asked::default()));
            }
            let [_, a, b, c, d] = params;
            let returned = instance.enter(callback, context, [context.raw(), a, b, c, d])?;
            let asked = instance.asked();
            instance.end_completed()?;
            Ok((returned, asked))
        });
        match called.flatten() {
            Err(failure) => {
                self.report(at, &failure);
                Verdict::Failed { status: self.failed.unwrap_or(FAILED) }
            }
            Ok((_, asked)) if self.is_ours(lease_at, asked.local_response) => {
                for step in &mut self.steps {
                    step.sender = false;
                }
                if let Some(step) = self.steps.get_mut(at) {
                    step.sender = true;
                }
                Verdict::LocalResponse
            }
            Ok((_, asked)) if self.is_ours(lease_at, asked.close) => Verdict::Closed,
            Ok((returned, _)) => match returned.map(Action::from_raw) {
                Some(Action::Pause) => Verdict::Pause,
                _ => Verdict::Continue,
            },
        }
    }

    /// Whether `context` of the instance in that lease is this request's. What is asked in the context of another
    /// request is recorded with that one's host, and nothing that this one's proxy could do.
    fn is_ours(&self, lease: usize, context: Option<ContextId>) -> bool {
        context.is_some_and(|id| self.steps.iter().any(|step| step.lease == lease && step.context == id))
    }

    /// Logs the failure of filter number `at` and takes it out of the request.
    fn report(&mut self, at: usize, failure: &Failure) {
        if let Some(step) = self.steps.get_mut(at) {
            step.failed = true;
        }
        let unavailable = matches!(failure.cause, Cause::Unavailable(_));
        self.failed.get_or_insert(if unavailable { UNAVAILABLE } else { FAILED });
        self.say(at, LogLevel::Error, &failure.to_string());
    }

    fn warn_of_pause(&mut self, at: usize, callback: Callback) {
        if !std::mem::replace(&mut self.warned_of_pause, true) {
            let text = format!(
                "paused in {}; only {} can pause: the stream goes on",
                callback.name(),
                Callback::RequestHeaders.name()
            );
            self.say(at, LogLevel::Warn, &text);
        }
    }

    fn say(&self, at: usize, level: LogLevel, message: &str) {
        let shard = &self.shard;
        let plans = shard.pool.plans();
        let name = plans
            .chain(self.id)
            .and_then(|chain| chain.steps.get(at))
            .and_then(|step| plans.groups().get(step.group))
            .map_or("?", |group| &group.filter.spec().name);
        let line = LogLine { level, filter: name, speaker: Speaker::Weir, message: message.as_bytes() };
        self.stream.log(line);
    }
}

impl<H: Host> Drop for Chain<H> {
    fn drop(&mut self) {
        self.finish();
    }
}
