//! `.eh_frame` without what it says of signed return addresses.
//!
//! Where binaries for aarch64 are made with `-mbranch-protection`, as Debian 13's are, their tables say at which
//! instruction a return address becomes signed, and at which it no longer is. The unwinder does not know these entries
//! and gives up functions that have them; signatures it takes off wherever they are. So the entries become ones that say
//! nothing.

/// `DW_CFA_nop`.
const NOTHING: u8 = 0;

/// `DW_CFA_AARCH64_negate_ra_state`.
const SIGNED: u8 = 0x2d;

/// `DW_CFA_AARCH64_negate_ra_state_with_pc`.
const WITH_PLACE: u8 = 0x2c;

/// Takes out what `table` says of signatures. What is not understood stays as it is.
pub(super) fn forget(table: &mut [u8]) {
    let mut at = 0;
    while let Some(end) = end(table, at) {
        if let Some((first, pointer)) = instructions(table, at) {
            for place in signatures(&table[..end], first, pointer) {
                table[place] = NOTHING;
            }
        }
        at = end;
    }
}

/// Where the entry at `at` ends; `None` after the last one.
fn end(table: &[u8], at: usize) -> Option<usize> {
    let mut bytes = Bytes { table, at };
    let size = usize::try_from(bytes.word()?).ok().filter(|size| *size != 0)?;
    bytes.skip(size)?;
    Some(bytes.at)
}

/// Where the instructions of the entry at `at` begin, and of how many bytes an address in them is.
fn instructions(table: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut bytes = Bytes { table, at };
    bytes.word()?;
    let place = bytes.at;
    let back = usize::try_from(bytes.word()?).ok()?;
    let common = Common::at(table, if back == 0 { at } else { place.checked_sub(back)? })?;
    if back == 0 {
        return Some((common.instructions, common.pointer));
    }
    bytes.skip(2 * common.pointer)?;
    if common.is_sized {
        bytes.block()?;
    }
    Some((bytes.at, common.pointer))
}

/// The places of instructions about signatures, from `at` to the end of `table`.
fn signatures(table: &[u8], at: usize, pointer: usize) -> Vec<usize> {
    let mut places = Vec::new();
    let mut bytes = Bytes { table, at };
    // DWARF 5, 7.24; and what GNU and Arm have added.
    while let Some(code) = bytes.byte() {
        let known = match code {
            WITH_PLACE | SIGNED => {
                places.push(bytes.at - 1);
                Some(())
            }
            0x00 | 0x0a | 0x0b | 0x40..=0x7f | 0xc0..=0xff => Some(()),
            0x01 => bytes.skip(pointer),
            0x02 => bytes.skip(1),
            0x03 => bytes.skip(2),
            0x04 => bytes.skip(4),
            0x06..=0x08 | 0x0d | 0x0e | 0x13 | 0x2e | 0x80..=0xbf => bytes.number().map(drop),
            0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f => {
                bytes.number().and_then(|_| bytes.number()).map(drop)
            }
            0x0f => bytes.block(),
            0x10 | 0x16 => bytes.number().and_then(|_| bytes.block()),
            _ => None,
        };
        if known.is_none() {
            break;
        }
    }
    places
}

/// What several functions have in common (a CIE).
struct Common {
    /// Where its instructions begin.
    instructions: usize,
    /// Entries of functions say how many bytes they have beside instructions.
    is_sized: bool,
    /// Bytes of an address.
    pointer: usize,
}

impl Common {
    fn at(table: &[u8], at: usize) -> Option<Self> {
        let mut bytes = Bytes { table, at };
        // Its size, and the number that says that it is one.
        bytes.word()?;
        (bytes.word()? == 0).then_some(())?;
        let version = bytes.byte()?;
        let name = bytes.at;
        while bytes.byte()? != 0 {}
        let augmentation = &table[name..bytes.at - 1];
        // The units of code and data.
        bytes.number()?;
        bytes.number()?;
        // The register that has the return address.
        if version == 1 {
            bytes.skip(1)?
        } else {
            bytes.number().map(drop)?
        }
        let Some((b'z', rest)) = augmentation.split_first() else {
            return augmentation.is_empty().then_some(Self {
                instructions: bytes.at,
                is_sized: false,
                pointer: size_of::<u64>(),
            });
        };
        let mut data = Bytes { table, at: bytes.at };
        data.number()?;
        bytes.block()?;
        let mut common = Self { instructions: bytes.at, is_sized: true, pointer: size_of::<u64>() };
        for letter in rest {
            match letter {
                b'R' => common.pointer = pointer(data.byte()?)?,
                b'L' => data.skip(1)?,
                b'P' => {
                    let size = pointer(data.byte()?)?;
                    data.skip(size)?;
                }
                b'S' | b'B' => {}
                _ => return None,
            }
        }
        Some(common)
    }
}

/// Bytes of an address in an encoding (`DW_EH_PE_`…) of a fixed size.
fn pointer(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

/// A place in a table.
struct Bytes<'t> {
    table: &'t [u8],
    at: usize,
}

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.table.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self) -> Option<u32> {
        let bytes = self.table.get(self.at..)?.first_chunk()?;
        self.at += size_of::<u32>();
        Some(u32::from_le_bytes(*bytes))
    }

    /// A number of as many bytes as it needs (LEB128). Of a negative one only the bytes count, and it is no size.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Some bytes after their number.
    fn block(&mut self) -> Option<()> {
        let size = usize::try_from(self.number()?).ok()?;
        self.skip(size)
    }

    fn skip(&mut self, size: usize) -> Option<()> {
        let end = self.at.checked_add(size)?;
        self.table.get(self.at..end)?;
        self.at = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::forget;

    /// An entry: its size, then what it is of.
    fn entry(parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let size = u32::try_from(content.len()).expect("a size").to_le_bytes();
        [&size[..], &content].concat()
    }

    #[test]
    fn signatures_are_forgotten_and_nothing_else() {
        // Version 1, "zR", units 4 and -8, register 30, one byte of data: addresses of four bytes. CFA: sp + 0.
        let common = entry(&[&[0; 4], &[1, b'z', b'R', 0, 4, 0x78, 30, 1, 0x1b, 0x0c, 31, 0]]);
        let function = |offset: usize, instructions: &[u8]| {
            let back = u32::try_from(offset + 4).expect("an offset").to_le_bytes();
            entry(&[&back, &[0x2d; 8], &[0], instructions])
        };
        // As glibc has it: advance, signed, advance, CFA: sp + 45, fp and lr saved, …, a block of bytes, signed; padding.
        let before = [
            0x43, 0x2d, 0x41, 0x0e, 0x2d, 0x9d, 0x2d, 0x9e, 5, 0x0f, 2, 0x2d, 0x2d, 0x02, 0x2d, 0x2d, 0x2c, 0,
        ];
        let after = [
            0x43, 0x00, 0x41, 0x0e, 0x2d, 0x9d, 0x2d, 0x9e, 5, 0x0f, 2, 0x2d, 0x2d, 0x02, 0x2d, 0x00, 0x00, 0,
        ];
        // What comes after an instruction that is not known is no instruction for sure.
        let odd = [0x2d, 0x3f, 0x2d];
        let table = |instructions: &[u8], odd: &[u8]| {
            let mut table = common.clone();
            table.extend(function(table.len(), instructions));
            table.extend(function(table.len(), odd));
            table.extend([0; 4]);
            table
        };
        let mut forgotten = table(&before, &odd);
        forget(&mut forgotten);
        assert_eq!(forgotten, table(&after, &[0, 0x3f, 0x2d]));
    }

    #[test]
    fn what_is_no_table_does_no_harm() {
        let common = entry(&[&[0; 4], &[1, b'z', b'R', 0, 4, 0x78, 30, 1, 0x1b]]);
        let whole =
            [common.clone(), entry(&[&[17, 0, 0, 0], &[0; 8], &[0], &[0x2d, 0x0f, 0xff, 0x7f, 0x2d]])]
                .concat();
        for size in 0..whole.len() {
            forget(&mut whole[..size].to_vec());
        }
        for (at, byte) in (0..whole.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut table = whole.clone();
            table[at] = byte;
            forget(&mut table);
        }
    }
}
