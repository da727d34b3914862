//! Somebody who uses another location all the while: nothing may happen to him, and how long he waits is measured.

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use weir_tests::Nginx;

/// Pause between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(2);

const REQUEST: &str = "POST /calm HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";

/// What goes on in other locations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// The same requests as in a storm, without faults.
    Fair,
    /// Faults that are quick.
    Stormy,
    /// Faults that take as long as a callback may.
    Slow,
}

/// Says what goes on from now on.
#[derive(Debug, Default)]
pub(crate) struct Vane(AtomicUsize);

impl Vane {
    pub(crate) fn turn(&self, weather: Weather) {
        self.0.store(weather as usize, Ordering::Relaxed);
    }
}

/// How long answers took, in each [`Weather`], in µs.
#[derive(Debug, Default)]
pub(crate) struct Waits([Vec<u32>; 3]);

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, waits) in ["without faults", "with quick ones", "with slow ones"].iter().zip(&self.0) {
            let mut waits = waits.clone();
            waits.sort_unstable();
            let Some(most) = waits.last() else { continue };
            let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
            let (median, tail) = (at(50), at(99));
            write!(
                f,
                "; {name} {} requests, p50 {median} µs, p99 {tail} µs, longest {most} µs",
                waits.len()
            )?;
        }
        Ok(())
    }
}

/// Does `work` while somebody uses `/calm`, and answers how long he waited. Any answer but the right one is a failure.
pub(crate) fn beside(nginx: &Nginx, work: impl FnOnce(&Vane)) -> Waits {
    let (is_over, vane) = (AtomicBool::new(false), Vane::default());
    thread::scope(|scope| {
        let calm = scope.spawn(|| {
            let (mut waits, mut connection) = (Waits::default(), nginx.raw());
            while !is_over.load(Ordering::Relaxed) {
                let weather = vane.0.load(Ordering::Relaxed);
                let begin = Instant::now();
                connection.write(REQUEST);
                let response = connection.response();
                waits.0[weather].push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
                assert_eq!((response.status, response.text().as_str()), (200, "calm"), "{response:?}");
                assert_eq!(response.header("x-weir"), Some("response"));
                assert!(connection.is_silent_for(PAUSE), "something came, or it was closed");
            }
            waits
        });
        // Also where the storm has found something wrong.
        let result = panic::catch_unwind(AssertUnwindSafe(|| work(&vane)));
        is_over.store(true, Ordering::Relaxed);
        let waits = calm.join();
        result.unwrap_or_else(|found| panic::resume_unwind(found));
        waits.expect("the other location has not noticed")
    })
}
