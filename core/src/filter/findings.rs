//! What is found out about a module by looking through all of it, kept beside its native code: who has that need not look
//! again, which takes as long for a large module as everything else at a start together.

use super::{
    inspect,
    instrument::{Instrumented, Obstacle, Segment},
};

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Findings {
    /// What has to be put into the memory of a new instance, in this order.
    pub(super) segments: Vec<Segment>,
    /// Why its instances cannot begin from an image.
    pub(super) obstacle: Option<Obstacle>,
    /// Whether it was surely made with the Rust SDK.
    pub(super) has_rust_sdk: bool,
}

/// Where the code is that findings are made by. They are part of an artefact's key, so that one which other code has made
/// is not found.
pub(super) const MADE_BY: [&str; 6] = [
    include_str!("findings.rs"),
    include_str!("inspect.rs"),
    include_str!("instrument.rs"),
    include_str!("series.rs"),
    include_str!("series/bodies.rs"),
    include_str!("callback.rs"),
];

impl Findings {
    /// Of a module as it was read, and what it has become.
    pub(super) fn new(wasm: &[u8], instrumented: Instrumented<'_>) -> Self {
        Self {
            segments: instrumented.segments,
            obstacle: instrumented.obstacle,
            has_rust_sdk: inspect::has_rust_sdk(wasm),
        }
    }

    /// The bytes that [`read`](Self::read) reads, with those of the native code behind them. `None` when there are more
    /// segments, or bytes in one, than 32 bits can count, which no module has.
    ///
    /// Numbers are little-endian, of 32 bits: whether it is the Rust SDK's; the obstacle, from 1, or 0; how many segments
    /// there are; for each of them where it is put, its length, and its bytes.
    pub(super) fn write(&self, code: &[u8]) -> Option<Vec<u8>> {
        let obstacle = Obstacle::ALL.iter().position(|one| Some(*one) == self.obstacle);
        let numbers = [usize::from(self.has_rust_sdk), obstacle.map_or(0, |at| at + 1), self.segments.len()];
        let data: usize = self.segments.iter().map(|segment| segment.bytes.len() + 8).sum();
        let mut bytes = Vec::with_capacity(12 + data + code.len());
        for number in numbers {
            bytes.extend(u32::try_from(number).ok()?.to_le_bytes());
        }
        for Segment { offset, bytes: data } in &self.segments {
            bytes.extend(offset.to_le_bytes());
            bytes.extend(u32::try_from(data.len()).ok()?.to_le_bytes());
            bytes.extend_from_slice(data);
        }
        bytes.extend_from_slice(code);
        Some(bytes)
    }

    /// What was written, and the native code behind it; `None` for what was not written by [`write`](Self::write).
    pub(super) fn read(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        let has_rust_sdk = match number(&mut bytes)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let obstacle = match usize::try_from(number(&mut bytes)?).ok()? {
            0 => None,
            at => Some(*Obstacle::ALL.get(at - 1)?),
        };
        let mut segments = Vec::new();
        for _ in 0..number(&mut bytes)? {
            let offset = number(&mut bytes)?;
            let length = usize::try_from(number(&mut bytes)?).ok()?;
            let (data, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            segments.push(Segment { offset, bytes: data.into() });
        }
        Some((Self { segments, obstacle, has_rust_sdk }, bytes))
    }
}

/// Takes a number off the front.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::{Findings, Obstacle, Segment};

    fn findings() -> impl Strategy<Value = Findings> {
        let segment = (any::<u32>(), vec(any::<u8>(), 0..20))
            .prop_map(|(offset, bytes)| Segment { offset, bytes: bytes.into() });
        let obstacle = option::of(select(&Obstacle::ALL[..]));
        (vec(segment, 0..5), obstacle, any::<bool>())
            .prop_map(|(segments, obstacle, has_rust_sdk)| Findings { segments, obstacle, has_rust_sdk })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(findings in findings(), code in vec(any::<u8>(), 0..20)) {
            let bytes = findings.write(&code).expect("few");
            prop_assert_eq!(Findings::read(&bytes), Some((findings, &code[..])));
        }

        #[test]
        fn what_is_cut_short_is_not_read(findings in findings(), cut in any::<prop::sample::Index>()) {
            let bytes = findings.write(b"").expect("few");
            prop_assert_eq!(Findings::read(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in vec(any::<u8>(), 0..100)) {
            if let Some((findings, code)) = Findings::read(&bytes) {
                prop_assert_eq!(findings.write(code).expect("few"), bytes);
            }
        }
    }

    #[test]
    fn numbers_that_mean_nothing_are_not_read() {
        for bytes in [[2, 0, 0], [0, 7, 0], [0, 0, u32::MAX]] {
            assert_eq!(Findings::read(&bytes.map(u32::to_le_bytes).concat()), None, "{bytes:?}");
        }
    }
}
