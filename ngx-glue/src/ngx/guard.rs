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
    DEPTH.set(DEPTH.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    match result {
        Ok(value) => value,
        Err(payload) => {
            // A payload's own destructor may panic as well; losing its memory is the lesser harm.
            std::mem::forget(payload);
            let report = LAST.with(RefCell::take);
            let report = report.as_deref().unwrap_or("(no report: guard::install has not run)");
            log.write(Level::Alert, format_args!("weir: bug in {name}: {report}"));
            failure
        }
    }
}
