//! Which pages of an instance's memory a request has written, found by write protection.
//!
//! After configuration the whole memory is write-protected. The first write to a page, by the guest or by a hostcall,
//! raises SIGSEGV once: the handler keeps a copy of the page as it is (nobody has written it yet), makes it writable
//! and notes it as *hot*. It stays writable from then on; putting the memory back means copying the kept pages back,
//! some 50 ns each. Requests of one filter write the same few pages, so after the first ones there are no faults.
//!
//! ```text
//!  freeze ──► all pages read-only ──► first write: SIGSEGV ──► copy kept, page writable, hot
//!                     ▲                                             │
//!                     │ many more hot pages than usual              ▼
//!                     └───────────────────────────── reset: hot pages copied back
//! ```
//!
//! A thread runs one guest at a time, and a fault is handled by the thread that raised it, so the handler looks at one
//! tracker: that of the instance that its thread has entered. Faults elsewhere go to the handler that was there
//! before, wasmtime's. No system call writes into a guest's memory (it would get EFAULT and raise nothing); hostcalls
//! copy.

#![allow(unsafe_code, reason = "page protection and a signal handler")]

use std::{
    cell::UnsafeCell,
    io,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::{
        Once, OnceLock,
        atomic::{AtomicPtr, Ordering, compiler_fence},
    },
};

use memmap2::MmapMut;

/// Bytes of a page. Memories of guests begin and end at multiples of 64 KiB.
const PAGE: usize = 4096;

/// Most pages that a request may write before its instance is given up: 2 MiB.
const MOST_HOT: usize = 512;

/// More hot pages than this are protected again after a request, so that a rare large one does not make all later
/// ones copy its pages back.
const USUALLY_HOT: usize = 64;

/// This many large requests in a row are no longer rare: their pages stay writable.
const LARGE_IN_A_ROW: u8 = 3;

/// What the handler works on. Its address is fixed while the tracker lives.
struct Watched {
    /// First byte of the memory.
    base: NonNull<u8>,
    /// Bytes of the memory when it was frozen.
    len: usize,
    /// Numbers of the hot pages.
    hot: [u32; MOST_HOT],
    /// How many there are.
    count: usize,
    /// More pages were written than can be noted, or one could not be made writable.
    overflow: bool,
    /// Copies of the hot pages, in the same order.
    kept: MmapMut,
}

/// Tracks one instance's memory from the moment it is made.
pub(crate) struct Tracker {
    watched: Box<UnsafeCell<Watched>>,
    large: u8,
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker").field("large", &self.large).finish_non_exhaustive()
    }
}

thread_local! {
    /// The tracker of the instance that this thread has entered; null when it has none. Made without code and never
    /// dropped, so the handler may look at it.
    static ENTERED: AtomicPtr<Watched> = const { AtomicPtr::new(ptr::null_mut()) };
}

/// The handler that was there before ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl Tracker {
    /// Freezes the `len` bytes of memory at `base`: their contents are what [`reset`](Self::reset) goes back to.
    ///
    /// # Errors
    /// What the system said: no handler, no memory for copies, too many mappings.
    ///
    /// # Safety
    /// `base` is the start of a guest's linear memory of `len` bytes, which stays mapped there until the tracker is
    /// dropped, and only the thread that enters the instance writes it.
    pub(crate) unsafe fn freeze(base: NonNull<u8>, len: usize) -> io::Result<Self> {
        install()?;
        if !base.addr().get().is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(io::Error::other("the memory does not begin or end at a page"));
        }
        let kept = MmapMut::map_anon(MOST_HOT * PAGE)?;
        let watched = Watched { base, len, hot: [0; MOST_HOT], count: 0, overflow: false, kept };
        let tracker = Self { watched: Box::new(UnsafeCell::new(watched)), large: 0 };
        tracker.protect(libc::PROT_READ)?;
        Ok(tracker)
    }

    /// Lets the handler know that the instance is being entered, until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        let before = ENTERED.with(|entered| entered.swap(self.watched.get(), Ordering::Relaxed));
        // The handler reads it on this very thread: what may fault stays behind this line, and before the guard's end.
        compiler_fence(Ordering::SeqCst);
        Entered { before }
    }

    /// Puts the memory back to what it was when it was frozen. False when that cannot be done any more: the instance
    /// has to be given up.
    pub(crate) fn reset(&mut self) -> bool {
        let watched = self.watched.get_mut();
        if watched.overflow {
            return false;
        }
        let count = watched.count;
        for (page, kept) in watched.hot.iter().take(count).zip(watched.kept.chunks_exact(PAGE)) {
            let offset = *page as usize * PAGE;
            // SAFETY: the handler noted the page because it lies inside the memory, which is mapped (freeze's
            // promise).
            let place = unsafe { watched.base.add(offset) };
            // SAFETY: the page was made writable when it was noted; `kept` is another mapping; the guest does not run.
            unsafe { place.copy_from_nonoverlapping(NonNull::from(kept).cast(), PAGE) };
        }
        if count <= USUALLY_HOT {
            self.large = 0;
            return true;
        }
        self.large = self.large.saturating_add(1);
        if self.large >= LARGE_IN_A_ROW {
            return true;
        }
        watched.count = 0;
        self.protect(libc::PROT_READ).is_ok()
    }

    /// Whether the memory is still the one that was frozen: a guest may have made it larger, or moved it by that.
    pub(crate) fn is_of(&self, base: *const u8, len: usize) -> bool {
        let watched = self.watched.get();
        // SAFETY: nobody else has a reference to it while the guest does not run.
        let watched = unsafe { &*watched };
        watched.base.as_ptr().cast_const() == base && watched.len == len
    }

    fn protect(&self, protection: i32) -> io::Result<()> {
        let watched = self.watched.get();
        // SAFETY: nobody else has a reference to it while the guest does not run.
        let Watched { base, len, .. } = unsafe { &*watched };
        // SAFETY: the range is a guest's memory (freeze's promise): nothing of ours depends on its protection but
        // what this room does.
        let failed = unsafe { libc::mprotect(base.as_ptr().cast(), *len, protection) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // wasmtime's allocator writes the memory when it takes it back. If this fails the process cannot go on safely;
        // it joins mappings, so it needs no memory.
        let _ = self.protect(libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// The instance is entered while this lives.
pub(crate) struct Entered {
    before: *mut Watched,
}

impl Drop for Entered {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        ENTERED.with(|entered| entered.store(self.before, Ordering::Relaxed));
    }
}

/// Installs the handler, the first time; after wasmtime's, which was installed when the engine was made.
fn install() -> io::Result<()> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let mut old = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all bytes zero are a sigaction: no flags, an empty mask, the default handler.
        let mut new = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
        new.sa_sigaction = handler as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: both point to sigactions; the handler is async-signal-safe.
        let failed = unsafe { libc::sigaction(libc::SIGSEGV, &raw const new, old.as_mut_ptr()) } != 0;
        if !failed {
            // SAFETY: a successful sigaction has filled it.
            let old = unsafe { old.assume_init() };
            let _ = PREVIOUS.set(old);
        }
    });
    if PREVIOUS.get().is_some() {
        Ok(())
    } else {
        Err(io::Error::other("the handler for SIGSEGV was refused"))
    }
}

/// A fault: ours to answer, or the previous handler's.
extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a pointer to a siginfo.
    let siginfo = unsafe { &*info };
    // SAFETY: for SIGSEGV the kernel fills the address.
    let address = unsafe { siginfo.si_addr() }.addr();
    let entered = ENTERED.with(|entered| entered.load(Ordering::Relaxed));
    if !entered.is_null() {
        // SAFETY: `Tracker::enter` stored it on this thread, and its tracker lives until the guard is dropped; the
        // code that was interrupted is a guest's or a hostcall's, neither of which has a reference to it.
        let watched = unsafe { &mut *entered };
        if note(watched, address) {
            return;
        }
    }
    forward(signal, info, context);
}

/// Notes the page at `address` as hot and makes it writable; false when the fault is not about a write to it.
fn note(watched: &mut Watched, address: usize) -> bool {
    let Some(offset) = address.checked_sub(watched.base.addr().get()).filter(|offset| *offset < watched.len)
    else {
        return false;
    };
    let page = offset / PAGE;
    let known = watched.hot.iter().take(watched.count).any(|hot| *hot as usize == page);
    let Ok(number) = u32::try_from(page) else { return false };
    if known || watched.overflow {
        // Writable already, so this fault is about something else.
        return false;
    }
    if watched.count == MOST_HOT {
        watched.overflow = true;
        return unprotect(watched.base, watched.len);
    }
    // SAFETY: `page` is inside the memory, which is mapped (freeze's promise).
    let place = unsafe { watched.base.add(page * PAGE) };
    let at = watched.count * PAGE;
    let Some(kept) = watched.kept.get_mut(at..at + PAGE) else { return false };
    // SAFETY: the page is readable, nobody writes it while the handler runs, and `kept` is another mapping.
    unsafe { place.copy_to_nonoverlapping(NonNull::from(kept).cast(), PAGE) };
    if unprotect(place, PAGE) {
        watched.hot[watched.count] = number;
        watched.count += 1;
        return true;
    }
    // No mapping left for one more page (vm.max_map_count): all of it in one piece needs none.
    watched.overflow = true;
    unprotect(watched.base, watched.len)
}

fn unprotect(base: NonNull<u8>, len: usize) -> bool {
    // SAFETY: errno is the thread's own; what was interrupted must find it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: glibc's pointer to the thread's errno is always valid.
    let before = unsafe { *errno };
    // SAFETY: the range is inside a guest's memory (freeze's promise).
    let done = unsafe { libc::mprotect(base.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_WRITE) } == 0;
    // SAFETY: as above.
    unsafe { *errno = before };
    done
}

/// Gives the fault to the handler that was there before.
fn forward(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    match previous {
        Some(previous) if handler != libc::SIG_DFL && handler != libc::SIG_IGN => {
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: a handler that was installed with SA_SIGINFO has this type.
                let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: a handler that was installed without SA_SIGINFO has this type.
                let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
                handler(signal);
            }
        }
        _ => {
            // Nobody handles it: the default action, a core dump, at the instruction that faults again.
            // SAFETY: setting the default action is always allowed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use memmap2::MmapMut;

    use super::{MOST_HOT, PAGE, Tracker, USUALLY_HOT};
    use crate::engine::{Engine, Settings};

    /// A memory of `pages` pages, each filled with its number.
    fn memory(pages: usize) -> MmapMut {
        let mut memory = MmapMut::map_anon(pages * PAGE).expect("memory");
        for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
            page.fill(u8::try_from(number % 251).expect("small"));
        }
        memory
    }

    fn freeze(memory: &mut MmapMut) -> Tracker {
        // Its handler must be there before ours, as it is wherever there is a guest.
        let settings = Settings { instances: 2, ..Settings::default() };
        drop(Engine::shared(&settings).expect("an engine"));
        let base = NonNull::new(memory.as_mut_ptr()).expect("mapped");
        // SAFETY: the mapping outlives the tracker in every test, and one thread writes it.
        unsafe { Tracker::freeze(base, memory.len()) }.expect("frozen")
    }

    fn is_pristine(memory: &MmapMut) -> bool {
        let mut pages = memory.chunks_exact(PAGE).enumerate();
        pages.all(|(number, page)| page.iter().all(|byte| usize::from(*byte) == number % 251))
    }

    #[test]
    fn writes_are_undone_however_often() {
        let mut memory = memory(40);
        let mut tracker = freeze(&mut memory);
        for round in 0..50 {
            let entered = tracker.enter();
            for page in [round % 40, 3, 39] {
                memory[page * PAGE + round] = 255;
                memory[page * PAGE + PAGE - 1] = 254;
            }
            drop(entered);
            assert!(!is_pristine(&memory));
            assert!(tracker.reset());
            assert!(is_pristine(&memory), "round {round}");
        }
    }

    #[test]
    fn a_large_request_is_undone_and_its_pages_are_protected_again() {
        let mut memory = memory(USUALLY_HOT * 2);
        let mut tracker = freeze(&mut memory);
        for round in 0..6 {
            let entered = tracker.enter();
            memory.fill(255);
            drop(entered);
            assert!(tracker.reset(), "round {round}");
            assert!(is_pristine(&memory), "round {round}");
        }
    }

    #[test]
    fn too_many_pages_give_the_memory_up() {
        let mut memory = memory(MOST_HOT + 1);
        let mut tracker = freeze(&mut memory);
        let entered = tracker.enter();
        memory.fill(255);
        drop(entered);
        assert!(!tracker.reset());
        drop(tracker);
        memory.fill(1);
    }

    #[test]
    fn trackers_of_many_memories_do_not_mix() {
        let mut memories: Vec<_> = (0..4).map(|_| memory(8)).collect();
        let mut trackers: Vec<_> = memories.iter_mut().map(freeze).collect();
        for round in 0..20 {
            let at = round % 4;
            let entered = trackers[at].enter();
            memories[at][round * 100] = 255;
            drop(entered);
            assert!(trackers[at].reset());
            assert!(memories.iter().all(is_pristine));
        }
    }
}
