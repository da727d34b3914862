//! The filters of one request, in order: who is called next, who holds the stream, who has failed.
//!
//! Requests go through the filters in the order of the configuration, responses in the reverse order. A filter that
//! sends a local response ends the request's way; that response then goes through the others' response callbacks,
//! once. A filter that fails is not called again, and the verdict tells the proxy to fail the request (policy
//! `closed`).

use std::rc::Rc;

mod flow;

pub use flow::Direction;
use flow::{Flow, Held};

use crate::{
    abi::types::{Action, LogLevel, MapType},
    context::ContextId,
    failure::{Cause, Failure},
    filter::Callback,
    host::{Bodies, Buffers, Hold, Host, LogLine, LogSink, Maps, Speaker},
    instance::{Asked, Instance, Params},
    plan::ChainId,
    shard::Inner,
};

/// What the proxy has to do once callbacks have returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on: every filter has seen it.
    Continue,
    /// A filter holds what came, until it asks for it to be resumed ([`Chain::resume`]).
    Pause,
    /// Send the local response that was recorded with the host. Where a response was on its way it takes its place;
    /// call [`Chain::headers`] again for the filters that have not seen one.
    LocalResponse,
    /// A filter holds more of a body than it may: answer 413 to a request, 502 in place of a response.
    TooLarge,
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
    /// Has sent the local response that is on its way, or has seen the response that it replaces: it does not see it.
    passed_by: bool,
    /// What it holds of requests and responses.
    held: [Held; 2],
}

/// The filters of one request. Ended by [`finish`](Self::finish), at the latest when dropped.
#[derive(Debug)]
pub struct Chain<H: Host> {
    shard: Rc<Inner<H>>,
    id: ChainId,
    stream: H::Stream,
    steps: Vec<Step>,
    leases: Vec<crate::pool::Lease<H>>,
    /// Requests, responses.
    flows: [Flow; 2],
    /// A filter failed: what the proxy was or will be told.
    failed: Option<u16>,
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
            flows: [Flow::default(); 2],
            failed: None,
            finished: false,
        };
        chain.create_contexts();
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
                    instance.create_stream(step.root, at, &self.stream)
                })??;
                Ok((lease, context))
            });
            let (lease, context) = created.unwrap_or_else(|failure| {
                // Whoever looks this lease up finds none, or one that has failed: no callback follows.
                self.steps.push(Step {
                    lease: usize::MAX,
                    context: ContextId::NONE,
                    failed: true,
                    passed_by: false,
                    held: [Held::default(); 2],
                });
                self.report(at, &failure);
                (usize::MAX, ContextId::NONE)
            });
            if self.steps.len() == at {
                self.steps.push(Step {
                    lease,
                    context,
                    failed: false,
                    passed_by: false,
                    held: [Held::default(); 2],
                });
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

    /// Number of filters.
    #[must_use]
    pub const fn filters(&self) -> usize {
        self.steps.len()
    }

    /// Headers have come; `end_of_stream` says that nothing follows them.
    ///
    /// For a response it may be called again after a verdict other than `Continue` and `Pause`, once another response
    /// has been put in its place: it goes on with the filters that have not seen one.
    pub fn headers(&mut self, direction: Direction, end_of_stream: bool) -> Verdict {
        let flow = self.flow_mut(direction);
        flow.headers_only = end_of_stream;
        // Whoever held the response that this one replaces does not hold this one.
        flow.headers_held = false;
        self.run_headers(direction)
    }

    /// A part of a body is shown as the host's buffer; `end_of_stream` says that it is the last.
    ///
    /// While a filter holds the headers a proxy keeps bodies back. Where it does not, they reach the filters up to that
    /// one, and its going on with a body lets the headers go on too.
    ///
    /// `Continue` lets what the buffer holds now go on, and [`ended`](Self::ended) says whether that is the last;
    /// after `Pause` a filter holds it.
    pub fn body(&mut self, direction: Direction, end_of_stream: bool) -> Verdict {
        self.run_body(direction, 0, end_of_stream)
    }

    /// Trailers have come; the body is complete. `Continue` lets what the buffer holds now go on before them.
    pub fn trailers(&mut self, direction: Direction) -> Verdict {
        self.run_trailers(direction)
    }

    /// Filter number `at` has asked for its held headers, body or trailers to go on. Where it holds none nothing
    /// happens. Verdicts are those of what goes on; [`headers_passed`](Self::headers_passed) tells whether headers do.
    pub fn resume(&mut self, direction: Direction, at: usize) -> Verdict {
        if at >= self.steps.len() {
            return Verdict::Continue;
        }
        let order = direction.turn(at, self.steps.len());
        let flow = self.flow_mut(direction);
        if flow.headers_held && flow.headers_seen == order + 1 {
            flow.headers_held = false;
            match self.run_headers(direction) {
                Verdict::Continue | Verdict::Pause => {}
                verdict => return verdict,
            }
        }
        let flow = self.flow(direction);
        let trailers = flow.trailers_held && flow.trailers_seen == order + 1;
        if let Some(end) = self.recall(direction, at) {
            match self.run_body(direction, order + 1, end) {
                Verdict::Continue => {}
                // A later filter holds the body now; trailers catch up with it.
                Verdict::Pause if trailers => {}
                verdict => return verdict,
            }
        }
        let flow = self.flow_mut(direction);
        if trailers {
            flow.trailers_held = false;
            return self.run_trailers(direction);
        }
        if flow.headers_held || flow.trailers_held { Verdict::Pause } else { Verdict::Continue }
    }

    /// Whether the headers have got past the last filter.
    #[must_use]
    pub fn headers_passed(&self, direction: Direction) -> bool {
        let flow = self.flow(direction);
        flow.headers_seen == self.steps.len() && !flow.headers_held
    }

    /// Whether the parcel that got past the last filter is the last one.
    #[must_use]
    pub fn ended(&self, direction: Direction) -> bool {
        self.flow(direction).ended
    }

    /// Whether trailers have got past the last filter.
    #[must_use]
    pub fn trailers_passed(&self, direction: Direction) -> bool {
        let flow = self.flow(direction);
        flow.trailers_seen == self.steps.len() && !flow.trailers_held
    }

    fn run_headers(&mut self, direction: Direction) -> Verdict {
        while self.flow(direction).headers_seen < self.steps.len() {
            if let (Direction::Request, Some(status)) = (direction, self.failed) {
                return Verdict::Failed { status };
            }
            match self.next_headers(direction) {
                Verdict::Continue => {}
                verdict => return verdict,
            }
        }
        match (direction, self.failed) {
            (Direction::Request, Some(status)) => Verdict::Failed { status },
            _ if self.flow(direction).headers_held => Verdict::Pause,
            _ => Verdict::Continue,
        }
    }

    /// Shows the headers to the next filter that has not seen them.
    fn next_headers(&mut self, direction: Direction) -> Verdict {
        let flow = self.flow_mut(direction);
        let (order, end) = (flow.headers_seen, flow.headers_only);
        flow.headers_seen += 1;
        let (callback, ..) = direction.callbacks();
        if !self.wants(callback) {
            return Verdict::Continue;
        }
        let count = self.count(direction.maps().0);
        let verdict =
            self.call(direction.turn(order, self.steps.len()), callback, [0, count, i32::from(end), 0, 0]);
        if verdict == Verdict::Pause {
            self.flow_mut(direction).headers_held = true;
        }
        verdict
    }

    /// Takes the parcel from filter to filter, from number `from` in the direction's order on.
    fn run_body(&mut self, direction: Direction, from: usize, end: bool) -> Verdict {
        let mut end = end;
        let (_, callback, _) = direction.callbacks();
        for order in from..self.steps.len() {
            if self.flow(direction).headers_seen <= order {
                // Headers that were held above have been let go by a body.
                match self.next_headers(direction) {
                    Verdict::Continue | Verdict::Pause => {}
                    verdict => return verdict,
                }
            }
            let at = direction.turn(order, self.steps.len());
            end |= self.recall(direction, at).unwrap_or_default();
            let size = self.stream.buffer_len(direction.buffer()).unwrap_or(0);
            let mut verdict = if (size > 0 || end) && self.exports(at, callback) {
                let size = i32::try_from(size).unwrap_or(i32::MAX);
                self.call(at, callback, [0, size, i32::from(end), 0, 0])
            } else if self.holds_headers(direction, order) {
                // It has not been asked: what it has not seen cannot let go the headers that it holds.
                Verdict::Pause
            } else {
                Verdict::Continue
            };
            if verdict == Verdict::Pause {
                match self.stream.hold(direction.stream(), at) {
                    Hold::Kept => {
                        if let Some(step) = self.steps.get_mut(at) {
                            step.held[direction as usize] = Held { body: true, end };
                        }
                        return Verdict::Pause;
                    }
                    Hold::TooLarge => return Verdict::TooLarge,
                    Hold::StreamThrough => verdict = Verdict::Continue,
                }
            }
            if verdict != Verdict::Continue {
                return verdict;
            }
            self.release_headers(direction, order);
        }
        self.flow_mut(direction).ended = end;
        Verdict::Continue
    }

    /// Puts what filter `at` holds before the parcel, and says whether that was the last one; `None` when it holds
    /// nothing.
    fn recall(&mut self, direction: Direction, at: usize) -> Option<bool> {
        let held = std::mem::take(&mut self.steps.get_mut(at)?.held[direction as usize]);
        held.body.then(|| {
            self.stream.recall(direction.stream(), at);
            held.end
        })
    }

    fn run_trailers(&mut self, direction: Direction) -> Verdict {
        let (_, body, callback) = direction.callbacks();
        while self.flow(direction).trailers_seen < self.steps.len() {
            let order = self.flow(direction).trailers_seen;
            if self.flow(direction).headers_seen <= order {
                // Headers that were held above have been let go by the trailers.
                match self.next_headers(direction) {
                    Verdict::Continue | Verdict::Pause => {}
                    verdict => return verdict,
                }
            }
            self.flow_mut(direction).trailers_seen += 1;
            let at = direction.turn(order, self.steps.len());
            let verdict = if self.exports(at, callback) {
                let count = self.count(direction.maps().1);
                self.call(at, callback, [0, count, 0, 0, 0])
            } else if self.holds_headers(direction, order) && !self.exports(at, body) {
                // As with bodies: it cannot let go the headers by what it does not see.
                Verdict::Pause
            } else {
                Verdict::Continue
            };
            match verdict {
                Verdict::Continue => {}
                Verdict::Pause => {
                    self.flow_mut(direction).trailers_held = true;
                    return Verdict::Pause;
                }
                verdict => return verdict,
            }
            self.release_headers(direction, order);
            // A filter that lets the trailers go lets the body that it held go before them.
            if self.recall(direction, at).is_some() {
                match self.run_body(direction, order + 1, false) {
                    Verdict::Continue | Verdict::Pause => {}
                    verdict => return verdict,
                }
            }
        }
        Verdict::Continue
    }

    /// Whether filter `at` exports `callback`.
    fn exports(&self, at: usize, callback: Callback) -> bool {
        let plans = self.shard.pool.plans();
        let step = plans.chain(self.id).and_then(|chain| chain.steps.get(at));
        step.and_then(|step| plans.groups().get(step.group))
            .is_some_and(|group| group.filter.exports(callback))
    }

    /// Whether the headers are held by the filter that comes as number `order`, which still runs.
    fn holds_headers(&self, direction: Direction, order: usize) -> bool {
        let flow = self.flow(direction);
        let step = self.steps.get(direction.turn(order, self.steps.len()));
        flow.headers_held && flow.headers_seen == order + 1 && step.is_some_and(|step| !step.failed)
    }

    /// The filter that comes as number `order` lets the headers go, if it holds them.
    fn release_headers(&mut self, direction: Direction, order: usize) {
        let flow = self.flow_mut(direction);
        if flow.headers_seen == order + 1 {
            flow.headers_held = false;
        }
    }

    fn flow(&self, direction: Direction) -> &Flow {
        &self.flows[direction as usize]
    }

    fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        &mut self.flows[direction as usize]
    }

    /// Number of pairs of `map`, as a callback's parameter.
    fn count(&self, map: MapType) -> i32 {
        i32::try_from(self.stream.map_len(map)).unwrap_or(i32::MAX)
    }

    /// Ends every context (`on_done`, `on_log`, `on_delete`) and gives the instances back. Does nothing the second
    /// time.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.end_contexts(|instance, context, lasting| {
            instance.end_stream(context, lasting).and_then(|()| instance.end_completed())
        });
        // What a filter has put off in an instance of the request's own ends when all others are done.
        self.end_contexts(
            |instance, context, lasting| {
                if lasting { Ok(()) } else { instance.end_deferred(context) }
            },
        );
        for lease in self.leases.drain(..) {
            self.shard.pool.give_back(lease);
        }
        let vecs = (std::mem::take(&mut self.steps), std::mem::take(&mut self.leases));
        self.shard.keep_vecs(vecs);
    }

    /// Does `end` to each filter's context, told whether the instance lives on; contexts of those that have failed are
    /// forgotten.
    fn end_contexts(&mut self, end: impl Fn(&mut Instance<H>, ContextId, bool) -> Result<(), Failure>) {
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
                end(instance, context, lasting)
            });
            if let Err(failure) = ended.flatten() {
                self.report(at, &failure);
            }
        }
    }

    /// Calls `callback` of filter number `at`, with its context as the first parameter.
    fn call(&mut self, at: usize, callback: Callback, params: Params) -> Verdict {
        let Some(step) = self.steps.get(at) else { return Verdict::Continue };
        let response = matches!(
            callback,
            Callback::ResponseHeaders | Callback::ResponseBody | Callback::ResponseTrailers
        );
        if step.failed || (step.passed_by && response) {
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
                self.pass_by(at);
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

    /// A local response is on its way: it does not go through the filter that sent it (number `at`), nor through those
    /// that have seen the response it replaces.
    fn pass_by(&mut self, at: usize) {
        let seen = self.flow(Direction::Response).headers_seen;
        let count = self.steps.len();
        for (index, step) in self.steps.iter_mut().enumerate() {
            step.passed_by = index == at || Direction::Response.turn(index, count) < seen;
            // What was held of the response that it replaces never goes on.
            step.held[Direction::Response as usize] = Held::default();
        }
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
