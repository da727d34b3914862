//! Ranges of a guest's memory: pointers and lengths as guests give them.

use weir_core::testing::guest_range;

use crate::input::Input;

/// Tries one input: a list of sizes, pointers and lengths.
///
/// # Panics
/// When a range is not what arithmetic without bounds says.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        let kind = input.byte();
        let size = input.u32();
        // Numbers around the edges of the memory and of 32 bits, and any others.
        let [ptr, len] = [kind & 7, kind >> 3 & 7].map(|kind| match kind {
            0 => input.u32(),
            1 => size,
            2 => size.wrapping_sub(1),
            3 => size.wrapping_add(1),
            4 => u32::MAX,
            5 => u32::from(input.byte()),
            6 => size.wrapping_sub(u32::from(input.byte())),
            _ => 1 << 31,
        });
        let found = guest_range(size as usize, ptr.cast_signed(), len.cast_signed());
        let (start, end) = (u128::from(ptr), u128::from(ptr) + u128::from(len));
        let wanted = (end <= u128::from(size)).then(|| {
            let narrow = |number: u128| usize::try_from(number).expect("below the memory's size");
            narrow(start)..narrow(end)
        });
        assert_eq!(found, wanted, "{len} bytes at {ptr} in {size}");
    }
}
