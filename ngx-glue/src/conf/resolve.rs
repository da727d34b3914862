//! What is made of the configuration once all of it has been read: compiled filters, and chains that have been tried.
//!
//! All of it happens in the master (or under `nginx -t`), in `init_conf` of the core module: `wasm {}` may stand
//! before or after `http {}`, and an error here makes a reload keep the old configuration. Workers inherit the result
//! through fork and compile nothing.

use std::{collections::HashMap, fmt::Display, rc::Rc, sync::Arc};

use weir_core::{
    engine::{Engine, cache::Cache},
    filter::{Filter, FilterSpec},
    metrics::recorder::Recorder,
    plan::{Declared, Isolation, Plans, Plugin},
    shared::Shared,
};

use super::{
    calls::AllRules,
    location::{Effective, Use},
    main::{Block, CacheChoice, Declaration, Main, human},
    metrics,
    place::{self, Place},
    zones,
};
use crate::{
    host::{
        Ngx,
        root::{self, Worker},
    },
    ngx::{
        cycle::Cycle,
        log::{Level, Log},
    },
    worker::Runtime,
};

/// Filters that have been loaded, by name.
type Filters = HashMap<String, Arc<Filter<Ngx>>>;

/// What is wrong, and where.
#[derive(Debug)]
pub(crate) struct Failure {
    place: String,
    message: String,
}

impl Failure {
    pub(super) fn new(place: &Place, message: impl Display) -> Self {
        Self { place: place.to_string(), message: message.to_string() }
    }

    /// Writes it in nginx's form: `[emerg] MESSAGE in FILE:LINE`.
    pub(crate) fn log(&self, log: Log<'_>) {
        place::report(&self.place, &self.message, |line| log.write(Level::Emerg, line));
    }
}

/// Checks all names, compiles every declared filter, makes the chains of all locations and runs each plugin's start
/// and configuration once.
///
/// # Errors
/// [`Failure`], the first one found.
pub(crate) fn resolve(main: &Main, cycle: Cycle<'_>) -> Result<(), Failure> {
    let block = main.block.borrow();
    let locations = main.locations.borrow();
    let locations = || locations.iter().filter(|location| !location.uses.is_empty());
    for one in locations().flat_map(|location| &location.uses) {
        check_declared(one, block.as_ref())?;
    }
    let Some(block) = block.as_ref() else { return Ok(()) };
    let metrics = Arc::new(metrics::open(&block.metrics, cycle)?);
    // `resolve` runs once for each cycle.
    let _ = main.metrics.set(Arc::clone(&metrics));
    if block.modules.is_empty() {
        return Ok(());
    }
    let worker = Worker::new(metrics);

    let engine = engine(block)?;
    let cache = open_cache(block, cycle)?;
    let filters = load(block, &engine, &cache, &worker)?;

    let mut plans = Plans::new();
    let rules = Rc::new(AllRules::default());
    let mut plugins = Plugins { known: HashMap::new(), rules: Rc::clone(&rules) };
    let mut ids = Vec::new();
    for location in locations() {
        ids.push((location, plans.add_chain(plugins.of(location, &filters)?)));
    }
    if let Some(one) =
        locations().find(|location| location.singleton).and_then(|location| location.uses.first())
    {
        root::prepare_claims().map_err(|error| {
            Failure::new(&one.place, format_args!("workers cannot agree on which one ticks: {error}"))
        })?;
    }
    let zones = zones::open(block)?;
    // The trial takes part in the zones, and leaves them before processes are made.
    plans
        .rehearse(&engine, &worker.sharing(Shared::new(&zones)))
        .map_err(|refusal| Failure { message: refusal.to_string(), place: refusal.place })?;
    let (least, most) = (plans.least_instances(), block.settings().instances);
    if u32::try_from(least).is_ok_and(|least| least > most) {
        return Err(Failure::new(
            &block.place,
            format_args!(
                "\"instances\" {most} leaves no room for requests through all filters of a location: set {least} or more"
            ),
        ));
    }
    zones.prepare_wakes(cycle.workers()).map_err(|error| {
        Failure::new(&block.place, format_args!("workers cannot be told of messages in queues: {error}"))
    })?;
    if ids.is_empty() {
        return Ok(());
    }

    let runtime = Rc::new(Runtime::new(
        engine,
        Arc::new(plans),
        worker,
        zones,
        block.rules(),
        (block.call_settings(), rules),
        block.perf_map(),
    ));
    for (location, id) in ids {
        // Each location is in the list once, so its chain has not been set before.
        let _ = location.chain.set((id, Rc::clone(&runtime)));
    }
    // `resolve` runs once for each cycle.
    let _ = main.runtime.set(runtime);
    Ok(())
}

fn check_declared(one: &Use, block: Option<&Block>) -> Result<(), Failure> {
    let name = &one.name;
    let advice = match block {
        Some(block) if block.modules.iter().any(|module| module.name == *name) => return Ok(()),
        Some(_) => format!("add \"module {name} PATH;\" to the \"wasm\" block"),
        None => format!("add a block \"wasm {{ module {name} PATH; }}\" beside the \"http\" block"),
    };
    Err(Failure::new(&one.place, format_args!("filter \"{name}\" is not declared: {advice}")))
}

fn engine(block: &Block) -> Result<Arc<Engine>, Failure> {
    let settings = block.settings();
    let (limit, reservation) = (settings.limits.memory, settings.memory_reservation);
    if limit > reservation {
        return Err(Failure::new(
            &block.place,
            format_args!(
                "\"memory_limit\" ({}) is more than \"memory_reservation\" ({}): lower the one or raise the other",
                human(limit),
                human(reservation)
            ),
        ));
    }
    Engine::shared(&settings).map_err(|error| Failure::new(&block.place, error))
}

/// The cache that the configuration names. One that was asked for must work; the default one only should.
fn open_cache(block: &Block, cycle: Cycle<'_>) -> Result<Cache, Failure> {
    match &block.cache {
        Some((CacheChoice::Off, _)) => Ok(Cache::disabled()),
        Some((CacheChoice::Directory(path), place)) => {
            Cache::open(path).map_err(|error| Failure::new(place, error))
        }
        None => {
            let Some(path) = Main::default_cache(cycle) else { return Ok(Cache::disabled()) };
            Ok(Cache::open(&path).unwrap_or_else(|error| {
                cycle.log().write(
                    Level::Warn,
                    format_args!("weir: filters are compiled at every start, since {error}"),
                );
                Cache::disabled()
            }))
        }
    }
}

fn load(block: &Block, engine: &Arc<Engine>, cache: &Cache, worker: &Worker) -> Result<Filters, Failure> {
    let mut filters = Filters::new();
    for Declaration { name, path, configuration, vm_id, place } in &block.modules {
        let spec = FilterSpec {
            name: name.clone(),
            path: path.clone(),
            configuration: configuration.clone(),
            vm_id: vm_id.as_ref().unwrap_or(name).clone(),
            environment: block.environment.clone(),
        };
        let filter = Filter::load(engine, cache, spec, worker)
            .map_err(|error| Failure::new(place, format_args!("filter \"{name}\": {error}")))?;
        filters.insert(name.clone(), filter);
    }
    Ok(filters)
}

/// The plugins made so far. A directive that several locations inherit is one plugin, with one root context for each
/// worker; it is known by its address, since two directives that read the same are two all the same.
struct Plugins {
    known: HashMap<(*const Use, Isolation, bool, bool), Arc<Plugin<Ngx>>>,
    rules: Rc<AllRules>,
}

impl Plugins {
    /// The plugins of a location, in order.
    fn of(&mut self, location: &Effective, filters: &Filters) -> Result<Vec<Arc<Plugin<Ngx>>>, Failure> {
        location.uses.iter().map(|one| self.one(one, location, filters)).collect()
    }

    fn one(
        &mut self,
        one: &Rc<Use>,
        location: &Effective,
        filters: &Filters,
    ) -> Result<Arc<Plugin<Ngx>>, Failure> {
        let (isolation, snapshot, singleton) = (location.isolation, location.snapshot, location.singleton);
        let key = (Rc::as_ptr(one), isolation, snapshot, singleton);
        if let Some(plugin) = self.known.get(&key) {
            return Ok(Arc::clone(plugin));
        }
        let filter =
            filters.get(&one.name).ok_or_else(|| Failure::new(&one.place, "filter is not declared"))?;
        let plugin = Arc::new(Plugin {
            filter: Arc::clone(filter),
            configuration: one.configuration.clone(),
            root_id: one.root_id.clone(),
            isolation,
            snapshot,
            singleton,
            calls: self.rules.number(&location.calls),
            place: one.place.to_string(),
            recorder: Recorder::default(),
            declared: Declared::default(),
        });
        self.known.insert(key, Arc::clone(&plugin));
        Ok(plugin)
    }
}
