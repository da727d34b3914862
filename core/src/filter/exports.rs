//! What a guest exports of what Weir knows, and where it is in the module.

use wasmtime::{ExternType, FuncType, Module, ModuleExport, ValType};

use super::{Callback, inspect::Unfit, instrument, series};

/// Where one export is in the module, and its shape.
#[derive(Clone)]
pub(crate) struct Export {
    pub(crate) index: ModuleExport,
    pub(crate) returns: bool,
}

/// Everything a module exports of what [`Callback`] lists, resolved once.
pub(crate) struct Exports {
    table: Vec<Option<Export>>,
    memory: ModuleExport,
    /// The mutable globals, which [`instrument`] has made visible.
    globals: Vec<ModuleExport>,
    series: Option<Series>,
}

/// Where the functions are that call [several callbacks](series).
pub(crate) struct Series {
    pub(crate) create: Export,
    pub(crate) end: Export,
    /// Those that relay headers and bodies, in the order of [`series::RELAYED`].
    pub(crate) relays: [Export; 4],
    /// What of them runs.
    pub(crate) place: ModuleExport,
    /// Whether the callback that is relayed to is to be the last one.
    pub(crate) breaks: ModuleExport,
    /// What that has answered.
    pub(crate) action: ModuleExport,
}

impl Exports {
    /// Resolves all exports of `module` and checks their signatures. `changed` says that it is one that
    /// [`instrument`] has changed.
    pub(crate) fn resolve(module: &Module, changed: bool) -> Result<Self, Unfit> {
        let memory = module.get_export_index("memory").ok_or(Unfit::NoMemory)?;
        let mut table = Vec::with_capacity(Callback::ALL.len());
        for callback in Callback::ALL {
            table.push(resolve_one(module, *callback)?);
        }
        let globals = module
            .exports()
            .filter(|export| instrument::is_global_export(export.name()))
            .filter_map(|export| module.get_export_index(export.name()))
            .collect();
        let exports =
            Self { table, memory, globals, series: if changed { resolve_series(module) } else { None } };
        if exports.allocator().is_none() {
            return Err(Unfit::NoAllocator);
        }
        Ok(exports)
    }

    pub(crate) fn get(&self, callback: Callback) -> Option<&Export> {
        self.table.get(callback as usize)?.as_ref()
    }

    /// The allocator: the specification's, else C's.
    pub(crate) fn allocator(&self) -> Option<&Export> {
        self.get(Callback::MemoryAllocate).or_else(|| self.get(Callback::Malloc))
    }

    pub(crate) fn memory(&self) -> &ModuleExport {
        &self.memory
    }

    pub(crate) fn globals(&self) -> &[ModuleExport] {
        &self.globals
    }

    /// What [`instrument`] has added; `None` where it has not.
    pub(crate) fn series(&self) -> Option<&Series> {
        self.series.as_ref()
    }
}

fn resolve_series(module: &Module) -> Option<Series> {
    let function = |name, params, returns| {
        let Some(ExternType::Func(found)) = module.get_export(name) else { return None };
        let fits = has_shape(&found, params, returns);
        module.get_export_index(name).filter(|_| fits).map(|index| Export { index, returns })
    };
    let [request_headers, request_body, response_headers, response_body] =
        series::RELAYS.map(|name| function(name, 5, true));
    Some(Series {
        create: function(series::CREATE, 3, false)?,
        end: function(series::END, 2, true)?,
        relays: [request_headers?, request_body?, response_headers?, response_body?],
        place: module.get_export_index(series::PLACE)?,
        breaks: module.get_export_index(series::BREAK)?,
        action: module.get_export_index(series::ACTION)?,
    })
}

/// Whether a function has so many parameters, all i32, and returns one i32 or nothing.
fn has_shape(ty: &FuncType, params: usize, returns: bool) -> bool {
    ty.params().all(|ty| ty.matches(&ValType::I32))
        && ty.results().all(|ty| ty.matches(&ValType::I32))
        && ty.params().len() == params
        && ty.results().len() == usize::from(returns)
}

/// Other names that SDKs give a callback.
const OTHER_NAMES: &[(Callback, &str)] =
    &[(Callback::GrpcReceiveTrailingMetadata, "proxy_on_grpc_trailing_metadata")];

fn resolve_one(module: &Module, callback: Callback) -> Result<Option<Export>, Unfit> {
    let found = resolve_name(module, callback, callback.name())?;
    let other = OTHER_NAMES.iter().find(|(named, _)| *named == callback);
    match (found, other) {
        (None, Some((_, name))) => resolve_name(module, callback, name),
        (found, _) => Ok(found),
    }
}

fn resolve_name(module: &Module, callback: Callback, name: &str) -> Result<Option<Export>, Unfit> {
    let (Some(index), Some(ExternType::Func(found))) =
        (module.get_export_index(name), module.get_export(name))
    else {
        return Ok(None);
    };
    let fits = callback.params().iter().any(|params| has_shape(&found, *params, callback.returns()));
    match callback {
        _ if fits => Ok(Some(Export { index, returns: callback.returns() })),
        // Names that a program may use for its own purposes: another shape is not ours to call.
        Callback::Main | Callback::MainVoid | Callback::Malloc => Ok(None),
        _ => Err(Unfit::WrongSignature {
            name: name.to_owned(),
            found: signature(&found),
            expected: callback
                .params()
                .iter()
                .map(|params| {
                    let result = if callback.returns() { " -> i32" } else { "" };
                    format!("({}){result}", vec!["i32"; *params].join(", "))
                })
                .collect::<Vec<_>>()
                .join(" or "),
        }),
    }
}

/// A function's type in words.
pub(crate) fn signature(ty: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| {
        types.map(|ty| ty.to_string()).collect::<Vec<_>>().join(", ")
    };
    let params = list(&mut ty.params());
    match list(&mut ty.results()) {
        results if results.is_empty() => format!("({params})"),
        results => format!("({params}) -> {results}"),
    }
}
