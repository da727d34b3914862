//! What one process does for all that one process has forked: whoever claims it first, until it gives it up or ends.

use std::{fs::File, io};

use super::map;

/// Claims of the processes that a process forks: locks on the bytes of a file without a name, which the kernel drops with
/// their holder, however that ends. What is claimed is told by numbers; two that are equal but for the two highest bits
/// are one.
#[derive(Debug)]
pub struct Claims(File);

/// Offsets in a file are positive, and a lock has one byte after it.
const OFFSETS: u64 = (1 << 62) - 1;

impl Claims {
    /// No claims yet. Whoever calls this forks those that claim.
    ///
    /// # Errors
    /// When the system has no file to give.
    pub fn new() -> io::Result<Self> {
        map::unnamed(0).map(Self)
    }

    /// Whether this process has `what`, now that it has asked.
    #[must_use]
    pub fn claim(&self, what: u64) -> bool {
        usize::try_from(what & OFFSETS).is_ok_and(|at| map::lock(&self.0, at))
    }

    /// This process has nothing any more.
    pub fn give_up(&self) {
        map::unlock_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Claims;

    #[test]
    fn a_process_keeps_what_it_has_claimed() {
        let claims = Claims::new().expect("a file");
        for what in [0, 7, u64::MAX] {
            assert!(claims.claim(what) && claims.claim(what));
        }
        claims.give_up();
        assert!(claims.claim(7));
    }
}
