//! What is changed in a module before it is compiled, so that its instances can begin from an image and go back to it.
//!
//! Active data segments are taken out (Weir puts them into memory itself), the start function becomes an export that
//! Weir calls after that, and mutable globals are exported, so that their values can be read and set.
//! [Functions](super::series) that call several callbacks are added. What a request
//! may change besides is neither in memory nor in globals: a module whose code changes tables or drops segments is
//! left as it is, and each of its instances is started and configured by itself.

use std::borrow::Cow;

use wasm_encoder::{ConstExpr, DataSection, ExportKind, ExportSection, Module, RawSection, SectionId};
use wasmparser::{DataKind, ExternalKind, Operator, Parser, Payload, TypeRef, ValType};

use super::series::Added;

/// First part of all names of exports that are added, here and for [functions](super::series); compilers put no NUL into
/// a name.
const OURS: &str = "weir\0";

/// First part of the names of globals' exports.
const GLOBAL: &str = "weir\0global";

/// Name that a module's start function is exported under.
pub(crate) const START: &str = "weir\0start";

/// Bytes that an active data segment puts into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where they begin.
    pub(crate) offset: u32,
    /// The bytes.
    pub(crate) bytes: Box<[u8]>,
}

/// A module that was looked at.
#[derive(Debug)]
pub(crate) struct Instrumented<'a> {
    /// The module to compile.
    pub(crate) wasm: Cow<'a, [u8]>,
    /// What has to be put into the memory of a new instance, in this order.
    pub(crate) segments: Vec<Segment>,
    /// Why the module was left as it is, so that its instances have no image; `None` when they have.
    pub(crate) obstacle: Option<Obstacle>,
}

/// Why a module's instances cannot begin from an image, nor go back to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The compiler will say what is wrong with it.
    Unparsed,
    /// What it would become is no module.
    NotRewritten,
    /// References are not in memory.
    Reference,
    /// Where its data goes is computed.
    Expression,
    /// `table.set` and its like.
    Tables,
    /// `data.drop`, `elem.drop`
    Segments,
}

impl Obstacle {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Unparsed, Self::NotRewritten, Self::Reference, Self::Expression, Self::Tables, Self::Segments];

    /// What it is, in words that follow those for what cannot be done.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Unparsed => "it could not be parsed",
            Self::NotRewritten => "it could not be rewritten",
            Self::Reference => "it has a mutable global that holds a reference",
            Self::Expression => "its data is placed by an expression",
            Self::Tables => "its code changes tables",
            Self::Segments => "its code drops segments",
        }
    }
}

/// Whether an export is one of a mutable global that was added here.
pub(crate) fn is_global_export(name: &str) -> bool {
    name.starts_with(GLOBAL)
}

/// Whether `wasm` exports names that are added here, which would be taken for ours.
pub(super) fn is_anticipated(wasm: &[u8]) -> bool {
    let exports = Parser::new(0).parse_all(wasm).find_map(|payload| match payload {
        Ok(Payload::ExportSection(exports)) => Some(exports),
        _ => None,
    });
    exports.is_some_and(|exports| exports.into_iter().flatten().any(|export| export.name.starts_with(OURS)))
}

/// Looks at `wasm`, and changes it. What does not parse is left to the compiler to refuse.
#[must_use]
pub(crate) fn instrument(wasm: &[u8]) -> Instrumented<'_> {
    let as_it_is =
        |obstacle| Instrumented { wasm: Cow::Borrowed(wasm), segments: Vec::new(), obstacle: Some(obstacle) };
    let Some(seen) = look(wasm) else { return as_it_is(Obstacle::Unparsed) };
    if let Some(obstacle) = seen.obstacle {
        return as_it_is(obstacle);
    }
    match rewrite(wasm, &seen) {
        Some(changed) => Instrumented { wasm: Cow::Owned(changed), segments: seen.segments, obstacle: None },
        None => as_it_is(Obstacle::NotRewritten),
    }
}

/// What was seen.
#[derive(Default)]
struct Look {
    obstacle: Option<Obstacle>,
    /// For each global: its value, where that is a constant number that fits an address.
    values: Vec<Option<u32>>,
    /// Indices of the mutable globals.
    mutable: Vec<u32>,
    /// Active segments.
    segments: Vec<Segment>,
    /// The code initializes memory from segments, so these keep their numbers.
    keeps_numbers: bool,
    /// The start function.
    start: Option<u32>,
}

fn look(wasm: &[u8]) -> Option<Look> {
    let mut seen = Look::default();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let TypeRef::Global(_) = import.ok()?.ty {
                        seen.values.push(None);
                    }
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global.ok()?;
                    let ty = global.ty;
                    if ty.mutable && matches!(ty.content_type, ValType::Ref(_)) {
                        seen.obstacle = Some(Obstacle::Reference);
                    }
                    if ty.mutable {
                        seen.mutable.push(u32::try_from(seen.values.len()).ok()?);
                        seen.values.push(None);
                    } else {
                        let value = constant(&global.init_expr, &seen.values);
                        seen.values.push(value);
                    }
                }
            }
            Payload::StartSection { func, .. } => seen.start = Some(func),
            Payload::DataSection(data) => {
                for segment in data {
                    let segment = segment.ok()?;
                    let DataKind::Active { memory_index: 0, offset_expr } = &segment.kind else { continue };
                    match constant(offset_expr, &seen.values) {
                        Some(offset) => seen.segments.push(Segment { offset, bytes: segment.data.into() }),
                        None => seen.obstacle = Some(Obstacle::Expression),
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().ok()? {
                    let operator = operator.ok()?;
                    seen.keeps_numbers |= matches!(operator, Operator::MemoryInit { .. });
                    if let Some(obstacle) = obstacle(&operator) {
                        return Some(Look { obstacle: Some(obstacle), ..Look::default() });
                    }
                }
            }
            _ => {}
        }
    }
    Some(seen)
}

/// The value of a constant expression of type i32, of the two forms that linkers write.
fn constant(expression: &wasmparser::ConstExpr<'_>, globals: &[Option<u32>]) -> Option<u32> {
    let mut operators = expression.get_operators_reader();
    let value = match operators.read().ok()? {
        Operator::I32Const { value } => value.cast_unsigned(),
        Operator::GlobalGet { global_index } => {
            globals.get(usize::try_from(global_index).ok()?).copied().flatten()?
        }
        _ => return None,
    };
    matches!(operators.read().ok()?, Operator::End).then_some(value)
}

/// Instructions whose effect is in neither memory nor globals.
fn obstacle(operator: &Operator<'_>) -> Option<Obstacle> {
    match operator {
        Operator::TableSet { .. }
        | Operator::TableGrow { .. }
        | Operator::TableFill { .. }
        | Operator::TableCopy { .. }
        | Operator::TableInit { .. } => Some(Obstacle::Tables),
        Operator::ElemDrop { .. } | Operator::DataDrop { .. } => Some(Obstacle::Segments),
        _ => None,
    }
}

/// The module with more exports, without its start function and its active segments.
fn rewrite(wasm: &[u8], seen: &Look) -> Option<Vec<u8>> {
    let added = Added::to(wasm);
    let mut module = Module::new();
    let mut exported = false;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.ok()?;
        // Exports come after globals, and before everything from the start function on.
        let section = payload.as_section();
        if !exported && section.as_ref().is_some_and(|(id, _)| comes_after_exports(*id)) {
            exported = true;
            if let Some(globals) = added.as_ref().and_then(Added::missing_globals) {
                module.section(&globals);
            }
            if !matches!(payload, Payload::ExportSection(_)) {
                module.section(&exports(None, seen, added.as_ref())?);
            }
        }
        match payload {
            Payload::ExportSection(reader) => {
                module.section(&exports(Some(reader), seen, added.as_ref())?);
            }
            Payload::StartSection { .. } => {}
            Payload::DataSection(data) if seen.keeps_numbers => {
                let mut section = DataSection::new();
                for segment in data {
                    let segment = segment.ok()?;
                    match segment.kind {
                        DataKind::Passive => section.passive(segment.data.iter().copied()),
                        DataKind::Active { .. } => section.active(0, &ConstExpr::i32_const(0), []),
                    };
                }
                module.section(&section);
            }
            // Nothing refers to a segment, so the passive ones are of no use.
            Payload::DataSection(_) | Payload::DataCountSection { .. } if !seen.keeps_numbers => {}
            _ => {
                if let Some((id, range)) = section {
                    let data = wasm.get(range)?;
                    let more = added.as_ref().and_then(|added| added.section(id, data));
                    module.section(&RawSection { id, data: more.as_deref().unwrap_or(data) });
                }
            }
        }
    }
    Some(module.finish())
}

/// Whether a section of this kind stands where exports do, or behind them.
fn comes_after_exports(id: u8) -> bool {
    let later = [
        SectionId::Export,
        SectionId::Start,
        SectionId::Element,
        SectionId::DataCount,
        SectionId::Code,
        SectionId::Data,
    ];
    later.iter().any(|section| *section as u8 == id)
}

/// The module's exports, and those for its mutable globals, its start function and what is added.
fn exports(
    given: Option<wasmparser::ExportSectionReader<'_>>,
    seen: &Look,
    added: Option<&Added>,
) -> Option<ExportSection> {
    let mut section = ExportSection::new();
    for export in given.into_iter().flatten() {
        let export = export.ok()?;
        let kind = match export.kind {
            ExternalKind::Func => ExportKind::Func,
            ExternalKind::Table => ExportKind::Table,
            ExternalKind::Memory => ExportKind::Memory,
            ExternalKind::Global => ExportKind::Global,
            _ => return None,
        };
        section.export(export.name, kind, export.index);
    }
    for global in &seen.mutable {
        section.export(&format!("{GLOBAL}{global}"), ExportKind::Global, *global);
    }
    if let Some(start) = seen.start {
        section.export(START, ExportKind::Func, start);
    }
    if let Some(added) = added {
        added.export(&mut section);
    }
    Some(section)
}

#[cfg(test)]
mod tests {
    use super::{GLOBAL, START, Segment, instrument};

    fn text(wat: &str) -> Vec<u8> {
        wat::parse_str(wat).expect("well-formed")
    }

    fn module(wasm: &[u8]) -> wasmtime::Module {
        wasmtime::Module::new(&wasmtime::Engine::default(), wasm).expect("valid")
    }

    #[test]
    fn globals_and_start_are_exported_and_data_is_taken_out() {
        let wasm = text(
            r#"(module
                (import "env" "g" (global i32))
                (global $base i32 (i32.const 1000))
                (global $sp (mut i32) (i32.const 2))
                (global (mut f64) (f64.const 3))
                (memory (export "memory") 1)
                (func (export "f") (result i32) (global.get $sp))
                (func $go)
                (start $go)
                (data (i32.const 8) "here")
                (data "of no use")
                (data (global.get $base) "there"))"#,
        );
        let seen = instrument(&wasm);
        assert_eq!(seen.obstacle, None);
        let names: Vec<_> = module(&seen.wasm).exports().map(|export| export.name().to_owned()).collect();
        assert_eq!(names, ["memory", "f", &format!("{GLOBAL}2"), &format!("{GLOBAL}3"), START]);
        let segment = |offset, bytes: &[u8]| Segment { offset, bytes: bytes.into() };
        assert_eq!(seen.segments, [segment(8, b"here"), segment(1000, b"there")]);
        for gone in [&b"here"[..], b"of no use"] {
            assert!(!seen.wasm.windows(gone.len()).any(|window| window == gone));
        }
    }

    #[test]
    fn a_module_without_exports_gets_some() {
        let wasm = text(r"(module (global (mut i32) (i32.const 1)) (func))");
        assert_eq!(module(&instrument(&wasm).wasm).exports().count(), 1);
        let wasm = text(r"(module (global (mut i32) (i32.const 1)))");
        assert_eq!(module(&instrument(&wasm).wasm).exports().count(), 0, "nobody could run it");
    }

    #[test]
    fn segments_that_code_refers_to_keep_their_numbers() {
        let wasm = text(
            r#"(module (memory (export "memory") 1)
                (data (i32.const 8) "active") (data $d "passive")
                (func (export "go") (memory.init $d (i32.const 0) (i32.const 0) (i32.const 7))))"#,
        );
        let seen = instrument(&wasm);
        assert_eq!((seen.obstacle, seen.segments.len()), (None, 1));
        let engine = wasmtime::Engine::default();
        let mut store = wasmtime::Store::new(&engine, ());
        let module = wasmtime::Module::new(&engine, &seen.wasm).expect("valid");
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).expect("made");
        instance
            .get_typed_func::<(), ()>(&mut store, "go")
            .expect("there")
            .call(&mut store, ())
            .expect("runs");
        let memory = instance.get_memory(&mut store, "memory").expect("there");
        assert_eq!(memory.data(&store)[..16], *b"passive\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_cannot_be_put_back_is_named_and_left_alone() {
        let cases = [
            ("(table.set (i32.const 0) (ref.null func))", "tables"),
            ("(drop (table.grow (ref.null func) (i32.const 1)))", "tables"),
            ("(table.fill (i32.const 0) (ref.null func) (i32.const 1))", "tables"),
            ("(table.copy (i32.const 0) (i32.const 0) (i32.const 1))", "tables"),
            ("(table.init 0 (i32.const 0) (i32.const 0) (i32.const 1))", "tables"),
            ("(elem.drop 0)", "segments"),
            ("(data.drop 0)", "segments"),
        ];
        for (code, expected) in cases {
            let wasm = text(&format!(
                r#"(module (table 1 funcref) (memory (export "memory") 1) (func $f) (elem func $f) (data "x")
                (func (export "go") {code}))"#
            ));
            let seen = instrument(&wasm);
            assert!(seen.obstacle.expect(code).text().contains(expected), "{code}");
            assert_eq!(seen.wasm, wasm);
        }
        let computed = r#"(module (memory 1) (data (i32.add (i32.const 1) (i32.const 2)) "x"))"#;
        assert!(instrument(&text(computed)).obstacle.expect("one").text().contains("expression"));
    }
}
