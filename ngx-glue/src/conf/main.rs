//! The `wasm` block: which filters there are, and the bounds they run in. Directives are in [`crate::directives`].

use std::{
    cell::{OnceCell, RefCell},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use weir_core::{
    engine::Settings,
    metrics::Metrics,
    shard::{Rules, Stock},
};

use super::{
    Refusal, calls::CallsBlock, failure::Draft, given::Given, limits::Limits, location::Effective,
    metrics::MetricsBlock, place::Place, zones::Zone,
};
use crate::{
    ngx::{
        conf::{self, Conf},
        cycle::Cycle,
    },
    worker::Runtime,
};

/// Where compiled artefacts are kept when no `cache` directive says so, below the prefix.
const DEFAULT_CACHE: &[u8] = b"weir-cache";

/// What one cycle knows: the `wasm` block, every location that runs filters, and what was made of both.
#[derive(Debug, Default)]
pub(crate) struct Main {
    /// The `wasm` block; `None` when there is none.
    pub(crate) block: RefCell<Option<Block>>,
    /// Every location whose configuration has been merged, in the order of merging.
    pub(crate) locations: RefCell<Vec<Rc<Effective>>>,
    /// What workers run by, once the whole configuration has been read and found good.
    pub(crate) runtime: OnceCell<Rc<Runtime>>,
    /// Where this server keeps its metrics; set where there is a `wasm` block.
    pub(crate) metrics: OnceCell<Arc<Metrics>>,
}

/// The directives inside `wasm { … }`.
#[derive(Debug)]
pub(crate) struct Block {
    /// Where it begins.
    pub(crate) place: Place,
    /// Its `module` directives.
    pub(crate) modules: Vec<Declaration>,
    /// Variables that guests see.
    pub(crate) environment: Vec<(String, String)>,
    /// Where compiled artefacts are kept, and the directive that says so.
    pub(crate) cache: Option<(CacheChoice, Place)>,
    /// `instances`: how many, and how they are kept.
    pub(super) instances: Option<(u32, Stock)>,
    /// What its block `metrics` says.
    pub(crate) metrics: MetricsBlock,
    /// Zones that filters share.
    pub(crate) zones: Vec<Zone>,
    /// Whether workers write down where guests' functions are.
    pub(super) perf_map: Option<bool>,
    /// Bounds of guests.
    pub(super) limits: Limits,
    /// What is said of calls out.
    pub(super) calls: CallsBlock,
    /// What is done about filters that misbehave.
    pub(super) failure: Draft,
}

/// One `module NAME PATH ['configuration'];`.
#[derive(Debug)]
pub(crate) struct Declaration {
    /// What `proxy_wasm` calls it.
    pub(crate) name: String,
    /// Its file.
    pub(crate) path: PathBuf,
    /// What `on_vm_start` can read.
    pub(crate) configuration: Vec<u8>,
    /// Scope of what it shares, if it is not its name.
    pub(crate) vm_id: Option<String>,
    /// Where it is declared.
    pub(crate) place: Place,
}

/// The argument of `cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheChoice {
    /// `cache off`.
    Off,
    /// `cache PATH`, a full path.
    Directory(PathBuf),
}

impl Block {
    fn new(place: Place) -> Self {
        Self {
            place,
            modules: Vec::new(),
            environment: Vec::new(),
            cache: None,
            instances: None,
            metrics: MetricsBlock::default(),
            zones: Vec::new(),
            perf_map: None,
            limits: Limits::default(),
            calls: CallsBlock::default(),
            failure: Draft::default(),
        }
    }

    /// What a worker goes by.
    pub(crate) fn rules(&self) -> Rules {
        let stock = self.instances.map(|(_, stock)| stock).unwrap_or_default();
        Rules { budget: self.failure.budget(), stock }
    }

    /// Whether workers write down where guests' functions are, for profilers.
    pub(crate) fn perf_map(&self) -> bool {
        self.perf_map.unwrap_or(false)
    }

    /// What the engine is made with.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        set(&mut settings.instances, self.instances.map(|(most, _)| most));
        self.limits.apply(&mut settings);
        self.calls.apply(&mut settings.limits);
        settings
    }
}

pub(super) fn set<T: Copy>(target: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *target = value;
    }
}

impl Main {
    /// `wasm { … }`
    pub(crate) fn wasm(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        if main.block.borrow().is_some() {
            return Err(Refusal::duplicate("wasm"));
        }
        main.block.replace(Some(Block::new(conf.place())));
        // Nothing of `main` is borrowed while nginx calls the handlers of the directives inside.
        if !conf.parse_block(crate::directives::WASM_CONTEXT) {
            return Err(Refusal::Logged);
        }
        main.begin_tls(conf)
    }

    /// Lends the block that is being read.
    pub(super) fn with_block(
        &self,
        edit: impl FnOnce(&mut Block) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        match self.block.borrow_mut().as_mut() {
            Some(block) => edit(block),
            None => Err(String::from("this directive belongs into the \"wasm\" block").into()),
        }
    }

    /// `module NAME PATH ['configuration' [file=PATH]];`
    pub(crate) fn module(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let name = filter_name(conf.argument(0))?;
        if name == "off" {
            return Err(
                "a module cannot be called \"off\", since \"proxy_wasm off\" means none: choose another name"
                    .to_owned()
                    .into(),
            );
        }
        let path = conf.cycle().full_path(conf.argument(1)).ok_or(Refusal::Logged)?;
        let Given { configuration, root_id, vm_id } = Given::read(conf, 2)?;
        if !root_id.is_empty() {
            return Err("\"root_id=\" belongs to \"proxy_wasm\": a module has several".to_owned().into());
        }
        let place = conf.place();
        main.with_block(|block| {
            if let Some(first) = block.modules.iter().find(|module| module.name == name) {
                let first = &first.place;
                return Err(format!(
                    "module \"{name}\" is declared twice (first in {first}): remove one, or give it another name"
                )
                .into());
            }
            block.modules.push(Declaration { name, path, configuration, vm_id, place });
            Ok(())
        })
    }

    /// `cache PATH | off;`
    pub(crate) fn cache(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let choice = match conf.argument(0) {
            b"off" => CacheChoice::Off,
            path => CacheChoice::Directory(conf.cycle().full_path(path).ok_or(Refusal::Logged)?),
        };
        let place = conf.place();
        main.with_block(|block| once("cache", &mut block.cache, (choice, place)))
    }

    /// `perf_map on | off;`
    pub(crate) fn perf_map(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = match conf.argument(0) {
            b"on" => true,
            b"off" => false,
            other => return Err(invalid("perf_map", other, "\"on\" or \"off\"")),
        };
        main.with_block(|block| once("perf_map", &mut block.perf_map, value))
    }

    /// `environment NAME=VALUE;` or `environment NAME;`
    pub(crate) fn environment(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let text = text("environment", conf.argument(0))?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, std::env::var_os(text).map(|value| value.to_string_lossy().into_owned())),
        };
        if name.is_empty() || name.contains('\0') {
            return Err(format!(
                "invalid value \"{text}\" in \"environment\" directive: it must be NAME or NAME=VALUE"
            )
            .into());
        }
        main.with_block(|block| {
            if block.environment.iter().any(|(known, _)| known == name) {
                return Err(format!("\"environment\" directive for \"{name}\" is duplicate").into());
            }
            // As with nginx's own `env`: what nginx does not have itself is not there for guests either.
            block.environment.extend(value.map(|value| (name.to_owned(), value)));
            Ok(())
        })
    }

    /// Where compiled artefacts are kept by default.
    pub(crate) fn default_cache(cycle: Cycle<'_>) -> Option<PathBuf> {
        cycle.full_path(DEFAULT_CACHE)
    }
}

pub(super) fn once<T>(name: &str, slot: &mut Option<T>, value: T) -> Result<(), Refusal> {
    if slot.is_some() {
        return Err(Refusal::duplicate(name));
    }
    *slot = Some(value);
    Ok(())
}

/// A filter's name as both `module` and `proxy_wasm` take it.
pub(crate) fn filter_name(bytes: &[u8]) -> Result<String, Refusal> {
    match str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && !name.contains(char::is_control) => Ok(name.to_owned()),
        _ => Err("a filter's name must be UTF-8 text, not empty and without control characters"
            .to_owned()
            .into()),
    }
}

pub(super) fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Refusal> {
    str::from_utf8(bytes)
        .map_err(|_| format!("invalid value in \"{name}\" directive: it must be UTF-8 text").into())
}

pub(super) fn number<N: TryFrom<u64>>(name: &str, bytes: &[u8], least: u64, most: u64) -> Result<N, Refusal> {
    let value = str::from_utf8(bytes).ok().and_then(|text| text.parse::<u64>().ok());
    let value =
        value.filter(|value| (least..=most).contains(value)).and_then(|value| N::try_from(value).ok());
    value.ok_or_else(|| invalid(name, bytes, &format!("a number from {least} to {most}")))
}

pub(super) fn size(name: &str, bytes: &[u8], least: usize, most: usize) -> Result<usize, Refusal> {
    let value = conf::size(bytes).filter(|value| (least..=most).contains(value));
    value.ok_or_else(|| invalid(name, bytes, &format!("a size from {} to {}", human(least), human(most))))
}

/// Bytes in the largest unit of nginx's that they are a whole number of.
pub(super) fn human(bytes: usize) -> String {
    let units = [(30, "g"), (20, "m"), (10, "k")];
    let unit = units.iter().find(|(shift, _)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

pub(super) fn time(name: &str, bytes: &[u8]) -> Result<Duration, Refusal> {
    let value = conf::milliseconds(bytes).filter(|value| (1..=3_600_000).contains(value));
    let value = value.map(Duration::from_millis);
    value.ok_or_else(|| invalid(name, bytes, "a time from 1ms to 1h, like \"50ms\""))
}

pub(super) fn invalid(name: &str, bytes: &[u8], expected: &str) -> Refusal {
    let given = String::from_utf8_lossy(bytes);
    Refusal::Sentence(format!("invalid value \"{given}\" in \"{name}\" directive: it must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::{filter_name, human, number};

    #[test]
    fn sizes_are_shown_as_nginx_writes_them() {
        assert_eq!(human(0), "0");
        assert_eq!(human(1), "1");
        assert_eq!(human(64 << 10), "64k");
        assert_eq!(human((64 << 10) + 1), "65537");
        assert_eq!(human(3 << 20), "3m");
        assert_eq!(human(4 << 30), "4g");
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(number::<u32>("n", b"7", 1, 7).ok(), Some(7));
        for bad in [&b"0"[..], b"8", b"-1", b"", b"7k", b"99999999999999999999", b"\xff"] {
            assert!(number::<u32>("n", bad, 1, 7).is_err());
        }
    }

    #[test]
    fn names_are_text() {
        assert_eq!(filter_name("größe".as_bytes()).ok().as_deref(), Some("größe"));
        for bad in [&b""[..], b"a\nb", b"\xff"] {
            assert!(filter_name(bad).is_err());
        }
    }
}
