//! Which pages of an instance's memory a request has written, found by write protection.
//!
//! The image is mapped write-protected. The first write to a page, by the guest or by a hostcall, raises SIGSEGV once:
//! the handler makes the page writable and notes it as *hot*. It stays writable from then on; putting the memory back
//! means copying hot pages from the image, some 50 ns each. Requests of one filter write the same few pages, so after
//! the first ones there are no faults.
//!
//! ```text
//!  image mapped read-only ──► first write: SIGSEGV ──► page writable, hot
//!            ▲                                             │
//!            │ many more hot pages than usual              ▼
//!            └───────────────────────────── reset: hot pages copied from the image
//! ```
//!
//! A request that writes more pages than may be kept has the image mapped anew. Where each does, faults would be wasted:
//! pages are not watched then, but for one request in a hundred.
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

use super::{
    image::{Mapped, PAGE, Writes, together},
    tracker::{Hot, Reset, TOO_LARGE_IN_A_ROW, Track, UNWATCHED},
};

/// What the handler works on. Its address is fixed while the tracker lives.
struct Watched {
    /// First byte of the memory.
    base: NonNull<u8>,
    /// Bytes of the image.
    len: usize,
    /// Hot pages.
    hot: Hot,
    /// How many of them the system makes writable at once.
    together: u32,
    /// More pages were written than can be noted, or one could not be made writable.
    overflow: bool,
    /// How many requests in a row that was so.
    overflows: u8,
}

/// Tracks one instance's memory from the moment its image is mapped.
pub(crate) struct Protect {
    watched: Box<UnsafeCell<Watched>>,
    /// [`ENTERED`] of the thread that made it, which is the only one that uses it: to find a thread's own takes a call.
    entered: NonNull<AtomicPtr<Watched>>,
}

impl std::fmt::Debug for Protect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protect").finish_non_exhaustive()
    }
}

thread_local! {
    /// The tracker of the instance that this thread has entered; null when it has none. Made without code and never
    /// dropped, so the handler may look at it.
    static ENTERED: AtomicPtr<Watched> = const { AtomicPtr::new(ptr::null_mut()) };
}

/// The handler that was there before ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl Protect {
    /// Tracks `mapped`, which faults at writes, for as long as that lives. `most` pages at the most are noted.
    ///
    /// # Errors
    /// What the system said: the handler was refused.
    pub(crate) fn new(mapped: &Mapped, most: usize) -> io::Result<Self> {
        install()?;
        let (base, len) = (mapped.base(), mapped.image().bytes().len());
        let together = u32::try_from(together()).map_err(io::Error::other)?;
        let watched = Watched { base, len, hot: Hot::new(most), together, overflow: false, overflows: 0 };
        Ok(Self {
            watched: Box::new(UnsafeCell::new(watched)),
            entered: ENTERED.with(|entered| NonNull::from(entered)),
        })
    }
}

impl Track for Protect {
    const WRITES: Writes = Writes::Fault;

    fn enter(&self) -> Option<Entered> {
        // SAFETY: `new` took it on this thread, which the raw pointer keeps the tracker on; a thread's own value without
        // a destructor is there until the thread ends.
        let entered = unsafe { self.entered.as_ref() };
        // Only this thread writes it: no exchange that other processors would have to see.
        let before = entered.load(Ordering::Relaxed);
        entered.store(self.watched.get(), Ordering::Relaxed);
        // The handler reads it on this very thread: what may fault stays behind this line, and before the guard's end.
        compiler_fence(Ordering::SeqCst);
        Some(Entered { entered: self.entered, before })
    }

    fn reset(&mut self, mapped: &Mapped) -> Reset {
        let watched = self.watched.get_mut();
        if !watched.overflow {
            watched.overflows = 0;
            return watched.hot.reset(mapped, Self::WRITES);
        }
        watched.overflows = watched.overflows.saturating_add(1);
        // Where each request is too large, what its first pages cost is saved: all may be written from the beginning.
        watched.overflow = (TOO_LARGE_IN_A_ROW..UNWATCHED).contains(&watched.overflows);
        if watched.overflows >= UNWATCHED {
            watched.overflows = 0;
        }
        let writes = if watched.overflow { Writes::Allowed } else { Self::WRITES };
        watched.hot.trim(mapped, writes)
    }
}

/// The instance is entered while this lives.
pub(crate) struct Entered {
    entered: NonNull<AtomicPtr<Watched>>,
    before: *mut Watched,
}

impl Drop for Entered {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `Protect::enter`, on whose thread the raw pointer keeps this guard.
        let entered = unsafe { self.entered.as_ref() };
        entered.store(self.before, Ordering::Relaxed);
    }
}

/// Installs the handler, the first time; after wasmtime's, which was installed when the engine was made.
///
/// # Errors
/// When the system has refused it.
pub(crate) fn install() -> io::Result<()> {
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
        // SAFETY: `Protect::enter` stored it on this thread, and its tracker lives until the guard is dropped; the
        // code that was interrupted is a guest's or a hostcall's, neither of which has a reference to it.
        let watched = unsafe { &mut *entered };
        if note(watched, address) {
            return;
        }
    }
    forward(signal, info, context);
}

/// Notes the page at `address` as hot and makes it writable, with those that the system has in one page with it; false when
/// the fault is not about a write to it.
fn note(watched: &mut Watched, address: usize) -> bool {
    let Some(offset) = address.checked_sub(watched.base.addr().get()).filter(|offset| *offset < watched.len)
    else {
        return false;
    };
    let Ok(page) = u32::try_from(offset / PAGE) else { return false };
    if watched.overflow || watched.hot.contains(page) {
        // Writable already, so this fault is about something else.
        return false;
    }
    let together = watched.together;
    let first = page - page % together;
    // SAFETY: the page is inside the memory, which is mapped as long as the tracker lives.
    let place = unsafe { watched.base.add(first as usize * PAGE) };
    if watched.hot.has_room(together as usize) && unprotect(place, together as usize * PAGE) {
        (first..first + together).for_each(|page| watched.hot.push(page));
        return true;
    }
    // Too many, or no mapping left for one more page (vm.max_map_count): all of it in one piece needs none.
    watched.overflow = true;
    unprotect(watched.base, watched.len)
}

fn unprotect(base: NonNull<u8>, len: usize) -> bool {
    // SAFETY: errno is the thread's own; what was interrupted must find it as it was.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: glibc's pointer to the thread's errno is always valid.
    let before = unsafe { *errno };
    // SAFETY: the range is inside a guest's memory (`Mapped::new`'s promise).
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
    use std::{ptr::NonNull, sync::Arc};

    use memmap2::MmapMut;

    use super::{
        super::{
            image::{Mapped, PAGE, numbered, together, zeros},
            tracker::{Reset, Track, USUALLY_HOT},
        },
        Protect,
    };
    use crate::engine::{Engine, Settings};

    /// Most pages that are noted.
    const MOST: usize = 200;

    fn track(memory: &mut MmapMut) -> (Protect, Mapped) {
        // Its handler must be there before ours, as it is wherever there is a guest.
        let settings = Settings { instances: 2, ..Settings::default() };
        drop(Engine::shared(&settings).expect("an engine"));
        let base = NonNull::new(memory.as_mut_ptr()).expect("mapped");
        let image = numbered(memory.len() / PAGE);
        // SAFETY: the mapping is as long as the image and outlives what is mapped over it in every test.
        let mapped = unsafe { Mapped::new(base, Arc::clone(&image), Protect::WRITES) }.expect("mapped");
        (Protect::new(&mapped, MOST).expect("the handler"), mapped)
    }

    fn is_pristine(memory: &MmapMut) -> bool {
        let mut pages = memory.chunks_exact(PAGE).enumerate();
        pages.all(|(number, page)| page.iter().all(|byte| usize::from(*byte) == number % 251))
    }

    #[test]
    fn writes_are_undone_however_often() {
        let mut memory = zeros(40);
        let (mut tracker, mapped) = track(&mut memory);
        for round in 0..50 {
            let entered = tracker.enter();
            for page in [round % 40, 3, 39] {
                memory[page * PAGE + round] = 255;
                memory[page * PAGE + PAGE - 1] = 254;
            }
            drop(entered);
            assert!(!is_pristine(&memory));
            assert_eq!(tracker.reset(&mapped), Reset::Done);
            assert!(is_pristine(&memory), "round {round}");
        }
    }

    #[test]
    fn a_large_request_is_undone_and_its_pages_are_protected_again() {
        let mut memory = zeros(USUALLY_HOT * 2);
        let (mut tracker, mapped) = track(&mut memory);
        for round in 0..6 {
            let entered = tracker.enter();
            memory.fill(255);
            drop(entered);
            assert_eq!(tracker.reset(&mapped), Reset::Done, "round {round}");
            assert!(is_pristine(&memory), "round {round}");
        }
    }

    #[test]
    fn pages_that_are_seldom_written_do_not_stay_hot() {
        let mut memory = zeros(USUALLY_HOT * 3);
        let (mut tracker, mapped) = track(&mut memory);
        let mut hot = Vec::new();
        for round in 0..300 {
            let entered = tracker.enter();
            // One very large request among large ones.
            let pages = if round == 50 { USUALLY_HOT * 3 } else { USUALLY_HOT + 1 };
            for page in 0..pages {
                memory[page * PAGE] = 255;
            }
            drop(entered);
            assert_eq!(tracker.reset(&mapped), Reset::Done);
            assert!(is_pristine(&memory), "round {round}");
            hot.push(tracker.watched.get_mut().hot.len());
        }
        let few = (USUALLY_HOT + 1).next_multiple_of(together());
        assert_eq!((hot[40], hot[60], hot[299]), (few, USUALLY_HOT * 3, few));
    }

    #[test]
    fn requests_that_write_too_many_pages_are_undone() {
        let mut memory = zeros(MOST + 1);
        let (mut tracker, mapped) = track(&mut memory);
        let mut unwatched = 0;
        for round in 0..400_usize {
            let entered = tracker.enter();
            unwatched += usize::from(tracker.watched.get_mut().overflow);
            // Small ones now and then, and for a long time at the end.
            if round.is_multiple_of(10) || round >= 250 {
                memory[round % MOST * PAGE] = 255;
            } else {
                memory.fill(255);
            }
            drop(entered);
            assert!(!is_pristine(&memory));
            let reset = tracker.reset(&mapped);
            assert!(
                reset == Reset::Trimmed || round.is_multiple_of(10) && reset == Reset::Done || round >= 250
            );
            assert!(is_pristine(&memory), "round {round}");
        }
        assert!(unwatched > 200 && unwatched < 350, "{unwatched}");
        assert!(!tracker.watched.get_mut().overflow, "watched again");
    }

    #[test]
    fn trackers_of_many_memories_do_not_mix() {
        let mut memories: Vec<_> = (0..4).map(|_| zeros(8)).collect();
        let mut trackers: Vec<_> = memories.iter_mut().map(track).collect();
        for round in 0..20 {
            let at = round % 4;
            let (tracker, mapped) = &mut trackers[at];
            let entered = tracker.enter();
            memories[at][round * 100] = 255;
            drop(entered);
            assert_eq!(tracker.reset(mapped), Reset::Done);
            assert!(memories.iter().all(is_pristine));
        }
    }
}
