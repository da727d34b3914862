//! Buffers: `proxy_get_buffer_bytes`, `proxy_get_buffer_status`, `proxy_set_buffer_bytes`.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::Caller;

use super::{
    memory::{give, give_with, guest_size, parts, put_u32, slice},
    status::{Hostcall, Status},
    types::{BufferType, StreamType},
};
use crate::{
    filter::Filter,
    host::{Bodies, BufferError, Buffers, Host},
    instance::{State, answer::is_call_buffer},
    metrics::recorder::{self, Copied},
    plan::Plugin,
};

/// Bytes that Weir itself keeps: the configurations.
enum Configuration<H: Host> {
    Vm(Arc<Filter<H>>),
    Directive(Arc<Plugin<H>>),
}

impl<H: Host> Configuration<H> {
    /// The one that is shown as `buffer`, a configuration buffer.
    fn of(state: &State<H>, buffer: BufferType) -> Hostcall<Self> {
        if buffer == BufferType::VmConfiguration {
            return Ok(Self::Vm(Arc::clone(&state.filter)));
        }
        Ok(Self::Directive(Arc::clone(state.contexts.effective_plugin().ok_or(Status::NotFound)?)))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Vm(filter) => &filter.spec().configuration,
            Self::Directive(plugin) => &plugin.configuration,
        }
    }
}

/// A stream whose buffer shows what the effective context's filter holds, if that holds something: it is what the filter
/// means by the body, in whatever callback (Envoy's buffered body). Afterwards the buffer is what it was.
struct Shown<S: Bodies> {
    stream: S,
    /// What was swapped, if anything.
    held: Option<(StreamType, usize)>,
}

impl<S: Bodies> Shown<S> {
    fn new<H: Host<Stream = S>>(state: &State<H>, stream: S, buffer: BufferType) -> Self {
        let direction = match buffer {
            BufferType::HttpRequestBody => Some(StreamType::HttpRequest),
            BufferType::HttpResponseBody => Some(StreamType::HttpResponse),
            _ => None,
        };
        let held = direction.zip(state.contexts.effective_filter());
        let held = held.filter(|(direction, filter)| stream.swap_held(*direction, *filter));
        Self { stream, held }
    }
}

impl<S: Bodies> Drop for Shown<S> {
    fn drop(&mut self) {
        if let Some((direction, filter)) = self.held {
            self.stream.swap_held(direction, filter);
        }
    }
}

impl<S: Bodies> std::ops::Deref for Shown<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

pub(super) fn get_buffer_bytes<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    buffer: i32,
    start: i32,
    max_size: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let buffer = BufferType::from_raw(buffer).ok_or(Status::BadArgument)?;
    // What lies behind the end is simply not there: SDKs ask for "everything from here" with the largest size.
    let range = |len: usize| {
        let start = (start.cast_unsigned() as usize).min(len);
        start..len.min(start.saturating_add(max_size.cast_unsigned() as usize))
    };
    if matches!(buffer, BufferType::VmConfiguration | BufferType::PluginConfiguration) {
        let configuration = Configuration::of(caller.data(), buffer)?;
        let bytes = configuration.bytes();
        return give(caller, bytes.get(range(bytes.len())).unwrap_or_default(), return_data, return_size);
    }
    let stream = caller.data().stream()?;
    if is_call_buffer(buffer) {
        return get_call_bytes(caller, buffer, range, return_data, return_size);
    }
    let stream = Shown::new(caller.data(), stream.ok_or(Status::NotFound)?, buffer);
    let range = range(stream.buffer_len(buffer).ok_or(Status::NotFound)?);
    let len = range.len();
    give_with(caller, len, return_data, return_size, |place| {
        let mut rest = place;
        let mut fits = true;
        stream.read_buffer(buffer, range, &mut |piece| match std::mem::take(&mut rest)
            .split_at_mut_checked(piece.len())
        {
            Some((place, after)) => {
                place.copy_from_slice(piece);
                rest = after;
            }
            None => fits = false,
        })?;
        if fits && rest.is_empty() { Ok(()) } else { Err(BufferError::Io.into()) }
    })?;
    recorder::copied(caller.data(), Copied::Read, len);
    Ok(())
}

/// The same for a buffer of a call that the callback is told of.
fn get_call_bytes<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    buffer: BufferType,
    range: impl FnOnce(usize) -> std::ops::Range<usize>,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let answer = caller.data().answer.clone();
    let pieces = answer.as_ref().and_then(|answer| answer.buffer(buffer)).ok_or(Status::NotFound)?;
    let range = range(pieces.iter().map(Bytes::len).sum());
    let len = range.len();
    give_with(caller, len, return_data, return_size, |place| {
        let (mut rest, mut at) = (place, 0);
        for piece in pieces {
            let start = range.start.clamp(at, at + piece.len()) - at;
            let end = range.end.clamp(at, at + piece.len()) - at;
            let (place, after) = rest.split_at_mut_checked(end - start).ok_or(Status::InternalFailure)?;
            place.copy_from_slice(&piece[start..end]);
            (rest, at) = (after, at + piece.len());
        }
        Ok(())
    })?;
    recorder::copied(caller.data(), Copied::Read, len);
    Ok(())
}

pub(super) fn get_buffer_status<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    buffer: i32,
    return_size: i32,
    return_unused: i32,
) -> Hostcall {
    let buffer = BufferType::from_raw(buffer).ok_or(Status::BadArgument)?;
    let len = match buffer {
        BufferType::VmConfiguration | BufferType::PluginConfiguration => {
            Configuration::of(caller.data(), buffer)?.bytes().len()
        }
        _ => {
            let stream = caller.data().stream()?;
            let len = if is_call_buffer(buffer) {
                let answer = caller.data().answer.as_ref();
                let pieces = answer.and_then(|answer| answer.buffer(buffer));
                pieces.map(|pieces| pieces.iter().map(Bytes::len).sum())
            } else {
                stream.and_then(|stream| Shown::new(caller.data(), stream, buffer).buffer_len(buffer))
            };
            len.ok_or(Status::NotFound)?
        }
    };
    put_u32(caller, return_size, guest_size(len)?)?;
    put_u32(caller, return_unused, 0)
}

/// Replaces `size` bytes from `start` on: size 0 at 0 prepends, a start at or behind the end appends.
pub(super) fn set_buffer_bytes<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    buffer: i32,
    start: i32,
    size: i32,
    data: i32,
    data_size: i32,
) -> Hostcall {
    let buffer = BufferType::from_raw(buffer).ok_or(Status::BadArgument)?;
    let stream = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    let bytes = slice(memory, data, data_size)?;
    let stream = stream.filter(|_| !is_call_buffer(buffer));
    let stream = stream.map(|stream| Shown::new(state, stream, buffer));
    let result = stream.as_ref().ok_or(BufferError::Unavailable).and_then(|stream| {
        let len = stream.buffer_len(buffer).ok_or(BufferError::Unavailable)?;
        let start = (start.cast_unsigned() as usize).min(len);
        let end = start.saturating_add(size.cast_unsigned() as usize).min(len);
        stream.write_buffer(buffer, start..end, bytes)
    });
    match result {
        Ok(()) => {
            recorder::copied(state, Copied::Written, bytes.len());
            Ok(())
        }
        Err(error @ (BufferError::Unavailable | BufferError::Frozen)) => {
            let callback = state.callback.name();
            state.warn(&format!("change of {buffer:?} dropped in {callback}: {error}"));
            // As with maps: the answer is one that the SDK survives.
            state.refused().map_err(|_| error.into())
        }
        Err(error) => Err(error.into()),
    }
}
