//! A compiled filter: its module, what it exports, and everything it imports linked, ready to be instantiated.
//!
//! Loading happens in the master while the configuration is read. What can be wrong with a file is found here and said
//! in a sentence; a worker only instantiates.

use std::{
    fmt, fs,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use wasmtime::InstancePre;

use crate::{
    abi,
    engine::{Engine, cache::Cache, limits::MAX_MODULE_BYTES},
    host::{Host, LogLine, LogSink, RootHost, Speaker},
    instance::State,
    metrics::{Kind, Own},
};

mod callback;
mod compiled;
pub mod exports;
mod findings;
pub mod inspect;
pub(crate) mod instrument;
pub(crate) mod quota;
pub(crate) mod series;
pub mod symbols;
mod text;

pub use callback::Callback;
pub use inspect::AbiVersion;

use abi::types::LogLevel;
use compiled::Compiled;
use exports::Exports;
use instrument::{Obstacle, Segment};
use quota::Quota;

/// What the configuration says of a module (`module NAME PATH 'configuration';`).
#[derive(Debug, Clone)]
pub struct FilterSpec {
    /// Name that `proxy_wasm` refers to.
    pub name: String,
    /// The `.wasm` file, or a `.wat` one.
    pub path: PathBuf,
    /// Bytes that `on_vm_start` reads.
    pub configuration: Vec<u8>,
    /// Scope of what is shared; by default the name.
    pub vm_id: String,
    /// Variables that the guest may see through WASI.
    pub environment: Vec<(String, String)>,
}

/// Why a filter could not be loaded; each says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's text says what it means")]
pub enum LoadError {
    #[error("cannot read \"{}\": {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("\"{}\" has more than {} MiB: is it really a filter?", path.display(), MAX_MODULE_BYTES >> 20)]
    TooLarge { path: PathBuf },
    #[error("\"{}\" is not WebAssembly: its first four bytes should be \"\\0asm\", or it should be a module in the text format; give the path of a compiled .wasm file", path.display())]
    NotWasm { path: PathBuf },
    #[error("\"{}\" is no module in WebAssembly's text format: {error}", path.display())]
    Text { path: PathBuf, error: String },
    #[error("\"{}\" is a WebAssembly component, not a core module: build the filter for a target like wasm32-wasip1, not wasm32-wasip2", path.display())]
    Component { path: PathBuf },
    #[error("\"{}\" does not compile: {error:#}", path.display())]
    Compile { path: PathBuf, error: wasmtime::Error },
    #[error("\"{}\" {problem}", path.display())]
    Unfit { path: PathBuf, problem: inspect::Unfit },
    #[error("\"{}\" cannot be linked: {error:#}", path.display())]
    Link { path: PathBuf, error: wasmtime::Error },
}

/// A filter that can be instantiated.
pub struct Filter<H: Host> {
    spec: FilterSpec,
    engine: Arc<Engine>,
    compiled: Arc<Compiled>,
    pre: InstancePre<State<H>>,
    exports: Exports,
    abi_version: AbiVersion,
    panics_on_status: bool,
    is_higress: bool,
    quota: Quota,
}

impl<H: Host> Filter<H> {
    /// Reads, compiles (or takes from `cache`), inspects and links a filter. `log` hears what is worth knowing.
    ///
    /// # Errors
    /// [`LoadError`], whose text is fit for an administrator.
    pub fn load(
        engine: &Arc<Engine>,
        cache: &Cache,
        spec: FilterSpec,
        log: &H::Root,
    ) -> Result<Arc<Self>, LoadError> {
        let say = |level, message: String| {
            log.log(LogLine {
                level,
                filter: &spec.name,
                speaker: Speaker::Weir,
                message: message.as_bytes(),
            });
        };
        let wasm = read(&spec.path)?;
        let unfit = |problem| LoadError::Unfit { path: spec.path.clone(), problem };
        let (compiled, source) = compiled::get(engine, cache, &spec.path, &wasm, &say)?;
        let metrics = log.metrics();
        if let Some(loads) = metrics.define_own(&LOADS, &[("filter", &spec.name), ("source", source)]) {
            metrics.add(loads, 1);
        }
        let module = &compiled.module;
        let abi_version = AbiVersion::of(module).map_err(unfit)?;
        inspect::check(module).map_err(unfit)?;
        inspect::fits(module, &engine.settings().limits).map_err(unfit)?;
        let exports = Exports::resolve(module, compiled.findings.obstacle.is_none()).map_err(unfit)?;
        let linked = abi::link::<H>(engine.wasmtime(), module)
            .map_err(|error| LoadError::Link { path: spec.path.clone(), error })?;
        for unknown in &linked.unknown {
            say(LogLevel::Warn, format!("imports {unknown}: a call of it will end the instance"));
        }
        let pre = linked
            .linker
            .instantiate_pre(module)
            .map_err(|error| LoadError::Link { path: spec.path.clone(), error })?;
        let panics_on_status = inspect::panics_on_status(&wasm);
        let is_higress = AbiVersion::is_higress(module);
        let quota = Quota::new(engine.settings().limits.log);
        let engine = Arc::clone(engine);
        Ok(Arc::new(Self {
            spec,
            engine,
            compiled,
            pre,
            exports,
            abi_version,
            panics_on_status,
            is_higress,
            quota,
        }))
    }

    /// What the configuration says of it.
    #[must_use]
    pub fn spec(&self) -> &FilterSpec {
        &self.spec
    }

    /// The version of the ABI it was built for.
    #[must_use]
    pub fn abi_version(&self) -> AbiVersion {
        self.abi_version
    }

    /// Whether it exports `callback`.
    #[must_use]
    pub fn exports(&self, callback: Callback) -> bool {
        self.exports.get(callback).is_some()
    }

    /// Why its instances cannot begin from a snapshot, nor be put back to one; `None` when they can.
    #[must_use]
    pub fn obstacle(&self) -> Option<&'static str> {
        self.compiled.findings.obstacle.map(Obstacle::text)
    }

    /// Whether a status that its SDK does not expect would make it panic: then a refused edit answers OK, with a
    /// warning in the log.
    #[must_use]
    pub fn panics_on_status(&self) -> bool {
        self.panics_on_status
    }

    /// Whether it was surely made with the Rust SDK.
    #[must_use]
    pub fn has_rust_sdk(&self) -> bool {
        self.compiled.findings.has_rust_sdk
    }

    /// Whether it holds headers alone where it pauses with 1 from their callback: the body comes to it meanwhile.
    pub(crate) fn stops_headers_alone(&self) -> bool {
        self.is_higress
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.compiled.findings.segments
    }

    /// How many lines it still may log in this process.
    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(crate) fn resolved(&self) -> &Exports {
        &self.exports
    }

    pub(crate) fn pre(&self) -> &InstancePre<State<H>> {
        &self.pre
    }
}

impl<H: Host> fmt::Debug for Filter<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("spec", &self.spec)
            .field("abi_version", &self.abi_version)
            .finish_non_exhaustive()
    }
}

/// Reads the file, makes text binary, and tells what is not a core module by its first eight bytes.
fn read(path: &std::path::Path) -> Result<Vec<u8>, LoadError> {
    let failed = |error| LoadError::Read { path: path.to_owned(), error };
    // Opening a pipe would wait for somebody to write into it, and a device may never end.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let file = fs::File::open(path).map_err(failed)?;
    let mut wasm = Vec::new();
    file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut wasm).map_err(failed)?;
    let path = path.to_owned();
    if wasm.len() as u64 > MAX_MODULE_BYTES {
        return Err(LoadError::TooLarge { path });
    }
    if text::is_text(&wasm) {
        wasm = text::assemble(&wasm).map_err(|error| LoadError::Text { path: path.clone(), error })?;
    }
    match wasm.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Ok(wasm),
        // Component model binary format: version 13, layer 1.
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Err(LoadError::Component { path }),
        _ => Err(LoadError::NotWasm { path }),
    }
}

const LOADS: Own<'_> = Own::new(
    Kind::Counter,
    "weir_module_loads",
    "How often a module was loaded: compiled, taken from the cache, or found in use by the configuration before.",
);
