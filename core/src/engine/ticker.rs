//! The thread that makes an engine's epochs pass.
//!
//! An epoch is time that this process has run, not time that has passed: while the system runs others, or holds a
//! container back that has used up its share, a callback does not come nearer to its limit. Hostcalls never wait for
//! anything, so a callback that does not end uses the processor.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// The running epoch thread; dropping it stops the thread and waits for its end.
#[derive(Debug)]
pub struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The epoch thread has woken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// An epoch has passed.
    pub epoch: bool,
    /// How much later it was than it should have been.
    pub late: Duration,
}

impl Ticker {
    pub(super) fn start(
        engine: wasmtime::Engine,
        tick: Duration,
        mut watch: impl FnMut(Beat) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            let mut ran = Ran { last: clock::process().unwrap_or_default(), owed: Duration::ZERO };
            let mut asleep = Instant::now();
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                let late = asleep.elapsed().saturating_sub(tick);
                // Without that clock every tick is an epoch.
                let epoch = clock::process().is_none_or(|now| ran.has_run(now, tick));
                if epoch {
                    engine.increment_epoch();
                }
                watch(Beat { epoch, late });
                asleep = Instant::now();
            }
        };
        let name = || thread::Builder::new().name("weir-epochs".into());
        let thread = signals::blocked(|| name().spawn(run))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in that thread has been reported by the panic hook; epochs simply stop.
            let _ = thread.join();
        }
    }
}

/// How long the process has run that no epoch has passed for.
#[derive(Debug)]
struct Ran {
    /// The clock when it was looked at last.
    last: Duration,
    owed: Duration,
}

impl Ran {
    /// Whether an epoch passes, now that the clock is at `now`. Several threads of a process can run at once, and this one
    /// can be late: what is owed beyond one epoch, and a quarter, is forgotten. Else the next epoch would pass without the
    /// process having run, and be charged to a callback that has only just begun.
    fn has_run(&mut self, now: Duration, tick: Duration) -> bool {
        self.owed = self.owed.saturating_add(now.saturating_sub(self.last)).min(tick + tick / 4);
        self.last = now;
        // The thread's own waking up and the worker's other work make the two clocks differ a little.
        let passes = self.owed >= tick - tick / 16;
        if passes {
            self.owed = self.owed.saturating_sub(tick);
        }
        passes
    }
}

/// The processor's time. `unsafe` since libc has no other interface to it.
#[allow(unsafe_code, reason = "clock_gettime has no safe interface among our dependencies")]
mod clock {
    use std::{mem::MaybeUninit, time::Duration};

    /// How long this process has run, all its threads together; `None` where the system does not say.
    pub(super) fn process() -> Option<Duration> {
        let mut time = MaybeUninit::<libc::timespec>::zeroed();
        // SAFETY: `time` is memory for one time, which the call fills.
        let error = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, time.as_mut_ptr()) };
        // SAFETY: two integers, for which the zeros that are there if the call has failed are valid.
        let time = unsafe { time.assume_init() };
        let (seconds, rest) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
        (error == 0).then(|| Duration::new(seconds, rest))
    }
}

/// Signal masks around the birth of a thread. `unsafe` since libc has no other interface to them.
#[allow(unsafe_code, reason = "pthread_sigmask has no safe interface among our dependencies")]
pub(crate) mod signals {
    use std::mem::MaybeUninit;

    /// Runs `make` with all signals blocked but those that report a fault of the running thread itself (SIGSEGV,
    /// SIGBUS, SIGFPE, SIGILL, which wasmtime handles); a thread born in it inherits the mask.
    pub(crate) fn blocked<T>(make: impl FnOnce() -> T) -> T {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `all` is memory for one signal set, which the call fills.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: sigfillset has filled it; it cannot fail with a valid pointer.
        let mut set = unsafe { all.assume_init() };
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            // SAFETY: `set` is an initialized signal set, and the number is a signal's.
            unsafe { libc::sigdelset(&raw mut set, fault) };
        }
        let mut old = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both point to signal sets, the second of which is only written.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, old.as_mut_ptr()) };
        let made = make();
        if error == 0 {
            // SAFETY: a successful pthread_sigmask has filled `old`.
            let old = unsafe { old.assume_init() };
            // SAFETY: `old` is the mask this thread had; nothing is written.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Ran, clock};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_epoch_is_time_that_the_process_has_run() {
        let mut ran = Ran { last: Duration::ZERO, owed: Duration::ZERO };
        let tick = 10 * MS;
        let mut clock = Duration::ZERO;
        let mut epochs = |runs: &[Duration]| {
            let passed = runs.iter().filter(|run| {
                clock += **run;
                ran.has_run(clock, tick)
            });
            passed.count()
        };
        assert_eq!(epochs(&[Duration::ZERO; 50]), 0, "an idle process");
        assert_eq!(epochs(&[10 * MS; 50]), 50, "a busy one");
        assert_eq!(epochs(&[5 * MS; 50]), 25, "one that gets half of a processor");
        assert!((33..=35).contains(&epochs(&[7 * MS; 50])), "one that gets seven tenths");
        assert!(epochs(&[40 * MS; 50]) <= 50, "four threads");
    }

    #[test]
    fn what_has_run_before_a_callback_is_not_charged_to_it() {
        let tick = 10 * MS;
        let mut ran = Ran { last: Duration::ZERO, owed: 9 * MS };
        assert!(ran.has_run(30 * MS, tick), "this thread is late");
        // A callback begins, and the system runs others instead of it.
        for _ in 0..10 {
            assert!(!ran.has_run(30 * MS, tick));
        }
        assert!(!ran.has_run(36 * MS, tick), "most of a tick is left to it");
        assert!(ran.has_run(40 * MS, tick));
    }

    #[test]
    fn the_clock_goes_on_while_there_is_work() {
        let start = clock::process();
        let mut sum = 0_u64;
        while clock::process() == start {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(clock::process() > start);
    }
}
