//! The codec of name/value pairs: how header maps cross the boundary.
//!
//! Layout (specification v0.2.1, "Serialization"): `u32` number of pairs; for each pair `u32` size of the name and
//! `u32` size of the value; then for each pair the name, a NUL, the value, a NUL. All integers little-endian.

use crate::engine::limits::{MAX_PAIRS, MAX_PAIRS_BYTES};

/// Why serialized pairs were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairsError {
    /// The bytes end before what they announce, or go on after it.
    #[error("serialized pairs have the wrong length")]
    Length,
    /// More pairs than [`MAX_PAIRS`].
    #[error("more than {MAX_PAIRS} pairs")]
    TooMany,
    /// More bytes than [`MAX_PAIRS_BYTES`].
    #[error("more than {MAX_PAIRS_BYTES} bytes of pairs")]
    TooLarge,
    /// A name or value is not followed by NUL.
    #[error("a name or value is not followed by NUL")]
    Terminator,
}

/// Serialized pairs that were checked whole: iterating them cannot fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pairs<'a> {
    sizes: &'a [u8],
    data: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// No pairs.
    pub const EMPTY: Self = Self { sizes: &[], data: &[] };

    /// Checks `bytes` and borrows the pairs from them. No bytes at all mean no pairs.
    ///
    /// # Errors
    /// [`PairsError`] for anything but exactly one well-formed list within the limits.
    ///
    /// # Examples
    /// ```
    /// let pairs = weir_core::abi::pairs::Pairs::parse(b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0xy\0")?;
    /// assert_eq!(pairs.iter().collect::<Vec<_>>(), [(&b"a"[..], &b"xy"[..])]);
    /// # Ok::<(), weir_core::abi::pairs::PairsError>(())
    /// ```
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PairsError> {
        if bytes.is_empty() {
            return Ok(Self::EMPTY);
        }
        if bytes.len() > MAX_PAIRS_BYTES {
            return Err(PairsError::TooLarge);
        }
        let (count, rest) = bytes.split_first_chunk::<4>().ok_or(PairsError::Length)?;
        let count = usize_from(*count);
        if count > MAX_PAIRS {
            return Err(PairsError::TooMany);
        }
        let (sizes, data) = rest.split_at_checked(count * 8).ok_or(PairsError::Length)?;
        let pairs = Self { sizes, data };
        let mut left = data;
        for (name, value) in pairs.lengths() {
            for len in [name, value] {
                let (text, after) = left.split_at_checked(len).ok_or(PairsError::Length)?;
                let (nul, after) = after.split_first().ok_or(PairsError::Length)?;
                if *nul != 0 {
                    return Err(PairsError::Terminator);
                }
                let _ = text;
                left = after;
            }
        }
        if left.is_empty() { Ok(pairs) } else { Err(PairsError::Length) }
    }

    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sizes.len() / 8
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// The pairs in order, names as the guest wrote them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut left = self.data;
        self.lengths().map(move |(name, value)| {
            // `parse` walked the same lengths: the empty slices of the fallbacks are never seen.
            let (name, after) = left.split_at_checked(name).unwrap_or_default();
            let (value, after) =
                after.get(1..).unwrap_or_default().split_at_checked(value).unwrap_or_default();
            left = after.get(1..).unwrap_or_default();
            (name, value)
        })
    }

    fn lengths(&self) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        self.sizes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|[a, b, c, d, e, f, g, h]| (usize_from([*a, *b, *c, *d]), usize_from([*e, *f, *g, *h])))
    }
}

fn usize_from(bytes: [u8; 4]) -> usize {
    u32::from_le_bytes(bytes) as usize
}

/// The size of a list that is about to be written, counted pair by pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    count: usize,
    text: usize,
}

impl Measure {
    /// Counts one more pair.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        self.count += 1;
        self.text = self.text.saturating_add(name.len()).saturating_add(value.len()).saturating_add(2);
    }

    /// Bytes of the serialized list.
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 + self.count * 8 + self.text
    }

    /// Number of pairs.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.count
    }
}

/// Writes pairs straight into the place they are wanted, names in lower case.
///
/// The place must have exactly [`Measure::bytes`] for the same pairs; whatever does not fit is not written, and
/// [`finish`](Self::finish) says so.
#[derive(Debug)]
pub struct Writer<'a> {
    sizes: &'a mut [u8],
    text: &'a mut [u8],
    fits: bool,
}

impl<'a> Writer<'a> {
    /// Starts a list of `measure` in `place`; `None` when the sizes do not agree.
    pub fn new(place: &'a mut [u8], measure: &Measure) -> Option<Self> {
        if place.len() != measure.bytes() {
            return None;
        }
        let (count, rest) = place.split_first_chunk_mut::<4>()?;
        *count = u32::try_from(measure.count).ok()?.to_le_bytes();
        let (sizes, text) = rest.split_at_mut_checked(measure.count * 8)?;
        Some(Self { sizes, text, fits: true })
    }

    /// Writes one pair.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.fits = self.fits && self.try_push(name, value).is_some();
    }

    fn try_push(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let (sizes, after) = std::mem::take(&mut self.sizes).split_first_chunk_mut::<8>()?;
        let (name_size, value_size) = sizes.split_at_mut(4);
        name_size.copy_from_slice(&u32::try_from(name.len()).ok()?.to_le_bytes());
        value_size.copy_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
        self.sizes = after;
        for (bytes, lower) in [(name, true), (value, false)] {
            let (place, after) = std::mem::take(&mut self.text).split_at_mut_checked(bytes.len())?;
            place.copy_from_slice(bytes);
            if lower {
                place.make_ascii_lowercase();
            }
            let (nul, after) = after.split_first_mut()?;
            *nul = 0;
            self.text = after;
        }
        Some(())
    }

    /// Whether everything fitted and nothing is left over.
    #[must_use]
    pub fn finish(self) -> bool {
        self.fits && self.sizes.is_empty() && self.text.is_empty()
    }
}

/// Serializes pairs into a new vector: for tests and for callers off a request's path.
#[must_use]
pub fn encode<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Vec<u8> {
    let mut measure = Measure::default();
    for (name, value) in pairs.clone() {
        measure.add(name, value);
    }
    let mut bytes = vec![0; measure.bytes()];
    if let Some(mut writer) = Writer::new(&mut bytes, &measure) {
        for (name, value) in pairs {
            writer.push(name, value);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Measure, Pairs, PairsError, Writer, encode};
    use crate::engine::limits::{MAX_PAIRS, MAX_PAIRS_BYTES};

    #[test]
    fn the_specification_s_layout_is_written() {
        let bytes = encode([(&b"A"[..], &b"xy"[..]), (b"", b"")]);
        assert_eq!(
            bytes, b"\x02\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0a\0xy\0\0\0",
            "names become lower case"
        );
    }

    #[test]
    fn an_empty_list_is_four_zero_bytes_or_none() {
        assert_eq!(encode(std::iter::empty()), [0; 4]);
        assert!(Pairs::parse(&[0; 4]).is_ok_and(|pairs| pairs.is_empty()));
        assert!(Pairs::parse(&[]).is_ok_and(|pairs| pairs.is_empty()));
    }

    #[test]
    fn malformed_lists_are_refused() {
        let good = encode([(&b"a"[..], &b"b"[..])]);
        for cut in 1..good.len() {
            assert_eq!(Pairs::parse(&good[..cut]), Err(PairsError::Length), "cut at {cut}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(Pairs::parse(&long), Err(PairsError::Length));
        let mut unterminated = good;
        if let Some(last) = unterminated.last_mut() {
            *last = 1;
        }
        assert_eq!(Pairs::parse(&unterminated), Err(PairsError::Terminator));
    }

    #[test]
    fn the_limits_hold() {
        let many = u32::try_from(MAX_PAIRS + 1).expect("small").to_le_bytes();
        assert_eq!(Pairs::parse(&many), Err(PairsError::TooMany));
        assert_eq!(Pairs::parse(&vec![0; MAX_PAIRS_BYTES + 1]), Err(PairsError::TooLarge));
        assert_eq!(Pairs::parse(&[0xff; 4]), Err(PairsError::TooMany));
        let lying = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, b'a', 0];
        assert_eq!(Pairs::parse(&lying), Err(PairsError::Length));
    }

    #[test]
    fn a_writer_notices_pairs_that_changed_since_they_were_measured() {
        let mut measure = Measure::default();
        measure.add(b"a", b"b");
        let mut place = vec![0; measure.bytes()];
        let mut writer = Writer::new(&mut place, &measure).expect("sizes agree");
        writer.push(b"a", b"longer");
        assert!(!writer.finish());
        let mut short = vec![0; measure.bytes() - 1];
        assert!(Writer::new(&mut short, &measure).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(pairs in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20)) {
            let bytes = encode(pairs.iter().map(|(name, value)| (&name[..], &value[..])));
            let read: Vec<_> = Pairs::parse(&bytes)?.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            let lower: Vec<_> = pairs.into_iter().map(|(n, v)| (n.to_ascii_lowercase(), v)).collect();
            prop_assert_eq!(read, lower);
        }

        #[test]
        fn any_bytes_are_refused_or_read_whole(bytes in any::<Vec<u8>>()) {
            if let Ok(pairs) = Pairs::parse(&bytes) {
                let text: usize = pairs.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
                if !bytes.is_empty() {
                    prop_assert_eq!(bytes.len(), 4 + pairs.len() * 8 + text);
                }
            }
        }
    }
}
