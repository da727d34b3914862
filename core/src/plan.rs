//! What the configuration asks for, worked out in the master: filter chains, and which contexts share an instance.
//!
//! A [`Plugin`] is one `proxy_wasm` directive; a chain is the list that a location ends up with; a group is a set of
//! directives whose root contexts live in one instance, as the isolation mode says:
//!
//! | isolation | a group is | its instances |
//! |---|---|---|
//! | `none` | every directive of a module that says so | one for each worker |
//! | `stream` | the directives of a module within one chain | one for each request |
//! | `filter` | one directive | one for each request |
//! | `auto` | as `stream` | as `stream` |

use std::sync::Arc;

use crate::{
    engine::Engine,
    failure::{Cause, Failure},
    filter::{Callback, Filter},
    host::Host,
    instance::Instance,
};

/// Which requests may share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// Weir chooses: as `stream`.
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
    /// Where the directive stands, `FILE:LINE`.
    pub place: String,
}

/// Number of a filter chain in its [`Plans`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId(usize);

/// Directives whose root contexts live in one instance.
#[derive(Debug)]
pub(crate) struct Group<H: Host> {
    pub(crate) filter: Arc<Filter<H>>,
    pub(crate) plugins: Vec<Arc<Plugin<H>>>,
    /// One instance for the worker, not one for each request.
    pub(crate) shared: bool,
}

/// One filter of a chain: which group's instance, which root context in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepPlan {
    pub(crate) group: usize,
    pub(crate) root: usize,
}

#[derive(Debug)]
pub(crate) struct ChainPlan<H: Host> {
    plugins: Vec<Arc<Plugin<H>>>,
    pub(crate) steps: Vec<StepPlan>,
    /// Bit n: some filter exports callback n.
    wants: u64,
}

impl<H: Host> ChainPlan<H> {
    pub(crate) fn wants(&self, callback: Callback) -> bool {
        self.wants & (1 << callback as u64) != 0
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
        Self { groups: Vec::new(), chains: Vec::new() }
    }

    /// Adds the chain of `plugins`, in request order. The same directives (an inherited list) give the same chain.
    pub fn add_chain(&mut self, plugins: Vec<Arc<Plugin<H>>>) -> ChainId {
        if let Some(at) = self.chains.iter().position(|chain| same(&chain.plugins, &plugins)) {
            return ChainId(at);
        }
        let steps = plugins.iter().map(|plugin| self.step(plugin, &plugins)).collect();
        let wants = Callback::ALL
            .iter()
            .filter(|callback| plugins.iter().any(|plugin| plugin.filter.exports(**callback)))
            .fold(0, |wants, callback| wants | 1 << *callback as u64);
        self.chains.push(ChainPlan { plugins, steps, wants });
        ChainId(self.chains.len() - 1)
    }

    /// The group that `plugin` of the chain `all` belongs to, made if need be.
    fn step(&mut self, plugin: &Arc<Plugin<H>>, all: &[Arc<Plugin<H>>]) -> StepPlan {
        let filter = &plugin.filter;
        let shared = plugin.isolation == Isolation::None;
        let members: Vec<_> = match plugin.isolation {
            Isolation::None | Isolation::Filter => vec![Arc::clone(plugin)],
            Isolation::Auto | Isolation::Stream => all
                .iter()
                .filter(|other| {
                    Arc::ptr_eq(&other.filter, filter)
                        && matches!(other.isolation, Isolation::Auto | Isolation::Stream)
                })
                .cloned()
                .collect(),
        };
        let found = self.groups.iter().position(|group| {
            group.shared == shared
                && Arc::ptr_eq(&group.filter, filter)
                && (shared || same(&group.plugins, &members))
        });
        let at = found.unwrap_or_else(|| {
            self.groups.push(Group { filter: Arc::clone(filter), plugins: members, shared });
            self.groups.len() - 1
        });
        let plugins = &mut self.groups[at].plugins;
        let root = plugins.iter().position(|other| Arc::ptr_eq(other, plugin)).unwrap_or_else(|| {
            plugins.push(Arc::clone(plugin));
            plugins.len() - 1
        });
        StepPlan { group: at, root }
    }

    /// Starts and configures an instance of every group once, so that a filter that refuses its configuration is
    /// found out before any worker exists.
    ///
    /// Epochs pass meanwhile, so a filter that never returns is stopped; the thread that makes them pass has ended
    /// when this returns, since the caller forks.
    ///
    /// # Errors
    /// The first [`Refusal`].
    pub fn rehearse(&self, engine: &Engine, root: &H::Root) -> Result<(), Refusal> {
        if self.groups.is_empty() {
            return Ok(());
        }
        let _ticker = engine.ticker().map_err(|error| Refusal {
            filter: self.groups.first().map(|group| group.filter.spec().name.clone()).unwrap_or_default(),
            place: String::new(),
            reason: Failure::new(Callback::Initialize, Cause::Unavailable(error.into())),
        })?;
        for group in &self.groups {
            if let Err((index, reason)) = Instance::new(&group.filter, &group.plugins, root) {
                let filter = group.filter.spec().name.clone();
                let plugin = group.plugins.get(index.unwrap_or(0));
                let place = plugin.map(|plugin| plugin.place.clone()).unwrap_or_default();
                return Err(Refusal { filter, place, reason });
            }
        }
        Ok(())
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
