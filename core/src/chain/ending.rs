//! The end of a request's filters: contexts end, instances go back to the pool, some before the request is over.

use super::{Chain, Step, flow::Direction};
use crate::{filter::Callback, host::Host, plan::StepPlan, pool::Lease};

impl<H: Host> Chain<H> {
    /// Ends every context (`on_done`, `on_log`, `on_delete`) and gives the instances back. Does nothing the second
    /// time.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.ended = None;
        self.end_contexts();
        // What a filter has put off in an instance of the request's own ends when all others are done.
        self.end_deferred();
        self.end_trials();
        self.report_dropped_lines();
        self.give_back();
        self.shard.keep_vecs(&mut self.steps, &mut self.leases);
    }

    /// Gives all instances back, if that has not been done.
    pub(super) fn give_back(&mut self) {
        while let Some(lease) = self.leases.pop() {
            self.shard.pool.give_back(lease);
        }
    }

    /// Headers have got past all filters: gives back the instances of those that nothing is left for, however long the
    /// request lasts.
    pub(super) fn end_early(&mut self, direction: Direction) {
        let plans = self.shard.pool.plans();
        let Some(plan) = plans.chain(self.id).filter(|plan| plan.ends_early[direction as usize]) else {
            return;
        };
        for (step, StepPlan { group, .. }) in self.steps.iter().zip(&plan.steps) {
            let ends = plans.groups().get(*group).is_some_and(|group| group.ends_early[direction as usize]);
            let Some(lease) = self.leases.get_mut(step.lease).filter(|_| ends) else { continue };
            if lease.has_failed() || lease.has_calls() {
                continue;
            }
            // No other request's, and of contexts of this one's nothing is called any more.
            self.shard.pool.give_back(std::mem::replace(lease, Lease::GivenBack));
        }
    }

    /// Ends each filter's context, those that are in one instance together; contexts of those that have failed are
    /// forgotten.
    fn end_contexts(&mut self) {
        let mut at = 0;
        while let Some(Step { lease, context, failed, .. }) = self.steps.get(at) {
            let (lease, first, failed) = (*lease, *context, *failed);
            let count = if failed { 1 } else { self.row(at) };
            let Some(lease) = self.leases.get_mut(lease).filter(|lease| lease.is_there()) else {
                at += 1;
                continue;
            };
            let lasting = lease.lasting();
            let ended = lease.with(Callback::Done, |instance| {
                if failed || instance.has_failed() {
                    instance.forget_stream(first);
                    return (1, Ok(()));
                }
                instance.follow(self.ended);
                let ended = instance.end_streams(first, count, lasting);
                self.ended = instance.ended();
                ended
            });
            let (ended, result) = ended.unwrap_or_else(|failure| (0, Err(failure)));
            at += ended;
            if let Err(failure) = result {
                self.report(at, &failure);
                at += 1;
            }
        }
    }

    /// How many filters from number `at` on, which has not failed, end together.
    fn row(&self, at: usize) -> usize {
        let Some((first, others)) = self.steps.get(at..).and_then(<[Step]>::split_first) else { return 0 };
        let (_, after) = first.neighbours;
        1 + others.iter().take(after.into()).take_while(|step| !step.failed).count()
    }

    /// Ends what a filter has put off in an instance of the request's own.
    fn end_deferred(&mut self) {
        for at in 0..self.steps.len() {
            let Some(Step { lease, context, failed, .. }) = self.steps.get(at) else { continue };
            let (context, failed) = (*context, *failed);
            let Some(lease) = self.leases.get_mut(*lease).filter(|lease| lease.is_there()) else { continue };
            let lasting = lease.lasting();
            let ended = lease.with(Callback::Done, |instance| {
                if failed || instance.has_failed() {
                    instance.forget_stream(context);
                    return Ok(());
                }
                if lasting { Ok(()) } else { instance.end_deferred(context) }
            });
            if let Err(failure) = ended.flatten() {
                self.report(at, &failure);
            }
        }
    }
}
