//! Which pages of an instance's memory a request has written, found without a signal handler.
//!
//! A page of a private mapping becomes the process's own when it is written first, which is a page fault. So as long as
//! the thread's count of faults stands still, only pages that are its own already can have been written, and those are
//! known; when it has moved, the kernel is asked which pages are the process's own now (PAGEMAP_SCAN, Linux 6.7,
//! `Documentation/admin-guide/mm/pagemap.rst`).

#![allow(unsafe_code, reason = "system calls that have no safe interface among our dependencies")]

use std::{io, mem::MaybeUninit};

use super::{
    image::{Mapped, Writes},
    pagemap,
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
                // Too many to keep, or the kernel does not tell.
                _ => {
                    let reset = self.hot.trim(mapped, Self::WRITES);
                    self.faults = faults();
                    return reset;
                }
            }
        }
        let reset = self.hot.reset(mapped, Self::WRITES);
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

/// Numbers of the pages of `mapped` that are the process's own: at most `most` of them.
fn own_pages(mapped: &Mapped, most: usize) -> io::Result<Vec<u32>> {
    pagemap::own_pages(mapped.base(), mapped.image().bytes().len(), most)
}

#[cfg(test)]
mod tests {
    use std::{ptr::NonNull, sync::Arc};

    use super::{
        super::{
            image::{Mapped, PAGE, numbered, zeros},
            pagemap::is_available,
            tracker::{Reset, Track, USUALLY_HOT},
        },
        Scan,
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
        for round in 0..5 {
            memory.fill(1);
            assert_eq!(scan.reset(&mapped), Reset::Trimmed);
            assert_eq!(memory[..], *image.bytes(), "too large round {round}");
            memory[..(USUALLY_HOT * 2) * PAGE].fill(1);
            assert_eq!(scan.reset(&mapped), Reset::Done);
            assert_eq!(memory[..], *image.bytes(), "large round {round}");
        }
    }
}
