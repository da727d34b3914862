//! Functions that are added to a module: each calls several callbacks of the guest in a row, so that it is entered once.
//!
//! Entering a guest takes longer than most callbacks do. Those that begin or end a context need nothing from the proxy in
//! between, and headers and bodies that a filter lets pass as they are need nothing either. What is called is noted in a global,
//! where the host looks when the guest asks it for something.
//!
//! ```text
//!  create(context, root, count)      on_context_create(context, root), (context + 1, root + 1), …
//!  end(context, count) -> ended      on_done(context), on_log(context), on_delete(context), then those of context + 1, …
//!                                    until an on_done answers false: so many have ended
//!  relay(context, step, count, a, b) -> ran
//!                                    on_request_headers(context, a, b), (context + step, a, b), … until one answers anything
//!                                    but 0, or the host has set BREAK meanwhile: so many have run; -ran, and the answer in
//!                                    ACTION, where the last one has not answered 0. One such function for each of RELAYED
//! ```

use wasm_encoder::{
    CodeSection, ConstExpr, Encode, ExportKind, ExportSection, FunctionSection, GlobalSection, GlobalType,
    SectionId, TypeSection, ValType,
};
use wasmparser::{BinaryReader, CompositeInnerType, ExternalKind, Parser, Payload, TypeRef};

use super::Callback;

mod bodies;

/// Name that the function which creates contexts is exported under.
pub(super) const CREATE: &str = "weir\0create";

/// Name that the function which ends contexts is exported under.
pub(super) const END: &str = "weir\0end";

/// The callbacks that headers and bodies are relayed by, in the order of [`RELAYS`].
pub(crate) const RELAYED: [Callback; 4] =
    [Callback::RequestHeaders, Callback::RequestBody, Callback::ResponseHeaders, Callback::ResponseBody];

/// Names that the functions are exported under which relay headers and bodies.
pub(super) const RELAYS: [&str; 4] =
    ["weir\0request_headers", "weir\0request_body", "weir\0response_headers", "weir\0response_body"];

/// How many functions are added, behind those of the module.
pub(crate) const FUNCTIONS: usize = 2 + RELAYS.len();

/// Name that the global is exported under: 0, or [`Place::raw`] of what runs.
pub(super) const PLACE: &str = "weir\0place";

/// Name of the global that the host sets to anything but 0 where the callback that is relayed to is to be the last one.
pub(super) const BREAK: &str = "weir\0break";

/// Name of the global that has what the last callback has answered, if it is not 0.
pub(super) const ACTION: &str = "weir\0action";

/// The callbacks of a series, by the lowest bits of the global: those that end contexts, the one that creates them, [`RELAYED`].
const CALLBACKS: [Callback; 8] = [
    Callback::Done,
    Callback::Log,
    Callback::Delete,
    Callback::ContextCreate,
    Callback::RequestHeaders,
    Callback::RequestBody,
    Callback::ResponseHeaders,
    Callback::ResponseBody,
];

/// Where in [`CALLBACKS`] those are that are relayed to.
const FIRST_RELAYED: usize = 4;

/// How many bits tell the callback.
const BITS: u32 = 3;

/// Which callback of a series runs, of which context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) context: u32,
    pub(crate) callback: Callback,
}

impl Place {
    /// What the global has: the context's number, which is never 0, and the callback's number below it.
    pub(crate) fn raw(self) -> i64 {
        let at = CALLBACKS.iter().position(|callback| *callback == self.callback).unwrap_or_default();
        (i64::from(self.context) << BITS) | i64::try_from(at).unwrap_or_default()
    }

    /// What that means; `None` where none runs yet.
    pub(crate) fn of(raw: i64) -> Option<Self> {
        let context = u32::try_from(raw >> BITS).ok().filter(|context| *context != 0)?;
        let at = usize::try_from(raw & ((1 << BITS) - 1)).ok()?;
        Some(Self { context, callback: *CALLBACKS.get(at)? })
    }
}

/// Numbers of what is added to a module, and of what that calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Added {
    /// How many types, functions and globals the module has: the numbers of the first ones that are added.
    types: u32,
    functions: u32,
    globals: u32,
    /// It has a section of globals, which the new one is added to.
    has_globals: bool,
    /// The guest's callbacks, in the order of [`CALLBACKS`]: numbers of function, and how many parameters each has.
    callbacks: [Option<(u32, usize)>; CALLBACKS.len()],
}

impl Added {
    /// What is to be added to `wasm`; `None` where it exports none of the callbacks, or one of another type.
    pub(super) fn to(wasm: &[u8]) -> Option<Self> {
        let mut shapes = Vec::new();
        let mut functions: Vec<u32> = Vec::new();
        let (mut globals, mut has_globals, mut has_code) = (0, false, false);
        let mut callbacks = [None; CALLBACKS.len()];
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.ok()? {
                Payload::TypeSection(types) => {
                    for group in types {
                        shapes.extend(group.ok()?.into_types().map(|ty| shape(&ty)));
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import.ok()?.ty {
                            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => functions.push(ty),
                            TypeRef::Global(_) => globals += 1,
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        functions.push(ty.ok()?);
                    }
                }
                Payload::GlobalSection(section) => {
                    has_globals = true;
                    globals += section.count();
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export.ok()?;
                        let named = CALLBACKS.iter().position(|callback| callback.name() == export.name);
                        let Some(at) = named.filter(|_| export.kind == ExternalKind::Func) else { continue };
                        let ty = *functions.get(usize::try_from(export.index).ok()?)?;
                        let (params, results) = (*shapes.get(usize::try_from(ty).ok()?)?)?;
                        let callback = CALLBACKS[at];
                        if !callback.params().contains(&params) || results != usize::from(callback.returns())
                        {
                            return None;
                        }
                        callbacks[at] = Some((export.index, params));
                    }
                }
                Payload::CodeSectionStart { .. } => has_code = true,
                _ => {}
            }
        }
        let (types, functions) = (u32::try_from(shapes.len()).ok()?, u32::try_from(functions.len()).ok()?);
        let is_of_use = has_code && callbacks.iter().any(Option::is_some);
        is_of_use.then_some(Self { types, functions, globals, has_globals, callbacks })
    }

    /// Section number `id` of the module, of these `contents`, with what belongs there added; `None` where nothing does.
    pub(super) fn section(&self, id: u8, contents: &[u8]) -> Option<Vec<u8>> {
        let is = |section: SectionId| section as u8 == id;
        if is(SectionId::Type) {
            let mut types = TypeSection::new();
            types.ty().function([ValType::I32; 3], []);
            types.ty().function([ValType::I32; 2], [ValType::I32]);
            types.ty().function([ValType::I32; 5], [ValType::I32]);
            extended(contents, types.len(), &types)
        } else if is(SectionId::Function) {
            let mut functions = FunctionSection::new();
            functions.function(self.types).function(self.types + 1);
            RELAYS.iter().for_each(|_| _ = functions.function(self.types + 2));
            extended(contents, functions.len(), &functions)
        } else if is(SectionId::Global) {
            let globals = Self::globals();
            extended(contents, globals.len(), &globals)
        } else if is(SectionId::Code) {
            let mut code = CodeSection::new();
            code.function(&self.create()).function(&self.end());
            (FIRST_RELAYED..CALLBACKS.len()).for_each(|at| _ = code.function(&self.relay(at)));
            extended(contents, code.len(), &code)
        } else {
            None
        }
    }

    /// The section of globals for a module that has none: it comes before its exports.
    pub(super) fn missing_globals(&self) -> Option<GlobalSection> {
        (!self.has_globals).then(Self::globals)
    }

    fn globals() -> GlobalSection {
        let mut globals = GlobalSection::new();
        let ty = |val_type| GlobalType { val_type, mutable: true, shared: false };
        globals.global(ty(ValType::I64), &ConstExpr::i64_const(0));
        // BREAK, ACTION
        globals.global(ty(ValType::I32), &ConstExpr::i32_const(0));
        globals.global(ty(ValType::I32), &ConstExpr::i32_const(0));
        globals
    }

    /// Exports what is added.
    pub(super) fn export(&self, exports: &mut ExportSection) {
        exports.export(CREATE, ExportKind::Func, self.functions);
        exports.export(END, ExportKind::Func, self.functions + 1);
        for (number, name) in (self.functions + 2..).zip(RELAYS) {
            exports.export(name, ExportKind::Func, number);
        }
        for (number, name) in (self.globals..).zip([PLACE, BREAK, ACTION]) {
            exports.export(name, ExportKind::Global, number);
        }
    }
}

/// How many parameters and results a function has, all of them i32; `None` for any other type.
fn shape(ty: &wasmparser::SubType) -> Option<(usize, usize)> {
    let CompositeInnerType::Func(func) = &ty.composite_type.inner else { return None };
    let all = func.params().iter().chain(func.results()).all(|ty| *ty == wasmparser::ValType::I32);
    all.then(|| (func.params().len(), func.results().len()))
}

/// A vector of `contents` with the `count` items of `added` behind its own.
fn extended(contents: &[u8], count: u32, added: &impl Encode) -> Option<Vec<u8>> {
    let mut section = Vec::new();
    added.encode(&mut section);
    // Its length in bytes and in items come first.
    let mut reader = BinaryReader::new(&section, 0);
    reader.read_var_u32().ok()?;
    reader.read_var_u32().ok()?;
    let items = section.get(reader.original_position()..)?;
    let mut reader = BinaryReader::new(contents, 0);
    let before = reader.read_var_u32().ok()?;
    let mut all = Vec::with_capacity(contents.len() + items.len() + 5);
    before.checked_add(count)?.encode(&mut all);
    all.extend_from_slice(contents.get(reader.original_position()..)?);
    all.extend_from_slice(items);
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::{Added, CALLBACKS, CREATE, END, PLACE, Place, RELAYS};
    use crate::filter::instrument::instrument;

    fn text(wat: &str) -> Vec<u8> {
        wat::parse_str(wat).expect("well-formed")
    }

    #[test]
    fn places_are_numbers() {
        for callback in CALLBACKS {
            for context in [1, 2, 0x8000_0000, u32::MAX] {
                let place = Place { context, callback };
                assert_eq!(Place::of(place.raw()), Some(place));
            }
        }
        for nothing in [0, 3, -1, i64::MIN, i64::MAX] {
            assert_eq!(Place::of(nothing), None, "{nothing}");
        }
    }

    /// Runs a series of a module that notes what it is called with as digits: callback and context.
    fn run(wat: &str, name: &str, params: &[i32]) -> (i64, Option<i32>, i64) {
        let wasm = instrument(&text(wat)).wasm.into_owned();
        let engine = wasmtime::Engine::default();
        let mut store = wasmtime::Store::new(&engine, ());
        let module = wasmtime::Module::new(&engine, &wasm).expect("valid");
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).expect("made");
        let func = instance.get_func(&mut store, name).expect("added");
        let params: Vec<_> = params.iter().map(|param| wasmtime::Val::I32(*param)).collect();
        let mut results = vec![wasmtime::Val::I32(0); func.ty(&store).results().len()];
        func.call(&mut store, &params, &mut results).expect("runs");
        let mut global = |name| {
            let global = instance.get_global(&mut store, name).expect("exported");
            global.get(&mut store).unwrap_i64()
        };
        (global("noted"), results.first().map(wasmtime::Val::unwrap_i32), global(PLACE))
    }

    const NOTES: &str = r#"
        (global $noted (export "noted") (mut i64) (i64.const 0))
        (func $note (param $digit i32) (param $context i32)
            (global.set $noted (i64.add (i64.mul (global.get $noted) (i64.const 100))
                (i64.extend_i32_u (i32.add (i32.mul (local.get $digit) (i32.const 10)) (local.get $context))))))"#;

    #[test]
    fn contexts_are_created_in_a_row() {
        let wat = format!(
            r#"(module (type $first (func (param f32))) {NOTES}
                (func (export "proxy_on_context_create") (param i32 i32)
                    (call $note (local.get 1) (local.get 0))))"#
        );
        assert_eq!(run(&wat, CREATE, &[4, 1, 3]), (142_536, None, 0));
        assert_eq!(run(&wat, END, &[4, 3]), (0, Some(3), 0), "nothing is called, and all end");
    }

    #[test]
    fn contexts_end_in_a_row_until_one_puts_it_off() {
        let wat = |more: &str| {
            format!(
                r#"(module {NOTES}
                    (func (export "proxy_on_done") (param i32) (result i32)
                        (call $note (i32.const 1) (local.get 0)) (i32.ne (local.get 0) (i32.const 6)))
                    (func (export "proxy_on_log") (param i32) (call $note (i32.const 2) (local.get 0)))
                    {more})"#
            )
        };
        let delete =
            r#"(func (export "proxy_on_delete") (param i32) (call $note (i32.const 3) (local.get 0)))"#;
        assert_eq!(run(&wat(delete), END, &[4, 2]), (142_434_152_535, Some(2), 0));
        assert_eq!(run(&wat(delete), END, &[5, 3]), (15_253_516, Some(1), 0), "the second one answers false");
        assert_eq!(run(&wat(delete), END, &[6, 1]), (16, Some(0), 0));
        assert_eq!(run(&wat(""), END, &[7, 2]), (17_271_828, Some(2), 0));
    }

    #[test]
    fn headers_are_relayed_until_one_answers_or_the_host_says_so() {
        // It notes headers and context.
        let wat = |params: &str, then: &str| {
            format!(
                r#"(module {NOTES}
                    (func (export "proxy_on_request_headers") (param {params}) (result i32)
                        (call $note (local.get 1) (local.get 0)) {then}))"#
            )
        };
        let [name, body, ..] = RELAYS;
        let three = "i32 i32 i32";
        let goes_on = wat(three, "(i32.const 0)");
        // From context 4 on: 2 headers, 3 contexts.
        assert_eq!(run(&goes_on, name, &[4, 1, 3, 2, 0]), (242_526, Some(3), 0));
        assert_eq!(run(&goes_on, name, &[6, -1, 3, 2, 0]), (262_524, Some(3), 0), "backwards");
        assert_eq!(run(&goes_on, name, &[6, -1, 1, 2, 0]), (26, Some(1), 0));
        let two = wat("i32 i32", "(i32.const 0)");
        assert_eq!(run(&two, name, &[4, 1, 2, 2, 0]), (2425, Some(2), 0), "without an end of stream");
        let end = wat(three, "(i32.sub (local.get 2) (i32.const 1))");
        assert_eq!(run(&end, name, &[4, 1, 2, 2, 1]), (2425, Some(2), 0), "with one");
        let pauses = wat(three, "(i32.eq (local.get 0) (i32.const 5))");
        assert_eq!(run(&pauses, name, &[4, 1, 3, 2, 0]), (2425, Some(-2), 0), "the second one holds them");
        // What the host does: the module's own global, then PLACE, then BREAK. No module that is loaded can do so.
        let breaks = wat(three, "(global.set 2 (i32.const 1)) (i32.const 0)");
        assert_eq!(run(&breaks, name, &[4, 1, 3, 2, 0]), (24, Some(1), 0));
        assert_eq!(run(&goes_on, body, &[4, 1, 3, 2, 0]), (0, Some(3), 0), "nobody is called");
    }

    #[test]
    fn other_modules_are_left_alone() {
        let cases = [
            r#"(module (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#,
            r#"(module (func (export "proxy_on_done") (param i32)))"#,
            r#"(module (func (export "proxy_on_log") (param i64)))"#,
            r#"(module (global (export "proxy_on_log") i32 (i32.const 0)))"#,
            "(module)",
        ];
        for wat in cases {
            assert_eq!(Added::to(&text(wat)), None, "{wat}");
        }
    }

    #[test]
    fn what_is_added_fits_behind_every_kind_of_section() {
        let wat = r#"(module
            (import "env" "f" (func (param i64)))
            (import "env" "g" (global i32))
            (import "env" "t" (table 1 funcref))
            (rec (type (func (param i32))) (type (struct (field i32))))
            (memory (export "memory") 1)
            (tag (param i32))
            (table 4 funcref)
            (func $log (export "proxy_on_log") (param i32))
            (func $start)
            (start $start)
            (elem (i32.const 1) func $log $start)
            (data (i32.const 0) "x"))"#;
        let wasm = text(wat);
        let seen = instrument(&wasm);
        assert_eq!(seen.obstacle, None);
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
            .validate_all(&seen.wasm)
            .expect("valid");
        assert!(Added::to(&wasm).is_some_and(|added| (added.functions, added.globals) == (3, 1)));
    }
}
