//! Which pages of an instance's memory a request has written, found without a signal handler.
//!
//! A page of a private mapping becomes the process's own when it is written first, which is a page fault. So as long as
//! the thread's count of faults stands still, only pages that are its own already can have been written, and those are
//! known; when it has moved, the kernel is asked which pages are the process's own now (PAGEMAP_SCAN, Linux 6.7,
//! `Documentation/admin-guide/mm/pagemap.rst`).

#![allow(unsafe_code, reason = "system calls that have no safe interface among our dependencies")]

use std::{fs::File, io, mem::MaybeUninit, os::fd::IntoRawFd, sync::OnceLock};

use super::{
    image::{Mapped, PAGE, Writes},
    protect::Entered,
    tracker::{Hot, Reset, Track},
};

/// Tracks one instance's memory from the moment its image is mapped.
#[derive(Debug)]
pub(crate) struct Scan {
    hot: Hot,
    most: usize,
    /// Page faults of the thread when the hot pages were up to date.
    faults: i64,
}

impl Scan {
    /// Tracks `mapped`, which may be written. `most` pages at the most may be.
    ///
    /// # Errors
    /// When this kernel has no PAGEMAP_SCAN, or page tables cannot be read.
    pub(crate) fn new(mapped: &Mapped, most: usize) -> io::Result<Self> {
        let mut scan = Self { hot: Hot::new(most), most, faults: -1 };
        scan.look(mapped)?;
        Ok(scan)
    }

    /// Brings the hot pages up to date.
    fn look(&mut self, mapped: &Mapped) -> io::Result<()> {
        let pages = own_pages(mapped, self.most)?;
        self.hot.set(pages.into_iter());
        self.faults = faults();
        Ok(())
    }
}

impl Track for Scan {
    const WRITES: Writes = Writes::Allowed;

    fn enter(&self) -> Option<Entered> {
        None
    }

    fn reset(&mut self, mapped: &Mapped) -> Reset {
        if faults() != self.faults {
            // One more than may be: too many.
            match own_pages(mapped, self.most + 1) {
                Ok(pages) if pages.len() <= self.most => self.hot.set(pages.into_iter()),
                _ => return Reset::GivenUp,
            }
        }
        let reset = self.hot.reset(mapped);
        self.faults = faults();
        reset
    }
}

/// Page faults of this thread that needed no input or output.
fn faults() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is memory for one rusage, which the call fills.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } != 0;
    // SAFETY: all bytes zero are an rusage, should the call have failed.
    let usage = unsafe { usage.assume_init() };
    // A number that is never the same: each request is looked at.
    if failed { i64::MIN } else { usage.ru_minflt }
}

/// `struct page_region` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of `linux/fs.h`.
#[repr(C)]
struct Arguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// The page is the file's, or shared.
const PAGE_IS_FILE: u64 = 1 << 2;

/// The page is in memory.
const PAGE_IS_PRESENT: u64 = 1 << 3;

/// The page has been swapped out.
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// Runs of pages that one call tells of.
const REGIONS: usize = 64;

/// Numbers of the pages of `mapped` that are the process's own: at most `most` of them.
fn own_pages(mapped: &Mapped, most: usize) -> io::Result<Vec<u32>> {
    let file = pagemap()?;
    let base = mapped.base().addr().get() as u64;
    let end = base + mapped.image().bytes().len() as u64;
    let mut pages = Vec::new();
    let mut start = base;
    while start < end && pages.len() < most {
        let mut regions = [Region { start: 0, end: 0, categories: 0 }; REGIONS];
        let mut arguments = Arguments {
            size: size_of::<Arguments>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: REGIONS as u64,
            max_pages: (most - pages.len()) as u64,
            category_inverted: PAGE_IS_FILE,
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        };
        // SAFETY: the arguments are of the size that they say, and `regions` has room for what they allow.
        let found = unsafe { libc::ioctl(file, PAGEMAP_SCAN, &raw mut arguments) };
        let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
        for region in regions.iter().take(found) {
            let number = |address: u64| u32::try_from((address - base) / PAGE as u64).unwrap_or(u32::MAX);
            pages.extend(number(region.start)..number(region.end));
        }
        if arguments.walk_end <= start {
            break;
        }
        start = arguments.walk_end;
    }
    Ok(pages)
}

/// Whether pages can be scanned here.
pub(crate) fn is_available() -> bool {
    let mut arguments = Arguments {
        size: size_of::<Arguments>() as u64,
        flags: 0,
        start: 0,
        end: 0,
        walk_end: 0,
        vec: 0,
        vec_len: 0,
        max_pages: 0,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: 0,
        return_mask: 0,
    };
    // SAFETY: the arguments are of the size that they say, and ask for nothing.
    pagemap().is_ok_and(|file| unsafe { libc::ioctl(file, PAGEMAP_SCAN, &raw mut arguments) } == 0)
}

/// The page tables of this process, opened in the master: a worker that has changed its user may not open them.
///
/// The file is that of the process that opened it, so each child opens its own in the old one's place, as soon as it
/// has been forked.
fn pagemap() -> io::Result<i32> {
    static FILE: OnceLock<Option<i32>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = File::open("/proc/self/pagemap").ok()?.into_raw_fd();
        // SAFETY: the handler only makes system calls.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(reopen)) } != 0;
        PAGEMAP.store(file, std::sync::atomic::Ordering::Relaxed);
        (!failed).then_some(file)
    });
    file.ok_or_else(|| io::Error::other("page tables cannot be read"))
}

/// The descriptor, for the handler in a child.
static PAGEMAP: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// A child has been forked: the descriptor becomes one of its own page tables, or of nothing that answers.
unsafe extern "C" fn reopen() {
    let file = PAGEMAP.load(std::sync::atomic::Ordering::Relaxed);
    let mode = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a system call with a name that is a constant.
    let mut own = unsafe { libc::open(c"/proc/self/pagemap".as_ptr(), mode) };
    if own < 0 {
        // SAFETY: as above.
        own = unsafe { libc::open(c"/dev/null".as_ptr(), mode) };
    }
    // SAFETY: both are descriptors, and the second is ours.
    unsafe { libc::dup3(own, file, libc::O_CLOEXEC) };
    // SAFETY: it was opened here.
    unsafe { libc::close(own) };
}

#[cfg(test)]
mod tests {
    use std::{ptr::NonNull, sync::Arc};

    use super::{
        super::{
            image::{Mapped, PAGE, numbered, zeros},
            tracker::{Reset, Track, USUALLY_HOT},
        },
        Scan, is_available,
    };

    #[test]
    fn writes_are_found_and_undone() {
        if !is_available() {
            eprintln!("not tested: this kernel has no PAGEMAP_SCAN");
            return;
        }
        let (mut memory, image) = (zeros(300), numbered(300));
        let base = NonNull::new(memory.as_mut_ptr()).expect("mapped");
        // SAFETY: the mapping is as long as the image and outlives what is mapped over it.
        let mapped = unsafe { Mapped::new(base, Arc::clone(&image), Scan::WRITES) }.expect("mapped");
        let mut scan = Scan::new(&mapped, 200).expect("scanned");
        for round in 0..50 {
            for page in [3, round, 299] {
                memory[page * PAGE + round] = 255;
            }
            assert_eq!(scan.reset(&mapped), Reset::Done);
            assert_eq!(memory[..], *image.bytes(), "round {round}");
        }
        for round in 0..5 {
            memory[..(USUALLY_HOT * 2) * PAGE].fill(1);
            assert_eq!(scan.reset(&mapped), Reset::Done);
            assert_eq!(memory[..], *image.bytes(), "large round {round}");
        }
        memory.fill(1);
        assert_eq!(scan.reset(&mapped), Reset::GivenUp);
    }
}
