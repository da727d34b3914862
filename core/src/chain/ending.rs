//! The end of a request's filters: contexts end, instances go back to the pool, some before the request is over.

use super::{Chain, flow::Direction};
use crate::{
    context::ContextId, failure::Failure, filter::Callback, host::Host, instance::Instance,
    metrics::recorder::Moment, plan::StepPlan, pool::Lease,
};

impl<H: Host> Chain<H> {
    /// Ends every context (`on_done`, `on_log`, `on_delete`) and gives the instances back. Does nothing the second
    /// time.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.ended = None;
        self.end_contexts(|instance, context, lasting, ended| {
            instance.follow(*ended);
            let done = instance.end_stream(context, lasting);
            *ended = instance.ended();
            done.and_then(|()| instance.end_completed())
        });
        // What a filter has put off in an instance of the request's own ends when all others are done.
        self.end_contexts(
            |instance, context, lasting, _| {
                if lasting { Ok(()) } else { instance.end_deferred(context) }
            },
        );
        self.end_trials();
        self.report_dropped_lines();
        for lease in self.leases.drain(..) {
            self.shard.pool.give_back(lease);
        }
        self.shard.keep_vecs(&mut self.steps, &mut self.leases);
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

    /// Does `end` to each filter's context, told whether the instance lives on; contexts of those that have failed are
    /// forgotten.
    fn end_contexts(
        &mut self,
        end: impl Fn(&mut Instance<H>, ContextId, bool, &mut Option<Moment>) -> Result<(), Failure>,
    ) {
        for at in 0..self.steps.len() {
            let Some(step) = self.steps.get(at) else { continue };
            let (context, failed) = (step.context, step.failed);
            let Some(lease) = self.leases.get_mut(step.lease).filter(|lease| lease.is_there()) else {
                continue;
            };
            let lasting = lease.lasting();
            let ended = lease.with(Callback::Done, |instance| {
                if failed || instance.has_failed() {
                    instance.forget_stream(context);
                    return Ok(());
                }
                end(instance, context, lasting, &mut self.ended)
            });
            if let Err(failure) = ended.flatten() {
                self.report(at, &failure);
            }
        }
    }
}
