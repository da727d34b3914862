//! One callback of one filter: it is entered, and what it has asked for becomes a verdict.

use super::{
    Chain, Step, Verdict,
    flow::{Direction, Held, Pause},
};
use crate::{
    abi::types::Action,
    context::ContextId,
    filter::Callback,
    host::{Buffers, Host, StreamHost},
    instance::{Asked, Instance, Returned, relay::Row},
    metrics::recorder::{self, Event},
};

impl<H: Host> Chain<H> {
    /// Calls `callback` of filter number `at`, with its context as the first parameter; where the chain [relays](Self::relays), of
    /// those that follow it as well, while they let pass what came. So many are [`relayed`](Self::relayed) then, and the verdict
    /// is that of the next one.
    ///
    /// Not inlined, as entering the instance is not: each copy would have to be fetched into a processor's caches by itself.
    #[inline(never)]
    pub(super) fn call(&mut self, at: usize, callback: Callback, params: [i32; 2]) -> Verdict {
        let Some(step) = self.steps.get(at) else { return Verdict::Continue };
        let response = matches!(
            callback,
            Callback::ResponseHeaders | Callback::ResponseBody | Callback::ResponseTrailers
        );
        if step.failed || (step.passed_by && response) {
            return Verdict::Continue;
        }
        let (context, lease_at) = (step.context, step.lease);
        let doomed = self.refusal.is_some();
        let Some(lease) = self.leases.get_mut(lease_at).filter(|lease| lease.is_there()) else {
            return Verdict::Continue;
        };
        let (relays, row) =
            (self.relays, if self.relays { step.row(callback, self.is_irregular) } else { Row::ONE });
        let mut ran = 1;
        let called = lease.with(callback, |instance| {
            // A request that fails anyway need not be told that a shared instance has failed as well.
            if (doomed && instance.has_failed()) || !instance.exports(callback) {
                return (Ok(Returned::NOTHING), Asked::default(), false);
            }
            let [a, b] = params;
            instance.follow(self.ended);
            let params = [context.raw(), a, b, 0, 0];
            let mut returned = if relays {
                let returned;
                (ran, returned) = instance.relay(callback, context, row, params);
                self.relays = ran == row.count || instance.is_timed_alone();
                returned
            } else {
                instance.enter_next(callback, context, params)
            };
            self.ended = instance.ended();
            let asked = instance.asked();
            if returned.is_ok()
                && let Err(failure) = instance.end_completed()
            {
                returned = Err(failure);
            }
            (returned, asked, instance.has_asked_queues())
        });
        let (returned, asked, has_queues) =
            called.unwrap_or_else(|failure| (Err(failure), Asked::default(), false));
        let (at, context) = if ran > 1 { self.pass_row(at, callback, row, ran - 1) } else { (at, context) };
        if has_queues {
            self.hand_queues_over(at, lease_at, callback);
        }
        match returned {
            Err(failure) => {
                if self.is_ours(lease_at, asked.local_response) {
                    self.stream.withdraw_local_response();
                }
                self.report(at, &failure);
                self.refused().map_or(Verdict::Continue, |status| self.fail_with(status))
            }
            Ok(_) if self.is_ours(lease_at, asked.local_response) => {
                self.pass_by();
                self.count_event(at, callback, Event::LocalResponse);
                Verdict::LocalResponse
            }
            Ok(_) if self.is_ours(lease_at, asked.close) => Verdict::Closed,
            Ok(returned) => {
                let verdict = match returned.value().map(|raw| (raw, Action::from_raw(raw, callback))) {
                    Some((raw, action @ (Action::Pause | Action::PauseAndDrop))) => {
                        self.count_event(at, callback, Event::Pause);
                        self.note_pause(at, callback, raw, action);
                        if response {
                            self.hold_for_calls(at, callback);
                        }
                        Verdict::Pause
                    }
                    _ => Verdict::Continue,
                };
                if asked.resume.contains(&context) {
                    self.withdraw_vain(at, callback, asked, verdict);
                }
                verdict
            }
        }
    }

    /// `count` filters from number `at` on have let pass what came, and the callback of the next one has run, too: its number,
    /// and its context.
    fn pass_row(&mut self, at: usize, callback: Callback, row: Row, count: usize) -> (usize, ContextId) {
        for direction in [Direction::Request, Direction::Response] {
            let (headers, ..) = direction.callbacks();
            if callback == headers {
                (0..count).for_each(|_| self.flow_mut(direction).show_headers());
            }
        }
        // A row has no more, since a filter's neighbours are counted so.
        self.relayed = u8::try_from(count).unwrap_or(u8::MAX);
        let at = if row.backwards { at.saturating_sub(count) } else { at + count };
        (at, self.steps.get(at).map_or(ContextId::NONE, |step| step.context))
    }

    /// Filter number `at` has asked in its `callback` for what it holds to go on. Where it holds nothing that is not for
    /// what it holds later.
    #[cold]
    fn withdraw_vain(&self, at: usize, callback: Callback, asked: Asked, verdict: Verdict) {
        let Some(step) = self.steps.get(at) else { return };
        for direction in [Direction::Request, Direction::Response] {
            let (headers, body, trailers) = direction.callbacks();
            let is_own = [headers, body, trailers].contains(&callback);
            let holds = if is_own { verdict == Verdict::Pause } else { self.holds(direction, at) };
            if asked.resume[direction as usize] == step.context && !holds {
                self.stream.withdraw_resume(direction.stream(), at);
            }
        }
    }

    /// Filter number `at` pauses: what that means for the body that it has seen, or that is to come.
    fn note_pause(&mut self, at: usize, callback: Callback, raw: i32, action: Action) {
        let direction = match callback {
            Callback::RequestHeaders | Callback::RequestBody => Direction::Request,
            Callback::ResponseHeaders | Callback::ResponseBody => Direction::Response,
            _ => return,
        };
        if action == Action::PauseAndDrop {
            let len = self.stream.buffer_len(direction.buffer()).unwrap_or(0);
            // Without memory, or once the stream is gone, it stays as it is.
            let _ = self.stream.write_buffer(direction.buffer(), 0..len, b"");
            return;
        }
        let (headers, body, _) = direction.callbacks();
        if callback != headers {
            return;
        }
        let plans = self.shard.pool.plans();
        let group = self.group(at).and_then(|group| plans.groups().get(group));
        let is_higress = group.is_some_and(|group| group.filter.stops_headers_alone());
        let pause = match raw {
            1 if is_higress && self.exports(at, body) => Pause::HeadersForBody,
            1 => Pause::Headers,
            _ => Pause::All,
        };
        if let Some(step) = self.steps.get_mut(at) {
            step.pause[direction as usize] = pause;
        }
    }

    /// Filter number `at` holds the response: it waits for the calls that it has made.
    #[cold]
    fn hold_for_calls(&mut self, at: usize, callback: Callback) {
        let Some((context, lease)) = self.steps.get(at).map(|step| (step.context, step.lease)) else {
            return;
        };
        if let Some(lease) = self.leases.get_mut(lease) {
            // Without its instance it has none.
            let _ = lease.with(callback, |instance| instance.hold_for_calls(context));
        }
    }

    /// Filter number `at` has registered queues: the worker's instance listens to them.
    #[cold]
    fn hand_queues_over(&mut self, at: usize, lease: usize, callback: Callback) {
        let lease = self.leases.get_mut(lease);
        let queues = lease.and_then(|lease| lease.with(callback, Instance::take_asked_queues).ok());
        if let (Some(queues), Some(group)) = (queues, self.group(at)) {
            self.shard.pool.adopt_queues(group, &queues);
        }
    }

    /// Counts what a callback of filter number `at` has asked for.
    fn count_event(&self, at: usize, callback: Callback, event: Event) {
        let plan = self.shard.pool.plans().chain(self.id);
        if let Some(plugin) = plan.and_then(|plan| plan.plugin(at)) {
            recorder::event(&self.shard.metrics, plugin, callback, event);
        }
    }

    /// Whether `context` of the instance in that lease is this request's. What is asked in the context of another
    /// request is recorded with that one's host, and nothing that this one's proxy could do.
    fn is_ours(&self, lease: usize, context: ContextId) -> bool {
        let is_it = |step: &Step| step.lease == lease && step.context == context;
        context != ContextId::NONE && self.steps.iter().any(is_it)
    }

    /// The request fails with `status`: what the proxy answers with goes the way of a local response.
    pub(super) fn fail_with(&mut self, status: u16) -> Verdict {
        self.pass_by();
        Verdict::Failed { status }
    }

    /// A filter holds more of a body than it may: so does what the proxy answers with then.
    pub(super) fn too_large(&mut self) -> Verdict {
        self.pass_by();
        Verdict::TooLarge
    }

    /// A local response is on its way: it does not go through the filters that have seen the response it replaces.
    pub(super) fn pass_by(&mut self) {
        self.is_irregular = true;
        let seen = self.flow(Direction::Response).headers_seen();
        let count = self.steps.len();
        for (index, step) in self.steps.iter_mut().enumerate() {
            step.passed_by = Direction::Response.turn(index, count) < seen;
            // What was held of the response that it replaces never goes on.
            step.held[Direction::Response as usize] = Held::default();
        }
    }
}
