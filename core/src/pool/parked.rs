//! Instances whose requests are over, but which wait for calls that their contexts have made.

use std::{cell::RefCell, rc::Rc};

use super::{Pool, Shared};
use crate::{
    abi::types::LogLevel,
    failure::Failure,
    host::{Host, LogLine, LogSink, Speaker},
};

/// Instances that wait, each with the number of its group.
pub(super) type Parked<H> = RefCell<Vec<(usize, Shared<H>)>>;

impl<H: Host> Pool<H> {
    /// The request of `instance`, of group number `group`, is over: if it waits for calls it stays until they have been
    /// answered, and otherwise it is [put back](Self::put_back).
    pub(super) fn park(&self, group: usize, instance: Shared<H>) {
        let waits =
            instance.try_borrow().is_ok_and(|instance| instance.has_calls() && !instance.has_failed());
        if !waits {
            return self.put_back(group, instance);
        }
        let most = self.plans.groups().get(group).map_or(0, |group| {
            let settings = group.filter.engine().settings();
            // Requests to come need instances, too.
            settings.limits.deferred.min(usize::try_from(settings.instances / 2).unwrap_or(usize::MAX))
        });
        if self.parked.borrow().len() < most {
            self.parked.borrow_mut().push((group, instance));
            return;
        }
        let sentence = format!(
            "{most} instances wait for calls already, as many as \"deferred_limit\" and half of \"instances\" allow: \
             the calls of one more are cancelled"
        );
        self.say(group, LogLevel::Warn, &sentence);
        self.end_parked(group, &instance);
        self.put_back(group, instance);
    }

    /// A context of `instance` has been told of its call: if that was the last one its request's contexts end, where the
    /// request is over.
    pub(crate) fn told(&self, instance: &Shared<H>) {
        let waits =
            instance.try_borrow().is_ok_and(|instance| instance.has_calls() && !instance.has_failed());
        if waits {
            return;
        }
        let at = self.parked.borrow().iter().position(|(_, parked)| Rc::ptr_eq(parked, instance));
        if let Some(at) = at {
            let (group, instance) = self.parked.borrow_mut().swap_remove(at);
            self.end_parked(group, &instance);
            self.put_back(group, instance);
        }
    }

    /// Ends what is left in an instance that waits for nothing any more.
    fn end_parked(&self, group: usize, instance: &Shared<H>) {
        if let Ok(mut instance) = instance.try_borrow_mut()
            && let Err(failure) = instance.end_waiting()
        {
            self.report(group, &failure);
        }
    }

    /// The worker ends: nothing waits any more.
    pub(super) fn end_all_parked(&self) {
        for (group, instance) in self.parked.take() {
            self.end_parked(group, &instance);
        }
    }

    /// Logs what went wrong outside any request.
    pub(super) fn report(&self, group: usize, failure: &Failure) {
        self.say(group, LogLevel::Error, &failure.to_string());
    }

    fn say(&self, group: usize, level: LogLevel, message: &str) {
        let plans = self.plans.groups();
        let filter = plans.get(group).map_or("?", |group| &group.filter.spec().name);
        self.home.root.log(LogLine { level, filter, speaker: Speaker::Weir, message: message.as_bytes() });
    }
}
