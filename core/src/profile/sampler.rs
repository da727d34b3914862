//! Samples of a thread: a timer of its processor time, a signal, and a handler that copies registers and stack.
//!
//! The handler runs on the thread that is looked at, takes no lock, allocates nothing, reads only that thread's stack
//! and writes only to the ring. What it needs is in a variable of the thread, so on any other thread it finds nothing to
//! do. It stays installed once it was, since a signal may be on its way when a timer is deleted, and SIGPROF's default is
//! to end the process.

#![allow(unsafe_code, reason = "a signal handler, a timer, and copies of a stack")]

use std::{
    cell::UnsafeCell,
    io,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Most words of a stack that are copied, from its innermost end: 32 KiB.
const WORDS: usize = 4096;

/// Samples that there is room for until they are unwound.
const ROOM: usize = 128;

/// What a thread was doing at a moment.
#[derive(Debug)]
pub(super) struct Sample {
    /// Program counter.
    pub(super) pc: u64,
    /// Stack pointer.
    pub(super) sp: u64,
    /// Frame pointer.
    pub(super) fp: u64,
    /// Link register, on machines that have one.
    pub(super) lr: u64,
    /// Nanoseconds of processor time since the sample before.
    time: u64,
    /// The address of the first word that was copied.
    base: u64,
    /// How many were.
    len: usize,
    words: [u64; WORDS],
}

impl Sample {
    /// Processor time since the sample before.
    pub(super) const fn time(&self) -> Duration {
        Duration::from_nanos(self.time)
    }

    /// The word of the stack at `address`, if it was copied.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.base).filter(|offset| offset % 8 == 0)?;
        let at = usize::try_from(offset / 8).ok()?;
        self.words[..self.len].get(at).copied()
    }

    /// Whether the stack was that of the thread: handlers of signals have one of their own, which is not followed.
    pub(super) const fn has_stack(&self) -> bool {
        self.len != 0
    }
}

/// Room for samples between the handler, which writes, and one reader. `head` and `tail` count without end; what is from
/// `tail` to `head` is the reader's, the rest the handler's.
struct Ring {
    slots: Box<[UnsafeCell<Sample>]>,
    head: AtomicUsize,
    tail: AtomicUsize,
    /// Samples that found no room.
    lost: AtomicU64,
    /// The thread's processor time at the last signal; the handler's own.
    last: AtomicU64,
    /// The stack of the thread: its lowest address, and the one behind its highest.
    stack: (u64, u64),
}

// SAFETY: each slot is either the handler's or the reader's, of which there is one each, as `head` and `tail` say; both
// hand slots over by a release that the other acquires.
unsafe impl Sync for Ring {}

thread_local! {
    /// Where samples of this thread go; null when it is not looked at. Made without code and never dropped, so the
    /// handler may look at it.
    static TAKEN: AtomicPtr<Ring> = const { AtomicPtr::new(ptr::null_mut()) };
}

/// Takes samples of the thread that it was started on, until it is dropped there.
#[derive(Debug)]
pub(super) struct Sampler {
    /// A raw pointer, which keeps this on its thread.
    timer: libc::timer_t,
    _ring: Arc<Ring>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// The other end of the ring.
#[derive(Debug)]
pub(super) struct Reader(Arc<Ring>);

impl Sampler {
    /// Begins to take a sample of this thread for each `period` of time that it runs.
    ///
    /// # Errors
    /// `ResourceBusy` when that is being done already, or another has SIGPROF for its own use; what the system said.
    pub(super) fn start(period: Duration) -> io::Result<(Self, Reader)> {
        if TAKEN.with(|taken| !taken.load(Ordering::Relaxed).is_null()) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a profile is being made already"));
        }
        install()?;
        let empty = || Sample { pc: 0, sp: 0, fp: 0, lr: 0, time: 0, base: 0, len: 0, words: [0; WORDS] };
        let ring = Arc::new(Ring {
            slots: std::iter::repeat_with(|| UnsafeCell::new(empty())).take(ROOM).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            last: AtomicU64::new(thread_time()),
            stack: stack_of_this_thread()?,
        });
        let timer = make_timer()?;
        TAKEN.with(|taken| taken.store(Arc::as_ptr(&ring).cast_mut(), Ordering::Relaxed));
        let sampler = Self { timer, _ring: Arc::clone(&ring) };
        let nanoseconds = period.subsec_nanos().max(1_000_000);
        let time = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds.into() };
        let time = libc::itimerspec { it_interval: time, it_value: time };
        let flags = 0;
        // SAFETY: the timer has just been made, and `time` is one that the call reads.
        if unsafe { libc::timer_settime(timer, flags, &raw const time, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((sampler, Reader(ring)))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: made by `start`, and deleted here alone.
        unsafe { libc::timer_delete(self.timer) };
        // The handler runs on this thread, so it is not running now; from here on it finds nothing to do.
        TAKEN.with(|taken| taken.store(ptr::null_mut(), Ordering::Relaxed));
    }
}

impl Reader {
    /// Gives `each` all samples that are there, in their order.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&Sample)) {
        let ring = &*self.0;
        let mut tail = ring.tail.load(Ordering::Relaxed);
        while tail != ring.head.load(Ordering::Acquire) {
            let slot = &ring.slots[tail % ROOM];
            // SAFETY: between `tail` and `head` slots are the reader's, which this is the only one of.
            each(unsafe { &*slot.get() });
            tail = tail.wrapping_add(1);
            ring.tail.store(tail, Ordering::Release);
        }
    }

    /// How many samples have found no room.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// Installs the handler, unless it is there already.
///
/// # Errors
/// When somebody else has one for SIGPROF, or the system has refused it.
fn install() -> io::Result<()> {
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    // SAFETY: all bytes zero are a sigaction: no flags, an empty mask, the default handler.
    let mut old = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    // SAFETY: asks only; `old` is memory for the answer.
    if unsafe { libc::sigaction(libc::SIGPROF, ptr::null(), &raw mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if old.sa_sigaction == handler as usize {
        return Ok(());
    }
    if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another profiler has the signal SIGPROF for its own use",
        ));
    }
    // SAFETY: as above.
    let mut new = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    new.sa_sigaction = handler as usize;
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `new` is a whole sigaction; the handler is async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGPROF, &raw const new, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A timer, not set yet, of the time that this thread runs, which signals this thread.
fn make_timer() -> io::Result<libc::timer_t> {
    // SAFETY: integers and pointers, for which zeros are valid.
    let mut event = unsafe { MaybeUninit::<libc::sigevent>::zeroed().assume_init() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = libc::SIGPROF;
    // SAFETY: asks for a number.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: `event` is whole, and `timer` is memory for the answer.
    if unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut event, &raw mut timer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timer)
}

/// The lowest address of this thread's stack, and the one behind its highest.
fn stack_of_this_thread() -> io::Result<(u64, u64)> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::zeroed();
    // SAFETY: asks for the running thread's own number.
    let me = unsafe { libc::pthread_self() };
    // SAFETY: the running thread, and memory for its attributes.
    let error = unsafe { libc::pthread_getattr_np(me, attributes.as_mut_ptr()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let (mut low, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the call before has filled the attributes; the others are memory for the answers.
    let error = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size) };
    // SAFETY: filled above, and not used after this.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok((low.addr() as u64, (low.addr() + size) as u64))
}

/// Nanoseconds that this thread has run. May be called by a signal handler.
fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is memory for the answer; the clock of a running thread exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let (seconds, rest) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or_default().wrapping_mul(1_000_000_000).wrapping_add(rest.unwrap_or_default())
}

/// The registers that unwinding begins with: program counter, stack pointer, frame pointer, link register.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> [u64; 4] {
    let register = |name: i32| {
        let value = usize::try_from(name).ok().and_then(|at| context.uc_mcontext.gregs.get(at));
        value.map_or(0, |value| value.cast_unsigned())
    };
    [register(libc::REG_RIP), register(libc::REG_RSP), register(libc::REG_RBP), 0]
}

/// The registers that unwinding begins with: program counter, stack pointer, frame pointer, link register.
#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> [u64; 4] {
    let machine = &context.uc_mcontext;
    [machine.pc, machine.sp, machine.regs[29], machine.regs[30]]
}

/// A moment of the thread.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let ring = TAKEN.with(|taken| taken.load(Ordering::Relaxed));
    let (Some(ring), Some(context)) = (NonNull::new(ring), NonNull::new(context.cast::<libc::ucontext_t>()))
    else {
        return;
    };
    // SAFETY: `Sampler::start` stored it on this thread, and takes it away on this thread before it lets go of the ring.
    let ring = unsafe { ring.as_ref() };
    // SAFETY: the kernel gives a handler with SA_SIGINFO a pointer to a context.
    let context = unsafe { context.as_ref() };
    let now = thread_time();
    let time = now.wrapping_sub(ring.last.swap(now, Ordering::Relaxed));
    let (head, tail) = (ring.head.load(Ordering::Relaxed), ring.tail.load(Ordering::Acquire));
    if head.wrapping_sub(tail) >= ROOM {
        ring.lost.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let slot = &ring.slots[head % ROOM];
    // SAFETY: slots outside of `tail` to `head` are the handler's, which the kernel does not run again while it runs.
    let sample = unsafe { &mut *slot.get() };
    [sample.pc, sample.sp, sample.fp, sample.lr] = registers(context);
    sample.time = time;
    let (low, high) = ring.stack;
    sample.base = sample.sp.next_multiple_of(8);
    sample.len = 0;
    if (low..high).contains(&sample.sp) {
        let there = usize::try_from((high - sample.base.min(high)) / 8).unwrap_or_default();
        sample.len = there.min(WORDS);
        let from = ptr::with_exposed_provenance::<u64>(usize::try_from(sample.base).unwrap_or_default());
        // SAFETY: from the stack pointer on to its end the stack of a thread is mapped, and readable; only this thread
        // writes to it, which is here. The words are copied to an array that has room for as many.
        unsafe { ptr::copy_nonoverlapping(from, sample.words.as_mut_ptr(), sample.len) };
    }
    ring.head.store(head.wrapping_add(1), Ordering::Release);
}
