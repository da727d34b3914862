//! One wasmtime engine for each set of settings in a process.
//!
//! An engine is made in the master, before workers are forked, and outlives a reload that leaves its settings alone:
//! [`Engine::shared`] hands the same one out again. Making it starts no thread (wasmtime is built without parallel
//! compilation). Callbacks are interrupted by epochs, not by fuel: an epoch check costs nothing measurable on calls.

use std::{
    fmt, io,
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

pub mod cache;
pub mod config;
pub mod limits;
pub(crate) mod ticker;

pub use config::{Settings, Tracking};
pub use ticker::{Beat, Ticker};

use crate::pool::slots::Slots;

/// The engine could not be made with these settings.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refuses them.
    #[error("wasmtime refuses the settings of the \"wasm\" block: {0:#}")]
    Refused(wasmtime::Error),
    /// There is no room for memories.
    #[error(
        "address space for the memories of {instances} instances, {reservation} bytes for each, cannot be reserved: \
         {error}; lower \"instances\" or \"memory_reservation\", or raise the system's limit (ulimit -v)"
    )]
    NoRoom {
        /// How many instances there may be.
        instances: u32,
        /// Bytes of each.
        reservation: usize,
        /// What the system said.
        error: io::Error,
    },
}

/// A wasmtime engine and the settings it was made with.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    settings: Settings,
    /// Where its instances' memories are.
    slots: Arc<Slots>,
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
        let slots = Slots::reserve(settings.instances, settings.memory_reservation, settings.limits.memory);
        let slots = slots.map_err(|error| EngineError::NoRoom {
            instances: settings.instances,
            reservation: settings.memory_reservation,
            error,
        })?;
        let config = config::wasmtime_config(settings, &slots);
        let wasmtime = wasmtime::Engine::new(&config).map_err(EngineError::Refused)?;
        let deadlines = Deadlines {
            callback: epochs(settings.limits.callback, settings.tick),
            configuration: epochs(settings.limits.configuration, settings.tick),
        };
        let engine = Arc::new(Self { wasmtime, settings: settings.clone(), slots, deadlines });
        engines.push(Arc::downgrade(&engine));
        Ok(engine)
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts the thread that makes epochs pass, one each [`Settings::tick`] that this process runs.
    ///
    /// The thread blocks every signal that does not report a fault of its own, so that a worker's timers and
    /// signals keep interrupting the event loop and nothing else. It ends when the [`Ticker`] is dropped.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn ticker(&self) -> io::Result<Ticker> {
        self.watched_ticker(|_| ())
    }

    /// The same; each time the thread has woken up it calls `watch`, which has to be quick.
    ///
    /// # Errors
    /// As [`ticker`](Self::ticker).
    pub fn watched_ticker(&self, watch: impl FnMut(Beat) + Send + 'static) -> io::Result<Ticker> {
        Ticker::start(self.wasmtime.clone(), self.settings.tick, watch)
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
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
