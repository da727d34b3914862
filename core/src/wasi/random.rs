//! Random numbers for guests: the system's own, drawn in blocks, since each question to the kernel takes longer than a
//! callback.

use std::{cell::RefCell, fmt};

/// Bytes of a block: enough for the hash seeds (16 bytes) of some sixty requests.
const BLOCK: usize = 1024;

/// Most bytes that are taken from a block. For more than that a question of its own pays.
const SMALL: usize = 128;

/// Random numbers that a worker holds ready.
///
/// It belongs to a worker's shard, so no process begins with what another one has drawn. What has been given out is
/// erased: whoever reads this memory later learns nothing of it.
pub(crate) struct Random {
    block: RefCell<Block>,
}

struct Block {
    bytes: [u8; BLOCK],
    /// How many of them have been given out, from the first on.
    spent: usize,
}

impl Default for Random {
    /// Nothing has been drawn yet.
    fn default() -> Self {
        Self { block: RefCell::new(Block { bytes: [0; BLOCK], spent: BLOCK }) }
    }
}

impl fmt::Debug for Random {
    /// Without the numbers, which are nobody's yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").finish_non_exhaustive()
    }
}

impl Block {
    /// Gives out as many numbers as `place` has bytes, at most [`SMALL`].
    fn give(&mut self, place: &mut [u8]) -> Result<(), getrandom::Error> {
        if BLOCK - self.spent < place.len() {
            // Should this fail, there is nothing to give out.
            self.spent = BLOCK;
            getrandom::fill(&mut self.bytes)?;
            self.spent = 0;
        }
        let given = &mut self.bytes[self.spent..self.spent + place.len()];
        place.copy_from_slice(given);
        given.fill(0);
        self.spent += place.len();
        Ok(())
    }
}

/// Fills `place`, which is a guest's memory, with random numbers: from what a worker holds `ready`, or the system's.
///
/// # Errors
/// When the system has none.
pub(super) fn fill(ready: Option<&Random>, place: &mut [u8]) -> Result<(), getrandom::Error> {
    if let Some(ready) = ready.filter(|_| place.len() <= SMALL) {
        return ready.block.borrow_mut().give(place);
    }
    // By way of our own memory: a system call must not write a guest's, whose pages may be write-protected
    // (`pool/protect.rs`).
    let mut random = [0_u8; 256];
    for piece in place.chunks_mut(random.len()) {
        let random = &mut random[..piece.len()];
        getrandom::fill(random)?;
        piece.copy_from_slice(random);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{BLOCK, Random, SMALL, fill};

    fn draw(ready: &Random, size: usize) -> Vec<u8> {
        let mut place = vec![0; size];
        fill(Some(ready), &mut place).expect("the system has random numbers");
        place
    }

    #[test]
    fn no_number_is_given_out_twice() {
        let workers = [Random::default(), Random::default()];
        let mut seen = HashSet::new();
        for round in 0..500 {
            for ready in &workers {
                // Of many sizes, across the ends of blocks, small ones and large ones.
                let drawn = draw(ready, 8 + round % (SMALL + 16));
                assert!(drawn.chunks_exact(8).all(|number| seen.insert(number.to_vec())));
            }
        }
    }

    #[test]
    fn what_has_been_given_out_is_erased() {
        let ready = Random::default();
        for size in [16, 100, SMALL] {
            let given = draw(&ready, size);
            let block = ready.block.borrow();
            assert!(block.bytes[..block.spent].iter().all(|byte| *byte == 0));
            assert!(!block.bytes.windows(size).any(|bytes| bytes == given));
        }
    }

    #[test]
    fn nothing_may_be_asked_for() {
        assert!(draw(&Random::default(), 0).is_empty());
    }

    /// A large piece takes nothing of the block, and comes from the system all the same.
    #[test]
    fn large_pieces_are_filled_to_the_end() {
        let ready = Random::default();
        let place = draw(&ready, 100_000);
        assert!(place.chunks(50).all(|piece| piece.iter().any(|byte| *byte != 0)));
        assert_eq!(ready.block.borrow().spent, BLOCK);
    }
}
