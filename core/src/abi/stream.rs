//! The stream itself: local response, resumption, end.

use wasmtime::Caller;

use super::{
    maps,
    memory::{parts, slice},
    pairs::Pairs,
    status::{Hostcall, Status},
    types::{LogLevel, MapType, StreamType},
};
use crate::{
    host::{Host, LocalResponse, Speaker, StreamError, StreamHost},
    instance::State,
};

/// Headers of a local response: only pairs that may reach the proxy.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalHeaders<'a>(Pairs<'a>);

impl<'a> LocalHeaders<'a> {
    /// The headers in `pairs` that are no pseudo-headers, and whose names and values are valid.
    #[must_use]
    pub fn new(pairs: Pairs<'a>) -> Self {
        Self(pairs)
    }

    /// The headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.0.iter().filter(|(name, value)| usable(name, value))
    }
}

fn usable(name: &[u8], value: &[u8]) -> bool {
    !name.starts_with(b":") && maps::check(MapType::HttpResponseHeaders, name, value).is_ok()
}

#[allow(clippy::too_many_arguments, reason = "the ABI's own list")]
pub(super) fn send_local_response<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    status: i32,
    details: i32,
    details_size: i32,
    body: i32,
    body_size: i32,
    headers: i32,
    headers_size: i32,
    grpc_status: i32,
) -> Hostcall {
    let stream = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    let details = slice(memory, details, details_size)?;
    let body = slice(memory, body, body_size)?;
    let pairs = Pairs::parse(slice(memory, headers, headers_size)?)?;
    let status = match u16::try_from(status) {
        // 1xx is not a final response; nginx and clients would wait for another. nginx's own `return` goes up to 999.
        Ok(status @ 200..=999) => status,
        _ => {
            state.warn(&format!("local response dropped: status {status} is not between 200 and 999"));
            return Err(Status::BadArgument.into());
        }
    };
    for (name, value) in pairs.iter().filter(|(name, value)| !usable(name, value)) {
        let shown = name.get(..64).unwrap_or(name).escape_ascii();
        let why = maps::check(MapType::HttpResponseHeaders, name, value).err();
        let why = why.map_or_else(|| "the status is an argument of its own".into(), |why| why.to_string());
        state.warn(&format!("header \"{shown}\" of a local response dropped: {why}"));
    }
    let response = LocalResponse {
        status,
        details,
        body,
        headers: LocalHeaders::new(pairs),
        grpc_status: u32::try_from(grpc_status).ok(),
    };
    let sent = match stream {
        Some(_) if state.asked.local_response == state.contexts.effective() => {
            Err(StreamError::Refused("this callback has sent one already"))
        }
        Some(stream) => stream.send_local_response(&response),
        None => Err(StreamError::Gone),
    };
    if let Err(error) = sent {
        state.warn(&format!("local response with status {status} dropped: {error}"));
        // As with maps: the answer is one that the SDK survives.
        return Ok(state.refused()?);
    }
    if !details.is_empty() {
        let text = format!("local response with status {status}: {}", details.escape_ascii());
        state.log(LogLevel::Info, Speaker::Weir, text.as_bytes());
    }
    state.asked.local_response = state.contexts.effective();
    Ok(())
}

pub(super) fn continue_stream<H: Host>(caller: &mut Caller<'_, State<H>>, stream: i32) -> Hostcall {
    let direction = StreamType::from_raw(stream).ok_or(Status::BadArgument)?;
    // The Rust SDK resumes an HTTP request through Downstream and Upstream too when it is asked to in a TCP context;
    // there are no TCP streams here.
    if matches!(direction, StreamType::Downstream | StreamType::Upstream) {
        return Err(Status::Unimplemented.into());
    }
    let stream = caller.data().stream()?.ok_or(Status::NotFound)?;
    let filter = caller.data().contexts.effective_filter().ok_or(Status::NotFound)?;
    stream.resume(direction, filter)?;
    let state = caller.data_mut();
    state.asked.resume[usize::from(direction == StreamType::HttpResponse)] = state.contexts.effective();
    Ok(())
}

pub(super) fn continue_request<H: Host>(caller: &mut Caller<'_, State<H>>) -> Hostcall {
    continue_stream(caller, StreamType::HttpRequest.raw())
}

pub(super) fn continue_response<H: Host>(caller: &mut Caller<'_, State<H>>) -> Hostcall {
    continue_stream(caller, StreamType::HttpResponse.raw())
}

pub(super) fn close_stream<H: Host>(caller: &mut Caller<'_, State<H>>, stream: i32) -> Hostcall {
    let direction = StreamType::from_raw(stream).ok_or(Status::BadArgument)?;
    // As above; the specification has no UNIMPLEMENTED for this one.
    if matches!(direction, StreamType::Downstream | StreamType::Upstream) {
        return Err(Status::BadArgument.into());
    }
    let stream = caller.data().stream()?.ok_or(Status::NotFound)?;
    stream.close(direction)?;
    let state = caller.data_mut();
    state.asked.close = state.contexts.effective();
    Ok(())
}

/// nginx has chosen the location before any filter runs, and keeps it.
#[allow(clippy::unnecessary_wraps, reason = "every hostcall has this form")]
pub(super) fn clear_route_cache<H: Host>(_: &mut Caller<'_, State<H>>) -> Hostcall {
    Ok(())
}
