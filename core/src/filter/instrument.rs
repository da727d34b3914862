//! What a module needs so that an instance of it can be put back to an earlier state: its mutable globals made visible,
//! and a look at its code for what cannot be put back.
//!
//! Memory is tracked (`pool/dirty.rs`), mutable globals are read and set. Tables and segments are
//! neither: a module whose code changes them gets a new instance for each request.

use std::borrow::Cow;

use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExternalKind, Operator, Parser, Payload, TypeRef, ValType};

/// Names of the exports that are added: no guest's export has a NUL in its name.
const PREFIX: &str = "weir\0global";

/// A module that was looked at.
#[derive(Debug)]
pub struct Instrumented<'a> {
    /// The module, with an export for each mutable global where instances can be reset.
    pub wasm: Cow<'a, [u8]>,
    /// Why instances of it cannot be reset in place; `None` when they can.
    pub obstacle: Option<&'static str>,
}

/// Names that mutable globals are exported under, of those a module exports.
pub(crate) fn is_global_export(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Looks at `wasm`, and adds the exports. What does not parse is left to the compiler to refuse.
#[must_use]
pub fn instrument(wasm: &[u8]) -> Instrumented<'_> {
    match look(wasm) {
        Some(Look { obstacle: None, globals }) if globals.is_empty() => {
            Instrumented { wasm: Cow::Borrowed(wasm), obstacle: None }
        }
        Some(Look { obstacle: None, globals }) => match export(wasm, &globals) {
            Some(wasm) => Instrumented { wasm: Cow::Owned(wasm), obstacle: None },
            None => Instrumented { wasm: Cow::Borrowed(wasm), obstacle: Some("it could not be rewritten") },
        },
        Some(Look { obstacle, .. }) => Instrumented { wasm: Cow::Borrowed(wasm), obstacle },
        None => Instrumented { wasm: Cow::Borrowed(wasm), obstacle: Some("it could not be parsed") },
    }
}

/// What was seen.
struct Look {
    obstacle: Option<&'static str>,
    /// Indices of the mutable globals.
    globals: Vec<u32>,
}

fn look(wasm: &[u8]) -> Option<Look> {
    let mut seen = Look { obstacle: None, globals: Vec::new() };
    let mut index = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let TypeRef::Global(_) = import.ok()?.ty {
                        index += 1;
                    }
                }
            }
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let ty = global.ok()?.ty;
                    if ty.mutable && matches!(ty.content_type, ValType::Ref(_)) {
                        seen.obstacle = Some("it has a mutable global that holds a reference");
                    }
                    if ty.mutable {
                        seen.globals.push(index);
                    }
                    index += 1;
                }
            }
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().ok()? {
                    if let Some(obstacle) = obstacle(&operator.ok()?) {
                        return Some(Look { obstacle: Some(obstacle), globals: Vec::new() });
                    }
                }
            }
            _ => {}
        }
    }
    Some(seen)
}

/// Instructions whose effect is in neither memory nor globals.
fn obstacle(operator: &Operator<'_>) -> Option<&'static str> {
    match operator {
        Operator::TableSet { .. }
        | Operator::TableGrow { .. }
        | Operator::TableFill { .. }
        | Operator::TableCopy { .. }
        | Operator::TableInit { .. } => Some("its code changes tables"),
        Operator::ElemDrop { .. } | Operator::DataDrop { .. } => Some("its code drops segments"),
        _ => None,
    }
}

/// The same module with one more export for each of `globals`.
fn export(wasm: &[u8], globals: &[u32]) -> Option<Vec<u8>> {
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.ok()?;
        if let Payload::ExportSection(exports) = payload {
            let mut section = ExportSection::new();
            for export in exports {
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
            for global in globals {
                section.export(&format!("{PREFIX}{global}"), ExportKind::Global, *global);
            }
            module.section(&section);
        } else if let Some((id, range)) = payload.as_section() {
            module.section(&RawSection { id, data: wasm.get(range)? });
        }
    }
    Some(module.finish())
}

#[cfg(test)]
mod tests {
    use super::{PREFIX, instrument};

    fn text(wat: &str) -> Vec<u8> {
        wat::parse_str(wat).expect("well-formed")
    }

    #[test]
    fn mutable_globals_are_exported_and_everything_else_stays() {
        let wasm = text(
            r#"(module
                (import "env" "g" (global i32))
                (global i32 (i32.const 1))
                (global $sp (mut i32) (i32.const 2))
                (global (mut f64) (f64.const 3))
                (memory (export "memory") 1)
                (func (export "f") (result i32) (global.get $sp))
                (data (i32.const 0) "kept"))"#,
        );
        let seen = instrument(&wasm);
        assert_eq!(seen.obstacle, None);
        let module = wasmtime::Module::new(&wasmtime::Engine::default(), &seen.wasm).expect("valid");
        let names: Vec<_> = module.exports().map(|export| export.name().to_owned()).collect();
        assert_eq!(names, ["memory", "f", &format!("{PREFIX}2"), &format!("{PREFIX}3")]);
        assert!(seen.wasm.windows(4).any(|window| window == b"kept"));
    }

    #[test]
    fn a_module_without_mutable_globals_is_left_alone() {
        let wasm = text(r#"(module (memory (export "memory") 1))"#);
        assert_eq!(instrument(&wasm).wasm, wasm);
    }

    #[test]
    fn what_cannot_be_put_back_is_named() {
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
            let obstacle = instrument(&wasm).obstacle.expect(code);
            assert!(obstacle.contains(expected), "{code}: {obstacle}");
        }
    }
}
