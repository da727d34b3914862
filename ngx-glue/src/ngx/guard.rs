//! The guard around every function that nginx calls: a panic becomes a logged error, never an abort of the worker.

use std::{
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use super::log::{Level, Log};

thread_local! {
    /// How many guarded entries are on the stack; guards nest where nginx calls us from within a call of ours.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// What the last panic under a guard was: message, place and backtrace.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics under a [`guard`] leave their message, place and backtrace with it. Others are reported as before.
///
/// The hook is one for each copy of the standard library, so other modules of the same nginx do not notice.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                previous(info);
            } else {
                let report = format!("{info}\n{}", Backtrace::force_capture());
                LAST.with(|last| last.replace(Some(report)));
            }
        }));
    });
}

/// Runs `body`, the inside of entry `name`; if it panics, logs that at `[alert]` and answers `failure`.
///
/// `failure` has to be what tells nginx that the call failed. What `body` shares with others is expected to be whole
/// after a panic: cells and `RefCell`s are, since unwinding gives borrows back.
pub(crate) fn guard<T>(name: &'static str, log: Log<'_>, failure: T, body: impl FnOnce() -> T) -> T {
    catch(body).unwrap_or_else(|report| {
        log.write(Level::Alert, format_args!("weir: bug in {name}: {report}"));
        failure
    })
}

/// Runs `body`; if it panics, logs that at `[alert]` and answers `None`. Where an entry can do better than to fail, it
/// guards a part of itself with this.
pub(crate) fn guard_part<T>(name: &'static str, log: Log<'_>, body: impl FnOnce() -> T) -> Option<T> {
    guard(name, log, None, || Some(body()))
}

/// Runs `body`; if it panics, answers what is known of that.
fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| {
        // A payload's own destructor may panic as well; losing its memory is the lesser harm.
        std::mem::forget(payload);
        LAST.with(RefCell::take).unwrap_or_else(|| "(no report: guard::install has not run)".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::{catch, install};

    #[inline(never)]
    fn fails(depth: u32) -> u32 {
        assert!(depth < 3, "told to at depth {depth}");
        fails(depth + 1) + 1
    }

    #[test]
    fn a_panic_leaves_its_message_its_place_and_a_backtrace() {
        install();
        let report = catch(|| fails(0)).expect_err("it panics");
        assert!(report.contains("told to at depth 3"), "{report}");
        assert!(report.contains(file!()), "{report}");
        assert!(report.contains("guard::tests::fails"), "{report}");
        assert_eq!(catch(|| 7).ok(), Some(7), "and the next one is none the worse");
    }

    /// Guards nest where nginx calls us from within a call of ours: the inner one catches.
    #[test]
    fn the_innermost_guard_catches() {
        install();
        let outer = catch(|| {
            let inner = catch(|| fails(0)).expect_err("it panics");
            assert!(inner.contains("told to"), "{inner}");
            1
        });
        assert_eq!(outer.ok(), Some(1));
    }
}
