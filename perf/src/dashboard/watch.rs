//! The thread that looks at the metrics file again and again.

use std::{io, path::PathBuf, sync::Arc, thread, time::Duration};

use weir_core::metrics::snapshot::Snapshot;

use super::{frame::Tracker, hub::Hub};

/// Starts it. It lives as long as the process does.
pub(super) fn start(file: PathBuf, interval: Duration, hub: Arc<Hub>) -> io::Result<()> {
    let watch = move || {
        let mut tracker = Tracker::default();
        loop {
            let look = match Snapshot::read(&file) {
                Ok(snapshot) => tracker.look(&snapshot),
                // It may be made anew at any time.
                Err(error) => tracker.nothing(&error),
            };
            hub.publish(look);
            thread::sleep(interval);
        }
    };
    thread::Builder::new().name("weir-watch".to_owned()).spawn(watch).map(drop)
}
