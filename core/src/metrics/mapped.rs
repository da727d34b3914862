//! The file, mapped: made whole or not at all, and shared by everything that descends from one master process.
//!
//! Every process that uses the file holds a shared lock on it (`flock`, inherited through fork). So whoever starts can
//! tell a file that is in use, which it joins (a reload, an upgrade of the running binary), from one that a server
//! before left behind, whose place a new one takes. Space on disk is reserved when the file is made: a full disk is an
//! error then, and never a SIGBUS later.

#![allow(unsafe_code, reason = "a mapping that is shared with other processes")]

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::{
    fs::{FallocateFlags, FlockOperation, MemfdFlags, fallocate, flock, memfd_create},
    process::geteuid,
};

use super::{
    layout::{
        AT_CREATED, AT_LAYOUT, AT_MAGIC, AT_NEXT_LINE, AT_ROWS, AT_SIZE, FINGERPRINT, FIRST_FREE, MAGIC,
    },
    words::{Shared, Words, place},
};

/// Permissions of the file: the user that nginx is started by, and its group.
const MODE: u32 = 0o640;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Why the metrics file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's text says what it means")]
pub enum OpenError {
    #[error("cannot use \"{}\" for metrics: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("\"{}\" is not a file of ours: metrics need a plain file that belongs to the user that starts nginx and that nobody else can write; remove it or give another path", path.display())]
    Foreign { path: PathBuf },
}

/// Where the contents of a mapping come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file has been made.
    Made,
    /// A running server uses it: everything in it goes on.
    Joined,
}

/// A mapped file.
pub(crate) struct Mapped {
    map: MmapRaw,
    /// Holds the lock.
    file: File,
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped").field("bytes", &self.map.len()).finish_non_exhaustive()
    }
}

impl Mapped {
    /// Memory of at least `size` bytes that has no name and is shared through fork only.
    pub(crate) fn nameless(size: usize, now: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("weir-metrics", MemfdFlags::CLOEXEC)?);
        // Nothing is reserved: it takes what is used, as any memory of a process does.
        file.set_len(whole_lines(size) as u64)?;
        let mapped = Self::map(file)?;
        mapped.begin(now);
        Ok(mapped)
    }

    /// The file at `path`, of at least `size` bytes: the one that is in use, grown if need be, or a new one.
    pub(crate) fn open(path: &Path, size: usize, now: u64) -> Result<(Self, Origin), OpenError> {
        let failed = |error: io::Error| OpenError::Io { path: path.to_owned(), error };
        if let Some(file) = used(path)? {
            let joined = Self::join(file, whole_lines(size)).map_err(failed)?;
            if let Some(mapped) = joined {
                return Ok((mapped, Origin::Joined));
            }
        }
        let mapped = Self::make(path, whole_lines(size), now).map_err(failed)?;
        Ok((mapped, Origin::Made))
    }

    /// Whether [`open`](Self::open) could be expected to work, without touching anything.
    pub(crate) fn check(path: &Path) -> Result<(), OpenError> {
        used(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        tempfile::tempfile_in(folder.unwrap_or(Path::new(".")))
            .map(|_| ())
            .map_err(|error| OpenError::Io { path: path.to_owned(), error })
    }

    /// The file that a running server uses; `None` when its layout is not ours.
    fn join(file: File, size: usize) -> io::Result<Option<Self>> {
        let present = Self::map(file.try_clone()?)?;
        if present.load(AT_MAGIC) != MAGIC
            || present.load(AT_LAYOUT) != FINGERPRINT
            || place(present.load(AT_SIZE)) > present.size()
        {
            return Ok(None);
        }
        if size / WORD <= place(present.load(AT_SIZE)) {
            return Ok(Some(present));
        }
        fallocate(&file, FallocateFlags::empty(), 0, size as u64)?;
        let grown = Self::map(file)?;
        // Only now that there is room behind the old end.
        grown.raise(AT_SIZE, (size / WORD) as u64);
        Ok(Some(grown))
    }

    /// A new file takes the place at `path` once it is complete.
    fn make(path: &Path, size: usize, now: u64) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let temporary =
            tempfile::Builder::new().prefix(".weir-metrics").tempfile_in(folder.unwrap_or(Path::new(".")))?;
        temporary.as_file().set_permissions(Permissions::from_mode(MODE))?;
        let file = temporary.as_file().try_clone()?;
        flock(&file, FlockOperation::LockShared)?;
        fallocate(&file, FallocateFlags::empty(), 0, size as u64)?;
        let mapped = Self::map(file)?;
        mapped.begin(now);
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(mapped)
    }

    fn map(file: File) -> io::Result<Self> {
        let map = MmapOptions::new().map_raw(&file)?;
        Ok(Self { map, file })
    }

    /// Makes the file as long again as it is mapped, if somebody has shortened it meanwhile: who touches memory behind
    /// its end is killed. Answers whether that was so; what was cut off is zeros now, and nobody joins the file any
    /// more.
    pub(crate) fn lengthen(&self) -> io::Result<bool> {
        let size = self.map.len() as u64;
        let is_short = self.file.metadata()?.len() < size;
        if is_short {
            fallocate(&self.file, FallocateFlags::empty(), 0, size)?;
            self.store(AT_MAGIC, 0);
        }
        Ok(is_short)
    }

    /// Fills the header of a file of zeros.
    fn begin(&self, now: u64) {
        self.store(AT_LAYOUT, FINGERPRINT);
        self.store(AT_SIZE, self.size() as u64);
        self.store(AT_NEXT_LINE, FIRST_FREE as u64);
        self.store(AT_CREATED, now);
        self.store(AT_ROWS, 1);
        self.store(AT_MAGIC, MAGIC);
    }

    /// Its words.
    #[inline]
    pub(crate) fn view(&self) -> View<'_> {
        let start = self.map.as_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping begins at a page, so it is aligned; it has at least `len / 8` words, all bytes of which
        // are valid in an `AtomicU64`; it lives as long as `self`, and this process changes it through these atomics
        // only, as does every other one.
        View(unsafe { slice::from_raw_parts(start, self.map.len() / WORD) })
    }
}

/// `size` in bytes, rounded up to lines.
fn whole_lines(size: usize) -> usize {
    let line = super::layout::LINE * WORD;
    size.max(super::layout::LEAST_SIZE).next_multiple_of(line)
}

/// The file at `path`, with a shared lock, if it is there and a running process uses it.
fn used(path: &Path) -> Result<Option<File>, OpenError> {
    let failed = |error: io::Error| OpenError::Io { path: path.to_owned(), error };
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).write(true).custom_flags(nofollow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Nobody else has it: a server that has ended left it behind.
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            flock(&file, FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
            Ok(Some(file))
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// The words of a mapped file. Where many are read and written in turn this is faster than the file itself, which is
/// asked for its place and size each time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(&'a [AtomicU64]);

impl Words for View<'_> {
    #[inline]
    fn size(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn load(&self, at: usize) -> u64 {
        self.0.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }
}

impl Shared for View<'_> {
    #[inline]
    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Ordering::Release);
        }
    }

    #[inline]
    fn add(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.fetch_add(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn add_alone(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(word.load(Ordering::Relaxed).wrapping_add(value), Ordering::Release);
        }
    }

    #[inline(never)]
    fn raise(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.fetch_max(value, Ordering::AcqRel);
        }
    }

    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        let Some(word) = self.0.get(at) else { return Err(0) };
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }
}

impl Words for Mapped {
    #[inline]
    fn size(&self) -> usize {
        self.view().size()
    }

    #[inline]
    fn load(&self, at: usize) -> u64 {
        self.view().load(at)
    }
}

impl Shared for Mapped {
    #[inline]
    fn store(&self, at: usize, value: u64) {
        self.view().store(at, value);
    }

    #[inline]
    fn add(&self, at: usize, value: u64) {
        self.view().add(at, value);
    }

    fn raise(&self, at: usize, value: u64) {
        self.view().raise(at, value);
    }

    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        self.view().replace(at, old, new)
    }
}
