//! A copy of a metrics file, for programs that only look.
//!
//! The file is read, not mapped, so that one that is cut short, replaced or damaged meanwhile gives an error or fewer
//! metrics, and never ends the reader with a SIGBUS. Numbers are whole: the kernel copies aligned words at once.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    layout::{
        AT_CREATED, AT_GENERATION, AT_LAYOUT, AT_MAGIC, AT_NEXT_LINE, AT_SIZE, FINGERPRINT, LINE, MAGIC,
    },
    words::{Words, place},
};

/// Most bytes that are read: far more than any file of ours has.
const MOST: u64 = 4 << 30;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's text says what it means")]
pub enum ReadError {
    #[error("cannot read \"{}\": {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("\"{}\" is no metrics file: give the one that \"path\" in the block \"metrics\" of nginx.conf names", path.display())]
    NotMetrics { path: PathBuf },
    #[error("\"{}\" was written by another version of Weir", path.display())]
    OtherVersion { path: PathBuf },
    #[error("\"{}\" ends too early: it has been cut short", path.display())]
    Truncated { path: PathBuf },
}

/// What was in a file.
pub struct Snapshot {
    words: Vec<u64>,
    /// All words of the file, used or not.
    size: usize,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("words", &self.words.len()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Reads what is used of the file at `path`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let path_buf = || path.to_owned();
        let failed = |error| ReadError::Io { path: path_buf(), error };
        let mut file = File::open(path).map_err(failed)?;
        let mut header = vec![0; LINE * 8];
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ReadError::NotMetrics { path: path_buf() });
            }
            Err(error) => return Err(failed(error)),
        }
        let first = to_words(&header);
        let word = |at: usize| first.get(at).copied().unwrap_or_default();
        if word(AT_MAGIC) != MAGIC {
            return Err(ReadError::NotMetrics { path: path_buf() });
        }
        if word(AT_LAYOUT) != FINGERPRINT {
            return Err(ReadError::OtherVersion { path: path_buf() });
        }
        let used = word(AT_NEXT_LINE).saturating_mul(LINE as u64).min(word(AT_SIZE));
        let bytes = used.saturating_mul(8).min(MOST);
        let mut rest = Vec::new();
        file.take(bytes.saturating_sub(header.len() as u64)).read_to_end(&mut rest).map_err(failed)?;
        header.extend(rest);
        if (header.len() as u64) < bytes {
            return Err(ReadError::Truncated { path: path_buf() });
        }
        Ok(Self { words: to_words(&header), size: place(word(AT_SIZE)) })
    }

    /// Number of the configuration that runs, counted from 1 since the file was made.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.load(AT_GENERATION)
    }

    /// When the file was made, in nanoseconds since 1970. Counts of files that differ in it have nothing in common.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.load(AT_CREATED)
    }

    /// Bytes that are used, and bytes that there are.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        (self.words.len() as u64 * 8, self.size as u64 * 8)
    }
}

fn to_words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

impl Words for Snapshot {
    fn size(&self) -> usize {
        self.words.len()
    }

    fn load(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or_default()
    }
}
