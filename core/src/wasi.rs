//! WASI preview 1, as much of it as a filter may use: output to the log, clocks, random numbers, granted variables.
//!
//! There are no files, no sockets, no arguments; what asks for them gets the errno that says so, since language
//! runtimes probe for them when they start. Source: `wasi_snapshot_preview1.witx`.

mod random;

use wasmtime::Caller;

pub(crate) use random::Random;

use crate::{
    abi::{
        memory::{OutOfBounds, parts, put, put_u32, put_u64, range, slice, slice_mut},
        status::HostcallError,
        types::LogLevel,
    },
    engine::limits::{MAX_IOVECS, MAX_LOG_LINE, MAX_RANDOM, MAX_SUBSCRIPTIONS},
    host::{Host, RootHost, Speaker},
    instance::State,
};

/// Error numbers of WASI preview 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errno {
    /// No such file descriptor.
    Badf = 8,
    /// A pointer leads nowhere.
    Fault = 21,
    /// An argument makes no sense.
    Inval = 28,
    /// The host failed.
    Io = 29,
    /// Not here.
    Nosys = 52,
    /// Not on this descriptor.
    Notsup = 58,
    /// Not on a stream.
    Spipe = 70,
}

impl Errno {
    pub(crate) const fn raw(self) -> i32 {
        self as i32
    }
}

/// How a WASI function ends when it does not end well.
pub(crate) enum Error {
    Errno(Errno),
    Trap(wasmtime::Error),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<OutOfBounds> for Error {
    fn from(OutOfBounds: OutOfBounds) -> Self {
        Self::Errno(Errno::Fault)
    }
}

impl From<HostcallError> for Error {
    fn from(error: HostcallError) -> Self {
        match error {
            HostcallError::Status(_) => Self::Errno(Errno::Fault),
            HostcallError::Trap(error) => Self::Trap(error),
        }
    }
}

type Answer = Result<(), Error>;

/// The number that goes back to the guest, or the error that ends it.
pub(crate) fn answer(result: Answer) -> wasmtime::Result<i32> {
    match result {
        Ok(()) => Ok(0),
        Err(Error::Errno(errno)) => Ok(errno.raw()),
        Err(Error::Trap(error)) => Err(error),
    }
}

/// Standard input, output, error: the only descriptors there are.
fn is_standard(fd: i32) -> bool {
    (0..=2).contains(&fd)
}

fn only(fd: i32, errno: Errno) -> Answer {
    Err(if is_standard(fd) { errno } else { Errno::Badf }.into())
}

pub(crate) fn args_get<H: Host>(_: &mut Caller<'_, State<H>>, _argv: i32, _buffer: i32) -> Answer {
    Ok(())
}

pub(crate) fn args_sizes_get<H: Host>(caller: &mut Caller<'_, State<H>>, count: i32, size: i32) -> Answer {
    put_u32(caller, count, 0)?;
    Ok(put_u32(caller, size, 0)?)
}

/// The variables that the configuration grants, as `NAME=VALUE` with a NUL after it.
fn environment<H: Host>(state: &State<H>) -> Vec<Vec<u8>> {
    let granted = &state.filter.spec().environment;
    granted.iter().map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

pub(crate) fn environ_sizes_get<H: Host>(caller: &mut Caller<'_, State<H>>, count: i32, size: i32) -> Answer {
    let variables = environment(caller.data());
    let bytes = variables.iter().map(Vec::len).sum::<usize>();
    put_u32(caller, count, u32::try_from(variables.len()).map_err(|_| Errno::Inval)?)?;
    Ok(put_u32(caller, size, u32::try_from(bytes).map_err(|_| Errno::Inval)?)?)
}

pub(crate) fn environ_get<H: Host>(caller: &mut Caller<'_, State<H>>, environ: i32, buffer: i32) -> Answer {
    let (mut at, mut text) = (environ.cast_unsigned(), buffer.cast_unsigned());
    for variable in environment(caller.data()) {
        put_u32(caller, at.cast_signed(), text)?;
        put(caller, text.cast_signed(), &variable)?;
        at = at.checked_add(4).ok_or(Errno::Fault)?;
        let size = u32::try_from(variable.len()).map_err(|_| Errno::Fault)?;
        text = text.checked_add(size).ok_or(Errno::Fault)?;
    }
    Ok(())
}

/// `clockid`: realtime 0, monotonic 1. Clocks of the process and thread are nothing a guest should see.
fn clock<H: Host>(caller: &Caller<'_, State<H>>, id: i32) -> Option<u64> {
    match id {
        0 => Some(caller.data().root.realtime_ns()),
        1 => Some(caller.data().root.monotonic_ns()),
        _ => None,
    }
}

pub(crate) fn clock_res_get<H: Host>(caller: &mut Caller<'_, State<H>>, id: i32, resolution: i32) -> Answer {
    clock(caller, id).ok_or(Errno::Inval)?;
    Ok(put_u64(caller, resolution, 1)?)
}

pub(crate) fn clock_time_get<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    id: i32,
    _precision: i64,
    time: i32,
) -> Answer {
    // Not INVAL, as in WASI: Proxy-Wasm lists this function with an errno of its own.
    let now = clock(caller, id).ok_or(Errno::Notsup)?;
    Ok(put_u64(caller, time, now)?)
}

pub(crate) fn standard_only<H: Host>(_: &mut Caller<'_, State<H>>, fd: i32) -> Answer {
    only(fd, Errno::Notsup)
}

pub(crate) fn standard_only_flags<H: Host>(_: &mut Caller<'_, State<H>>, fd: i32, _flags: i32) -> Answer {
    only(fd, Errno::Notsup)
}

/// `filetype::character_device`
const CHARACTER_DEVICE: u8 = 2;

/// `fdstat`: file type, flags (append), rights (to write), rights inherited: 24 bytes.
pub(crate) fn fd_fdstat_get<H: Host>(caller: &mut Caller<'_, State<H>>, fd: i32, stat: i32) -> Answer {
    if !is_standard(fd) {
        return Err(Errno::Badf.into());
    }
    let mut fdstat = [0_u8; 24];
    fdstat[0] = CHARACTER_DEVICE;
    let (flags, rights): (u8, u8) = if fd == 0 { (0, 0b10) } else { (1, 0b100_0000) };
    fdstat[2] = flags;
    fdstat[8] = rights;
    Ok(put(caller, stat, &fdstat)?)
}

/// `filestat`: 64 bytes, of which only the file type is not zero.
pub(crate) fn fd_filestat_get<H: Host>(caller: &mut Caller<'_, State<H>>, fd: i32, stat: i32) -> Answer {
    if !is_standard(fd) {
        return Err(Errno::Badf.into());
    }
    let mut filestat = [0_u8; 64];
    filestat[16] = CHARACTER_DEVICE;
    Ok(put(caller, stat, &filestat)?)
}

pub(crate) fn fd_read<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    fd: i32,
    _iovs: i32,
    _iovs_len: i32,
    return_size: i32,
) -> Answer {
    if fd != 0 {
        return Err(Errno::Badf.into());
    }
    Ok(put_u32(caller, return_size, 0)?)
}

pub(crate) fn fd_seek<H: Host>(
    _: &mut Caller<'_, State<H>>,
    fd: i32,
    _offset: i64,
    _whence: i32,
    _return_offset: i32,
) -> Answer {
    only(fd, Errno::Spipe)
}

pub(crate) fn fd_tell<H: Host>(_: &mut Caller<'_, State<H>>, fd: i32, _return_offset: i32) -> Answer {
    only(fd, Errno::Spipe)
}

/// Standard output is logged at level info, standard error at level error: one line for each call.
pub(crate) fn fd_write<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    fd: i32,
    iovs: i32,
    iovs_len: i32,
    return_size: i32,
) -> Answer {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return Err(Errno::Badf.into()),
    };
    let count = iovs_len.cast_unsigned() as usize;
    if count > MAX_IOVECS {
        return Err(Errno::Inval.into());
    }
    let (memory, state) = parts(caller)?;
    let vectors = slice(memory, iovs, i32::try_from(count * 8).map_err(|_| Errno::Inval)?)?;
    let mut written = 0_u32;
    for vector in vectors.as_chunks::<8>().0 {
        let text = piece(memory, vector)?;
        let len = u32::try_from(text.len()).map_err(|_| Errno::Inval)?;
        written = written.checked_add(len).ok_or(Errno::Inval)?;
    }
    if level >= state.log_level() {
        let mut line = state.output.take(level);
        let continues = !line.is_empty();
        for vector in vectors.as_chunks::<8>().0 {
            let text = piece(memory, vector)?;
            let room = MAX_LOG_LINE.saturating_sub(line.len());
            line.extend_from_slice(text.get(..room).unwrap_or(text));
        }
        // What has been begun ends with its newline.
        if let Some(whole) = line.strip_suffix(b"\n") {
            // Empty lines before it were written with it; its indentation is its own.
            let begin = whole.iter().position(|byte| *byte != b'\n').unwrap_or(whole.len());
            let whole = if continues { whole.get(begin..).unwrap_or_default() } else { whole };
            if !whole.is_empty() {
                state.log(level, Speaker::Guest, whole);
            }
            line.clear();
        }
        state.output.keep(level, line);
    }
    Ok(put_u32(caller, return_size, written)?)
}

/// The bytes that an `iovec` speaks of.
fn piece<'m>(memory: &'m [u8], [a, b, c, d, e, f, g, h]: &[u8; 8]) -> Result<&'m [u8], OutOfBounds> {
    let (ptr, len) = (i32::from_le_bytes([*a, *b, *c, *d]), i32::from_le_bytes([*e, *f, *g, *h]));
    slice(memory, ptr, len)
}

/// What a guest has begun to write on standard output and error: runtimes that report a panic write a line in many
/// pieces. A line ends with its newline, and whatever is there is one when anything else is logged, or the callback
/// ends.
#[derive(Debug, Default)]
pub(crate) struct Output {
    info: Vec<u8>,
    error: Vec<u8>,
}

impl Output {
    fn of(&mut self, level: LogLevel) -> &mut Vec<u8> {
        if level == LogLevel::Info { &mut self.info } else { &mut self.error }
    }

    fn take(&mut self, level: LogLevel) -> Vec<u8> {
        std::mem::take(self.of(level))
    }

    fn keep(&mut self, level: LogLevel, line: Vec<u8>) {
        *self.of(level) = line;
    }

    /// Whether nothing has been begun.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.info.is_empty() && self.error.is_empty()
    }
}

/// Logs what the guest has begun to write.
#[cold]
pub(crate) fn flush<H: Host>(state: &mut State<H>) {
    for level in [LogLevel::Info, LogLevel::Error] {
        let mut line = state.output.take(level);
        if !line.is_empty() {
            state.log(level, Speaker::Guest, &line);
            line.clear();
            state.output.keep(level, line);
        }
    }
}

/// Sizes of `subscription` and `event`.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;

/// Every clock is due at once, since a worker cannot wait; standard descriptors are ready.
pub(crate) fn poll_oneoff<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    subscriptions: i32,
    events: i32,
    count: i32,
    return_count: i32,
) -> Answer {
    let count = count.cast_unsigned() as usize;
    if count == 0 || count > MAX_SUBSCRIPTIONS {
        return Err(Errno::Inval.into());
    }
    let size = |each: usize| i32::try_from(count * each).map_err(|_| Errno::Inval);
    let (memory, _) = parts(caller)?;
    range(memory.len(), events, size(EVENT)?)?;
    for number in 0..count {
        let at = |base: i32, each: usize| {
            let offset = u32::try_from(number * each).map_err(|_| Errno::Fault)?;
            base.cast_unsigned().checked_add(offset).map(u32::cast_signed).ok_or(Errno::Fault)
        };
        let wanted = slice(memory, at(subscriptions, SUBSCRIPTION)?, 48)?;
        let mut event = [0_u8; EVENT];
        // userdata, then the type: clock 0, fd_read 1, fd_write 2.
        event[..8].copy_from_slice(wanted.get(..8).unwrap_or_default());
        let kind = wanted.get(8).copied().unwrap_or_default();
        event[10] = kind;
        let descriptor =
            wanted.get(16..).and_then(|rest| rest.first_chunk()).map_or(-1, |fd| i32::from_le_bytes(*fd));
        if kind != 0 && !is_standard(descriptor) {
            event[8] = Errno::Badf as u8;
        }
        slice_mut(memory, at(events, EVENT)?, 32)?.copy_from_slice(&event);
    }
    Ok(put_u32(caller, return_count, u32::try_from(count).map_err(|_| Errno::Inval)?)?)
}

pub(crate) fn proc_raise<H: Host>(_: &mut Caller<'_, State<H>>, _signal: i32) -> Answer {
    Err(Errno::Nosys.into())
}

#[allow(clippy::unnecessary_wraps, reason = "every WASI function has this form")]
pub(crate) fn sched_yield<H: Host>(_: &mut Caller<'_, State<H>>) -> Answer {
    Ok(())
}

pub(crate) fn random_get<H: Host>(caller: &mut Caller<'_, State<H>>, buffer: i32, size: i32) -> Answer {
    caller.data_mut().drew_random = true;
    if size.cast_unsigned() as usize > MAX_RANDOM {
        return Err(Errno::Inval.into());
    }
    let (memory, state) = parts(caller)?;
    let place = slice_mut(memory, buffer, size)?;
    Ok(random::fill(state.random.as_deref(), place).map_err(|_| Errno::Io)?)
}
