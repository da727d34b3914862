//! Compiled artefacts on disk: what was compiled once is mapped at the next start.
//!
//! An artefact is native code that Weir will run, so a file is believed only when it lies in a directory that nobody
//! but the owner (the user nginx's master runs as) can write, is a plain file of the same owner with the same
//! restriction, and carries the SHA-256 of its payload under the key it is asked for. The key covers the module's
//! bytes, every setting that shapes code, the versions of wasmtime and Weir, and the code of Weir's that looks into
//! modules. Whatever is not right is thrown away and made anew. Files are written under a temporary name, synced, and
//! renamed.

use std::{
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{Engine, limits::MAX_MODULE_BYTES};

/// First bytes of every artefact: name and version of the file's layout.
const MAGIC: &[u8; 16] = b"weir artefact 2\n";

/// Magic, key, digest of the payload.
const HEADER: usize = MAGIC.len() + 32 + 32;

/// Most bytes of compiled code that are read: what is longer belongs to no module that would be loaded.
const MOST: u64 = 32 * MAX_MODULE_BYTES;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It does not exist and could not be made, or could not be looked at.
    #[error("the cache directory \"{}\" cannot be used: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody else could put code of theirs into it.
    #[error(
        "the cache directory \"{}\" must belong to the user that starts nginx and be writable by nobody else: \
         run \"chown $(id -u) DIR && chmod 700 DIR\", or name another directory", path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
}

/// What names an artefact: SHA-256 over everything that shapes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of `wasm` compiled by `engine`, and of what the code in `made_by` has found out about it.
    #[must_use]
    pub fn new(engine: &Engine, made_by: &[&str], wasm: &[u8]) -> Self {
        struct Feed(Sha256);
        impl Hasher for Feed {
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }
            fn finish(&self) -> u64 {
                0
            }
        }
        let mut feed = Feed(Sha256::new());
        feed.write(concat!("weir ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
        engine.wasmtime().precompile_compatibility_hash().hash(&mut feed);
        engine.settings().hash(&mut feed);
        made_by.hash(&mut feed);
        feed.write(&Sha256::digest(wasm));
        Self(feed.0.finalize().into())
    }

    fn file_name(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + ".weir"
    }
}

/// Why a stored artefact was not used.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// Not a plain file of ours.
    #[error("it is not a plain file that only its owner, the user that starts nginx, can write")]
    NotOurs,
    /// Not what was written.
    #[error("it is damaged")]
    Damaged,
}

/// A directory of artefacts, or none.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: Option<PathBuf>,
}

impl Cache {
    /// No cache: everything is compiled each time.
    #[must_use]
    pub fn disabled() -> Self {
        Self { directory: None }
    }

    /// The cache in `directory`, which is made (mode 0700) when it is not there.
    ///
    /// # Errors
    /// [`CacheError`] when it cannot be made, or others can write it.
    pub fn open(directory: &Path) -> Result<Self, CacheError> {
        let io_error = |error| CacheError::Io { path: directory.to_owned(), error };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(error)),
        }
        let metadata = fs::metadata(directory).map_err(io_error)?;
        if !metadata.is_dir() {
            return Err(io_error(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        if !is_ours(&metadata) {
            return Err(CacheError::NotOurs { path: directory.to_owned() });
        }
        Ok(Self { directory: Some(directory.to_owned()) })
    }

    /// The artefact stored under `key`, verified; `Ok(None)` when there is none.
    ///
    /// # Errors
    /// [`Rejected`] when there is one that must not be used. It has been removed where that was possible.
    pub fn load(&self, key: Key) -> Result<Option<Vec<u8>>, Rejected> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let path = directory.join(key.file_name());
        let read = read_verified(&path, key);
        if let Err(Rejected::NotOurs | Rejected::Damaged) = read {
            // Best effort: a new one is renamed over it anyway.
            let _ = fs::remove_file(&path);
        }
        read
    }

    /// Stores `payload` under `key`, atomically: a reader sees the old file, the new one, or none.
    ///
    /// # Errors
    /// What the system said; nothing half-written is left under the artefact's name.
    pub fn store(&self, key: Key, payload: &[u8]) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut file = tempfile::Builder::new()
            .prefix(".weir-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(directory)?;
        file.write_all(MAGIC)?;
        file.write_all(&key.0)?;
        file.write_all(&Sha256::digest(payload))?;
        file.write_all(payload)?;
        file.as_file().sync_all()?;
        file.persist(directory.join(key.file_name())).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }
}

/// Owned by the user we run as, and writable by nobody else.
fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

fn read_verified(path: &Path, key: Key) -> Result<Option<Vec<u8>>, Rejected> {
    // Opening a pipe would wait for somebody to write into it.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let mut file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(Rejected::NotOurs);
        }
        Err(error) => return Err(Rejected::Io(error)),
    };
    let metadata = file.metadata().map_err(Rejected::Io)?;
    if !metadata.is_file() || !is_ours(&metadata) {
        return Err(Rejected::NotOurs);
    }
    // What is none of ours is not read any further, however long it is.
    let mut header = [0; HEADER];
    file.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Rejected::Damaged,
        _ => Rejected::Io(error),
    })?;
    let digest =
        header.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(&key.0)).ok_or(Rejected::Damaged)?;
    let length = metadata.len().checked_sub(HEADER as u64).filter(|length| *length <= MOST);
    let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(Rejected::Damaged)?;
    let mut bytes = Vec::with_capacity(length);
    file.take(MOST).read_to_end(&mut bytes).map_err(Rejected::Io)?;
    if Sha256::digest(&bytes).as_slice() != digest {
        return Err(Rejected::Damaged);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::{Cache, CacheError, Key, Rejected};

    const KEY: Key = Key([7; 32]);

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(directory.path()).expect("a cache");
        (directory, cache)
    }

    /// A pipe, and a file without end whose first bytes are right or not, are neither waited for nor read.
    #[test]
    fn odd_files_hold_nobody_up() {
        let (directory, cache) = cache();
        let path = directory.path().join(KEY.file_name());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .expect("a pipe");
        assert!(matches!(cache.load(KEY), Err(Rejected::NotOurs)));
        cache.store(KEY, b"code").expect("stored");
        for length in [1 << 40, 0] {
            fs::OpenOptions::new().write(true).open(&path).expect("there").set_len(length).expect("sparse");
            assert!(matches!(cache.load(KEY), Err(Rejected::Damaged)), "{length}");
            cache.store(KEY, b"code").expect("stored");
        }
        assert_eq!(cache.load(KEY).expect("good").as_deref(), Some(&b"code"[..]));
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let (_directory, cache) = cache();
        assert!(cache.load(KEY).expect("no artefact is no error").is_none());
        cache.store(KEY, b"code").expect("stored");
        assert_eq!(cache.load(KEY).expect("good").as_deref(), Some(&b"code"[..]));
        assert!(cache.load(Key([8; 32])).expect("another key").is_none());
    }

    #[test]
    fn a_changed_bit_is_noticed_wherever_it_is() {
        let (directory, cache) = cache();
        let path = directory.path().join(KEY.file_name());
        for at in [0, 16, 50, 79, 80, 83] {
            cache.store(KEY, b"code").expect("stored");
            let mut bytes = fs::read(&path).expect("readable");
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("writable");
            assert!(matches!(cache.load(KEY), Err(Rejected::Damaged)), "byte {at}");
            assert!(!path.exists(), "thrown away");
        }
        fs::write(&path, b"").expect("writable");
        assert!(matches!(cache.load(KEY), Err(Rejected::Damaged)));
    }

    #[test]
    fn an_artefact_that_others_can_write_is_refused() {
        let (directory, cache) = cache();
        let path = directory.path().join(KEY.file_name());
        cache.store(KEY, b"code").expect("stored");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).expect("ours");
        assert!(matches!(cache.load(KEY), Err(Rejected::NotOurs)));
    }

    #[test]
    fn a_link_is_refused() {
        let (directory, cache) = cache();
        cache.store(Key([8; 32]), b"code").expect("stored");
        let path = directory.path().join(KEY.file_name());
        symlink(directory.path().join(Key([8; 32]).file_name()), &path).expect("a link");
        assert!(matches!(cache.load(KEY), Err(Rejected::NotOurs)));
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(matches!(Cache::open(directory.path()), Err(CacheError::NotOurs { .. })));
        assert!(matches!(Cache::open(&directory.path().join("a/b")), Err(CacheError::Io { .. })));
    }
}
