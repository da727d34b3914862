//! Headers that came back from a call: owned, in two allocations.

use std::borrow::Cow;

/// Names and values in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    text: Vec<u8>,
    /// For each field where its name and its value end in `text`.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: Vec::new(), ends: Vec::new() }
    }

    /// No fields yet, but room for `count` of them, whose names and values have `bytes` bytes in all.
    #[must_use]
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Adds one.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.text.extend_from_slice(name);
        let name_end = self.text.len();
        self.text.extend_from_slice(value);
        self.ends.push((name_end, self.text.len()));
    }

    /// Adds one, with its name in lower case.
    pub fn push_lower(&mut self, name: &[u8], value: &[u8]) {
        let begin = self.text.len();
        self.push(name, value);
        if let Some(name) = self.text.get_mut(begin..begin + name.len()) {
            name.make_ascii_lowercase();
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut at = 0;
        self.ends.iter().map(move |(name_end, value_end)| {
            // `push` has made these ends: the empty slices are never seen.
            let name = self.text.get(at..*name_end).unwrap_or_default();
            let value = self.text.get(*name_end..*value_end).unwrap_or_default();
            at = *value_end;
            (name, value)
        })
    }

    /// The values of `name`, compared without regard to case; `None` where there is none. Several are joined with `, `.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut values = self.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let mut joined = Cow::Borrowed(values.next()?.1);
        for (_, value) in values {
            let joined = joined.to_mut();
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        Some(joined)
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<T: IntoIterator<Item = (&'a [u8], &'a [u8])>>(pairs: T) -> Self {
        let mut fields = Self::new();
        pairs.into_iter().for_each(|(name, value)| fields.push(name, value));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn fields_come_back_as_they_were_put_in() {
        let pairs = [(&b"a"[..], &b"1"[..]), (b"", b""), (b"A", b"2"), (b"b", b"")];
        let fields: Fields = pairs.into_iter().collect();
        assert_eq!(fields.iter().collect::<Vec<_>>(), pairs);
        assert_eq!(fields.len(), 4);
        assert_eq!(fields.value(b"a").as_deref(), Some(&b"1, 2"[..]));
        assert_eq!(fields.value(b"b").as_deref(), Some(&b""[..]));
        assert_eq!(fields.value(b"c"), None);
    }
}
