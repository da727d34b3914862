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
