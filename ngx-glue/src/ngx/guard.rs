//! The guard around every function that nginx calls: a panic becomes a logged error, never an abort of the worker.
//!
//! So that tests see that of each entry, a panic can be planted: nginx is started with `WEIR_PANIC_IN=ENTRY`, or
//! `WEIR_PANIC_IN=ENTRY:N`, and in each of its processes the first entry of that name, or the N-th, panics, once. Without
//! that an entry pays a test of the sign of a number that it counts up anyway.

use std::{
    cell::{Cell, RefCell},
    env,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use super::{
    backtrace,
    log::{Level, Log},
};

thread_local! {
    /// How many guarded entries are on the stack; guards nest where nginx calls us from within a call of ours. While a
    /// panic is planted [`ARMED`] is added.
    static DEPTH: Cell<isize> = const { Cell::new(0) };
    /// The panic that is planted.
    static PLANT: RefCell<Option<Plant>> = const { RefCell::new(None) };
    /// What the last panic under a guard was: message, place and backtrace.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What makes every depth negative.
const ARMED: isize = isize::MIN;

/// The variable that plants a panic.
const VARIABLE: &str = "WEIR_PANIC_IN";

/// A panic to come.
#[derive(Debug)]
struct Plant {
    /// In which entry.
    entry: String,
    /// How many times that is entered before.
    earlier: u32,
}

impl Plant {
    /// Reads `ENTRY` or `ENTRY:N`.
    fn read(text: &str) -> Self {
        let numbered = text.rsplit_once(':').and_then(|(entry, n)| Some((entry, n.parse::<u32>().ok()?)));
        let (entry, number) = numbered.unwrap_or((text, 1));
        Self { entry: entry.to_owned(), earlier: number.saturating_sub(1) }
    }
}

/// Lets a panic come.
fn arm(plant: Plant) {
    PLANT.set(Some(plant));
    DEPTH.set(DEPTH.get() | ARMED);
}

/// Panics if that is planted in `entry` now.
#[cold]
#[inline(never)]
fn panic_if_planted(entry: &str) {
    let is_due = PLANT.with_borrow_mut(|plant| {
        plant.as_mut().filter(|plant| plant.entry == entry).is_some_and(|plant| {
            let is_due = plant.earlier == 0;
            plant.earlier = plant.earlier.saturating_sub(1);
            is_due
        })
    });
    if is_due {
        PLANT.set(None);
        DEPTH.set(DEPTH.get() & !ARMED);
        panic!("planted by {VARIABLE}");
    }
}

/// Makes panics under a [`guard`] leave their message, place and backtrace with it. Others are reported as before.
///
/// The hook is one for each copy of the standard library, so other modules of the same nginx do not notice.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() & !ARMED == 0 {
                previous(info);
            } else {
                let report = format!("{info}\n{}", backtrace::capture());
                LAST.with(|last| last.replace(Some(report)));
            }
        }));
        if let Ok(text) = env::var(VARIABLE) {
            arm(Plant::read(&text));
        }
    });
}

/// Runs `body`, the inside of entry `name`; if it panics, logs that at `[alert]` and answers `failure`.
///
/// `failure` has to be what tells nginx that the call failed. What `body` shares with others is expected to be whole
/// after a panic: cells and `RefCell`s are, since unwinding gives borrows back.
pub(crate) fn guard<T>(name: &'static str, log: Log<'_>, failure: T, body: impl FnOnce() -> T) -> T {
    catch(name, body).unwrap_or_else(|report| {
        log.write(Level::Alert, format_args!("weir: bug in {name}: {report}"));
        failure
    })
}

/// Runs `body`; if it panics, logs that at `[alert]` and answers `None`. Where an entry can do better than to fail, it
/// guards a part of itself with this.
pub(crate) fn guard_part<T>(name: &'static str, log: Log<'_>, body: impl FnOnce() -> T) -> Option<T> {
    guard(name, log, None, || Some(body()))
}

/// Runs `body`, the inside of `entry`; if it panics, answers what is known of that.
fn catch<T>(entry: &str, body: impl FnOnce() -> T) -> Result<T, String> {
    let depth = DEPTH.get() + 1;
    DEPTH.set(depth);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        if depth < 0 {
            panic_if_planted(entry);
        }
        body()
    }));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| {
        // A payload's own destructor may panic as well; losing its memory is the lesser harm.
        std::mem::forget(payload);
        LAST.with(RefCell::take).unwrap_or_else(|| "(no report: guard::install has not run)".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::{Plant, arm, catch, install};

    #[inline(never)]
    fn fails(depth: u32) -> u32 {
        assert!(depth < 3, "told to at depth {depth}");
        fails(depth + 1) + 1
    }

    #[test]
    fn a_panic_leaves_its_message_its_place_and_a_backtrace() {
        install();
        let report = catch("a", || fails(0)).expect_err("it panics");
        assert!(report.contains("told to at depth 3"), "{report}");
        assert!(report.contains(file!()), "{report}");
        assert!(report.contains("guard::tests::fails"), "{report}");
        assert_eq!(catch("a", || 7).ok(), Some(7), "and the next one is none the worse");
    }

    /// Guards nest where nginx calls us from within a call of ours: the inner one catches.
    #[test]
    fn the_innermost_guard_catches() {
        install();
        let outer = catch("a", || {
            let inner = catch("b", || fails(0)).expect_err("it panics");
            assert!(inner.contains("told to"), "{inner}");
            1
        });
        assert_eq!(outer.ok(), Some(1));
    }

    #[test]
    fn a_planted_panic_comes_once_in_its_entry() {
        install();
        let came = |entry| catch(entry, || ()).is_err();
        arm(Plant::read("the log: phase:3"));
        assert!(!came("the log: phase") && !came("another") && !came("the log: phase"));
        let outer = catch("around it", || {
            let report = catch("the log: phase", || ()).expect_err("it is the third time");
            assert!(report.contains("planted") && report.contains("panic_if_planted"), "{report}");
        });
        assert!(outer.is_ok() && !came("the log: phase"), "it is over");
        arm(Plant::read("a b"));
        assert!(came("a b") && !came("a b"));
    }
}
