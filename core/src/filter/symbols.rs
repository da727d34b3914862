//! Where the functions of a module are in memory, for profilers.

use wasmtime::Module;

/// Most bytes of a name that are given on: names are the guest's.
const MOST_NAME: usize = 512;

/// A piece of a guest's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Where it begins, in this process and in those forked from it.
    pub address: usize,
    /// Bytes of it.
    pub size: usize,
    /// What the module calls it, as it is written there, in one line; `function N` where it has no name, and
    /// `trampoline` for code between functions, by which wasmtime enters and leaves them. What calls
    /// several callbacks (`filter/series.rs`) is `callbacks in a row`.
    pub name: String,
}

/// All code of `module`, in the order of addresses; its last `added` functions are not the guest's.
pub(crate) fn of(module: &Module, added: usize) -> Vec<Symbol> {
    let text = module.text();
    let base = text.as_ptr().addr();
    let guests = module.functions().len().saturating_sub(added);
    let functions = module.functions().enumerate().map(|(at, function)| {
        let number = function.index.as_u32();
        let name = match function.name {
            _ if at >= guests => "callbacks in a row".to_owned(),
            Some(name) => in_one_line(&name),
            None => format!("function {number}"),
        };
        Symbol { address: base + function.offset, size: function.len, name }
    });
    let mut all: Vec<_> = functions.collect();
    all.sort_by_key(|symbol| symbol.address);
    let ends = [base].into_iter().chain(all.iter().map(|symbol| symbol.address + symbol.size));
    let begins = all.iter().map(|symbol| symbol.address).chain([base + text.len()]);
    let gaps = ends.zip(begins).filter(|(end, begin)| begin > end);
    let between: Vec<_> = gaps
        .map(|(end, begin)| Symbol { address: end, size: begin - end, name: "trampoline".to_owned() })
        .collect();
    all.extend(between);
    all.sort_by_key(|symbol| symbol.address);
    all
}

fn in_one_line(name: &str) -> String {
    let name = &name[..name.floor_char_boundary(MOST_NAME)];
    name.chars().map(|one| if one.is_control() { '?' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Module};

    use super::{MOST_NAME, in_one_line, of};

    #[test]
    fn all_code_has_a_name() {
        let wat = r#"(module (func $first (export "a") (result i32) i32.const 1) (func $second (call $first) (drop)))"#;
        let wasm = wat::parse_str(wat).expect("well-formed");
        let module = Module::new(&Engine::default(), wasm).expect("valid");
        let symbols = of(&module, 0);
        let place = |name: &str| symbols.iter().position(|symbol| symbol.name == name).expect(name);
        assert!(place("first") < place("second"));
        assert!(symbols.iter().any(|symbol| symbol.name == "trampoline"), "{symbols:?}");
        let text = module.text();
        let covered: usize = symbols.iter().map(|symbol| symbol.size).sum();
        assert_eq!(covered, text.len(), "nothing is left out, and nothing is there twice");
        assert_eq!(symbols[0].address, text.as_ptr().addr());
        for pair in symbols.windows(2) {
            assert_eq!(pair[0].address + pair[0].size, pair[1].address);
        }
        let added = of(&module, 1);
        let names = added.iter().map(|symbol| &*symbol.name);
        assert_eq!(names.filter(|name| ["first", "callbacks in a row"].contains(name)).count(), 2);
        assert!(!added.iter().any(|symbol| symbol.name == "second"));
    }

    #[test]
    fn names_are_lines() {
        assert_eq!(in_one_line("a\nb\u{7f}"), "a?b?");
        assert!(in_one_line(&"ä".repeat(1000)).len() <= MOST_NAME);
    }
}
