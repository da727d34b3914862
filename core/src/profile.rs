//! Where a thread's time goes: its stacks, sampled by the thread itself, with the functions of guests by their names.
//!
//! ```text
//!  the thread that is looked at                      a thread beside it
//!  SIGPROF, HZ times for each second that it runs    unwinds: tables of the binaries, frame pointers in guests
//!  copies its registers and its stack  ──► ring ──►  counts stacks
//!                                                    in the end: gives addresses their names, writes the profile
//! ```
//!
//! The signal handler copies, and does nothing else: unwinding where the signal has struck would take locks and memory
//! that the interrupted code may hold. Nothing is needed of the system but a timer, so an unprivileged worker can
//! profile itself. What the kernel does for the thread counts for the function that called it.

mod code;
pub mod names;
mod pprof;
mod sampler;
#[cfg(any(target_arch = "aarch64", test))]
mod signed;

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{engine::ticker::signals, filter::symbols::Symbol};

use code::Code;
use sampler::{Reader, Sampler};

/// Most samples for each second of processor time. The kernel's own clock may give fewer.
pub const MOST_HZ: u32 = 1000;

/// How often stacks are taken out of the ring, which has room for what comes meanwhile.
const DRAIN: Duration = Duration::from_millis(30);

/// What ends the names of guests' functions in [`Profile::folded`], as tools that draw such stacks know it.
const GUEST: &str = "_[j]";

/// A profile of the running thread in the making. Dropping it ends it without a result.
#[derive(Debug)]
pub struct Profiler {
    sampler: Option<Sampler>,
    /// Tells the other thread that no more samples come.
    end: Option<Sender<()>>,
    result: Receiver<Finished>,
}

/// What has come of a profile.
#[derive(Debug)]
pub struct Finished {
    /// As it was to be written.
    pub written: Vec<u8>,
    /// Files with code of this process that could not be read, and why: their functions have no names, and stacks may end
    /// where they reach them.
    pub unread: Vec<(String, io::Error)>,
}

impl Profiler {
    /// Begins to look at the thread that runs, `hz` times for each second that it runs, up to [`MOST_HZ`]. `guests` are
    /// pieces of code made at run time; `write` makes of the profile what [`Profiler::result`] answers.
    ///
    /// # Errors
    /// When this thread is being looked at already, another has SIGPROF for its own use, or the system has no thread or
    /// timer to give.
    pub fn start(hz: u32, guests: Vec<Symbol>, write: fn(&Profile) -> Vec<u8>) -> io::Result<Self> {
        let period = Duration::from_secs(1) / hz.clamp(1, MOST_HZ);
        let (began, clock) = (SystemTime::now(), Instant::now());
        let (sampler, reader) = Sampler::start(period)?;
        let (end, ended) = mpsc::channel();
        let (results, result) = mpsc::channel();
        let run = move || {
            if let Some((stacks, code, lost)) = collect(reader, &ended, guests) {
                let times = Times { began, lasted: clock.elapsed(), period };
                let written = write(&Profile::new(stacks, &code, times, lost));
                // Whoever asked may have gone.
                let _ = results.send(Finished { written, unread: code.into_unread() });
            }
        };
        // It ends by itself: a join would wait for files.
        signals::blocked(|| thread::Builder::new().name("weir-profile".into()).spawn(run))?;
        Ok(Self { sampler: Some(sampler), end: Some(end), result })
    }

    /// Looks no longer. The result comes a little later.
    pub fn finish(&mut self) {
        self.sampler = None;
        if let Some(end) = self.end.take() {
            // A thread that has ended early has no result, which is noticed there.
            let _ = end.send(());
        }
    }

    /// The profile, as `write` has made it; `None` until it is there.
    ///
    /// # Errors
    /// When there will never be one.
    pub fn result(&self) -> io::Result<Option<Finished>> {
        match self.result.try_recv() {
            Ok(result) => Ok(Some(result)),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(io::Error::other("the profile's thread has failed")),
        }
    }
}

/// Counts the stacks that come through `reader` until `ended`, and the samples that were lost; `None` if nobody wants to
/// know any more.
fn collect(mut reader: Reader, ended: &Receiver<()>, mut guests: Vec<Symbol>) -> Option<(Stacks, Code, u64)> {
    guests.sort_by_key(|symbol| symbol.address);
    let mut code = Code::of_this_process(guests);
    let mut stacks = Stacks::new();
    let mut addresses = Vec::new();
    loop {
        let waited = ended.recv_timeout(DRAIN);
        reader.drain(|sample| {
            code.unwind(sample, &mut addresses);
            let weight = match stacks.get_mut(addresses.as_slice()) {
                Some(weight) => weight,
                None => stacks.entry(addresses.clone().into()).or_default(),
            };
            weight.samples += 1;
            weight.time += sample.time();
        });
        match waited {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
            Ok(()) => break,
        }
    }
    Some((stacks, code, reader.lost()))
}

/// Addresses, the innermost first, and how often they were met.
type Stacks = HashMap<Box<[u64]>, Weight>;

/// How often a stack was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Weight {
    samples: u64,
    /// Processor time.
    time: Duration,
}

/// When a profile was made.
#[derive(Debug, Clone, Copy)]
struct Times {
    began: SystemTime,
    lasted: Duration,
    period: Duration,
}

/// A place in the code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    address: u64,
    /// Which of the profile's mappings it is in.
    mapping: Option<usize>,
    /// As it is in the symbol table.
    symbol: String,
    /// As people write it.
    name: String,
    is_guest: bool,
}

/// A stretch of memory with code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    /// Where in the file it begins.
    offset: u64,
    /// Its file, or what there is instead.
    name: String,
}

/// Which stacks a thread was met in, and for how long.
#[derive(Debug)]
pub struct Profile {
    frames: Vec<Frame>,
    mappings: Vec<Mapping>,
    /// Places in `frames`, the innermost first.
    stacks: Vec<(Vec<usize>, Weight)>,
    times: Times,
    lost: u64,
}

impl Profile {
    fn new(stacks: Stacks, code: &Code, times: Times, lost: u64) -> Self {
        let unique: HashSet<u64> = stacks.keys().flat_map(|stack| stack.iter().copied()).collect();
        let mut unique: Vec<_> = unique.into_iter().collect();
        unique.sort_unstable();
        let frames = code.frames(&unique);
        let place = |address: &u64| unique.binary_search(address).ok();
        let stacks = stacks.into_iter();
        let mut stacks: Vec<_> = stacks
            .map(|(stack, weight)| (stack.iter().filter_map(place).collect::<Vec<_>>(), weight))
            .collect();
        stacks.sort_by(|a, b| a.0.cmp(&b.0));
        Self { frames, mappings: code.mappings(), stacks, times, lost }
    }

    /// A line for each stack: its functions from the outermost on, separated by `;`, and the microseconds of processor
    /// time that it was met for. Guests' functions end in `_[j]`.
    #[must_use]
    pub fn folded(&self) -> Vec<u8> {
        let mut lines = HashMap::<String, Duration>::new();
        for (stack, weight) in &self.stacks {
            let mut line = String::new();
            for frame in stack.iter().rev().filter_map(|at| self.frames.get(*at)) {
                if !line.is_empty() {
                    line.push(';');
                }
                // What separates frames is in no name.
                line.push_str(&frame.name.replace(';', ":"));
                line.push_str(if frame.is_guest { GUEST } else { "" });
            }
            *lines.entry(line).or_default() += weight.time;
        }
        let mut lines: Vec<_> = lines.into_iter().collect();
        lines.sort_unstable();
        let mut text = String::new();
        for (line, time) in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line} {}", time.as_micros());
        }
        text.into_bytes()
    }

    /// The profile in pprof's format (`proto/profile.proto` of google/pprof), compressed by gzip as tools expect it.
    #[must_use]
    pub fn pprof(&self) -> Vec<u8> {
        pprof::encode(self)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hint::black_box,
        io::Read as _,
        time::{Duration, Instant},
    };

    use super::{MOST_HZ, Profiler};

    /// Uses the processor for some time.
    #[inline(never)]
    fn busy(time: Duration) -> u64 {
        let begin = Instant::now();
        let mut sum = 0_u64;
        while begin.elapsed() < time {
            sum = black_box((0..1000_u64).fold(sum, |sum, one| sum.wrapping_mul(31) ^ one));
        }
        sum
    }

    fn result(profiler: &mut Profiler) -> Vec<u8> {
        profiler.finish();
        loop {
            if let Some(finished) = profiler.result().expect("a result") {
                assert!(finished.unread.is_empty(), "{:?}", finished.unread);
                return finished.written;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn time_is_where_it_was_spent() {
        let mut profiler = Profiler::start(MOST_HZ, Vec::new(), super::Profile::folded).expect("a profiler");
        black_box(busy(Duration::from_millis(400)));
        let text = String::from_utf8(result(&mut profiler)).expect("text");
        let time = |line: &str| line.rsplit_once(' ').and_then(|(_, time)| time.parse::<u64>().ok());
        let all: u64 = text.lines().filter_map(time).sum();
        let busy: u64 =
            text.lines().filter(|line| line.contains("profile::tests::busy")).filter_map(time).sum();
        assert!(busy * 10 > all * 8 && busy > 0, "{busy} of {all} µs: {text}");
        // From the thread's beginning.
        let is_whole = |line: &str| line.contains("thread_start") && line.contains("profile::tests::busy");
        assert!(text.lines().any(is_whole), "{text}");
    }

    #[test]
    fn one_at_a_time_and_another_afterwards() {
        for _ in 0..2 {
            let mut first = Profiler::start(100, Vec::new(), super::Profile::pprof).expect("a profiler");
            let error = Profiler::start(100, Vec::new(), super::Profile::pprof).expect_err("one is there");
            assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
            black_box(busy(Duration::from_millis(30)));
            let packed = result(&mut first);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).expect("gzip");
            assert!(plain.windows(11).any(|part| part == b"nanoseconds"));
        }
        // One that is dropped has no result, and leaves nothing behind.
        drop(Profiler::start(100, Vec::new(), super::Profile::pprof).expect("a profiler"));
        drop(Profiler::start(100, Vec::new(), super::Profile::pprof).expect("a profiler"));
    }
}
