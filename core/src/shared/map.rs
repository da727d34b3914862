//! What processes share: memory in a mapped file, with or without a name, the kernel's locks on its bytes, and events.

#![allow(unsafe_code, reason = "mapped memory, locks on single bytes of a file, events")]

use std::{
    fmt,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::AtomicU64,
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, memfd_create};

use super::word::Memory;

/// A file without a name, of `bytes` zeros that take no memory until they are written.
///
/// # Errors
/// When the system has none to give.
pub fn unnamed(bytes: usize) -> io::Result<File> {
    let file = memfd_create("weir", MemfdFlags::CLOEXEC)
        .map_err(|error| io::Error::other(format!("the system gives no memory by memfd_create: {error}")))?;
    let file = File::from(file);
    file.set_len(bytes as u64)?;
    Ok(file)
}

/// A whole file in memory, shared with whoever maps it too.
pub struct Mapping {
    map: MmapRaw,
    words: usize,
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Mapping {
    /// Maps `file`. Nobody may make it shorter while it is mapped: who touches a page that is gone is killed.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn new(file: &File) -> io::Result<Self> {
        let map = MmapOptions::new().map_raw(file)?;
        let words = map.len() / size_of::<AtomicU64>();
        Ok(Self { map, words })
    }
}

impl Memory for Mapping {
    type Word = AtomicU64;

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, has that many words, is readable and writable, and lives as long as
        // `self`; any bytes are words, and nobody but atomic operations touches them, in any process.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.words) }
    }
}

/// A file that is readable when it has been written to since it was read.
///
/// # Errors
/// When the system has none to give.
pub(crate) fn event() -> io::Result<File> {
    // SAFETY: it takes two numbers and touches no memory.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has just been made, and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// The kernel's description of a lock on `count` bytes from `start`.
fn bytes(kind: libc::c_int, start: usize, count: usize) -> libc::flock {
    let offset = |value: usize| libc::off_t::try_from(value).unwrap_or(libc::off_t::MAX);
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: offset(start),
        l_len: offset(count),
        l_pid: 0,
    }
}

/// Locks byte `at` of `file` for this process, until it unlocks it, closes any descriptor of the file, or ends. False
/// when another process has it.
pub(crate) fn lock(file: &File, at: usize) -> bool {
    let lock = bytes(libc::F_WRLCK, at, 1);
    // SAFETY: the descriptor is open, and the kernel only reads the lock.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) == 0 }
}

/// Gives the lock on byte `at` back.
pub(crate) fn unlock(file: &File, at: usize) {
    let lock = bytes(libc::F_UNLCK, at, 1);
    // SAFETY: the descriptor is open, and the kernel only reads the lock.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) };
}

/// Gives all locks of this process on `file` back.
pub(crate) fn unlock_all(file: &File) {
    // No bytes are all bytes, to whatever end.
    let lock = bytes(libc::F_UNLCK, 0, 0);
    // SAFETY: the descriptor is open, and the kernel only reads the lock.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) };
}

/// Whether another process has a lock on any of the first `count` bytes of `file`.
pub(crate) fn is_locked(file: &File, count: usize) -> bool {
    let mut lock = bytes(libc::F_WRLCK, 0, count);
    // SAFETY: the descriptor is open, and the kernel writes a lock where one is.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) == 0 };
    !asked || libc::c_int::from(lock.l_type) != libc::F_UNLCK
}
