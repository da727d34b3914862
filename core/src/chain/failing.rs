//! What becomes of a request whose filter fails: who is told, who is skipped, and what goes on without it.

use super::{Chain, Refusal, Verdict, flow::Direction};
use crate::{
    abi::types::LogLevel,
    context::ContextId,
    failure::{Cause, Failure},
    filter::quota,
    host::{Host, LogLine, LogSink, RootHost, Speaker, StreamHost},
    metrics::recorder,
    pool::Lease,
};

impl<H: Host> Chain<H> {
    /// Filter number `at` has failed: logs that, and takes it and all who share its instance out of the request. Where
    /// the policy is to go on, what they hold is let go, each in an event of its own.
    pub(super) fn report(&mut self, at: usize, failure: &Failure) {
        let is_told = matches!(failure.cause, Cause::Gone | Cause::Orphaned) && self.has_failed_when_told(at);
        let plan = self.shard.pool.plans().chain(self.id);
        if let Some(plugin) = plan.and_then(|plan| plan.plugin(at)).filter(|_| !is_told) {
            recorder::failed(&self.shard.metrics, plugin, failure.callback, &failure.cause);
        }
        // A suspended filter has been reported when it was suspended.
        if !is_told && !matches!(failure.cause, Cause::Suspended(_)) {
            self.say(at, LogLevel::Error, &failure.to_string());
        }
        self.fail(at, failure);
    }

    /// Whether filter number `at` has failed when it was told of a call: that has been reported.
    fn has_failed_when_told(&self, at: usize) -> bool {
        let step = self.steps.get(at);
        step.is_some_and(|step| {
            self.leases.get(step.lease).is_some_and(|lease| lease.has_failed_in(step.context))
        })
    }

    /// What is to be done about a failure of filter number `at`, once it has been logged.
    fn fail(&mut self, at: usize, failure: &Failure) {
        let Some(step) = self.steps.get(at) else { return };
        let (lease, trial) = (step.lease, step.trial);
        let lost = self.leases.get(lease).is_some_and(Lease::has_failed);
        self.is_irregular = true;
        for (index, step) in self.steps.iter_mut().enumerate() {
            step.failed |= index == at || (lost && step.lease == lease);
        }
        if failure.cause.is_own() {
            self.wake_orphans(lease);
            self.charge(at, trial);
        }
        match self.policy.status(&failure.cause) {
            Some(status) => {
                let refusal = self.refuse(status);
                refusal.retry_after = refusal.retry_after.or(failure.cause.retry_after());
            }
            None if self.finished => {}
            None => self.let_go(),
        }
    }

    /// The request fails, with `status` if it has not failed before.
    fn refuse(&mut self, status: u16) -> &mut Refusal {
        self.refusal.get_or_insert_with(|| Box::new(Refusal { status, retry_after: None }))
    }

    /// The status that the request fails with.
    #[inline]
    pub(super) fn refused(&self) -> Option<u16> {
        self.refusal.as_ref().map(|refusal| refusal.status)
    }

    /// Counts a failure of filter number `at`, which may suspend it.
    fn charge(&self, at: usize, trial: bool) {
        if let Some(sentence) = self.group(at).and_then(|group| self.shard.charge(group, trial)) {
            self.say(at, LogLevel::Error, &sentence);
        }
    }

    /// The request is over: filters that have run on trial and have not failed are well again.
    pub(super) fn end_trials(&self) {
        for (at, _) in self.steps.iter().enumerate().filter(|(_, step)| step.trial && !step.failed) {
            if self.group(at).is_some_and(|group| self.shard.succeed(group)) {
                self.say(at, LogLevel::Warn, "runs again after its suspension");
            }
        }
    }

    /// The request is over: says how many lines its filters have logged in vain, now and then.
    pub(super) fn report_dropped_lines(&self) {
        if !quota::any_dropped() {
            return;
        }
        let plans = self.shard.pool.plans();
        for at in 0..self.steps.len() {
            let Some(group) = self.group(at).and_then(|group| plans.groups().get(group)) else { continue };
            let quota = group.filter.quota();
            if let Some(dropped) = quota.note(|| self.shard.root.monotonic_ns()) {
                self.say(at, LogLevel::Warn, &quota.sentence(dropped));
            }
        }
    }

    /// The requests that live in the instance of `lease` too, which has failed, learn that when they are resumed.
    fn wake_orphans(&self, lease: usize) {
        let is_ours = |id: ContextId| self.steps.iter().any(|step| step.context == id);
        if let Some(lease) = self.leases.get(lease) {
            lease.each_stream(|id, host, filter| {
                if !is_ours(id) {
                    wake::<H>(host, filter);
                }
            });
        }
    }

    /// Lets go what filters hold that have failed.
    fn let_go(&self) {
        for direction in [Direction::Request, Direction::Response] {
            for at in (0..self.steps.len()).filter(|at| self.steps[*at].failed) {
                if self.holds(direction, at) {
                    // A stream that is gone holds nothing.
                    let _ = self.stream.resume(direction.stream(), at);
                }
            }
        }
    }

    /// Whether some filter holds something of that direction.
    #[must_use]
    pub fn is_held(&self, direction: Direction) -> bool {
        (0..self.steps.len()).any(|at| self.holds(direction, at))
    }

    /// Whether filter number `at` holds something of that direction.
    pub(super) fn holds(&self, direction: Direction, at: usize) -> bool {
        let flow = self.flow(direction);
        let seen = direction.turn(at, self.steps.len()) + 1;
        self.steps.get(at).is_some_and(|step| step.held[direction as usize].body)
            || (flow.headers_held && flow.headers_seen() == seen)
            || (flow.trailers_held && flow.trailers_seen() == seen)
    }

    /// Filter number `at` is resumed. If it holds something, but its instance has failed, in another request or when it
    /// was told of a call, then it has failed here, too: the verdict, where that is not to go on.
    pub(super) fn fail_orphan(&mut self, direction: Direction, at: usize) -> Option<Verdict> {
        let step = self.steps.get(at).filter(|step| !step.failed)?;
        let lost = self.leases.get(step.lease).is_some_and(Lease::has_failed);
        if !lost || !self.holds(direction, at) {
            return None;
        }
        let (callback, ..) = direction.callbacks();
        self.report(at, &Failure::new(callback, Cause::Orphaned));
        self.refused().map(|status| self.fail_with(status))
    }

    /// A fault of ours has ended a call of this chain's: no filter is called any more, and the verdict is what the
    /// policy makes of a failure. The proxy has logged what happened.
    pub fn abandon(&mut self) -> Verdict {
        self.is_irregular = true;
        for step in &mut self.steps {
            step.failed = true;
        }
        for lease in 0..self.leases.len() {
            if self.leases[lease].has_failed() {
                self.wake_orphans(lease);
            }
        }
        self.stream.withdraw_local_response();
        match self.policy.status(&Cause::Host("a fault of the host")) {
            Some(status) => Verdict::Failed { status: self.refuse(status).status },
            None => {
                self.let_go();
                Verdict::Continue
            }
        }
    }

    /// The group of filter number `at`.
    pub(super) fn group(&self, at: usize) -> Option<usize> {
        let step = self.shard.pool.plans().chain(self.id)?.steps.get(at)?;
        Some(step.group)
    }

    /// Logs a line of ours about filter number `at`.
    fn say(&self, at: usize, level: LogLevel, message: &str) {
        let plans = self.shard.pool.plans();
        let group = self.group(at).and_then(|group| plans.groups().get(group));
        let name = group.map_or("?", |group| &group.filter.spec().name);
        let line = LogLine { level, filter: name, speaker: Speaker::Weir, message: message.as_bytes() };
        self.stream.log(line);
    }
}

/// Lets a proxy look at what filter number `filter` of a request holds: its instance has failed.
pub(crate) fn wake<H: Host>(host: &H::Stream, filter: usize) {
    for direction in [Direction::Request, Direction::Response] {
        // A stream that is gone holds nothing.
        let _ = host.resume(direction.stream(), filter);
    }
}
