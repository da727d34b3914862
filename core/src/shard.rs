//! A worker's share: its pool of instances and the chains of its requests. Nothing here is shared between workers.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

mod calls;
mod queues;

use crate::{
    abi::types::LogLevel,
    calls::Pending,
    chain::{Chain, Step, wake},
    failure::{
        Budget, Cause, Failure, Policy,
        suspension::{Admission, Suspensions},
    },
    filter::Callback,
    host::{Host, LogLine, LogSink, RootHost, RootId, Speaker},
    instance::Home,
    metrics::{
        Metrics,
        ledger::Ledger,
        recorder::{self, Levels},
    },
    plan::{ChainId, ChainPlan, Plans},
    pool::{Lease, Pool},
};

pub use crate::pool::stock::Stock;

/// One worker's instances. Single-threaded, like the worker.
#[derive(Debug)]
pub struct Shard<H: Host> {
    inner: Rc<Inner<H>>,
}

/// What a worker does about filters that misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// How often a filter may fail before it is suspended.
    pub budget: Budget,
    /// How many instances are kept ready.
    pub stock: Stock,
}

/// What chains keep of their shard.
#[derive(Debug)]
pub(crate) struct Inner<H: Host> {
    pub(crate) pool: Pool<H>,
    /// Calls that its guests have made.
    pub(crate) calls: Rc<Pending<H>>,
    /// The worker.
    pub(crate) root: H::Root,
    /// Its metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// What is measured and not yet in there.
    ledger: Rc<Ledger>,
    /// Which groups have failed too often, by their number.
    suspensions: Suspensions,
    /// Vectors of chains that have ended, for the next ones: no allocation in steady state.
    spares: RefCell<Vec<Vecs<H>>>,
}

/// The vectors of a chain.
pub(crate) type Vecs<H> = (Vec<Step>, Vec<Lease<H>>);

/// Most spare vectors kept: as many as requests are commonly at work in a worker at once.
const SPARES: usize = 1024;

impl<H: Host> Shard<H> {
    /// A shard for the chains of `plans`; `root` is the worker.
    #[must_use]
    pub fn new(plans: Arc<Plans<H>>, root: H::Root) -> Self {
        Self::with_rules(plans, root, Rules::default())
    }

    /// The same under other rules than the default ones.
    #[must_use]
    pub fn with_rules(plans: Arc<Plans<H>>, root: H::Root, rules: Rules) -> Self {
        let suspensions = Suspensions::new(rules.budget, plans.groups().len());
        let calls = Rc::new(Pending::new(root.metrics()));
        let (random, levels) = (Some(Rc::default()), Levels::new(&root.metrics()));
        let ledger = Rc::new(Ledger::new(root.metrics()));
        let home = Home {
            root: root.clone(),
            calls: Some(Rc::clone(&calls)),
            random,
            levels,
            ledger: Rc::clone(&ledger),
        };
        let pool = Pool::new(plans, home, rules.stock);
        let metrics = root.metrics();
        let spares = RefCell::default();
        Self { inner: Rc::new(Inner { pool, calls, root, metrics, ledger, suspensions, spares }) }
    }

    /// The worker begins: what root contexts wait for from their configuration on, they wait for from now on.
    ///
    /// What fails has been logged, and is tried again when a request wants it.
    pub fn start(&self) {
        let pool = &self.inner.pool;
        for (group, plan) in pool.plans().groups().iter().enumerate() {
            if plan.lasts()
                && let Err(failure) = pool.resident(group)
            {
                self.inner.report(&plan.filter.spec().name, &failure);
            }
        }
    }

    /// The worker has nothing else to do ([`RootHost::when_idle`]): makes an instance for a request to come.
    pub fn idle(&self) {
        self.inner.pool.prepare();
    }

    /// Writes down how long callbacks have taken ([`RootHost::settle_soon`]), so that everybody sees it.
    pub fn settle(&self) {
        self.inner.ledger.settle();
    }

    /// Whether a request that [begins](Self::begin) chain `id` now gets its instances.
    #[must_use]
    pub fn has_room(&self, id: ChainId) -> bool {
        self.has_room_under(Policy::default(), id)
    }

    /// The same under a policy. Filters that are suspended need no instance: the request fails at once, or goes on
    /// without them.
    #[must_use]
    pub fn has_room_under(&self, policy: Policy, id: ChainId) -> bool {
        let Inner { pool, suspensions, root, .. } = &*self.inner;
        pool.plans().chain(id).is_none_or(|chain| {
            pool.has_room(chain.steps.len(), || {
                let now = if suspensions.any() { root.monotonic_ns() } else { u64::MAX };
                chain.groups().filter(move |group| suspensions.rests(*group, now).is_none())
            }) || self.inner.refusal(policy, chain).is_some()
        })
    }

    /// The longest that a request waits for an instance; zero for not at all.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.inner.pool.stock().wait
    }

    /// `stream` waits until an instance comes free: its
    /// [`instance_free`](crate::host::StreamHost::instance_free) is called then, once.
    pub fn wait(&self, stream: &H::Stream) {
        self.inner.pool.stats().waits();
        self.wait_again(stream);
    }

    /// The same for a stream that was told of an instance and found that another one was faster.
    pub fn wait_again(&self, stream: &H::Stream) {
        self.inner.pool.wait(stream.clone());
    }

    /// A stream that was told of an instance has gone without taking it: the next one that waits is told.
    pub fn pass_on(&self) {
        self.inner.pool.pass_on();
    }

    /// A period that [`RootHost::set_tick`] was given has passed: calls the root context's `on_tick`, unless the filter
    /// is suspended, or another worker ticks for all of them ([`Plugin::singleton`](crate::plan::Plugin::singleton)).
    ///
    /// A failure has been logged; the next tick meets a new instance.
    pub fn tick(&self, root: RootId) {
        let pool = &self.inner.pool;
        let plugin = pool.plans().groups().get(root.group).and_then(|group| group.plugins.get(root.root));
        if plugin.is_some_and(|plugin| plugin.singleton && !self.inner.root.leads(plugin.claim())) {
            return;
        }
        let Ok(trial) = self.inner.admit(root.group) else { return };
        let ticked = pool.resident(root.group).and_then(|instance| {
            let entered = || Failure::new(Callback::Tick, Cause::Host("the instance was entered twice"));
            let mut instance = instance.try_borrow_mut().map_err(|_| entered())?;
            let ticked = instance.enter_root(Callback::Tick, root.root, [0; 4]);
            if ticked.is_err() {
                // Requests that live in it too have lost it.
                instance.each_stream(&mut |_, host, filter| wake::<H>(host, filter));
            }
            ticked
        });
        if let Err(failure) = ticked {
            self.inner.failed(root, None, trial, &failure);
        }
    }

    /// Begins chain `id` for the request behind `stream`: checks instances out and creates the stream contexts. A
    /// request whose filter fails does so as well.
    ///
    /// Where this fails, it has been logged, and the chain's first verdict says so.
    #[must_use]
    pub fn begin(&self, id: ChainId, stream: &H::Stream) -> Chain<H> {
        self.begin_under(Policy::default(), id, stream)
    }

    /// The same, with a policy of what becomes of the request if a filter fails.
    #[must_use]
    pub fn begin_under(&self, policy: Policy, id: ChainId, stream: &H::Stream) -> Chain<H> {
        let mut chain = Chain::new(Rc::clone(&self.inner), id, stream.clone(), policy);
        chain.create_contexts();
        chain
    }

    /// The same in `place`, where it is to stay: a chain is large to move.
    pub fn begin_in(&self, place: &mut Option<Chain<H>>, policy: Policy, id: ChainId, stream: &H::Stream) {
        place.insert(Chain::new(Rc::clone(&self.inner), id, stream.clone(), policy)).create_contexts();
    }

    /// Its instances, without the chains that use them.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn pool(&self) -> &Pool<H> {
        &self.inner.pool
    }

    /// Whether some filter of chain `id` exports `callback`.
    #[must_use]
    pub fn wants(&self, id: ChainId, callback: Callback) -> bool {
        self.inner.pool.plans().chain(id).is_some_and(|chain| chain.wants(callback))
    }
}

impl<H: Host> Inner<H> {
    /// Whether a request may run group number `group`: answers whether it does so on trial.
    ///
    /// # Errors
    /// [`Failure`] while the group is suspended.
    pub(crate) fn admit(&self, group: usize) -> Result<bool, Failure> {
        match self.suspensions.admit(group, || self.root.monotonic_ns()) {
            Admission::Run => Ok(false),
            Admission::Trial => Ok(true),
            Admission::Suspended(time) => Err(Failure::new(Callback::ContextCreate, Cause::Suspended(time))),
        }
    }

    /// The first filter of `chain` that is suspended, where a request fails for that under `policy`. Such a request is
    /// over before it has begun: none of its filters is run, nor gets an instance.
    pub(crate) fn refusal(&self, policy: Policy, chain: &ChainPlan<H>) -> Option<(usize, Failure)> {
        if !self.suspensions.any() {
            return None;
        }
        let now = self.root.monotonic_ns();
        let mut steps = chain.steps.iter().enumerate();
        let (at, time) = steps.find_map(|(at, step)| Some((at, self.suspensions.rests(step.group, now)?)))?;
        let failure = Failure::new(Callback::ContextCreate, Cause::Suspended(time));
        policy.status(&failure.cause).map(|_| (at, failure))
    }

    /// Counts a failure of group number `group`, `trial` as it was admitted; answers what the log is to say if that
    /// suspends it. Requests that wait for an instance look again then whether they still need one.
    pub(crate) fn charge(&self, group: usize, trial: bool) -> Option<String> {
        let sentence = self.suspensions.charge(group, trial, self.root.monotonic_ns());
        if sentence.is_some() {
            self.pool.stats().suspended(group);
            self.pool.call_all();
        }
        sentence
    }

    /// A request that was admitted on trial has ended well in group number `group`; answers whether that runs again from
    /// now on.
    pub(crate) fn succeed(&self, group: usize) -> bool {
        let recovered = self.suspensions.succeed(group);
        if recovered {
            self.pool.stats().recovered(group);
        }
        recovered
    }

    /// A callback of a root context has failed, outside any request or told of what `request` has asked for: counts and
    /// logs that.
    fn failed(&self, root: RootId, request: Option<&H::Stream>, trial: bool, failure: &Failure) {
        let Some(plan) = self.pool.plans().groups().get(root.group) else { return };
        if let Some(plugin) = plan.plugins.get(root.root) {
            recorder::failed(&self.metrics, plugin, failure.callback, &failure.cause);
        }
        let name = &plan.filter.spec().name;
        match request {
            Some(request) => request.log(line(name, &failure.to_string())),
            None => self.report(name, failure),
        }
        if failure.cause.is_own()
            && let Some(sentence) = self.charge(root.group, trial)
        {
            self.say(name, &sentence);
        }
    }

    /// Logs what went wrong outside any request.
    fn report(&self, filter: &str, failure: &Failure) {
        self.say(filter, &failure.to_string());
    }

    fn say(&self, filter: &str, message: &str) {
        self.root.log(line(filter, message));
    }

    pub(crate) fn take_vecs(&self) -> Vecs<H> {
        self.spares.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes the memory of a chain that has ended. Exchanged in place: a vector whose length was written a moment ago is
    /// slow to move.
    pub(crate) fn keep_vecs(&self, steps: &mut Vec<Step>, leases: &mut Vec<Lease<H>>) {
        steps.clear();
        leases.clear();
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push(Vecs::default());
            if let Some(spare) = spares.last_mut() {
                std::mem::swap(&mut spare.0, steps);
                std::mem::swap(&mut spare.1, leases);
            }
        }
    }
}

/// A line of ours about `filter`, at level error.
fn line<'a>(filter: &'a str, message: &'a str) -> LogLine<'a> {
    LogLine { level: LogLevel::Error, filter, speaker: Speaker::Weir, message: message.as_bytes() }
}
