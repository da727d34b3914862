//! What can be told of a module before it runs: version of the ABI, required exports, forbidden imports, SDK.

use wasmtime::{ExternType, Module};

use crate::engine::limits::{Limits, MAX_TABLES};

/// A version of the Proxy-Wasm ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AbiVersion {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.2.1
    V0_2_1,
}

impl AbiVersion {
    /// Every version, with the export that marks it.
    pub const MARKERS: [(Self, &'static str); 3] = [
        (Self::V0_1_0, "proxy_abi_version_0_1_0"),
        (Self::V0_2_0, "proxy_abi_version_0_2_0"),
        (Self::V0_2_1, "proxy_abi_version_0_2_1"),
    ];

    /// The mark of Higress's SDKs: 0.2.1, and functions of its own host, which are linked as all functions are that no
    /// version lists.
    const HIGRESS: &'static str = "proxy_abi_version_0_2_100";

    /// Whether `module` is of Higress's ABI. There, 1 from a headers callback holds the headers alone (Envoy's
    /// `StopIteration`); 3 and 4 hold the body, too.
    pub(super) fn is_higress(module: &Module) -> bool {
        module.get_export(Self::HIGRESS).is_some()
    }

    /// The version that `module` is marked with; the highest, where it has several marks.
    ///
    /// # Errors
    /// [`Unfit`] when it has none that is known.
    pub fn of(module: &Module) -> Result<Self, Unfit> {
        let marked = |name: &str| matches!(module.get_export(name), Some(ExternType::Func(_)));
        if let Some((version, _)) = Self::MARKERS.iter().rev().find(|(_, name)| marked(name)) {
            return Ok(*version);
        }
        if marked(Self::HIGRESS) {
            return Ok(Self::V0_2_1);
        }
        let other = module.exports().find(|export| export.name().starts_with("proxy_abi_version_"));
        Err(match other {
            None => Unfit::NoVersion,
            Some(export) if matches!(export.ty(), ExternType::Func(_)) => {
                Unfit::UnknownVersion(export.name().to_owned())
            }
            Some(export) => Unfit::NoMark(export.name().to_owned()),
        })
    }
}

/// Why a valid module cannot be a filter.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's text says what it means")]
pub enum Unfit {
    #[error(
        "is no Proxy-Wasm filter: it should export one of proxy_abi_version_0_1_0, proxy_abi_version_0_2_0, proxy_abi_version_0_2_1; build it with a Proxy-Wasm SDK"
    )]
    NoVersion,
    #[error(
        "is marked {0}, a version of the ABI that is not known here: build it for proxy_abi_version_0_1_0, proxy_abi_version_0_2_0 or proxy_abi_version_0_2_1"
    )]
    UnknownVersion(String),
    #[error(
        "exports \"{0}\", which is no function: a filter is marked with its version by a function of that name"
    )]
    NoMark(String),
    #[error("exports a name that begins with \"weir\" and a NUL, as names do that are added here: rename it")]
    Reserved,
    #[error("does not export its memory: it should export a memory named \"memory\"")]
    NoMemory,
    #[error("has a memory of no pages, so no allocator can work: link it with at least one")]
    EmptyMemory,
    #[error(
        "exports no allocator: it should export proxy_on_memory_allocate or malloc, a function that takes an i32 and returns an i32; keep that export when linking"
    )]
    NoAllocator,
    #[error(
        "exports \"{name}\" as {found}, where the ABI has {expected}: was it built for another version of the ABI?"
    )]
    WrongSignature { name: String, found: String, expected: String },
    #[error("begins with {needs} bytes of memory, more than \"memory_limit\" ({limit}): raise that")]
    Memory { needs: u64, limit: usize },
    #[error("begins with a table of {needs} elements, more than \"table_limit\" ({limit}): raise that")]
    Table { needs: u64, limit: usize },
    #[error("has {0} tables, more than {MAX_TABLES}, which no compiler that makes filters asks for")]
    Tables(u32),
    #[error("imports {what} \"{module}.{name}\", but only functions can be imported")]
    ForeignImport { what: &'static str, module: String, name: String },
}

/// Checks the exports that every filter must have, and that it imports functions only.
///
/// # Errors
/// [`Unfit`].
pub fn check(module: &Module) -> Result<(), Unfit> {
    match module.get_export("memory") {
        Some(ExternType::Memory(memory)) if memory.minimum() == 0 => return Err(Unfit::EmptyMemory),
        Some(ExternType::Memory(_)) => {}
        _ => return Err(Unfit::NoMemory),
    }
    for import in module.imports() {
        let what = match import.ty() {
            ExternType::Func(_) => continue,
            ExternType::Memory(_) => "memory",
            ExternType::Table(_) => "table",
            ExternType::Global(_) => "global",
            ExternType::Tag(_) => "tag",
        };
        let (module, name) = (import.module().to_owned(), import.name().to_owned());
        return Err(Unfit::ForeignImport { what, module, name });
    }
    Ok(())
}

/// Checks that an instance can begin within `limits`.
///
/// # Errors
/// [`Unfit::Memory`], [`Unfit::Table`], [`Unfit::Tables`]
pub fn fits(module: &Module, limits: &Limits) -> Result<(), Unfit> {
    let more = |needs: u64, limit: usize| usize::try_from(needs).map_or(true, |needs| needs > limit);
    if let Some(ExternType::Memory(memory)) = module.get_export("memory") {
        let needs = memory.minimum().saturating_mul(memory.page_size());
        if more(needs, limits.memory) {
            return Err(Unfit::Memory { needs, limit: limits.memory });
        }
    }
    let required = module.resources_required();
    if more(required.num_tables.into(), MAX_TABLES) {
        return Err(Unfit::Tables(required.num_tables));
    }
    let needs = required.max_initial_table_size.unwrap_or(0);
    if more(needs, limits.table_elements) {
        return Err(Unfit::Table { needs, limit: limits.table_elements });
    }
    Ok(())
}

/// Whether the SDK that `wasm` was made with panics on statuses it does not expect, as the Rust SDK does.
///
/// Told from the `producers` section (WebAssembly tool conventions), which compilers write: a module that names
/// languages, none of them Rust, survives any status. One that says nothing is not trusted to.
#[must_use]
pub fn panics_on_status(wasm: &[u8]) -> bool {
    match custom_section(wasm, b"producers") {
        Some(producers) => producers.windows(4).any(|window| window == b"Rust" || window == b"rust"),
        None => true,
    }
}

/// Whether `wasm` holds the words that the Rust SDK panics with at a status it does not expect (`proxy-wasm`,
/// `hostcalls.rs`): unlike [`panics_on_status`], never of a module that says nothing of itself.
#[must_use]
pub fn has_rust_sdk(wasm: &[u8]) -> bool {
    const WORDS: &[u8] = b"unexpected status: ";
    wasm.windows(WORDS.len()).any(|window| window == WORDS)
}

/// The contents of the custom section `name` of a module that has been validated.
fn custom_section<'a>(wasm: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = wasm.get(8..)?;
    while let Some((id, after)) = rest.split_first() {
        let (size, after) = leb128(after)?;
        let (body, after) = after.split_at_checked(size)?;
        rest = after;
        if *id == 0 {
            let (length, body) = leb128(body)?;
            let (found, contents) = body.split_at_checked(length)?;
            if found == name {
                return Some(contents);
            }
        }
    }
    None
}

/// An unsigned LEB128 number of at most 32 bits, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{has_rust_sdk, panics_on_status};

    fn with_producers(text: &str) -> Vec<u8> {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        // An empty custom section first: the search must go on.
        wasm.extend(b"\x00\x02\x01x");
        let body = [b"\x09producers", text.as_bytes()].concat();
        wasm.push(0);
        wasm.push(u8::try_from(body.len()).expect("short"));
        wasm.extend(body);
        wasm
    }

    #[test]
    fn the_producers_section_tells_the_sdk() {
        assert!(panics_on_status(&with_producers("\x01\x08language\x01\x04Rust\x00")));
        assert!(!panics_on_status(&with_producers("\x01\x08language\x01\x02Go\x00")));
        assert!(panics_on_status(b"\0asm\x01\0\0\0"), "nothing said");
        assert!(panics_on_status(b"\0asm\x01\0\0\0\x00\xff"), "cut short");
    }

    #[test]
    fn the_words_of_its_panic_tell_the_rust_sdk() {
        assert!(has_rust_sdk(b"...unexpected status: ..."));
        assert!(!has_rust_sdk(&with_producers("\x01\x08language\x01\x04Rust\x00")));
    }
}
