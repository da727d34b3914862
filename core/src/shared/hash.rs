//! SipHash-1-3 of words, with a key of the zone's own: whoever chooses keys cannot choose their buckets.
//!
//! J.-P. Aumasson, D. J. Bernstein: "SipHash: a fast short-input PRF", 2012; one round for each word and three at the
//! end, as the standard library's tables have it. Here every input is a number of whole words, so no bytes have to be
//! gathered.

/// The hash of `words`.
#[inline]
pub(crate) fn hash((first, second): (u64, u64), words: impl Iterator<Item = u64>) -> u64 {
    let mut state = [
        first ^ 0x736f_6d65_7073_6575,
        second ^ 0x646f_7261_6e64_6f6d,
        first ^ 0x6c79_6765_6e65_7261,
        second ^ 0x7465_6462_7974_6573,
    ];
    let mut bytes = 0_u64;
    let mut take = |word: u64| {
        state[3] ^= word;
        round(&mut state);
        state[0] ^= word;
    };
    for word in words {
        take(word);
        bytes = bytes.wrapping_add(8);
    }
    // The last word has the number of bytes, modulo 256, in its highest byte.
    take(bytes << 56);
    state[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut state);
    }
    state.into_iter().fold(0, |hash, word| hash ^ word)
}

#[inline]
const fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::hash;

    /// The standard library's hasher is SipHash-1-3 with a key of zeros.
    #[test]
    fn it_is_the_standard_library_s_hash() {
        for count in 0..40_u64 {
            let words = || (0..count).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut standard = DefaultHasher::new();
            words().for_each(|word| standard.write(&word.to_le_bytes()));
            assert_eq!(hash((0, 0), words()), standard.finish(), "{count}");
        }
    }

    #[test]
    fn the_key_decides() {
        let of = |key| hash(key, [1, 2].into_iter());
        assert_ne!(of((1, 2)), of((1, 3)));
        assert_ne!(of((1, 2)), of((2, 2)));
    }
}
