//! The code of this process: how stacks are unwound in it, and what its functions are called.
//!
//! Binaries have tables that say how to leave each function (`.eh_frame`). Guests' code, which is in no file, keeps frame
//! pointers, and that is what is followed where there is no table.

use std::{
    fs::{self, File},
    io,
    ops::Range,
};

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder as _,
    UnwinderNative,
};
use object::{
    Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, SegmentFlags,
    SymbolKind, elf::PF_X,
};

use super::{Frame, Mapping, names::readable, sampler::Sample};
use crate::filter::symbols::Symbol;

/// Most frames of a stack that are followed.
const DEPTH: usize = 256;

/// What guests' code is called where others have a file.
const GUESTS: &str = "guests";

/// What a stack begins with that is not the thread's own.
const NO_STACK: &str = "(in a signal handler)";

/// A file's code in memory.
struct Piece {
    mapping: Mapping,
    /// What is added to an address in the file.
    bias: u64,
    path: String,
}

/// All code that this process can run.
pub(super) struct Code {
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    /// In the order of addresses.
    pieces: Vec<Piece>,
    /// In the order of addresses.
    guests: Vec<Symbol>,
    /// Where the kernel has put functions of its own, such as `clock_gettime`.
    vdso: Range<u64>,
    /// Files that could not be read, and why.
    unread: Vec<(String, io::Error)>,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").field("pieces", &self.pieces.len()).finish_non_exhaustive()
    }
}

impl Code {
    /// What is mapped now, and `guests`, in the order of their addresses. Files that cannot be read have no names, and
    /// stacks may end there.
    pub(super) fn of_this_process(guests: Vec<Symbol>) -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mut unwinder = UnwinderNative::new();
        let (mut pieces, mut unread) = (Vec::new(), Vec::new());
        for mapping in maps.lines().filter_map(executable) {
            let path = mapping.name.clone();
            let bias = match File::open(&path).map(|file| module(&mapping, file)) {
                Ok(None) => continue,
                Ok(Some((bias, module))) => {
                    unwinder.add_module(module);
                    bias
                }
                Err(error) => {
                    unread.push((path.clone(), error));
                    0
                }
            };
            pieces.push(Piece { mapping, bias, path });
        }
        let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(range).unwrap_or_default();
        Self { unwinder, cache: CacheNative::default(), pieces, guests, vdso, unread }
    }

    /// The addresses of a sample's functions, each inside the instruction that was running or had called: the innermost
    /// first.
    pub(super) fn unwind(&mut self, sample: &Sample, addresses: &mut Vec<u64>) {
        addresses.clear();
        let mut pc = sample.pc;
        if let Some(call) = called_from(sample).filter(|_| self.vdso.contains(&pc)) {
            addresses.push(pc);
            pc = call;
        }
        let mut read = |address: u64| sample.word(address).ok_or(());
        let mut frames = self.unwinder.iter_frames(pc, registers(sample), &mut self.cache, &mut read);
        while addresses.len() < DEPTH
            && let Ok(Some(frame)) = frames.next()
        {
            addresses.push(frame.address_for_lookup());
        }
        if !sample.has_stack() {
            addresses.push(0);
        }
    }

    /// Files that could not be read, and why.
    pub(super) fn into_unread(self) -> Vec<(String, io::Error)> {
        self.unread
    }

    /// The stretches that [`Frame::mapping`] means.
    pub(super) fn mappings(&self) -> Vec<Mapping> {
        let files = self.pieces.iter().map(|piece| piece.mapping.clone());
        files.chain(self.guests_mapping()).collect()
    }

    /// From the first to the last piece of guests' code.
    fn guests_mapping(&self) -> Option<Mapping> {
        let (first, last) = (self.guests.first()?, self.guests.last()?);
        let (start, end) = (first.address as u64, (last.address + last.size) as u64);
        Some(Mapping { start, end, offset: 0, name: GUESTS.to_owned() })
    }

    /// What is at `addresses`, which are sorted: as many frames.
    pub(super) fn frames(&self, addresses: &[u64]) -> Vec<Frame> {
        let mut frames = Vec::with_capacity(addresses.len());
        let mut rest = addresses;
        while let Some((&address, after)) = rest.split_first() {
            let piece = self.pieces.iter().position(|piece| piece.holds(address));
            let Some(at) = piece else {
                frames.push(self.elsewhere(address));
                rest = after;
                continue;
            };
            let piece = &self.pieces[at];
            let here = rest.partition_point(|address| piece.holds(*address));
            let (here, after) = rest.split_at(here);
            let names = piece.names(here);
            frames.extend(
                here.iter().zip(names).map(|(address, symbol)| frame(*address, Some(at), symbol, false)),
            );
            rest = after;
        }
        frames
    }

    /// A place that is in no file.
    fn elsewhere(&self, address: u64) -> Frame {
        if address == 0 {
            return frame(address, None, NO_STACK.to_owned(), false);
        }
        let after = self.guests.partition_point(|symbol| symbol.address as u64 <= address);
        let symbol = after.checked_sub(1).and_then(|at| self.guests.get(at));
        match symbol.filter(|symbol| address - (symbol.address as u64) < symbol.size as u64) {
            Some(symbol) => frame(address, Some(self.pieces.len()), symbol.name.clone(), true),
            None if self.vdso.contains(&address) => frame(address, None, "[vdso]".to_owned(), false),
            None => frame(address, None, "(unknown)".to_owned(), false),
        }
    }
}

fn frame(address: u64, mapping: Option<usize>, symbol: String, is_guest: bool) -> Frame {
    let name = readable(&symbol);
    Frame { address, mapping, symbol, name, is_guest }
}

impl Piece {
    fn holds(&self, address: u64) -> bool {
        (self.mapping.start..self.mapping.end).contains(&address)
    }

    /// The functions that are at `addresses`, which are sorted; the file's own name where it has none for one.
    fn names(&self, addresses: &[u64]) -> Vec<String> {
        let named = File::open(&self.path).ok().and_then(|file| {
            let data = ReadCache::new(file);
            let file = object::File::parse(&data).ok()?;
            let mut functions = Vec::new();
            for symbol in file.symbols().chain(file.dynamic_symbols()) {
                if symbol.kind() == SymbolKind::Text && symbol.size() != 0 && !symbol.is_undefined() {
                    functions.push((
                        symbol.address(),
                        symbol.size(),
                        symbol.name_bytes().unwrap_or_default(),
                    ));
                }
            }
            // Of several names for one place, the one that looks least like an internal one.
            functions.sort_by_key(|(start, _, name)| {
                (*start, name.iter().take_while(|byte| **byte == b'_').count(), name.len())
            });
            functions.dedup_by_key(|(start, ..)| *start);
            let name = |address: &u64| {
                let at = address.wrapping_sub(self.bias);
                let after = functions.partition_point(|(start, ..)| *start <= at);
                let (start, size, name) = functions.get(after.checked_sub(1)?)?;
                (at - start < *size).then(|| String::from_utf8_lossy(name).into_owned())
            };
            Some(addresses.iter().map(name).collect::<Vec<_>>())
        });
        let own = || format!("[{}]", self.path.rsplit_once('/').map_or(self.path.as_str(), |(_, name)| name));
        let named = named.unwrap_or_else(|| vec![None; addresses.len()]);
        named.into_iter().map(|name| name.unwrap_or_else(own)).collect()
    }
}

/// A line of `/proc/PID/maps` (proc_pid_maps(5)), if it is about a file's code.
fn executable(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (rights, offset) = (words.nth(1)?, words.next()?);
    let path = words.nth(2)?.trim_start();
    // A file that has been replaced since has other code.
    if !rights.contains('x') || !path.starts_with('/') || path.ends_with(" (deleted)") {
        return None;
    }
    let Range { start, end } = range(line)?;
    let offset = u64::from_str_radix(offset, 16).ok()?;
    Some(Mapping { start, end, offset, name: path.to_owned() })
}

/// The addresses that a line of `/proc/PID/maps` is about.
fn range(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// How stacks are unwound in the code of `file`, and what is added to the addresses in it.
fn module(mapping: &Mapping, file: File) -> Option<(u64, Module<Vec<u8>>)> {
    let page = rustix::param::page_size() as u64;
    let data = ReadCache::new(file);
    let file = object::File::parse(&data).ok()?;
    let segment = file.segments().find(|segment| {
        let (start, size) = segment.file_range();
        let is_code = matches!(segment.flags(), SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0);
        // What is mapped begins at a page, where another segment may end.
        is_code && (start - start % page..start + size).contains(&mapping.offset)
    })?;
    let in_file = segment.address().wrapping_add(mapping.offset).wrapping_sub(segment.file_range().0);
    let bias = mapping.start.wrapping_sub(in_file);
    let place = |name: &str| -> Option<(Range<u64>, object::read::Section<'_, '_, _>)> {
        let section = file.section_by_name(name)?;
        Some((section.address()..section.address() + section.size(), section))
    };
    let range = |name: &str| place(name).map(|(range, _)| range);
    let bytes = |name: &str| place(name).and_then(|(_, section)| Some(section.data().ok()?.to_vec()));
    #[cfg(target_arch = "aarch64")]
    let frames = bytes(".eh_frame").map(|mut table| {
        super::signed::forget(&mut table);
        table
    });
    #[cfg(not(target_arch = "aarch64"))]
    let frames = bytes(".eh_frame");
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range(".text"),
        got_svma: range(".got"),
        eh_frame_svma: range(".eh_frame"),
        eh_frame: frames,
        eh_frame_hdr_svma: range(".eh_frame_hdr"),
        eh_frame_hdr: bytes(".eh_frame_hdr"),
        ..ExplicitModuleSectionInfo::default()
    };
    Some((bias, Module::new(mapping.name.clone(), mapping.start..mapping.end, bias, sections)))
}

#[cfg(target_arch = "x86_64")]
fn registers(sample: &Sample) -> UnwindRegsNative {
    UnwindRegsNative::new(sample.pc, sample.sp, sample.fp)
}

/// Where the kernel's own function that was running has been called, if a register says so.
#[cfg(target_arch = "x86_64")]
fn called_from(_: &Sample) -> Option<u64> {
    None
}

/// What is part of an address: a process has at most so many bits, unless it has asked for more. What is above them in a
/// return address is its signature, where binaries are made for that (`-mbranch-protection`) and the processor can do it.
#[cfg(target_arch = "aarch64")]
const ADDRESS: u64 = u64::MAX >> (u64::BITS - 48);

#[cfg(target_arch = "aarch64")]
fn registers(sample: &Sample) -> UnwindRegsNative {
    let mask = framehop::aarch64::PtrAuthMask(ADDRESS);
    UnwindRegsNative::new_with_ptr_auth_mask(mask, sample.lr, sample.sp, sample.fp)
}

/// Where the kernel's own function that was running has been called. They have no tables here and no frames, and since
/// they call nothing, the register still says it.
#[cfg(target_arch = "aarch64")]
fn called_from(sample: &Sample) -> Option<u64> {
    /// All instructions are of one size.
    const CALL: u64 = 4;
    (sample.lr & ADDRESS).checked_sub(CALL)
}

#[cfg(test)]
mod tests {
    use super::{Code, Mapping, executable};
    use crate::filter::symbols::Symbol;

    #[test]
    fn code_of_files_is_told_from_the_rest() {
        let line =
            "7f0000001000-7f0000003000 r-xp 00002000 08:01 42                         /usr/lib/my lib.so";
        let mapping = Mapping {
            start: 0x7f00_0000_1000,
            end: 0x7f00_0000_3000,
            offset: 0x2000,
            name: "/usr/lib/my lib.so".to_owned(),
        };
        assert_eq!(executable(line), Some(mapping));
        for other in [
            &line.replace("r-xp", "rw-p"),
            &format!("{line} (deleted)"),
            "7f0000001000-7f0000003000 r-xp 00000000 00:00 0                          [vdso]",
            "7f0000001000-7f0000003000 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(executable(other), None, "{other}");
        }
    }

    #[test]
    fn places_have_names() {
        let symbol = |address, name: &str| Symbol { address, size: 16, name: name.to_owned() };
        let guests = vec![symbol(0x1000, "first"), symbol(0x1020, "_ZN4core3fmt5write17h0123456789abcdefE")];
        let code = Code::of_this_process(guests);
        let here = places_have_names as fn() as usize as u64;
        let mut wanted = [0, 0x100f, 0x1010, 0x1021, here];
        wanted.sort_unstable();
        let frames = code.frames(&wanted);
        let names: Vec<_> = frames.iter().map(|frame| frame.name.as_str()).collect();
        let own = "weir_core::profile::code::tests::places_have_names";
        assert_eq!(names, ["(in a signal handler)", "first", "(unknown)", "core::fmt::write", own]);
        let guests: Vec<_> = frames.iter().map(|frame| frame.is_guest).collect();
        assert_eq!(guests, [false, true, false, true, false]);
        let mappings = code.mappings();
        let mapping = |at: usize| frames[at].mapping.map(|at| &mappings[at]);
        assert_eq!(mapping(1).map(|mapping| (mapping.start, mapping.end)), Some((0x1000, 0x1030)));
        assert!(mapping(4).is_some_and(|mapping| (mapping.start..mapping.end).contains(&here)));
    }
}
