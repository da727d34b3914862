//! What several of the tests' guests need.

use std::fmt::Write as _;

use proxy_wasm::traits::RootContext;

/// The filter's own configuration as text; empty if it has none.
pub fn configuration(root: &dyn RootContext) -> String {
    text(&root.get_plugin_configuration().unwrap_or_default())
}

/// Bytes as text, whatever is not UTF-8 replaced.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// FNV-1a with 64 bits: a hash that a test computes in five lines of its own.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Adds bytes to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash of all bytes so far, as 16 hexadecimal digits.
    pub fn digest(self) -> String {
        format!("{:016x}", self.0)
    }
}
