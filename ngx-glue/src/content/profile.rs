//! `weir_profile;`: the worker that gets the request looks at itself for some seconds, and answers with where its time
//! went.
//!
//! `?seconds=10&hz=99&format=pprof` is what it does without arguments: pprof's format, which `go tool pprof` and others
//! open. `format=folded` is a line for each stack, from which `weir profile` draws. Another worker than that of `pid`
//! answers with 421: the client connects again.

use std::{
    io,
    time::{Duration, Instant},
};

use weir_core::profile::{Finished, MOST_HZ, Profile, Profiler};

use crate::{
    conf::{Location, Refusal},
    module::main_of,
    ngx::{
        conf::Conf,
        content::{Content, Step},
        cycle::{Cycle, is_ending},
        log::Level,
        request::{Part, Request},
    },
};

/// Most seconds of one profile.
const MOST_SECONDS: u64 = 300;

/// How long it is looked without arguments.
const SECONDS: u64 = 10;

/// How often, in each second that the worker runs, without arguments: no divisor of what else happens at round times.
const HZ: u32 = 99;

/// How soon a worker that ends is noticed.
const LOOK: Duration = Duration::from_millis(200);

/// How often it is asked for what the profile's thread has made.
const ASK: Duration = Duration::from_millis(10);

/// `weir_profile;`
pub(crate) fn directive(conf: &mut Conf<'_>, _: &Location) -> Result<(), Refusal> {
    if conf.set_content_handler::<Looking>() {
        return Ok(());
    }
    Err("\"weir_profile\" stands in a location that has a handler already: give it a location of its own"
        .to_owned()
        .into())
}

/// How a profile is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Pprof,
    Folded,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    time: Duration,
    hz: u32,
    format: Format,
    /// Which worker is meant, if not any.
    pid: Option<u32>,
}

impl Wanted {
    /// What the arguments of a request say; `None` if one of them is not understood.
    fn parse(args: &[u8]) -> Option<Self> {
        let mut wanted =
            Self { time: Duration::from_secs(SECONDS), hz: HZ, format: Format::Pprof, pid: None };
        for arg in str::from_utf8(args).ok()?.split('&').filter(|arg| !arg.is_empty()) {
            match arg.split_once('=')? {
                ("seconds", text) => {
                    let seconds = text.parse().ok().filter(|seconds| (1..=MOST_SECONDS).contains(seconds))?;
                    wanted.time = Duration::from_secs(seconds);
                }
                ("hz", text) => wanted.hz = text.parse().ok().filter(|hz| (1..=MOST_HZ).contains(hz))?,
                ("pid", text) => wanted.pid = Some(text.parse().ok()?),
                ("format", "pprof") => wanted.format = Format::Pprof,
                ("format", "folded") => wanted.format = Format::Folded,
                _ => return None,
            }
        }
        Some(wanted)
    }
}

/// A profile in the making.
#[derive(Debug)]
struct Looking {
    profiler: Profiler,
    format: Format,
    until: Instant,
    is_finished: bool,
    body: Vec<u8>,
}

impl Content for Looking {
    fn begin(request: Request<'_>) -> Result<Self, u16> {
        if request.part(Part::Method) != b"GET" {
            return Err(405);
        }
        let wanted = Wanted::parse(request.part(Part::Args)).ok_or(400_u16)?;
        if wanted.pid.is_some_and(|pid| pid != std::process::id()) {
            return Err(421);
        }
        let write = match wanted.format {
            Format::Pprof => Profile::pprof,
            Format::Folded => Profile::folded,
        };
        let guests = Cycle::with_current(|cycle| {
            let runtime = main_of(cycle).and_then(|main| main.runtime.get());
            runtime.map(|runtime| runtime.symbols()).unwrap_or_default()
        });
        let profiler = Profiler::start(wanted.hz, guests, write).map_err(|error| {
            request.log().write(Level::Error, format_args!("weir: no profile: {error}"));
            if error.kind() == io::ErrorKind::ResourceBusy { 409_u16 } else { 500 }
        })?;
        let seconds = wanted.time.as_secs();
        let line =
            format_args!("weir: this worker is profiled for {seconds} s, {} times a second", wanted.hz);
        request.log().write(Level::Warn, line);
        let until = Instant::now() + wanted.time;
        Ok(Self { profiler, format: wanted.format, until, is_finished: false, body: Vec::new() })
    }

    fn step(&mut self) -> Step {
        if !self.is_finished {
            let rest = self.until.saturating_duration_since(Instant::now());
            if !rest.is_zero() && !is_ending() {
                return Step::Wait(rest.min(LOOK).max(Duration::from_millis(1)));
            }
            self.profiler.finish();
            self.is_finished = true;
        }
        match self.profiler.result() {
            Ok(None) => Step::Wait(ASK),
            Ok(Some(Finished { written, unread })) => {
                for (file, error) in unread {
                    let line = format_args!(
                        "weir: functions of {file} have no names in this profile, and stacks may end at them, since it \
                         cannot be read ({error}): let the user of nginx's workers read it"
                    );
                    Cycle::with_current(|cycle| cycle.log().write(Level::Warn, line));
                }
                self.body = written;
                Step::Done
            }
            Err(error) => {
                Cycle::with_current(|cycle| {
                    cycle.log().write(Level::Error, format_args!("weir: no profile: {error}"));
                });
                Step::Failed(500)
            }
        }
    }

    fn content_type(&self) -> &'static str {
        match self.format {
            Format::Pprof => "application/octet-stream",
            Format::Folded => "text/plain; charset=utf-8",
        }
    }

    fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Format, HZ, SECONDS, Wanted};

    #[test]
    fn arguments_are_understood_or_refused() {
        let usual = Wanted { time: Duration::from_secs(SECONDS), hz: HZ, format: Format::Pprof, pid: None };
        assert_eq!(Wanted::parse(b""), Some(usual));
        let other = Wanted { time: Duration::from_secs(3), hz: 1000, format: Format::Folded, pid: Some(7) };
        assert_eq!(Wanted::parse(b"seconds=3&hz=1000&format=folded&pid=7"), Some(other));
        let wrong = "seconds=0 seconds=301 seconds= seconds hz=0 hz=1001 format=svg pid=-1 other=1";
        for wrong in wrong.split(' ') {
            assert_eq!(Wanted::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Wanted::parse(b"\xff"), None);
    }
}
