//! From a module's bytes to native code: one that this process has in use, an artefact of the cache, or made now.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use wasmtime::Module;

use super::{
    LoadError,
    findings::{self, Findings},
    inspect, instrument,
};
use crate::{
    abi::types::LogLevel,
    engine::{
        Engine,
        cache::{Cache, Key, Rejected},
    },
};

/// A module, and what is known of it; filters with the same bytes and settings share one, also across a reload.
pub(super) struct Compiled {
    key: Key,
    pub(super) module: Module,
    pub(super) findings: Findings,
}

/// Compiled modules of this process that are still in use.
static MODULES: Mutex<Vec<Weak<Compiled>>> = Mutex::new(Vec::new());

/// The compiled module of `wasm`, which was read from `path`, and a word for where it comes from.
///
/// # Errors
/// [`LoadError`] when it does not compile.
pub(super) fn get(
    engine: &Arc<Engine>,
    cache: &Cache,
    path: &Path,
    wasm: &[u8],
    say: &dyn Fn(LogLevel, String),
) -> Result<(Arc<Compiled>, &'static str), LoadError> {
    let key = Key::new(engine, &findings::MADE_BY, wasm);
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    modules.retain(|module| module.strong_count() > 0);
    let in_use = modules
        .iter()
        .filter_map(Weak::upgrade)
        .find(|found| found.key == key && wasmtime::Engine::same(found.module.engine(), engine.wasmtime()));
    if let Some(found) = in_use {
        say(LogLevel::Info, "compiled module is in use already and is shared".into());
        return Ok((found, "in_use"));
    }
    let (module, findings, source) = match stored(engine, cache, key, say) {
        Some((module, findings)) => (module, findings, "cache"),
        None => {
            let (module, findings) = make(engine, cache, key, path, wasm, say)?;
            (module, findings, "compiled")
        }
    };
    // Made here, before fork, so that all workers share the pages.
    module
        .initialize_copy_on_write_image()
        .map_err(|error| LoadError::Compile { path: path.to_owned(), error })?;
    let compiled = Arc::new(Compiled { key, module, findings });
    modules.push(Arc::downgrade(&compiled));
    Ok((compiled, source))
}

/// What the cache has under `key`.
fn stored(
    engine: &Engine,
    cache: &Cache,
    key: Key,
    say: &dyn Fn(LogLevel, String),
) -> Option<(Module, Findings)> {
    let stored = cache.load(key).unwrap_or_else(|rejected| {
        let fate = if matches!(rejected, Rejected::Io(_)) { "is ignored" } else { "was thrown away" };
        say(LogLevel::Warn, format!("stored artefact {fate} and is made anew: {rejected}"));
        None
    })?;
    let Some((findings, code)) = Findings::read(&stored) else {
        say(LogLevel::Warn, "stored artefact is none of this Weir's and is made anew".into());
        return None;
    };
    match artefact::load(engine.wasmtime(), code) {
        Ok(module) => {
            say(LogLevel::Info, "compiled module taken from the cache".into());
            Some((module, findings))
        }
        Err(error) => {
            say(
                LogLevel::Warn,
                format!("stored artefact does not fit this wasmtime and is made anew: {error:#}"),
            );
            None
        }
    }
}

/// Compiles `wasm`, and puts the result into the cache.
fn make(
    engine: &Engine,
    cache: &Cache,
    key: Key,
    path: &Path,
    wasm: &[u8],
    say: &dyn Fn(LogLevel, String),
) -> Result<(Module, Findings), LoadError> {
    if instrument::is_anticipated(wasm) {
        return Err(LoadError::Unfit { path: path.to_owned(), problem: inspect::Unfit::Reserved });
    }
    let failed = |error| LoadError::Compile { path: path.to_owned(), error };
    let start = Instant::now();
    // Before anything is added: what refers to nothing of its own might refer to that.
    Module::validate(engine.wasmtime(), wasm).map_err(failed)?;
    let instrumented = instrument::instrument(wasm);
    let module = Module::from_binary(engine.wasmtime(), &instrumented.wasm).map_err(failed)?;
    say(LogLevel::Info, format!("module compiled in {} ms", start.elapsed().as_millis()));
    let findings = Findings::new(wasm, instrumented);
    let code = module.serialize().map_err(failed)?;
    if let Some(artefact) = findings.write(&code)
        && let Err(error) = cache.store(key, &artefact)
    {
        say(LogLevel::Warn, format!("compiled module could not be stored in the cache: {error}"));
    }
    Ok((module, findings))
}

/// The one place where stored native code becomes a module.
#[allow(unsafe_code, reason = "loading an artefact is trusting native code")]
mod artefact {
    use wasmtime::{Engine, Module, Result};

    /// A module from an artefact that [`Cache::load`](crate::engine::cache::Cache::load) has verified.
    pub(super) fn load(engine: &Engine, artefact: &[u8]) -> Result<Module> {
        // SAFETY: `artefact` was written by `Cache::store` from `Module::serialize`: the cache checks that file and
        // directory belong to the user we run as, that nobody else can write them, and the payload's SHA-256.
        // wasmtime checks its own version and settings.
        unsafe { Module::deserialize(engine, artefact) }
    }
}
