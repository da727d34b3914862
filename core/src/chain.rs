//! The filters of one request, in order: who is called next, who holds the stream, who has failed.
//!
//! Requests go through the filters in the order of the configuration, responses in the reverse order. A filter that
//! sends a local response ends the request's way; that response then goes through the response callbacks of all filters
//! that have not seen one, its own too. A filter that fails is not called again, and the [`Policy`] decides whether the
//! request fails or goes on without it.

use std::{rc::Rc, time::Duration};

mod ending;
mod entry;
mod failing;
mod flow;
mod way;

pub(crate) use failing::wake;
pub use flow::Direction;
use flow::{Flow, Held, Pause};

use crate::{
    abi::types::MapType,
    context::ContextId,
    failure::{Failure, Policy},
    filter::Callback,
    host::{Host, Maps, StreamHost},
    instance::{Created, relay::Row},
    metrics::recorder::Moment,
    plan::{ChainId, StepPlan},
    pool::Lease,
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
    /// A filter failed, and the policy is `closed`; this has been logged. Answer with `status` (and
    /// [`Chain::retry_after`]), or reset where the headers have left.
    Failed {
        /// Status to answer with.
        status: u16,
    },
}

/// One filter of a request.
#[derive(Debug)]
pub(crate) struct Step {
    /// Index of its lease; [`NO_LEASE`] while there is none.
    lease: usize,
    context: ContextId,
    /// How many filters right before it, and right after it, have contexts of the same instance whose ids lead up to its own and
    /// follow it; none where that would be more than there is room for.
    neighbours: (u8, u8),
    /// Has failed, or could not be begun.
    failed: bool,
    /// Whether it runs decides if its suspension is over.
    trial: bool,
    /// Has seen the response that a local one replaces: it does not see that.
    passed_by: bool,
    /// What it holds of requests and responses.
    held: [Held; 2],
    /// How it holds their headers.
    pause: [Pause; 2],
}

/// The lease of a filter that has no instance: no index of any.
const NO_LEASE: usize = usize::MAX;

impl Step {
    /// A filter that has not been begun.
    fn new() -> Self {
        Self {
            lease: NO_LEASE,
            context: ContextId::NONE,
            neighbours: (0, 0),
            failed: false,
            trial: false,
            passed_by: false,
            held: [Held::default(); 2],
            pause: [Pause::All; 2],
        }
    }

    /// The filters from this one on, in the order in which they are told of `callback`, which may be called in one entry: their
    /// contexts were created in one, and none of the request's `is_irregular`.
    fn row(&self, callback: Callback, is_irregular: bool) -> Row {
        let (before, after) = if is_irregular { (0, 0) } else { self.neighbours };
        if matches!(callback, Callback::RequestHeaders | Callback::RequestBody) {
            Row { count: 1 + usize::from(after), backwards: false }
        } else {
            Row { count: 1 + usize::from(before), backwards: true }
        }
    }
}

/// A request that fails, since a filter has.
#[derive(Debug)]
struct Refusal {
    /// What the proxy was or will be told.
    status: u16,
    /// When the client may ask again, where the failure knows that.
    retry_after: Option<Duration>,
}

/// The filters of one request. Ended by [`finish`](Self::finish), at the latest when dropped.
#[derive(Debug)]
pub struct Chain<H: Host> {
    shard: Rc<Inner<H>>,
    id: ChainId,
    stream: H::Stream,
    steps: Vec<Step>,
    leases: Vec<Lease<H>>,
    /// Requests, responses.
    flows: [Flow; 2],
    policy: Policy,
    /// A filter failed, and so does the request. Seldom there, and elsewhere: a chain is moved while it is made.
    refusal: Option<Box<Refusal>>,
    /// Some filter is left out, or has held a part of a body.
    is_irregular: bool,
    /// What passes now may be shown to several filters in one entry of their instance.
    relays: bool,
    /// How many filters have let pass what came, in the last such entry, before the one whose verdict was told.
    relayed: u8,
    /// When the last callback ended, while nothing but another one comes next.
    ended: Option<Moment>,
    finished: bool,
}

impl<H: Host> Chain<H> {
    /// A chain whose filters have no contexts yet.
    pub(crate) fn new(shard: Rc<Inner<H>>, id: ChainId, stream: H::Stream, policy: Policy) -> Self {
        let (steps, leases) = shard.take_vecs();
        Self {
            shard,
            id,
            stream,
            steps,
            leases,
            flows: [Flow::NEW; 2],
            policy,
            refusal: None,
            is_irregular: false,
            relays: false,
            relayed: 0,
            ended: None,
            finished: false,
        }
    }

    /// Checks one instance out for each group, and creates each filter's stream context.
    pub(crate) fn create_contexts(&mut self) {
        let shard = Rc::clone(&self.shard);
        let Some(plan) = shard.pool.plans().chain(self.id) else { return };
        if let Some((at, failure)) = shard.refusal(self.policy, plan) {
            self.steps.resize_with(at + 1, Step::new);
            self.report(at, &failure);
            return;
        }
        let mut at = 0;
        while let Some(step) = plan.steps.get(at) {
            self.steps.push(Step::new());
            let earlier = plan.steps.iter().take(at).position(|other| other.group == step.group);
            match earlier.and_then(|earlier| self.steps.get(earlier)) {
                // Its instance has been reported.
                Some(earlier) if earlier.failed => {
                    self.steps[at].failed = true;
                    at += 1;
                    continue;
                }
                Some(earlier) => {
                    (self.steps[at].lease, self.steps[at].trial) = (earlier.lease, earlier.trial);
                }
                None => {}
            }
            let failure = self.create_some(at, step).err();
            at = self.steps.len();
            if let Some(failure) = failure {
                self.report(at - 1, &failure);
                if self.refusal.is_some() {
                    return;
                }
            }
        }
    }

    /// Creates the stream context of filter number `at`, in the instance that an earlier filter shares with it or in
    /// one that is checked out; and perhaps those of filters after it, which are in the same instance.
    ///
    /// # Errors
    /// What the last filter that there is now has failed with.
    fn create_some(&mut self, at: usize, step: &StepPlan) -> Result<(), Failure> {
        if self.steps[at].lease == NO_LEASE {
            self.steps[at].trial = self.shard.admit(step.group)?;
            self.leases.push(self.shard.pool.check_out(step.group)?);
            self.steps[at].lease = self.leases.len() - 1;
        }
        let (lease, trial) = (self.steps[at].lease, self.steps[at].trial);
        let (created, asked) = self.leases[lease].with(Callback::ContextCreate, |instance| {
            instance.follow(self.ended);
            let created = instance.create_streams(step.root, at, step.run, &self.stream);
            self.ended = instance.ended();
            (created, instance.asked())
        })?;
        let Created { first, count, failure } = created;
        let all = (0..count).map(|at| first.after(at)).chain(failure.as_ref().map(|_| ContextId::NONE));
        let last = u8::try_from(count.saturating_sub(1)).unwrap_or_default();
        for (number, context) in all.enumerate() {
            if number > 0 {
                self.steps.push(Step { lease, trial, ..Step::new() });
            }
            let before = u8::try_from(number).unwrap_or_default().min(last);
            self.steps[at + number].context = context;
            self.steps[at + number].neighbours = (before, last - before);
        }
        match failure {
            Some(failure) => {
                if asked.local_response != ContextId::NONE {
                    self.stream.withdraw_local_response();
                }
                Err(failure)
            }
            None => Ok(()),
        }
    }

    /// When a client whose request has failed may ask again, where the failure knows that: for a header Retry-After.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal.as_ref()?.retry_after
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
        self.ended = None;
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
        self.ended = None;
        self.run_body(direction, 0, end_of_stream)
    }

    /// Trailers have come; the body is complete. `Continue` lets what the buffer holds now go on before them.
    pub fn trailers(&mut self, direction: Direction) -> Verdict {
        self.ended = None;
        self.run_trailers(direction)
    }

    /// Filter number `at` has asked for its held headers, body or trailers to go on, or its instance has failed in
    /// another request. Where it holds none nothing happens. Verdicts are those of what goes on;
    /// [`headers_passed`](Self::headers_passed) tells whether headers do.
    pub fn resume(&mut self, direction: Direction, at: usize) -> Verdict {
        self.ended = None;
        if at >= self.steps.len() {
            return Verdict::Continue;
        }
        if let Some(verdict) = self.fail_orphan(direction, at) {
            return verdict;
        }
        let order = direction.turn(at, self.steps.len());
        let flow = self.flow_mut(direction);
        if flow.headers_held && flow.headers_seen() == order + 1 {
            flow.headers_held = false;
            match self.run_headers(direction) {
                Verdict::Continue | Verdict::Pause => {}
                verdict => return verdict,
            }
        }
        let flow = self.flow(direction);
        let trailers = flow.trailers_held && flow.trailers_seen() == order + 1;
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

    /// All goes on, whatever filters hold of it now or want to hold as it comes to them: the proxy cannot wait. Verdicts are
    /// those of what goes on.
    pub fn resume_all(&mut self, direction: Direction) -> Verdict {
        // What one filter lets go, the next ones may hold.
        for order in 0..self.steps.len() {
            let verdict = self.resume(direction, direction.turn(order, self.steps.len()));
            if !matches!(verdict, Verdict::Continue | Verdict::Pause) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// A filter has sent a local response in a callback that is none of this chain's: in that of another request, or of
    /// a root context. The verdict is the one that its own callback would have had.
    pub fn answer(&mut self) -> Verdict {
        self.pass_by();
        Verdict::LocalResponse
    }

    /// Whether the body is to be shown to filters while one of them holds the headers, where the proxy does that if `asked`:
    /// never for one that holds everything with them, always for one that says that it is to see the body first.
    #[must_use]
    pub fn shows_body_first(&self, direction: Direction, asked: bool) -> bool {
        let flow = self.flow(direction);
        if !flow.headers_held {
            return asked;
        }
        let holder = flow.headers_seen().checked_sub(1).map(|order| direction.turn(order, self.steps.len()));
        match holder.and_then(|at| self.steps.get(at)).map(|step| step.pause[direction as usize]) {
            Some(Pause::All) => false,
            Some(Pause::HeadersForBody) => true,
            Some(Pause::Headers) | None => asked,
        }
    }

    /// Whether the headers have got past the last filter.
    #[must_use]
    pub fn headers_passed(&self, direction: Direction) -> bool {
        let flow = self.flow(direction);
        flow.headers_seen() == self.steps.len() && !flow.headers_held
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
        flow.trailers_seen() == self.steps.len() && !flow.trailers_held
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
}

impl<H: Host> Drop for Chain<H> {
    fn drop(&mut self) {
        self.finish();
        // Those that a fault of ours, which has ended that early, has left.
        self.give_back();
    }
}
