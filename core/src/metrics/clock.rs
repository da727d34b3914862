//! A clock that is cheap enough to be read before and after each callback: the processor's own counter.
//!
//! Reading the system's clock takes some 25 ns, reading the counter 6 to 10. The counter is used where the processor
//! says that it runs at one rate whatever the processor does (on x86-64 the "invariant TSC"); elsewhere the system's
//! clock is.

#![allow(unsafe_code, reason = "reading the processor's counter")]

use std::{
    num::NonZeroU64,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long the counter's rate is measured: two readings of the system's clock are off by less than 100 ns, 0.01 % of
/// this.
const MEASURED: Duration = Duration::from_millis(1);

/// A moment, in the clock's own unit, odd so that it is never 0: an `Option` of it is no larger.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    #[inline]
    fn new(ticks: u64) -> Self {
        Self(NonZeroU64::MIN | ticks)
    }

    /// Ticks of the clock since `earlier`. A counter that went back, which some virtual machines show when they are
    /// moved, gives 0.
    #[inline]
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// So many ticks before it.
    #[cfg(test)]
    pub(super) fn earlier(self, ticks: u64) -> Self {
        Self::new(self.0.get().saturating_sub(ticks))
    }
}

/// The clock. Good for spans of time within a process and its children.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Nanoseconds for each 2^32 ticks of the counter; 0 where the system's clock is read.
    scale: u64,
}

impl Clock {
    /// Measures the counter's rate, which takes 1 ms.
    pub(crate) fn new() -> Self {
        if !counter::is_steady() {
            return Self { scale: 0 };
        }
        let (begin, before) = (Instant::now(), counter::read());
        let elapsed = loop {
            let elapsed = begin.elapsed();
            if elapsed >= MEASURED {
                break elapsed;
            }
            std::hint::spin_loop();
        };
        let ticks = u128::from(counter::read().wrapping_sub(before)).max(1);
        let scale = u64::try_from((elapsed.as_nanos() << 32) / ticks).unwrap_or(0);
        Self { scale }
    }

    /// Now.
    #[inline]
    pub(crate) fn now(self) -> Moment {
        Moment::new(if self.scale == 0 { system() } else { counter::read() })
    }

    /// Nanoseconds since `moment`.
    #[inline]
    pub(crate) fn since(self, moment: Moment) -> u64 {
        self.nanoseconds(self.now().since(moment))
    }

    /// So many of the clock's ticks, in nanoseconds.
    #[inline]
    pub(super) fn nanoseconds(self, ticks: u64) -> u64 {
        if self.scale == 0 {
            return ticks;
        }
        let nanoseconds = (u128::from(ticks) * u128::from(self.scale)) >> 32;
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

/// Nanoseconds of the system's clock, since it was read first.
#[cold]
fn system() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The processor's counter.
#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    /// Whether it runs at one rate (Intel SDM volume 3, "Invariant TSC": CPUID leaf 80000007H, EDX bit 8).
    pub(super) fn is_steady() -> bool {
        const HIGHEST_EXTENDED: u32 = 0x8000_0000;
        const POWER_MANAGEMENT: u32 = 0x8000_0007;
        __cpuid(HIGHEST_EXTENDED).eax >= POWER_MANAGEMENT && __cpuid(POWER_MANAGEMENT).edx & 1 << 8 != 0
    }

    #[inline]
    pub(super) fn read() -> u64 {
        // SAFETY: the instruction reads a counter; every x86-64 processor has it, and Linux leaves it to processes
        // unless one forbids it to itself (`PR_SET_TSC`), which nginx does not.
        unsafe { _rdtsc() }
    }
}

/// No counter is known here.
#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn is_steady() -> bool {
        false
    }

    pub(super) fn read() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Clock;

    #[test]
    fn it_agrees_with_the_systems_clock() {
        let clock = Clock::new();
        let (moment, begin) = (clock.now(), Instant::now());
        while begin.elapsed() < Duration::from_millis(5) {}
        let (ours, theirs) = (clock.since(moment), begin.elapsed());
        let theirs = u64::try_from(theirs.as_nanos()).expect("short");
        // Another process may have run between the readings, never before the first one.
        assert!(ours >= 4_900_000, "{ours}");
        assert!(ours.abs_diff(theirs) < 50_000_000, "{ours} {theirs}");
    }

    #[test]
    fn without_a_counter_the_systems_clock_is_read() {
        let clock = Clock { scale: 0 };
        let moment = clock.now();
        std::hint::black_box(Clock::new());
        assert!(clock.since(moment) > 0);
    }
}
