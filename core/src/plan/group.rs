//! Directives whose root contexts live in one instance, and what such an instance begins with.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use super::Plugin;
use crate::{
    chain::Direction,
    failure::{Cause, Failure},
    filter::{Callback, Filter},
    host::Host,
    instance::{Home, Instance},
    metrics::{Kind, Metrics, Own, Unit},
    pool::{image::Images, snapshot::Snapshot, stats::labels, tracker::Tracking},
};

/// Directives whose root contexts live in one instance.
#[derive(Debug)]
pub(crate) struct Group<H: Host> {
    pub(crate) filter: Arc<Filter<H>>,
    pub(crate) plugins: Vec<Arc<Plugin<H>>>,
    /// One instance for the worker, not one for each request.
    pub(crate) shared: bool,
    /// What its instances begin with, once one has been configured.
    pub(crate) start: OnceLock<Start>,
    /// Whether a request's own instance has nothing left to do when the headers of requests, or of responses, have got
    /// past all filters.
    pub(crate) ends_early: [bool; 2],
}

/// What a guest may still be called for when a request's headers have gone by.
const AFTER_REQUEST_HEADERS: [Callback; 14] = [
    Callback::RequestBody,
    Callback::RequestTrailers,
    Callback::ResponseHeaders,
    Callback::ResponseBody,
    Callback::ResponseTrailers,
    Callback::HttpCallResponse,
    Callback::GrpcReceiveInitialMetadata,
    Callback::GrpcReceive,
    Callback::GrpcReceiveTrailingMetadata,
    Callback::GrpcClose,
    Callback::ForeignFunction,
    Callback::Done,
    Callback::Log,
    Callback::Delete,
];

/// What the instances of a group begin with.
#[derive(Debug)]
pub(crate) struct Start {
    beginning: Beginning,
    /// For each root context: whether it lives on after its configuration.
    lasting: Vec<bool>,
    drew_random: bool,
}

/// How an instance begins.
#[derive(Debug)]
enum Beginning {
    /// From a snapshot; it is put back so, or, with `None`, lives as long as the worker.
    Snapshot(Snapshot, Option<Tracking>),
    /// Started and configured by itself, for this reason.
    Configured(&'static str),
}

const RESET: Own<'_> = Own::new(
    Kind::Gauge,
    "weir_filter_reset",
    "Always 1: its labels say whose instances of a filter are, and how they are put back after a request.",
);

const IMAGE: Own<'_> =
    Own::new(Kind::Gauge, "weir_filter_image_bytes", "Memory that all instances of a filter begin from.")
        .of(Unit::Bytes);

/// Why an instance of the worker's has no snapshot, where its root contexts live on.
const LASTING: &str = "what its root context waits for is each worker's own";

impl<H: Host> Group<H> {
    /// A group of which nothing has been configured yet.
    pub(crate) fn new(filter: Arc<Filter<H>>, plugins: Vec<Arc<Plugin<H>>>, shared: bool) -> Self {
        let ends = |after: Direction| {
            let is_over = |callback: Callback| {
                callback == Callback::ResponseHeaders && after == Direction::Response
                    || !filter.exports(callback)
            };
            !shared && AFTER_REQUEST_HEADERS.into_iter().all(is_over)
        };
        let ends_early = [Direction::Request, Direction::Response].map(ends);
        Self { filter, plugins, shared, start: OnceLock::new(), ends_early }
    }

    /// Configures an instance, if that has not been done, and takes a snapshot of it.
    ///
    /// # Errors
    /// [`Failure`], with the index of the directive that was being configured, if any.
    pub(crate) fn rehearse(
        &self,
        home: &Home<H>,
        images: &mut Images,
    ) -> Result<&Start, (Option<usize>, Failure)> {
        if let Some(start) = self.start.get() {
            return Ok(start);
        }
        let mut instance = Instance::new(&self.filter, &self.plugins, home)?;
        let lasting: Vec<_> = (0..self.plugins.len()).map(|index| instance.root_lasts(index)).collect();
        let drew_random = instance.drew_random();
        let obstacle = if self.plugins.iter().any(|plugin| !plugin.snapshot) {
            Some("\"proxy_wasm_snapshot off\" is set")
        } else if self.shared && lasting.contains(&true) {
            Some(LASTING)
        } else {
            self.filter.obstacle()
        };
        let beginning = match obstacle {
            Some(obstacle) => Beginning::Configured(obstacle),
            None => {
                let snapshot = instance.snapshot(images).map_err(|error| (None, unavailable(error)))?;
                let tracking = self.filter.engine().settings().tracking;
                let tracking = (!self.shared).then(|| tracking.available());
                Beginning::Snapshot(snapshot, tracking)
            }
        };
        Ok(self.start.get_or_init(|| Start { beginning, lasting, drew_random }))
    }

    /// Its root contexts are known to live on: each worker configures an instance of its own.
    pub(crate) fn leave_to_workers(&self) {
        let lasting = vec![true; self.plugins.len()];
        let start = || Start { beginning: Beginning::Configured(LASTING), lasting, drew_random: false };
        self.start.get_or_init(start);
    }

    /// A new instance.
    ///
    /// # Errors
    /// [`Failure`]
    pub(crate) fn make(&self, home: &Home<H>) -> Result<Instance<H>, Failure> {
        let start = match self.start.get() {
            Some(start) => start,
            // Where nobody has rehearsed, each worker has an image of its own.
            None if !self.shared => {
                let mut images = Images::new().map_err(unavailable)?;
                self.rehearse(&Home::rehearsal(home.root.clone()), &mut images)
                    .map_err(|(_, failure)| failure)?
            }
            None => return self.configure(home),
        };
        match &start.beginning {
            Beginning::Snapshot(snapshot, tracking) => {
                Instance::begin(&self.filter, &self.plugins, home, snapshot, *tracking)
            }
            Beginning::Configured(_) => self.configure(home),
        }
    }

    /// A new instance that lives as long as the worker. Where root contexts wait for something it is configured by
    /// itself, so that they ask for it here.
    ///
    /// # Errors
    /// [`Failure`]
    pub(crate) fn make_resident(&self, home: &Home<H>) -> Result<Instance<H>, Failure> {
        if self.lasts() { self.configure(home) } else { self.make(home) }
    }

    fn configure(&self, home: &Home<H>) -> Result<Instance<H>, Failure> {
        Instance::new(&self.filter, &self.plugins, home).map_err(|(_, failure)| failure)
    }

    /// Shows in the metrics whose its instances are, how they are put back after a request and why so, and how large the
    /// image is that they begin from.
    pub(super) fn publish(&self, metrics: &Metrics) {
        let Some(start) = self.start.get() else { return };
        let (filter, directive) = labels(self);
        let instance = if self.shared { "worker" } else { "request" };
        let (tracker, reason) = match &start.beginning {
            Beginning::Configured(reason) => ("none", *reason),
            Beginning::Snapshot(_, None) => ("none", "all requests of a worker share an instance"),
            Beginning::Snapshot(_, Some(tracking)) => {
                (tracking.label(), tracking.reason(self.filter.engine().settings().tracking))
            }
        };
        let all = [
            ("filter", filter),
            ("directive", &directive),
            ("instance", instance),
            ("tracker", tracker),
            ("reason", reason),
        ];
        let publish = |own, labels, value| {
            if let Some(id) = metrics.define_own(own, labels) {
                metrics.publish(id, value);
            }
        };
        publish(&RESET, &all[..], 1);
        if let Beginning::Snapshot(snapshot, _) = &start.beginning {
            publish(&IMAGE, &all[..2], snapshot.image().bytes().len() as u64);
        }
    }

    /// Whether the worker has to have an instance of it, since a root context waits for something.
    pub(crate) fn lasts(&self) -> bool {
        self.start.get().is_some_and(|start| start.lasting.contains(&true))
    }
}

fn unavailable(error: io::Error) -> Failure {
    Failure::new(Callback::Initialize, Cause::Unavailable(error.into()))
}

impl Start {
    /// Those of `plugins`, the group's own, whose root contexts live on.
    pub(super) fn lasting<'a, H: Host>(
        &'a self,
        plugins: &'a [Arc<Plugin<H>>],
    ) -> impl Iterator<Item = &'a Arc<Plugin<H>>> {
        plugins.iter().zip(&self.lasting).filter_map(|(plugin, lasts)| lasts.then_some(plugin))
    }

    /// Whether random numbers were drawn before it was taken.
    pub(super) fn drew_random(&self) -> bool {
        self.drew_random
    }

    /// Whether instances begin from a snapshot.
    pub(super) fn is_snapshot(&self) -> bool {
        matches!(self.beginning, Beginning::Snapshot(..))
    }

    /// In words, for the log: whose instances they are, and how they begin.
    pub(super) fn describe<H: Host>(&self, group: &Group<H>) -> String {
        let whose =
            if group.shared { "one instance for each worker" } else { "an instance for each request" };
        match &self.beginning {
            Beginning::Snapshot(_, None) => format!("{whose}, begun from an image"),
            Beginning::Snapshot(_, Some(tracking)) => format!("{whose}, {}", tracking.describe()),
            Beginning::Configured(reason) => format!("{whose}, configured by itself, since {reason}"),
        }
    }
}
