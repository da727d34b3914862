//! What the configuration asks for, worked out in the master: filter chains, and which contexts share an instance.
//!
//! A [`Plugin`] is one `proxy_wasm` directive; a chain is the list that a location ends up with; a group
//! (`plan/group`) is a set of directives whose root contexts live in one instance, as the isolation mode says:
//!
//! | isolation | a group is | its instances |
//! |---|---|---|
//! | `none` | every directive of a module that says so | one for each worker |
//! | `stream` | the directives of a module within one chain | one for each request |
//! | `filter` | one directive | one for each request |
//! | `auto` | as `stream`, or as `none` where the directive's root context lives on after its configuration | |

mod declared;
pub(crate) mod group;

use std::sync::Arc;

use crate::{
    abi::types::LogLevel,
    engine::Engine,
    failure::{Cause, Failure},
    filter::{
        Callback, Filter, series,
        symbols::{self, Symbol},
    },
    host::{Host, LogLine, LogSink, RootHost, Speaker},
    instance::Home,
    metrics::recorder::Recorder,
    pool::image::Images,
};

pub(crate) use declared::DeclaredHere;
pub use declared::{Declaration, Declared, Undeclared};
use group::Group;

/// Which requests may share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// Weir chooses: as `stream`, unless the root context lives on after its configuration; then as `none`.
    #[default]
    Auto,
    /// All requests of a worker.
    None,
    /// No two requests; the directives of one module within a request do.
    Stream,
    /// Nothing: each directive has its own in each request.
    Filter,
}

/// One `proxy_wasm` directive.
#[derive(Debug)]
pub struct Plugin<H: Host> {
    /// The module it names.
    pub filter: Arc<Filter<H>>,
    /// Bytes that `on_configure` reads.
    pub configuration: Vec<u8>,
    /// Its root id; empty unless the configuration gives one.
    pub root_id: String,
    /// Which requests may share an instance of it.
    pub isolation: Isolation,
    /// Whether instances may begin where one was that has been configured in the master; otherwise each is configured
    /// by itself, and serves one request.
    pub snapshot: bool,
    /// Whether its root context ticks in one worker only, not in each.
    pub singleton: bool,
    /// The proxy's own number for what the filter may call where there is no request; core hands it back
    /// ([`By::rules`](crate::host::calls::By::rules)).
    pub calls: u32,
    /// Where the directive stands, `FILE:LINE`.
    pub place: String,
    /// What is counted of it.
    pub recorder: Recorder,
    /// Properties that its root context has declared.
    pub declared: Declared,
}

impl<H: Host> Plugin<H> {
    /// What workers claim of it: the same for directives of one filter with one configuration, before and after a reload.
    pub(crate) fn claim(&self) -> u64 {
        /// FNV-1a: its prime, and what it begins with.
        const PRIME: u64 = 0x0100_0000_01b3;
        const BEGIN: u64 = 0xcbf2_9ce4_8422_2325;
        let parts = [self.filter.spec().name.as_bytes(), self.root_id.as_bytes(), &self.configuration];
        let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
        bytes.fold(BEGIN, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
    }
}

/// Number of a filter chain in its [`Plans`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId(usize);

/// One filter of a chain: which group's instance, which root context in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepPlan {
    pub(crate) group: usize,
    pub(crate) root: usize,
    /// How many filters from this one on are in this instance, each under the root context after the last one's.
    pub(crate) run: usize,
}

#[derive(Debug)]
pub(crate) struct ChainPlan<H: Host> {
    plugins: Vec<Arc<Plugin<H>>>,
    pub(crate) steps: Vec<StepPlan>,
    /// Bit n: some filter exports callback n.
    wants: u64,
    /// Whether some filter's instance may be given back when the headers of requests, or of responses, have gone by.
    pub(crate) ends_early: [bool; 2],
}

impl<H: Host> ChainPlan<H> {
    pub(crate) fn wants(&self, callback: Callback) -> bool {
        self.wants & (1 << callback as u64) != 0
    }

    /// The directive of filter number `at`.
    pub(crate) fn plugin(&self, at: usize) -> Option<&Plugin<H>> {
        self.plugins.get(at).map(Arc::as_ref)
    }

    /// The groups of its filters, each once.
    pub(crate) fn groups(&self) -> impl Iterator<Item = usize> {
        let steps = self.steps.iter().enumerate();
        let first =
            steps.filter(|(at, step)| !self.steps[..*at].iter().any(|other| other.group == step.group));
        first.map(|(_, step)| step.group)
    }
}

/// A filter does not accept its configuration.
#[derive(Debug, thiserror::Error)]
#[error("filter \"{filter}\" does not accept its configuration: {reason:#}")]
pub struct Refusal {
    /// Name of the filter.
    pub filter: String,
    /// Where the directive stands, `FILE:LINE`.
    pub place: String,
    /// What it did.
    pub reason: Failure,
}

/// All chains of a configuration.
#[derive(Debug)]
pub struct Plans<H: Host> {
    groups: Vec<Group<H>>,
    chains: Vec<ChainPlan<H>>,
    /// Directives that have no isolation of their own, and whose root contexts live on.
    lasting: Vec<Arc<Plugin<H>>>,
}

impl<H: Host> Default for Plans<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Host> Plans<H> {
    /// No chains yet.
    #[must_use]
    pub fn new() -> Self {
        Self { groups: Vec::new(), chains: Vec::new(), lasting: Vec::new() }
    }

    /// Adds the chain of `plugins`, in request order. The same directives (an inherited list) give the same chain.
    pub fn add_chain(&mut self, plugins: Vec<Arc<Plugin<H>>>) -> ChainId {
        if let Some(at) = self.chains.iter().position(|chain| same(&chain.plugins, &plugins)) {
            return ChainId(at);
        }
        let mut steps: Vec<_> = plugins.iter().map(|plugin| self.step(plugin, &plugins)).collect();
        for at in (1..steps.len()).rev() {
            let (before, next) = (steps[at - 1], steps[at]);
            if before.group == next.group && before.root + 1 == next.root {
                steps[at - 1].run = next.run + 1;
            }
        }
        let ends_early = [0, 1].map(|way| steps.iter().any(|step| self.groups[step.group].ends_early[way]));
        let wants = Callback::ALL
            .iter()
            .filter(|callback| plugins.iter().any(|plugin| plugin.filter.exports(**callback)))
            .fold(0, |wants, callback| wants | 1 << *callback as u64);
        self.chains.push(ChainPlan { plugins, steps, wants, ends_early });
        ChainId(self.chains.len() - 1)
    }

    /// Whether `plugin` has been seen to live on, and Weir decides its isolation.
    fn lasts(&self, plugin: &Arc<Plugin<H>>) -> bool {
        self.lasting.iter().any(|lasting| Arc::ptr_eq(lasting, plugin))
    }

    /// The isolation of `plugin`, with `auto` decided.
    fn isolation(&self, plugin: &Arc<Plugin<H>>) -> Isolation {
        match plugin.isolation {
            Isolation::Auto if self.lasts(plugin) => Isolation::None,
            Isolation::Auto => Isolation::Stream,
            isolation => isolation,
        }
    }

    /// The group that `plugin` of the chain `all` belongs to, made if need be.
    fn step(&mut self, plugin: &Arc<Plugin<H>>, all: &[Arc<Plugin<H>>]) -> StepPlan {
        let filter = &plugin.filter;
        let isolation = self.isolation(plugin);
        let shared = isolation == Isolation::None;
        let members: Vec<_> = if isolation == Isolation::Stream {
            let is_member = |other: &&Arc<Plugin<H>>| {
                Arc::ptr_eq(&other.filter, filter)
                    && other.snapshot == plugin.snapshot
                    && self.isolation(other) == Isolation::Stream
            };
            all.iter().filter(is_member).cloned().collect()
        } else {
            vec![Arc::clone(plugin)]
        };
        let found = self.groups.iter().position(|group| {
            group.shared == shared
                && Arc::ptr_eq(&group.filter, filter)
                && if shared {
                    group.plugins.iter().all(|other| other.snapshot == plugin.snapshot)
                } else {
                    same(&group.plugins, &members)
                }
        });
        let at = found.unwrap_or_else(|| {
            self.groups.push(Group::new(Arc::clone(filter), members, shared));
            self.groups.len() - 1
        });
        let plugins = &mut self.groups[at].plugins;
        let root = plugins.iter().position(|other| Arc::ptr_eq(other, plugin)).unwrap_or_else(|| {
            plugins.push(Arc::clone(plugin));
            plugins.len() - 1
        });
        StepPlan { group: at, root, run: 1 }
    }

    /// How many instances a worker has to be allowed at least, so that a request can pass through each chain: one for each
    /// group of root contexts that live on, and those that a request has of its own.
    #[must_use]
    pub fn least_instances(&self) -> usize {
        let lasting = self.groups.iter().filter(|group| group.lasts()).count();
        let own = |chain: &ChainPlan<H>| {
            let needs = |group: &usize| self.groups.get(*group).is_some_and(|group| !group.lasts());
            chain.groups().filter(needs).count()
        };
        lasting + self.chains.iter().map(own).max().unwrap_or_default()
    }

    /// The code of all modules that chains use, for profilers.
    #[must_use]
    pub fn symbols(&self) -> Vec<Symbol> {
        let filters = self.groups.iter().map(|group| &group.filter).enumerate();
        let is_first = |at: usize, filter: &Arc<Filter<H>>| {
            !self.groups[..at].iter().any(|group| Arc::ptr_eq(&group.filter, filter))
        };
        let filters = filters.filter(|(at, filter)| is_first(*at, filter));
        let added =
            |filter: &Filter<H>| if filter.resolved().series().is_some() { series::FUNCTIONS } else { 0 };
        filters.flat_map(|(_, filter)| symbols::of(filter.pre().module(), added(filter))).collect()
    }

    /// Starts and configures an instance of every group once. What it is like then is what the group's instances begin
    /// with, in all workers; a filter that refuses its configuration is found out before any worker exists.
    ///
    /// Epochs pass meanwhile, so a filter that never returns is stopped; the thread that makes them pass has ended
    /// when this returns, since the caller forks.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub fn rehearse(&mut self, engine: &Engine, root: &H::Root) -> Result<(), Refusal> {
        let Some(first) = self.groups.first() else { return Ok(()) };
        let refusal = |group: &Group<H>, (index, reason): (Option<usize>, Failure)| {
            let filter = group.filter.spec().name.clone();
            let plugin = group.plugins.get(index.unwrap_or(0));
            let place = plugin.map(|plugin| plugin.place.clone()).unwrap_or_default();
            Refusal { filter, place, reason }
        };
        let system = |error: std::io::Error| {
            let cause = Cause::Unavailable(error.into());
            refusal(first, (None, Failure::new(Callback::Initialize, cause)))
        };
        let mut images = Images::new().map_err(system)?;
        let home = Home::rehearsal(root.clone());
        let ticker = engine.ticker().map_err(system)?;
        loop {
            let mut lasting = Vec::new();
            for group in &self.groups {
                if group.shared && group.plugins.iter().all(|plugin| self.lasts(plugin)) {
                    // Seen already, and configured again in each worker.
                    group.leave_to_workers();
                    continue;
                }
                let start = group.rehearse(&home, &mut images).map_err(|failure| refusal(group, failure))?;
                let decides = |plugin: &&Arc<Plugin<H>>| plugin.isolation == Isolation::Auto && !group.shared;
                lasting.extend(start.lasting(&group.plugins).filter(decides).cloned());
            }
            if lasting.is_empty() {
                break;
            }
            self.lasting.extend(lasting);
            self.regroup();
        }
        images.seal();
        drop(ticker);
        self.say(root);
        let metrics = root.metrics();
        for group in &self.groups {
            group.publish(&metrics);
        }
        Ok(())
    }

    /// Works the groups out again. Those that stay as they were keep what they start with.
    fn regroup(&mut self) {
        let before = std::mem::take(&mut self.groups);
        for chain in std::mem::take(&mut self.chains) {
            self.add_chain(chain.plugins);
        }
        for group in before {
            let again = self.groups.iter_mut().find(|other| {
                other.shared == group.shared
                    && Arc::ptr_eq(&other.filter, &group.filter)
                    && same(&other.plugins, &group.plugins)
            });
            if let Some(again) = again {
                again.start = group.start;
            }
        }
    }

    /// Logs what was decided of each group.
    fn say(&self, root: &H::Root) {
        for group in &self.groups {
            let Some(start) = group.start.get() else { continue };
            let places: Vec<_> = group.plugins.iter().map(|plugin| plugin.place.as_str()).collect();
            let say = |level, message: String| {
                let filter = &group.filter.spec().name;
                root.log(LogLine { level, filter, speaker: Speaker::Weir, message: message.as_bytes() });
            };
            say(LogLevel::Info, format!("{}, used in {}", start.describe(group), places.join(", ")));
            if start.drew_random() && start.is_snapshot() {
                let advice = "it drew random numbers while it was configured, which all its instances share until the \
                              next reload: if numbers that must differ between requests come from them, set \
                              \"proxy_wasm_snapshot off\"";
                say(LogLevel::Info, advice.into());
            }
        }
    }

    /// The same chains, of which nothing has been rehearsed.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn unrehearsed(&self) -> Self {
        let mut plans = Self::new();
        for chain in &self.chains {
            plans.add_chain(chain.plugins.clone());
        }
        plans
    }

    pub(crate) fn chain(&self, id: ChainId) -> Option<&ChainPlan<H>> {
        self.chains.get(id.0)
    }

    pub(crate) fn groups(&self) -> &[Group<H>] {
        &self.groups
    }
}

/// Whether two lists hold the very same directives.
fn same<H: Host>(a: &[Arc<Plugin<H>>], b: &[Arc<Plugin<H>>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}
