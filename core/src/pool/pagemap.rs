//! What the kernel tells of this process's page tables (`Documentation/admin-guide/mm/pagemap.rst`).

#![allow(unsafe_code, reason = "system calls that have no safe interface among our dependencies")]

use std::{
    fs::File,
    io,
    mem::ManuallyDrop,
    os::{
        fd::{FromRawFd, IntoRawFd},
        unix::fs::FileExt,
    },
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering},
    },
};

use super::image::{PAGE, together};

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

/// Numbers of the pages, of `len` bytes at `base`, that are the process's own, although they are mapped from a file: at
/// most `most` of them.
///
/// # Errors
/// When this kernel has no PAGEMAP_SCAN (Linux 6.7), or page tables cannot be read.
pub(crate) fn own_pages(base: NonNull<u8>, len: usize, most: usize) -> io::Result<Vec<u32>> {
    let file = descriptor()?;
    let base = base.addr().get() as u64;
    let end = base + len as u64;
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

/// Entries of page tables that one call reads.
const ENTRIES: usize = 512;

/// The page is in memory, or has been swapped out (bits 63 and 62 of an entry of pagemap).
const EXISTS: u64 = 0b11 << 62;

/// Calls `each` with the number of every page, of `len` bytes at `base`, that there is: written, or at least read.
///
/// # Errors
/// When page tables cannot be read; `each` may have been called then.
pub(crate) fn each_page(base: NonNull<u8>, len: usize, mut each: impl FnMut(usize)) -> io::Result<()> {
    let descriptor = descriptor()?;
    // SAFETY: it is open as long as the process lives, and not closed here.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
    // The kernel has an entry for each page of its own.
    let together = together();
    let (all, pages) = (len.div_ceil(PAGE), len.div_ceil(PAGE * together));
    let begin = base.addr().get() / (PAGE * together);
    let mut buffer = [0; ENTRIES * size_of::<u64>()];
    for first in (0..pages).step_by(ENTRIES) {
        let bytes = (pages - first).min(ENTRIES) * size_of::<u64>();
        let buffer = buffer.get_mut(..bytes).unwrap_or_default();
        file.read_exact_at(buffer, ((begin + first) * size_of::<u64>()) as u64)?;
        for (at, entry) in buffer.as_chunks().0.iter().enumerate() {
            if u64::from_ne_bytes(*entry) & EXISTS != 0 {
                let page = (first + at) * together;
                (page..all.min(page + together)).for_each(&mut each);
            }
        }
    }
    Ok(())
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
    descriptor().is_ok_and(|file| unsafe { libc::ioctl(file, PAGEMAP_SCAN, &raw mut arguments) } == 0)
}

/// The page tables of this process, opened in the master: a worker that has changed its user may not open them.
///
/// The file is that of the process that opened it, so each child opens its own in the old one's place, as soon as it
/// has been forked.
fn descriptor() -> io::Result<i32> {
    static OPENED: OnceLock<()> = OnceLock::new();
    OPENED.get_or_init(|| {
        let Ok(file) = File::open("/proc/self/pagemap") else { return };
        // SAFETY: the handler only makes system calls.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(reopen)) } != 0;
        if !failed {
            PAGEMAP.store(file.into_raw_fd(), Ordering::Relaxed);
        }
    });
    let file = PAGEMAP.load(Ordering::Relaxed);
    if file < 0 { Err(io::Error::other("page tables cannot be read")) } else { Ok(file) }
}

/// The descriptor; negative where there is none.
static PAGEMAP: AtomicI32 = AtomicI32::new(-1);

/// A child has been forked: the descriptor becomes one of its own page tables, or there is none. The parent's tell
/// nothing of a child.
unsafe extern "C" fn reopen() {
    let file = PAGEMAP.load(Ordering::Relaxed);
    if file < 0 {
        return;
    }
    // First, since there may be no room for another one.
    // SAFETY: it is ours, and everybody who uses it asks for its number each time.
    unsafe { libc::close(file) };
    // SAFETY: a system call with a name that is a constant.
    let mut own = unsafe { libc::open(c"/proc/self/pagemap".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    // The number stays: a lower one may be wanted for the standard streams.
    if own >= 0 && own != file {
        // SAFETY: the first was opened here, and the second was closed here.
        let moved = unsafe { libc::dup3(own, file, libc::O_CLOEXEC) };
        // SAFETY: it was opened here.
        unsafe { libc::close(own) };
        own = moved;
    }
    PAGEMAP.store(own, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io, ptr::NonNull};

    use super::{PAGE, each_page, together};

    #[test]
    fn pages_that_have_been_written_are_told() {
        let mut memory = memmap2::MmapMut::map_anon(1200 * PAGE).expect("memory");
        // Where the system gives huge pages to everybody, one write makes many.
        let _ = memory.advise(memmap2::Advice::NoHugePage);
        let base = NonNull::new(memory.as_mut_ptr()).expect("mapped");
        let pages = || {
            let mut pages = Vec::new();
            each_page(base, 1200 * PAGE, |page| pages.push(page)).expect("read");
            pages
        };
        assert_eq!(pages(), Vec::<usize>::new());
        let written = [0, 3, 511, 512, 1199];
        written.iter().for_each(|page| memory[page * PAGE + 7] = 1);
        let is_told = |page: &usize| written.iter().any(|one| one / together() == page / together());
        assert_eq!(pages(), (0..1200).filter(is_told).collect::<Vec<_>>());
    }

    /// A process whose table of descriptors is full when it forks has children all the same.
    #[test]
    fn a_child_never_reads_its_parents() {
        let mut memory = memmap2::MmapMut::map_anon(100 * PAGE).expect("memory");
        let base = NonNull::new(memory.as_mut_ptr()).expect("mapped");
        let pages = || -> io::Result<Vec<usize>> {
            let mut pages: Vec<usize> = Vec::new();
            each_page(base, 100 * PAGE, |page| pages.push(page)).map(|()| pages)
        };
        assert!(pages().expect("read").is_empty());
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: it writes into `limit`.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        limit.rlim_cur = limit.rlim_cur.min(256);
        // SAFETY: it reads `limit`.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        let full: Vec<_> = (0..).map_while(|_| File::open("/dev/null").ok()).collect();
        // SAFETY: the child makes system calls and allocates; its allocator is made for forks.
        let child = unsafe { libc::fork() };
        if child == 0 {
            memory[7 * PAGE] = 1;
            let is_right = pages().is_ok_and(|pages| pages.contains(&7) && pages.len() == together());
            // SAFETY: it ends here, without what tests do at their end.
            unsafe { libc::_exit(i32::from(!is_right)) };
        }
        drop(full);
        let mut status = -1;
        // SAFETY: it writes into `status`.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child has found its own page");
        assert!(pages().expect("read").is_empty(), "it is none of ours");
    }
}
