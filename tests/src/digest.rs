//! The hash that the guest `body_reader` logs.

/// FNV-1a with 64 bits, as 16 hexadecimal digits.
#[must_use]
pub fn fnv(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// `size` bytes that differ from place to place and from seed to seed, the same in each run.
#[must_use]
pub fn bytes(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(size);
    out
}

#[cfg(test)]
mod tests {
    use super::{bytes, fnv};

    #[test]
    fn fnv_is_the_published_one() {
        assert_eq!(fnv(b""), "cbf29ce484222325");
        assert_eq!(fnv(b"a"), "af63dc4c8601ec8c");
        assert_eq!(fnv(b"foobar"), "85944171f73967e8");
    }

    #[test]
    fn bytes_have_the_size_asked_for_and_depend_on_the_seed() {
        for size in [0, 1, 7, 8, 9, 1000] {
            assert_eq!(bytes(size, 1).len(), size);
        }
        assert_ne!(bytes(16, 1), bytes(16, 2));
        assert_eq!(bytes(16, 3), bytes(16, 3));
    }
}
