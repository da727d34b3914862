//! The zones that a configuration asks for: made, found again after a reload, carried over when their size changes.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    carry, kept,
    layout::{Kind, Layout, QUEUES},
    map::{self, Mapping},
    members::Lifelines,
    table::Eviction,
    wake::Wakes,
    zone::Zone,
};

/// Name of the zone for keys and names that name no other.
pub const DEFAULT: &str = "*";

/// Bytes of the table `*` where the configuration has none. Memory is taken as it is written.
pub const DEFAULT_TABLE: usize = 8 << 20;

/// Bytes of the queues `*` where the configuration has none.
pub const DEFAULT_QUEUES: usize = 1 << 20;

/// A table that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name: the prefix of keys, or `*`.
    pub name: String,
    /// Bytes for keys and values.
    pub size: usize,
    /// What goes when it is full.
    pub eviction: Eviction,
    /// The file that keeps it when the server has stopped.
    pub persist: Option<PathBuf>,
}

/// Queues that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuesSpec {
    /// Their name: the prefix of queues' names, or `*`.
    pub name: String,
    /// Bytes for messages.
    pub size: usize,
}

/// All zones that a configuration asks for. There is a zone `*` of either kind whether it is asked for or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZonesSpec {
    /// Tables.
    pub tables: Vec<TableSpec>,
    /// Queues.
    pub queues: Vec<QueuesSpec>,
}

/// A zone could not be made.
#[derive(Debug, thiserror::Error)]
#[error("zone \"{zone}\" {problem}")]
pub struct OpenError {
    /// Its name.
    pub zone: String,
    /// What it is for.
    pub kind: Kind,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be made: {0}")]
    Io(#[from] io::Error),
    #[error("cannot be kept in \"{}\": {error}", path.display())]
    File { path: PathBuf, error: io::Error },
}

/// One zone of this process.
#[derive(Debug)]
pub struct Region {
    name: String,
    kind: Kind,
    size: usize,
    persist: Option<PathBuf>,
    /// What numbers of its queues begin with: the same as long as a zone of this name lives.
    number: u32,
    pub(crate) eviction: Eviction,
    pub(crate) zone: Arc<Zone<Mapping>>,
    pub(crate) lifelines: Arc<Lifelines>,
    pending: Mutex<Option<Pending>>,
}

/// What a reload can take over.
static REGIONS: Mutex<Vec<Weak<Region>>> = Mutex::new(Vec::new());

/// The next number of a region.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Region {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What guests know its queue number `queue` by.
    pub(crate) fn number_of(&self, queue: u32) -> u32 {
        self.number.wrapping_mul(u32::try_from(QUEUES).unwrap_or(0)).wrapping_add(queue).wrapping_add(1)
    }

    /// Its queue that guests know by `number`.
    pub(crate) fn queue_of(&self, number: u32) -> Option<u32> {
        let queue = number.wrapping_sub(self.number_of(0));
        self.zone.has_queue(queue).then_some(queue)
    }
}

/// What has to be done before a new zone is used.
#[derive(Debug)]
pub(super) struct Pending {
    /// Where what belongs into it is.
    pub(super) zone: Arc<Zone<Mapping>>,
    pub(super) lifelines: Arc<Lifelines>,
    /// The name that its file has until then, and the one that it gets.
    pub(super) rename: Option<(PathBuf, PathBuf)>,
}

impl Pending {
    /// Does it; gives a sentence about what went wrong.
    fn finish(self, region: &Region) -> Option<String> {
        let eviction = region.eviction;
        let lost = carry::carry(
            (&self.zone, &self.lifelines),
            (&region.zone, &region.lifelines),
            region.kind,
            eviction,
        );
        if let Some((from, to)) = &self.rename
            && let Err(error) = fs::rename(from, to)
        {
            return Some(format!("cannot be kept in \"{}\": {error}", to.display()));
        }
        (lost > 0)
            .then(|| format!("has no room for {lost} entries or messages that it had before: they are gone"))
    }
}

/// Bytes for what a zone holds, and what becomes of it.
struct Wanted<'s> {
    name: &'s str,
    kind: Kind,
    size: usize,
    eviction: Eviction,
    persist: Option<&'s Path>,
}

/// The zones of one configuration.
pub struct Zones {
    tables: Vec<Arc<Region>>,
    queues: Vec<Arc<Region>>,
    wakes: OnceLock<Arc<Wakes>>,
}

impl fmt::Debug for Zones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |regions: &[Arc<Region>]| -> Vec<String> {
            regions.iter().map(|region| region.name.clone()).collect()
        };
        f.debug_struct("Zones")
            .field("tables", &names(&self.tables))
            .field("queues", &names(&self.queues))
            .finish_non_exhaustive()
    }
}

impl Zones {
    /// Makes the zones of `spec`, or takes over those of the configuration before: memory that a zone of the same name
    /// has already, whole where the size is the same, copied where it is not.
    ///
    /// # Errors
    /// [`OpenError`], whose text is fit for an administrator.
    pub fn open(spec: &ZonesSpec) -> Result<Arc<Self>, OpenError> {
        let tables = spec.tables.iter().map(|spec| Wanted {
            name: &spec.name,
            kind: Kind::Table,
            size: spec.size,
            eviction: spec.eviction,
            persist: spec.persist.as_deref(),
        });
        let queues = spec.queues.iter().map(|spec| Wanted {
            name: &spec.name,
            kind: Kind::Queues,
            size: spec.size,
            eviction: Eviction::None,
            persist: None,
        });
        Ok(Arc::new(Self {
            tables: open_all(tables.collect(), Kind::Table, DEFAULT_TABLE)?,
            queues: open_all(queues.collect(), Kind::Queues, DEFAULT_QUEUES)?,
            wakes: OnceLock::new(),
        }))
    }

    /// The configuration is good, and its processes come next: what zones of another size had goes over into the new
    /// ones, as far as there is room. Gives the names of zones where there was not, or whose file could not be put in
    /// its place, each with what happened.
    ///
    /// Until then a configuration that turns out to be bad has changed nothing.
    pub fn take_over(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        for region in self.tables.iter().chain(&self.queues) {
            let pending = region.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(problem) = pending.and_then(|pending| pending.finish(region)) {
                problems.push((region.name.clone(), problem));
            }
        }
        problems
    }

    /// Its tables, `*` first.
    #[must_use]
    pub fn tables(&self) -> &[Arc<Region>] {
        &self.tables
    }

    /// Its queues, `*` first.
    #[must_use]
    pub fn queues(&self) -> &[Arc<Region>] {
        &self.queues
    }

    /// Makes it possible that processes are woken. To be called before fork, with the number of workers.
    ///
    /// # Errors
    /// When the system has no descriptors to give.
    pub fn prepare_wakes(&self, workers: usize) -> io::Result<()> {
        let _ = self.wakes.set(Wakes::new(workers)?);
        Ok(())
    }

    pub(crate) fn wakes(&self) -> &Wakes {
        self.wakes.get_or_init(Wakes::none)
    }
}

/// Opens the zones of one kind, `*` first.
fn open_all(mut wanted: Vec<Wanted<'_>>, kind: Kind, size: usize) -> Result<Vec<Arc<Region>>, OpenError> {
    match wanted.iter().position(|one| one.name == DEFAULT) {
        Some(at) => wanted.swap(0, at),
        None => wanted
            .insert(0, Wanted { name: DEFAULT, kind, size, eviction: Eviction::default(), persist: None }),
    }
    let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
    regions.retain(|region| region.strong_count() > 0);
    wanted.iter().map(|one| open(&mut regions, one)).collect()
}

fn open(regions: &mut Vec<Weak<Region>>, wanted: &Wanted<'_>) -> Result<Arc<Region>, OpenError> {
    // The one that was made last, if a reload that failed has made some.
    let before = regions
        .iter()
        .rev()
        .filter_map(Weak::upgrade)
        .find(|region| region.kind == wanted.kind && region.name == wanted.name);
    let (zone, lifelines, pending) = match &before {
        Some(before) if before.size == wanted.size && before.persist.as_deref() == wanted.persist => {
            (Arc::clone(&before.zone), Arc::clone(&before.lifelines), None)
        }
        _ => make(wanted, before.as_deref()).map_err(|problem| OpenError {
            zone: wanted.name.to_owned(),
            kind: wanted.kind,
            problem,
        })?,
    };
    let number = before.map_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed), |before| before.number);
    let region = Arc::new(Region {
        name: wanted.name.to_owned(),
        kind: wanted.kind,
        size: wanted.size,
        persist: wanted.persist.map(Path::to_owned),
        number,
        eviction: wanted.eviction,
        zone,
        lifelines,
        pending: Mutex::new(pending),
    });
    regions.push(Arc::downgrade(&region));
    Ok(region)
}

/// A zone's memory, and what has to be done before it is used.
pub(super) type Made = (Arc<Zone<Mapping>>, Arc<Lifelines>, Option<Pending>);

fn make(wanted: &Wanted<'_>, before: Option<&Region>) -> Result<Made, Problem> {
    let layout = Layout::new(wanted.kind, wanted.size);
    let from = before.map(|before| (Arc::clone(&before.zone), Arc::clone(&before.lifelines)));
    match wanted.persist {
        None => {
            let file = map::unnamed(layout.bytes())?;
            let zone = carry::create(&file, layout, from.as_ref().map(|(zone, _)| &**zone))?;
            let pending = from.map(|(zone, lifelines)| Pending { zone, lifelines, rename: None });
            Ok((Arc::new(zone), Arc::new(Lifelines::in_file(file)), pending))
        }
        Some(path) => {
            // What the server has in memory is newer than what is in the file, if that is the file of this zone.
            let from = from.filter(|_| {
                before.is_some_and(|before| before.persist.as_deref() == Some(path) || !path.exists())
            });
            kept::open(path, layout, from).map_err(|error| Problem::File { path: path.to_owned(), error })
        }
    }
}
