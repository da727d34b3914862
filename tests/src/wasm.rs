//! Modules made on the spot, the broken ones above all.

pub mod faulty;
pub mod hostile;

/// Assembles a module, or a component, from its text.
///
/// # Panics
/// When the text is no WebAssembly.
#[must_use]
pub fn assemble(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the text of a module")
}

/// The parts of a module that Proxy-Wasm asks for, and that does nothing.
#[derive(Debug, Clone)]
pub struct Minimal {
    /// Exports that mark ABI versions.
    pub markers: Vec<String>,
    /// Whether it exports a memory.
    pub memory: bool,
    /// Whether it exports an allocator, and under which name.
    pub allocator: Option<String>,
    /// Further fields of the module, as text.
    pub more: String,
}

impl Default for Minimal {
    fn default() -> Self {
        Self {
            markers: vec!["proxy_abi_version_0_2_1".to_owned()],
            memory: true,
            allocator: Some("proxy_on_memory_allocate".to_owned()),
            more: String::new(),
        }
    }
}

impl Minimal {
    /// The module.
    ///
    /// # Panics
    /// When [`more`](Self::more) is no WebAssembly.
    #[must_use]
    pub fn assemble(&self) -> Vec<u8> {
        let mut text = String::from("(module\n");
        text.push_str(if self.memory { "(memory (export \"memory\") 1)\n" } else { "(memory 1)\n" });
        if let Some(name) = &self.allocator {
            text.push_str(&format!("(func (export \"{name}\") (param i32) (result i32) (i32.const 1024))\n"));
        }
        for marker in &self.markers {
            text.push_str(&format!("(func (export \"{marker}\"))\n"));
        }
        text.push_str(&self.more);
        text.push(')');
        assemble(&text)
    }
}

/// A filter with `more` in it, whose function `$call` asks upstream `up` for `/`, with a second's time. It can let streams go
/// on (`$continue`) and set ticks (`$tick`).
///
/// # Panics
/// When `more` is no WebAssembly.
#[must_use]
pub fn calling(more: &str) -> Vec<u8> {
    // A header map as the ABI serializes it: how many pairs, the lengths of each, names and values with a NUL behind each.
    let pairs = [(":method", "GET"), (":path", "/"), (":authority", "x")];
    let lengths = pairs.iter().flat_map(|(name, value)| [name.len(), value.len()]);
    let numbers = std::iter::once(pairs.len()).chain(lengths);
    let mut map: Vec<u8> =
        numbers.flat_map(|number| u32::try_from(number).expect("short").to_le_bytes()).collect();
    map.extend(pairs.iter().flat_map(|(name, value)| format!("{name}\0{value}\0").into_bytes()));
    let bytes: String = map.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let length = map.len();
    assemble(&format!(
        r#"(module
            (import "env" "proxy_http_call"
                (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
            (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
            (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "up")
            (data (i32.const 200) "{bytes}")
            (func (export "malloc") (param i32) (result i32) (i32.const 1024))
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_context_create") (param i32 i32))
            (func $call
                (drop (call $http_call (i32.const 100) (i32.const 2) (i32.const 200) (i32.const {length}) (i32.const 0)
                    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 0))))
            {more})"#
    ))
}

/// The eight bytes that a component begins with, and nothing else: an empty component.
#[must_use]
pub fn component() -> Vec<u8> {
    assemble("(component)")
}

#[cfg(test)]
mod tests {
    use super::{Minimal, component};

    #[test]
    fn modules_and_components_differ_in_their_header() {
        assert_eq!(Minimal::default().assemble()[..8], *b"\0asm\x01\0\0\0");
        assert_eq!(component()[..8], *b"\0asm\x0d\0\x01\0");
    }
}
