//! The block `metrics { … }` inside `wasm { … }`: where metrics are kept, and how.

use std::path::PathBuf;

use weir_core::metrics::{LEAST_SIZE, Metrics, Options, Origin, Timing, tags::TagRule};

use super::{
    Refusal,
    main::{Main, human, invalid, number, once, size, text},
    place::Place,
    resolve::Failure,
};
use crate::ngx::{
    conf::Conf,
    cycle::{self, Cycle},
    log::Level,
};

/// Where metrics are kept when no `path` says so, below the prefix.
const DEFAULT_PATH: &[u8] = b"weir-metrics";

/// Smallest `slab_size`: what ngx_wasm_module takes, too. Less than [`LEAST_SIZE`] becomes that.
const LEAST_GIVEN: usize = 12 << 10;

/// Largest `slab_size`.
const MOST_SIZE: usize = 4 << 30;

/// The directives inside `metrics { … }`; `None` where the default stands.
#[derive(Debug, Default)]
pub(crate) struct MetricsBlock {
    /// Where it begins.
    place: Option<Place>,
    /// `path`: the file, or none for `off`.
    path: Option<(Option<PathBuf>, Place)>,
    size: Option<usize>,
    name_length: Option<usize>,
    callbacks: Option<Timing>,
    tags: Vec<TagRule>,
}

impl MetricsBlock {
    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            size: self.size.unwrap_or(default.size),
            name_length: self.name_length.unwrap_or(default.name_length),
            callbacks: self.callbacks.unwrap_or(default.callbacks),
            tags: self.tags.clone(),
        }
    }
}

impl Main {
    /// `metrics { … }`
    pub(crate) fn metrics(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let place = conf.place();
        main.with_block(|block| once("metrics", &mut block.metrics.place, place))?;
        // Nothing of `main` is borrowed while nginx calls the handlers of the directives inside.
        if conf.parse_block(crate::directives::METRICS_CONTEXT) { Ok(()) } else { Err(Refusal::Logged) }
    }

    /// `path FILE | off;`
    pub(crate) fn metrics_path(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let path = match conf.argument(0) {
            b"off" => None,
            path => Some(conf.cycle().full_path(path).ok_or(Refusal::Logged)?),
        };
        let place = conf.place();
        main.with_block(|block| once("path", &mut block.metrics.path, (path, place)))
    }

    /// `slab_size SIZE;`
    pub(crate) fn slab_size(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let mut value = size("slab_size", conf.argument(0), LEAST_GIVEN, MOST_SIZE)?;
        if value < LEAST_SIZE {
            conf.warn(&format!(
                "\"slab_size\" is {}: {} is the least that metrics need",
                human(value),
                human(LEAST_SIZE)
            ));
            value = LEAST_SIZE;
        }
        main.with_block(|block| once("slab_size", &mut block.metrics.size, value))
    }

    /// `max_metric_name_length NUMBER;`
    pub(crate) fn max_metric_name_length(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = number("max_metric_name_length", conf.argument(0), 6, 4096)?;
        main.with_block(|block| once("max_metric_name_length", &mut block.metrics.name_length, value))
    }

    /// `callbacks on | all | off;`
    pub(crate) fn metrics_callbacks(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = match conf.argument(0) {
            b"on" => Timing::Sampled,
            b"all" => Timing::All,
            b"off" => Timing::Off,
            other => return Err(invalid("callbacks", other, "\"on\", \"all\" or \"off\"")),
        };
        main.with_block(|block| once("callbacks", &mut block.metrics.callbacks, value))
    }

    /// `tag NAME REGEX;`
    pub(crate) fn metrics_tag(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let rule = TagRule::new(text("tag", conf.argument(0))?, text("tag", conf.argument(1))?)?;
        main.with_block(|block| {
            block.metrics.tags.push(rule);
            Ok(())
        })
    }
}

/// Opens what `block` says. A file that was asked for must work; the default one only should.
///
/// # Errors
/// [`Failure`], for a file that was asked for.
pub(super) fn open(block: &MetricsBlock, cycle: Cycle<'_>) -> Result<Metrics, Failure> {
    let path = match &block.path {
        Some((path, _)) => path.clone(),
        None => cycle.full_path(DEFAULT_PATH),
    };
    let nameless = || {
        Metrics::nameless(block.options()).map_err(|error| {
            let place = block.place.clone().unwrap_or_else(Place::command_line);
            Failure::new(&place, format_args!("there is no memory for metrics: {error}"))
        })
    };
    let Some(path) = path else { return nameless() };
    // A test of a configuration leaves the metrics of the running server alone.
    let opened = if cycle::is_test() {
        Metrics::check(&path).map(|()| None)
    } else {
        Metrics::open(&path, block.options()).map(Some)
    };
    match (opened, &block.path) {
        (Ok(Some((metrics, origin))), _) => {
            let (_, size) = metrics.usage();
            if origin == Origin::Joined && block.options().size as u64 + 64 <= size {
                cycle.log().write(
                    Level::Warn,
                    format_args!(
                        "weir: the file for metrics keeps its {size} bytes, since it is in use: a smaller \
                         \"slab_size\" is for the next start"
                    ),
                );
            }
            Ok(metrics)
        }
        (Ok(None), _) => nameless(),
        (Err(error), Some((_, place))) => Err(Failure::new(place, error)),
        (Err(error), None) => {
            cycle.log().write(
                Level::Warn,
                format_args!("weir: metrics are in no file, and end with this server, since weir {error}"),
            );
            nameless()
        }
    }
}
