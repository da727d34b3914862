//! One wasmtime engine for each set of settings in a process, and the thread that makes its epochs pass.
//!
//! An engine is made in the master, before workers are forked, and outlives a reload that leaves its settings alone:
//! [`Engine::shared`] hands the same one out again. Making it starts no thread (wasmtime is built without parallel
//! compilation). Callbacks are interrupted by epochs, not by fuel: an epoch check costs nothing measurable on calls.

use std::{
    fmt, io,
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread,
    time::Duration,
};

pub mod cache;
pub mod config;
pub mod limits;

pub use config::{Settings, Tracking};

/// The engine could not be made with these settings.
#[derive(Debug, thiserror::Error)]
#[error("wasmtime refuses the settings of the \"wasm\" block: {0:#}")]
pub struct EngineError(wasmtime::Error);

/// A wasmtime engine and the settings it was made with.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    settings: Settings,
    /// The limits on time, in epochs.
    deadlines: Deadlines,
}

/// Limits on time, in epochs: every entry into a guest sets one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// [`Limits::callback`](limits::Limits::callback)
    pub(crate) callback: NonZeroU64,
    /// [`Limits::configuration`](limits::Limits::configuration)
    pub(crate) configuration: NonZeroU64,
}

/// Epochs that `time` may take at most: the one that is running, and whole ones.
fn epochs(time: Duration, tick: Duration) -> NonZeroU64 {
    let whole = time.as_nanos().div_ceil(tick.as_nanos().max(1));
    // wasmtime adds it to the epoch that is running: half of the range leaves that room.
    NonZeroU64::MIN.saturating_add(u64::try_from(whole).map_or(u64::MAX / 2, |whole| whole.min(u64::MAX / 2)))
}

/// The engines of this process that are still in use.
static ENGINES: Mutex<Vec<Weak<Engine>>> = Mutex::new(Vec::new());

impl Engine {
    /// The engine of this process for `settings`: made now, or the one that is in use already.
    ///
    /// # Errors
    /// [`EngineError`] when wasmtime refuses the settings, or the address space for the pool cannot be reserved.
    pub fn shared(settings: &Settings) -> Result<Arc<Self>, EngineError> {
        let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.strong_count() > 0);
        let found = engines.iter().filter_map(Weak::upgrade).find(|engine| engine.settings == *settings);
        if let Some(engine) = found {
            return Ok(engine);
        }
        let wasmtime = wasmtime::Engine::new(&config::wasmtime_config(settings)).map_err(EngineError)?;
        let deadlines = Deadlines {
            callback: epochs(settings.limits.callback, settings.tick),
            configuration: epochs(settings.limits.configuration, settings.tick),
        };
        let engine = Arc::new(Self { wasmtime, settings: settings.clone(), deadlines });
        engines.push(Arc::downgrade(&engine));
        Ok(engine)
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts the thread that makes epochs pass, one each [`Settings::tick`].
    ///
    /// The thread blocks every signal that does not report a fault of its own, so that a worker's timers and
    /// signals keep interrupting the event loop and nothing else. It ends when the [`Ticker`] is dropped.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn ticker(&self) -> io::Result<Ticker> {
        let (stop, stopped) = mpsc::channel::<()>();
        let engine = self.wasmtime.clone();
        let tick = self.settings.tick;
        let thread = signals::blocked(|| {
            thread::Builder::new().name("weir-epochs".into()).spawn(move || {
                while stopped.recv_timeout(tick) == Err(mpsc::RecvTimeoutError::Timeout) {
                    engine.increment_epoch();
                }
            })
        })?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    pub(crate) fn deadlines(&self) -> Deadlines {
        self.deadlines
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The running epoch thread; dropping it stops the thread and waits for its end.
#[derive(Debug)]
pub struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
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

/// Signal masks around the birth of a thread. `unsafe` since libc has no other interface to them.
#[allow(unsafe_code, reason = "pthread_sigmask has no safe interface among our dependencies")]
mod signals {
    use std::mem::MaybeUninit;

    /// Runs `make` with all signals blocked but those that report a fault of the running thread itself (SIGSEGV,
    /// SIGBUS, SIGFPE, SIGILL, which wasmtime handles); a thread born in it inherits the mask.
    pub(super) fn blocked<T>(make: impl FnOnce() -> T) -> T {
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
    use std::{sync::Arc, time::Duration};

    use super::{Engine, Settings, epochs};

    #[test]
    fn equal_settings_share_an_engine() {
        let settings = Settings { instances: 2, ..Settings::default() };
        let first = Engine::shared(&settings).expect("an engine");
        let second = Engine::shared(&settings).expect("an engine");
        assert!(Arc::ptr_eq(&first, &second));
        let other = Engine::shared(&Settings { instances: 3, ..settings }).expect("an engine");
        assert!(!Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn a_deadline_is_never_zero_epochs() {
        let tick = Duration::from_millis(10);
        assert_eq!(epochs(Duration::ZERO, tick).get(), 1);
        assert_eq!(epochs(Duration::from_millis(50), tick).get(), 6);
        assert_eq!(epochs(Duration::from_millis(51), tick).get(), 7);
        assert!(epochs(Duration::MAX, Duration::ZERO).get().checked_add(1 << 62).is_some());
    }

    #[test]
    fn a_ticker_ends_when_dropped() {
        let engine = Engine::shared(&Settings { instances: 2, ..Settings::default() }).expect("an engine");
        drop(engine.ticker().expect("a thread"));
    }
}
