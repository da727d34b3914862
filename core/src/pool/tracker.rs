//! How an instance's memory is put back to its image after a request: one small trait, and the ways there are.
//!
//! | tracker | finds written pages by | needs |
//! |---|---|---|
//! | [`Protect`] | one fault for each page that no earlier request has written | a handler for SIGSEGV |
//! | [`Scan`] | asking the kernel, if the thread had page faults at all | PAGEMAP_SCAN (Linux 6.7) |
//! | none | nothing: the next request gets a new instance | – |

use std::io;

use super::{
    image::{Mapped, Writes},
    pagemap,
    protect::{self, Entered, Protect},
    scan::Scan,
};

/// More hot pages than this are given up after a request, so that a rare large one does not make all later ones copy
/// its pages back.
pub(crate) const USUALLY_HOT: usize = 64;

/// This many large requests in a row are no longer rare: their pages stay hot.
const LARGE_IN_A_ROW: u8 = 3;

/// After this many requests in a row that have left most of many hot pages alone, all are given up: those that are still
/// needed become hot again.
pub(crate) const IDLE_IN_A_ROW: u8 = 64;

/// After this many requests in a row with more pages than may be hot, pages are no longer watched for a time.
pub(crate) const TOO_LARGE_IN_A_ROW: u8 = 3;

/// This many requests later they are watched again.
pub(crate) const UNWATCHED: u8 = 100;

/// Which tracker the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tracking {
    /// The first of the others that works here.
    #[default]
    Auto,
    /// Write protection.
    Protect,
    /// Page faults counted, page tables scanned.
    Scan,
    /// None: no instance is used twice.
    Renew,
}

impl Tracking {
    /// What is used where this is asked for: the same, unless the system does not have it.
    #[must_use]
    pub(crate) fn available(self) -> Self {
        // Page tables are asked whatever finds the written pages, when a memory becomes smaller again (`slots`). They are
        // opened now, in the master: a worker that has changed its user may not.
        let scan = pagemap::is_available();
        let protect = || protect::install().is_ok();
        match self {
            Self::Auto | Self::Protect if protect() => Self::Protect,
            Self::Auto | Self::Protect | Self::Scan if scan => Self::Scan,
            Self::Scan if protect() => Self::Protect,
            _ => Self::Renew,
        }
    }

    /// The word for a label, as the directive has it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Protect => "protect",
            Self::Scan => "scan",
            Self::Renew => "renew",
        }
    }

    /// Why it is used, where `asked` was asked for.
    pub(crate) fn reason(self, asked: Self) -> &'static str {
        match asked {
            Self::Auto if self == Self::Protect => "it is the fastest",
            Self::Auto => "the faster ones do not work here",
            _ if asked == self => "instance_reset says so",
            _ => "what instance_reset says does not work here",
        }
    }

    /// In words, for the log.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Auto | Self::Protect => "reset in place, written pages found by write protection",
            Self::Scan => "reset in place, written pages found by scanning page tables",
            Self::Renew => "made anew from the image for each request",
        }
    }
}

/// What became of a memory that was to be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// It is what it was.
    Done,
    /// So it is; more had been written than may be kept.
    Trimmed,
    /// It is not: the instance has to go.
    GivenUp,
}

/// Finds the pages that a request writes.
pub(crate) trait Track {
    /// How its image is mapped.
    const WRITES: Writes;

    /// The instance is being entered, until the guard is dropped; `None` where that need not be known.
    fn enter(&self) -> Option<Entered>;

    /// Puts the memory back to what the image says.
    fn reset(&mut self, mapped: &Mapped) -> Reset;
}

/// The tracker of one instance.
#[derive(Debug)]
pub(crate) enum Tracker {
    /// By write protection.
    Protect(Protect),
    /// By scanning.
    Scan(Scan),
}

impl Tracker {
    /// How an image is mapped for a tracker that `tracking` asks for; `None` where there is none to ask for.
    pub(crate) fn writes(tracking: Tracking) -> Option<Writes> {
        match tracking {
            Tracking::Auto | Tracking::Protect => Some(Protect::WRITES),
            Tracking::Scan => Some(Scan::WRITES),
            Tracking::Renew => None,
        }
    }

    /// The tracker that `tracking` asks for, of a memory that was mapped as [`writes`](Self::writes) says. `most`
    /// pages at the most may be written.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn new(tracking: Tracking, mapped: &Mapped, most: usize) -> io::Result<Option<Self>> {
        Ok(match tracking {
            Tracking::Auto | Tracking::Protect => Some(Self::Protect(Protect::new(mapped, most)?)),
            Tracking::Scan => Some(Self::Scan(Scan::new(mapped, most)?)),
            Tracking::Renew => None,
        })
    }

    /// See [`Track::enter`].
    pub(crate) fn enter(&self) -> Option<Entered> {
        match self {
            Self::Protect(tracker) => tracker.enter(),
            Self::Scan(tracker) => tracker.enter(),
        }
    }

    /// See [`Track::reset`].
    pub(crate) fn reset(&mut self, mapped: &Mapped) -> Reset {
        match self {
            Self::Protect(tracker) => tracker.reset(mapped),
            Self::Scan(tracker) => tracker.reset(mapped),
        }
    }
}

/// Pages that differ from the image, or did so once: all that may be written without being noticed.
#[derive(Debug)]
pub(crate) struct Hot {
    pages: Vec<u32>,
    most: usize,
    large: u8,
    idle: u8,
}

impl Hot {
    /// None yet; there is room for `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { pages: Vec::with_capacity(most), most, large: 0, idle: 0 }
    }

    /// Whether page number `page` is among them.
    pub(crate) fn contains(&self, page: u32) -> bool {
        self.pages.contains(&page)
    }

    /// Whether `count` more may be noted.
    pub(crate) fn has_room(&self, count: usize) -> bool {
        self.pages.len() + count <= self.most
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Notes one more. Where there is room for it this allocates nothing, so a signal handler may do it.
    pub(crate) fn push(&mut self, page: u32) {
        if self.has_room(1) {
            self.pages.push(page);
        }
    }

    /// Replaces all of them.
    pub(crate) fn set(&mut self, pages: impl Iterator<Item = u32>) {
        self.pages.clear();
        self.pages.extend(pages.take(self.most));
    }

    /// Puts their bytes back. After an unusually large request all of them are given up.
    pub(crate) fn reset(&mut self, mapped: &Mapped, writes: Writes) -> Reset {
        if self.pages.len() > USUALLY_HOT {
            self.large = self.large.saturating_add(1);
            if self.large < LARGE_IN_A_ROW {
                return self.renew(mapped, writes);
            }
        } else {
            self.large = 0;
        }
        let written = self.pages.iter().filter(|page| mapped.restore(**page)).count();
        if self.pages.len() > USUALLY_HOT && written < self.pages.len() / 2 {
            self.idle = self.idle.saturating_add(1);
            if self.idle >= IDLE_IN_A_ROW {
                return self.renew(mapped, writes);
            }
        } else {
            self.idle = 0;
        }
        Reset::Done
    }

    /// Puts all pages back, of which there are more than may be kept.
    pub(crate) fn trim(&mut self, mapped: &Mapped, writes: Writes) -> Reset {
        match self.renew(mapped, writes) {
            Reset::Done => Reset::Trimmed,
            other => other,
        }
    }

    /// Puts all pages back without looking at them: none is hot any more.
    fn renew(&mut self, mapped: &Mapped, writes: Writes) -> Reset {
        self.pages.clear();
        self.idle = 0;
        if mapped.renew(writes).is_ok() { Reset::Done } else { Reset::GivenUp }
    }
}
