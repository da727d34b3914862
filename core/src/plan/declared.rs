//! Properties that filters declare before they set them, as Envoy's `declare_property` has it.

use std::sync::OnceLock;

use crate::engine::limits::MAX_DECLARATIONS;

/// What a filter says of a property, in Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration<'a> {
    /// Its path, in the one form of paths.
    pub path: &'a [u8],
    /// Whether it can be set once only.
    pub read_only: bool,
    /// The whole message: it is compared, so that a property is declared in one way.
    pub message: &'a [u8],
}

/// Why a declaration was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeclared {
    /// The property has been declared before, and otherwise.
    Different,
    /// There is no room for another one.
    Full,
}

/// A declaration that is kept.
#[derive(Debug)]
struct Kept {
    path: Box<[u8]>,
    read_only: bool,
    message: Box<[u8]>,
}

impl Kept {
    fn new(declaration: &Declaration<'_>) -> Self {
        let Declaration { path, read_only, message } = *declaration;
        Self { path: path.into(), read_only, message: message.into() }
    }

    /// What becomes of `declaration`, if it is of this property.
    fn answer(&self, declaration: &Declaration<'_>) -> Option<Result<(), Undeclared>> {
        let same = *self.message == *declaration.message;
        (*self.path == *declaration.path).then_some(if same { Ok(()) } else { Err(Undeclared::Different) })
    }
}

/// What the contexts of one request have declared: it ends with the request.
#[derive(Debug, Default)]
pub(crate) struct DeclaredHere(Vec<Kept>);

impl DeclaredHere {
    /// Takes a declaration.
    ///
    /// # Errors
    /// As [`Declared::declare`].
    pub(crate) fn declare(&mut self, declaration: &Declaration<'_>) -> Result<(), Undeclared> {
        if let Some(answer) = self.0.iter().find_map(|kept| kept.answer(declaration)) {
            return answer;
        }
        if self.0.len() >= MAX_DECLARATIONS {
            return Err(Undeclared::Full);
        }
        self.0.push(Kept::new(declaration));
        Ok(())
    }

    /// Whether the property at `path` can be set once only.
    pub(crate) fn is_read_only(&self, path: &[u8]) -> bool {
        self.0.iter().any(|kept| kept.read_only && *kept.path == *path)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What the root context of one directive has declared.
///
/// The master configures a filter once, and instances that are configured by themselves declare the same again, so a
/// declaration that is repeated word for word is taken. Slots are filled in order and never emptied: reading takes no lock.
#[derive(Debug)]
pub struct Declared {
    slots: [OnceLock<Kept>; MAX_DECLARATIONS],
}

impl Default for Declared {
    fn default() -> Self {
        Self { slots: [const { OnceLock::new() }; MAX_DECLARATIONS] }
    }
}

impl Declared {
    /// Takes a declaration.
    ///
    /// # Errors
    /// When the property was declared otherwise before, or [`MAX_DECLARATIONS`] others were.
    pub fn declare(&self, declaration: &Declaration<'_>) -> Result<(), Undeclared> {
        for slot in &self.slots {
            let kept = slot.get_or_init(|| Kept::new(declaration));
            if let Some(answer) = kept.answer(declaration) {
                return answer;
            }
        }
        Err(Undeclared::Full)
    }

    /// Whether the property at `path` can be set once only.
    #[must_use]
    pub fn is_read_only(&self, path: &[u8]) -> bool {
        let mut kept = self.slots.iter().map_while(OnceLock::get);
        kept.any(|kept| kept.read_only && *kept.path == *path)
    }
}

#[cfg(test)]
mod tests {
    use super::{Declaration, Declared, Undeclared};
    use crate::engine::limits::MAX_DECLARATIONS;

    #[test]
    fn a_declaration_holds_and_may_be_repeated_word_for_word() {
        let declared = Declared::default();
        let once = Declaration { path: b"once", read_only: true, message: b"\x10\x01" };
        assert!(!declared.is_read_only(b"once"));
        for _ in 0..2 {
            assert_eq!(declared.declare(&once), Ok(()));
        }
        assert_eq!(declared.declare(&Declaration { message: b"", ..once }), Err(Undeclared::Different));
        assert_eq!(declared.declare(&Declaration { path: b"often", read_only: false, message: b"" }), Ok(()));
        assert_eq!(
            ["once", "often", "other"].map(|path| declared.is_read_only(path.as_bytes())),
            [true, false, false]
        );
    }

    #[test]
    fn there_is_a_bound() {
        let declared = Declared::default();
        let path = |number: usize| format!("p{number}").into_bytes();
        for number in 0..MAX_DECLARATIONS {
            assert_eq!(
                declared.declare(&Declaration { path: &path(number), read_only: false, message: b"" }),
                Ok(())
            );
        }
        let more = Declaration { path: b"one more", read_only: false, message: b"" };
        assert_eq!(declared.declare(&more), Err(Undeclared::Full));
        assert_eq!(declared.declare(&Declaration { path: &path(0), ..more }), Ok(()));
    }
}
