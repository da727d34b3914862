//! Where the memories of instances are: slots of address space, reserved once for each engine.
//!
//! ```text
//!  │ guard │ slot 0: memory … room to grow │ guard │ slot 1 … │ guard │
//!            ▲       ▲                      ▲
//!            base    base + size            base + reservation; all behind `size` may not be touched
//! ```
//!
//! wasmtime's own pool has slots too, but a memory of its never gets smaller, so that a guest which needs more memory
//! in a request costs a new instance for the next one. Here [`Slots::shrink`] takes back what a memory has grown by
//! (docs/adr/0005). A slot whose memory has ended holds nothing: what was there is unmapped.

#![allow(unsafe_code, reason = "address space that is handed to wasmtime")]

use std::{
    io,
    ptr::NonNull,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::{image::PAGE, pagemap};

/// Bytes behind each slot, and before the first, that may never be touched: generated code checks no offset below it.
pub(crate) const GUARD: usize = 32 << 20;

/// Slots begin at multiples of this, the largest page that a system has.
const ALIGNMENT: usize = 64 << 10;

/// Of so many bytes it is not asked which have been touched: to zero them all is faster.
const FEW: usize = 64 << 10;

/// The slots of an engine.
#[derive(Debug)]
pub(crate) struct Slots {
    /// First byte of the reservation, which begins with a guard.
    region: NonNull<u8>,
    /// Bytes from one slot to the next.
    stride: usize,
    /// Most bytes of one memory.
    most: usize,
    /// For each slot the bytes of its memory that may be touched.
    sizes: Box<[AtomicUsize]>,
    /// Slots without a memory, the one to be used next last.
    free: Mutex<Vec<usize>>,
}

// SAFETY: `region` is an address, which is the same for every thread; what is there belongs to the memories.
unsafe impl Send for Slots {}
// SAFETY: as above; the other fields are shared as they are.
unsafe impl Sync for Slots {}

impl Slots {
    /// `count` slots, each with `reservation` bytes of address space for a memory of at most `limit`.
    ///
    /// # Errors
    /// When there is no such address space.
    pub(crate) fn reserve(count: u32, reservation: usize, limit: usize) -> io::Result<Arc<Self>> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let most = limit.min(reservation);
        let too_large = || io::Error::other("it is more than an address can tell");
        let stride =
            reservation.checked_next_multiple_of(ALIGNMENT).and_then(|bytes| bytes.checked_add(GUARD));
        let stride = stride.ok_or_else(too_large)?;
        let bytes =
            stride.checked_mul(count).and_then(|bytes| bytes.checked_add(GUARD)).ok_or_else(too_large)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, in a place that the system chooses.
        let region = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if region == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let region = NonNull::new(region.cast()).ok_or_else(|| io::Error::other("it begins at address 0"))?;
        Ok(Arc::new(Self {
            region,
            stride,
            most,
            sizes: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            free: Mutex::new((0..count).rev().collect()),
        }))
    }

    /// Whether another memory has a place.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// First byte of slot number `slot`, one of [`sizes`](Self::sizes).
    fn base(&self, slot: usize) -> NonNull<u8> {
        // SAFETY: `reserve` has reserved a guard and a stride for each slot, which did not overflow.
        unsafe { self.region.add(GUARD + slot * self.stride) }
    }

    /// The slot whose memory begins at `base`.
    fn slot_at(&self, base: NonNull<u8>) -> Option<usize> {
        let offset = base.addr().get().checked_sub(self.region.addr().get())?.checked_sub(GUARD)?;
        let slot = offset / self.stride;
        (offset.is_multiple_of(self.stride) && slot < self.sizes.len()).then_some(slot)
    }

    /// Takes from the memory that begins at `base` all but its first `len` bytes, a whole number of pages. wasmtime
    /// learns of it when the memory next grows, if only by nothing.
    ///
    /// What it takes stays the memory's, as zeros, where it is no more than `keep` bytes, and is given back to the
    /// system otherwise: to get a page again costs several times as much as to zero it.
    ///
    /// # Errors
    /// What the system said, or that there is no such memory. It has to be given up then.
    ///
    /// # Safety
    /// The memory is not in use: its guest does not run, nobody has a reference to its bytes, and before either happens
    /// wasmtime is told.
    pub(crate) unsafe fn shrink(&self, base: NonNull<u8>, len: usize, keep: usize) -> io::Result<()> {
        let missing = || io::Error::other("a memory is in none of the engine's slots");
        let size = self.slot_at(base).and_then(|slot| self.sizes.get(slot)).ok_or_else(missing)?;
        let before = size.load(Ordering::Relaxed);
        let Some(more) = before.checked_sub(len).filter(|more| *more > 0) else { return Ok(()) };
        // SAFETY: `len` is less than the memory's size.
        let place = unsafe { base.add(len) };
        // SAFETY: the end of a memory that is not in use; it may be written, since it belonged to the memory.
        if more <= keep && unsafe { zero(place, more) }.is_ok() {
            // SAFETY: as above.
            unsafe { protect(place, more, libc::PROT_NONE) }?;
        } else {
            // SAFETY: as above.
            unsafe { clear(place, more) }?;
        }
        size.store(len, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back to the system what [`shrink`](Self::shrink) has kept of the memory that begins at `base`: `kept`
    /// bytes behind its end.
    ///
    /// # Errors
    /// What the system said, or that there is no such memory.
    ///
    /// # Safety
    /// The memory does not grow meanwhile: its guest does not run.
    pub(crate) unsafe fn release(&self, base: NonNull<u8>, kept: usize) -> io::Result<()> {
        let missing = || io::Error::other("a memory is in none of the engine's slots");
        let size = self.slot_at(base).and_then(|slot| self.sizes.get(slot)).ok_or_else(missing)?;
        let end = size.load(Ordering::Relaxed);
        let kept = kept.min(self.most.saturating_sub(end));
        // SAFETY: a memory is no longer than its slot.
        let place = unsafe { base.add(end) };
        // SAFETY: behind a memory that does not grow is nothing that anybody uses.
        unsafe { clear(place, kept) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let bytes = self.stride * self.sizes.len() + GUARD;
        // SAFETY: `reserve`'s mapping, whose memories have all ended: each of them holds this alive.
        unsafe { libc::munmap(self.region.as_ptr().cast(), bytes) };
    }
}

/// Makes `len` bytes at `place` zeros.
///
/// # Errors
/// When the system does not tell what has been touched.
///
/// # Safety
/// They are a memory's, may be written, and nobody has a reference to them.
unsafe fn zero(place: NonNull<u8>, len: usize) -> io::Result<()> {
    if len <= FEW {
        // SAFETY: the caller's promise.
        unsafe { place.write_bytes(0, len) };
        return Ok(());
    }
    pagemap::each_page(place, len, |page| {
        // SAFETY: a page of those bytes.
        let page = unsafe { place.add(page * PAGE) };
        // SAFETY: the caller's promise.
        unsafe { page.write_bytes(0, PAGE) };
    })
}

/// Makes `len` bytes at `place` what they were when they were reserved.
///
/// # Safety
/// They are in a slot, and nobody uses them.
unsafe fn clear(place: NonNull<u8>, len: usize) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller's promise.
    let mapped = unsafe { libc::mmap(place.as_ptr().cast(), len, libc::PROT_NONE, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets what may be done with `len` bytes at `place`.
///
/// # Safety
/// They are in a slot, and nobody has a reference to them.
unsafe fn protect(place: NonNull<u8>, len: usize, protection: i32) -> io::Result<()> {
    // SAFETY: the caller's promise.
    let failed = unsafe { libc::mprotect(place.as_ptr().cast(), len, protection) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What wasmtime asks for memories.
#[derive(Debug)]
pub(crate) struct Creator(pub(crate) Arc<Slots>);

// SAFETY: `new_memory` hands out each slot once; its memory begins as zeros, and is followed by the reservation and the
// guard that the engine was made with, which nobody else uses as long as the memory lives.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reservation: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let slots = &self.0;
        if guard > GUARD || reservation.is_some_and(|bytes| bytes + GUARD > slots.stride) {
            return Err("a memory needs more address space than a slot has".into());
        }
        let slot = slots.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = slot.ok_or("all slots for memories are in use")?;
        let mut memory = Slot { slots: Arc::clone(slots), slot, reached: 0 };
        memory.grow_to(minimum).map_err(|error| format!("{error:#}"))?;
        Ok(Box::new(memory))
    }
}

/// A slot in use.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    slot: usize,
    /// Most bytes that it ever had.
    reached: usize,
}

impl Slot {
    fn size(&self) -> Option<&AtomicUsize> {
        self.slots.sizes.get(self.slot)
    }
}

// SAFETY: base and capacity never change; the bytes before `byte_size` may be read and written as long as this lives,
// or are a private mapping of an image (pool/image.rs), which its tracker makes writable.
unsafe impl LinearMemory for Slot {
    fn byte_size(&self) -> usize {
        self.size().map_or(0, |size| size.load(Ordering::Relaxed))
    }

    fn byte_capacity(&self) -> usize {
        self.slots.most
    }

    fn grow_to(&mut self, new: usize) -> wasmtime::Result<()> {
        let size = self.byte_size();
        if new > self.slots.most {
            let most = self.slots.most;
            return Err(wasmtime::format_err!("{new} bytes of memory are more than the limit of {most}"));
        }
        if let Some(more) = new.checked_sub(size).filter(|more| *more > 0) {
            // SAFETY: `size` is at most the reservation.
            let place = unsafe { self.slots.base(self.slot).add(size) };
            // SAFETY: it is behind the memory, where nobody may have a reference.
            unsafe { protect(place, more, libc::PROT_READ | libc::PROT_WRITE) }?;
            self.reached = self.reached.max(new);
        }
        if let Some(size) = self.size() {
            size.store(new, Ordering::Relaxed);
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slots.base(self.slot).as_ptr()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: all that the memory had, which has ended.
        let cleared = self.reached == 0 || unsafe { clear(self.slots.base(self.slot), self.reached) }.is_ok();
        if let Some(size) = self.size() {
            size.store(0, Ordering::Relaxed);
        }
        // A slot that the system does not take back is never used again: the next guest would find what it holds.
        if cleared {
            self.slots.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

    use super::{Creator, FEW, GUARD, Slots};

    /// Most bytes that are kept.
    const KEEP: usize = 1 << 20;

    fn creator(count: u32) -> Creator {
        Creator(Slots::reserve(count, 16 << 20, 8 << 20).expect("address space"))
    }

    fn memory(creator: &Creator, bytes: usize) -> Result<Box<dyn LinearMemory>, String> {
        creator.new_memory(MemoryType::new(1, None), bytes, None, Some(16 << 20), GUARD)
    }

    fn bytes(memory: &mut dyn LinearMemory) -> &mut [u8] {
        // SAFETY: `LinearMemory`'s promise; the slice borrows the memory.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) }
    }

    fn shrink(creator: &Creator, memory: &mut dyn LinearMemory, len: usize) {
        let base = NonNull::new(memory.as_ptr()).expect("an address");
        // SAFETY: nobody refers to its bytes, and there is no wasmtime to tell.
        unsafe { creator.0.shrink(base, len, KEEP) }.expect("smaller");
    }

    #[test]
    fn a_memory_begins_as_zeros_and_so_does_all_it_grows_by() {
        let creator = creator(2);
        for more in [FEW, 2 * FEW, KEEP, KEEP + FEW, 2 * KEEP] {
            let mut memory = memory(&creator, 128 << 10).expect("a memory");
            for round in 0..4 {
                assert_eq!(memory.byte_size(), 128 << 10);
                memory.grow_to((128 << 10) + more).expect("larger");
                let bytes = bytes(&mut *memory);
                assert_eq!(bytes.len(), (128 << 10) + more);
                assert!(bytes[128 << 10..].iter().all(|byte| *byte == 0), "{more}");
                bytes.fill(1);
                shrink(&creator, &mut *memory, 128 << 10);
                if round == 2 {
                    let base = NonNull::new(memory.as_ptr()).expect("an address");
                    // SAFETY: it does not grow meanwhile.
                    unsafe { creator.0.release(base, more) }.expect("given back");
                }
            }
            assert!(bytes(&mut *memory).iter().all(|byte| *byte == 1));
        }
        let mut memory = memory(&creator, 2 << 20).expect("a memory");
        assert!(bytes(&mut *memory).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn there_are_as_many_as_were_asked_for_and_none_is_larger() {
        let creator = creator(2);
        let mut first = memory(&creator, 1 << 20).expect("a memory");
        let second = memory(&creator, 0).expect("another");
        assert!(!creator.0.has_room());
        assert!(memory(&creator, 1 << 20).is_err_and(|error| error.contains("in use")));
        assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), (16 << 20) + GUARD);
        assert!(first.grow_to((8 << 20) + 1).is_err());
        first.grow_to(8 << 20).expect("the limit");
        drop(second);
        assert!(memory(&creator, 9 << 20).is_err());
        assert!(creator.0.has_room(), "what cannot be has no slot");
    }

    #[test]
    fn slots_of_odd_sizes_begin_at_pages() {
        let creator = Creator(Slots::reserve(3, (1 << 20) + 1, 1 << 20).expect("address space"));
        let odd = || creator.new_memory(MemoryType::new(1, None), 64 << 10, None, Some((1 << 20) + 1), GUARD);
        let mut memories: Vec<_> = (0..3).map(|_| odd().expect("a memory")).collect();
        memories.iter_mut().for_each(|memory| bytes(&mut **memory).fill(1));
    }

    #[test]
    fn what_is_in_no_slot_is_not_made_smaller() {
        let creator = creator(1);
        let mut other = [0_u8; 16];
        // SAFETY: it is refused.
        assert!(unsafe { creator.0.shrink(NonNull::from(&mut other).cast(), 0, 0) }.is_err());
    }
}
