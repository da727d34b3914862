//! Images: what the memory of a configured instance holds, in a file in memory, and how an instance gets it.
//!
//! ```text
//!  master:   configured instance ── Images::add ──► Image (bytes in a memfd, read through a view)
//!  worker:   new instance, zeros ── Mapped::new ──► private mapping of the image: shared with all others, page by
//!                                                   page, until it is written
//!            instance ends       ── its slot ends ► nothing: what was there is unmapped (engine/slots.rs)
//! ```

#![allow(unsafe_code, reason = "mappings over a guest's memory")]

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr::NonNull,
    sync::Arc,
};

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags};

use super::page;

/// Bytes of a page, as memories are looked at. Memories of guests begin and end at multiples of 64 KiB.
pub(crate) const PAGE: usize = 4096;

/// How many of them are one page of the system: one, but 4 or 16 with some kernels for arm64. What the system does to one
/// of these, or tells of it, it does to all of them.
pub(super) fn together() -> usize {
    (rustix::param::page_size() / PAGE).max(1)
}

/// A file of images in the making.
#[derive(Debug)]
pub(crate) struct Images {
    file: Arc<File>,
    end: u64,
}

impl Images {
    /// An empty file.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("weir-images", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        Ok(Self { file: Arc::new(File::from(file)), end: 0 })
    }

    /// Adds the image of a memory that holds `bytes`, a whole number of pages. Pages of zeros take no memory.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<Image> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(PAGE) {
            return Err(io::Error::other("a memory is empty, or does not end at a page"));
        }
        let offset = self.end;
        let end = offset + bytes.len() as u64;
        self.file.set_len(end)?;
        let mut at = offset;
        for page in bytes.chunks_exact(PAGE) {
            if page.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(page, at)?;
            }
            at += PAGE as u64;
        }
        // The next one can be mapped from there.
        self.end = end.next_multiple_of((together() * PAGE) as u64);
        let mut options = MmapOptions::new();
        options.offset(offset).len(bytes.len());
        // SAFETY: nobody but `add` writes the file, which has no name, and each call writes behind what was there.
        let view = unsafe { options.map_copy_read_only(&*self.file) }?;
        let filled = bytes.as_chunks().0.iter().map(page::filled).collect();
        Ok(Image { file: Arc::clone(&self.file), offset, view, filled })
    }

    /// The file is complete: the system sees to it that it stays as it is.
    pub(crate) fn seal(self) {
        // Without the seals nobody writes it either.
        let _ = rustix::fs::fcntl_add_seals(
            &*self.file,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        );
    }
}

/// What a memory begins as.
#[derive(Debug)]
pub(crate) struct Image {
    file: Arc<File>,
    offset: u64,
    view: Mmap,
    /// For each page which of its blocks are not zeros.
    filled: Box<[u8]>,
}

impl Image {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.view
    }

    fn offset(&self) -> io::Result<libc::off_t> {
        libc::off_t::try_from(self.offset).map_err(io::Error::other)
    }
}

/// What may be done with pages of a mapping that have not been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// They may be written.
    Allowed,
    /// Writing one is a fault.
    Fault,
}

impl Writes {
    const fn protection(self) -> i32 {
        match self {
            Self::Allowed => libc::PROT_READ | libc::PROT_WRITE,
            Self::Fault => libc::PROT_READ,
        }
    }
}

/// An image over the memory of an instance, until that ends.
#[derive(Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    image: Arc<Image>,
}

impl Mapped {
    /// Maps `image` over the memory at `base`.
    ///
    /// # Errors
    /// What the system said; the memory is then as it was.
    ///
    /// # Safety
    /// At `base` begins a guest's linear memory, as long as the image. It is private memory, stays there until this is
    /// dropped, and only the guest's own thread uses it. It may stay mapped from the image then.
    pub(crate) unsafe fn new(base: NonNull<u8>, image: Arc<Image>, writes: Writes) -> io::Result<Self> {
        // SAFETY: the caller's promise.
        unsafe { map(base, &image, writes) }?;
        Ok(Self { base, image })
    }

    /// What it was mapped from.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Maps the image anew: pages that have been written are given up, and the memory is as it was at first, but for
    /// `writes`.
    ///
    /// # Errors
    /// What the system said; the memory has to be given up then.
    pub(crate) fn renew(&self, writes: Writes) -> io::Result<()> {
        // SAFETY: `new`'s promise.
        unsafe { map(self.base, &self.image, writes) }
    }

    /// First byte of the memory.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Puts page number `page` back to what the image has; whether it was anything else. Whoever asks has seen that the
    /// page is writable.
    pub(crate) fn restore(&self, page: u32) -> bool {
        let at = page as usize;
        let (pages, _) = self.image.view.as_chunks::<PAGE>();
        let (Some(original), Some(filled)) = (pages.get(at), self.image.filled.get(at)) else { return false };
        // SAFETY: the page lies inside the image, and the memory is as long (`new`'s promise).
        let place = unsafe { self.base.add(at * PAGE) };
        // SAFETY: a whole page of the guest's memory, which does not run (`new`'s promise); the view is another mapping.
        let current = unsafe { place.cast::<[u8; PAGE]>().as_mut() };
        page::put_back(current, original, *filled)
    }
}

/// Maps `image` at `base`.
///
/// # Safety
/// As [`Mapped::new`].
unsafe fn map(base: NonNull<u8>, image: &Image, writes: Writes) -> io::Result<()> {
    let (offset, file) = (image.offset()?, image.file.as_raw_fd());
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller promises that the place is the guest's memory and as long as the image.
    let mapped = unsafe {
        libc::mmap(base.as_ptr().cast(), image.view.len(), writes.protection(), flags, file, offset)
    };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Anonymous memory of a number of pages, for tests.
#[cfg(test)]
pub(super) fn zeros(pages: usize) -> memmap2::MmapMut {
    memmap2::MmapMut::map_anon(pages * PAGE).expect("memory")
}

/// An image of `pages` pages, each filled with its number.
#[cfg(test)]
pub(super) fn numbered(pages: usize) -> Arc<Image> {
    let page = |number: usize| [u8::try_from(number % 251).expect("small"); PAGE];
    let bytes: Vec<_> = (0..pages).flat_map(page).collect();
    let mut images = Images::new().expect("a file");
    let image = Arc::new(images.add(&bytes).expect("added"));
    images.seal();
    image
}

#[cfg(test)]
mod tests {
    use std::{ptr::NonNull, sync::Arc};

    use super::{Images, Mapped, PAGE, Writes, numbered, zeros};

    #[test]
    fn an_image_is_there_until_it_is_dropped() {
        let (mut memory, image) = (zeros(3), numbered(3));
        let base = NonNull::new(memory.as_mut_ptr()).expect("mapped");
        // SAFETY: the mapping is as long as the image and outlives `mapped`; one thread uses it.
        let mapped = unsafe { Mapped::new(base, Arc::clone(&image), Writes::Allowed) }.expect("mapped");
        assert_eq!(memory[..], *image.bytes());
        memory[PAGE..].fill(77);
        assert!(mapped.restore(1));
        assert!(!mapped.restore(1));
        assert_eq!(memory[..2 * PAGE], image.bytes()[..2 * PAGE]);
        assert!(memory[2 * PAGE..].iter().all(|byte| *byte == 77));
        mapped.renew(Writes::Allowed).expect("mapped anew");
        assert_eq!(memory[..], *image.bytes());
    }

    #[test]
    fn images_lie_behind_each_other_and_cannot_be_changed() {
        let mut images = Images::new().expect("a file");
        let [first, second] = [1_u8, 2].map(|fill| images.add(&[fill; 2 * PAGE]).expect("added"));
        assert!(first.bytes().iter().all(|byte| *byte == 1));
        assert!(second.bytes().iter().all(|byte| *byte == 2));
        assert!(images.add(&[0; 100]).is_err());
        let file = Arc::clone(&images.file);
        images.seal();
        std::os::unix::fs::FileExt::write_at(&*file, b"x", 0).expect_err("sealed");
    }
}
