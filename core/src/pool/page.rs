//! One page put back to what its image has, block by block: only blocks that differ are written.
//!
//! Most of what a guest's memory holds after configuration is zeros, in pages with data as well, and a request writes a
//! few lines of a page. So a block of zeros is only looked at, without its image, and what is the same is not written:
//! a processor's caches hold less of it, and write less of it back.

#![allow(unsafe_code, reason = "the same code, compiled for processors with wider registers")]

use super::image::PAGE;

/// Bytes of a block.
const BLOCK: usize = 512;

/// A page has a bit for each block in a byte.
const _: () = assert!(PAGE / BLOCK == 8);

/// Which blocks of a page hold something other than zeros: a bit for each, the first one lowest.
pub(super) fn filled(page: &[u8; PAGE]) -> u8 {
    let (blocks, _) = page.as_chunks::<BLOCK>();
    let bit = |(at, block): (usize, &[u8; BLOCK])| u8::from(block.iter().any(|byte| *byte != 0)) << at;
    blocks.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
}

/// Makes `page` what `original` is, of which [`filled`] says `filled`. Whether it was anything else.
pub(super) fn put_back(page: &mut [u8; PAGE], original: &[u8; PAGE], filled: u8) -> bool {
    // Processors that have this one do not become slower with registers of 64 bytes, as earlier ones with AVX-512 do.
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512vbmi2") && std::arch::is_x86_feature_detected!("avx512vl") {
        // SAFETY: this processor has both.
        return unsafe { put_back_widest(page, original, filled) };
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: this processor has AVX2.
        return unsafe { put_back_wide(page, original, filled) };
    }
    put_back_anywhere(page, original, filled)
}

/// With registers of 64 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512vbmi2,avx512vl")]
fn put_back_widest(page: &mut [u8; PAGE], original: &[u8; PAGE], filled: u8) -> bool {
    put_back_anywhere(page, original, filled)
}

/// With registers of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn put_back_wide(page: &mut [u8; PAGE], original: &[u8; PAGE], filled: u8) -> bool {
    put_back_anywhere(page, original, filled)
}

#[inline(always)]
fn put_back_anywhere(page: &mut [u8; PAGE], original: &[u8; PAGE], filled: u8) -> bool {
    let mut differed = false;
    let (blocks, _) = page.as_chunks_mut::<BLOCK>();
    let (originals, _) = original.as_chunks::<BLOCK>();
    let mut pairs = blocks.iter_mut().zip(originals);
    // A bit for each block, and one that says where they end. How often this runs is left to it, so that the compiler does
    // not write it out eight times: a request would fetch more than four kilobytes of code for it.
    let mut filled = u32::from(filled) | 1 << (PAGE / BLOCK);
    while filled != 1
        && let Some((block, original)) = pairs.next()
    {
        // All bytes are looked at, without a branch between them: that is what vector instructions are for.
        if filled & 1 == 0 {
            if block.iter().fold(0, |all, byte| all | byte) != 0 {
                block.fill(0);
                differed = true;
            }
        } else if block.iter().zip(original).fold(0, |all, (byte, other)| all | (byte ^ other)) != 0 {
            *block = *original;
            differed = true;
        }
        filled >>= 1;
    }
    differed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BLOCK, PAGE, filled, put_back, put_back_anywhere};

    /// A page of zeros with some bytes in it.
    fn page() -> impl Strategy<Value = Box<[u8; PAGE]>> {
        prop::collection::vec((0..PAGE, any::<u8>()), 0..20).prop_map(|bytes| {
            let mut page = Box::new([0; PAGE]);
            bytes.into_iter().for_each(|(at, byte)| page[at] = byte);
            page
        })
    }

    proptest! {
        #[test]
        fn whatever_was_written_is_undone(original in page(), written in page()) {
            let filled = filled(&original);
            for (at, block) in original.chunks(BLOCK).enumerate() {
                prop_assert_eq!(filled >> at & 1 == 1, block.iter().any(|byte| *byte != 0));
            }
            let mut page = original.clone();
            page.iter_mut().zip(&written[..]).for_each(|(byte, written)| *byte ^= written);
            let mut other = page.clone();
            let differs = page != original;
            prop_assert_eq!(put_back(&mut page, &original, filled), differs);
            prop_assert_eq!(&page, &original);
            prop_assert_eq!(put_back_anywhere(&mut other, &original, filled), differs);
            prop_assert_eq!(&other, &original);
            // A processor that has the widest registers does not come by these otherwise.
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                other.iter_mut().zip(&written[..]).for_each(|(byte, written)| *byte ^= written);
                // SAFETY: this processor has AVX2.
                prop_assert_eq!(unsafe { super::put_back_wide(&mut other, &original, filled) }, differs);
                prop_assert_eq!(&other, &original);
            }
        }
    }

    #[test]
    fn each_byte_counts() {
        for at in 0..PAGE {
            let mut page = Box::new([0; PAGE]);
            page[at] = 1;
            let changed = page.clone();
            assert_eq!(filled(&page), 1 << (at / BLOCK), "{at}");
            assert!(put_back(&mut page, &[0; PAGE], 0));
            assert_eq!(*page, [0; PAGE], "{at}");
            assert!(put_back(&mut page, &changed, filled(&changed)));
            assert_eq!(page, changed, "{at}");
        }
    }
}
