//! What HTTP and gRPC calls have in common: checks, refusals, and `proxy_get_status`.

use std::time::Duration;

use wasmtime::Caller;

use super::{
    maps,
    memory::{give, parts, put_u32, range},
    pairs::Pairs,
    status::{Hostcall, Status},
    types::MapType,
};
use crate::{
    host::{Host, calls::CallError},
    instance::State,
};

/// How many bytes of an upstream's name the log shows.
const SHOWN: usize = 128;

/// A timeout that a guest gives, in milliseconds, unsigned (of gRPC calls as of Envoy's); 0 for the default.
pub(super) fn timeout<H: Host>(state: &State<H>, milliseconds: i32) -> Duration {
    match milliseconds.cast_unsigned() {
        0 => state.filter.engine().settings().limits.call_timeout,
        milliseconds => Duration::from_millis(milliseconds.into()),
    }
}

/// Whether all `pairs` may be sent, as those of `map`.
pub(super) fn check(map: MapType, pairs: Pairs<'_>) -> Result<(), CallError> {
    pairs.iter().try_for_each(|(name, value)| check_pair(map, name, value))
}

/// Whether one pair may be sent, as one of `map`.
pub(super) fn check_pair(map: MapType, name: &[u8], value: &[u8]) -> Result<(), CallError> {
    maps::check(map, name, value).map_err(|error| {
        let name = name.get(..64).unwrap_or(name).escape_ascii();
        CallError::Refused(format!("header \"{name}\": {error}").into())
    })
}

/// Whether `text` can stand in a request line: not empty, visible ASCII, or bytes that are none.
pub(super) fn is_visible(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

/// Logs why a call was not made; the status is `refused`, or INTERNAL_FAILURE where there are too many calls.
pub(super) fn not_made<H: Host>(
    state: &State<H>,
    upstream: &[u8],
    error: &CallError,
    refused: Status,
) -> Status {
    let shown = upstream.get(..SHOWN).unwrap_or(upstream).escape_ascii();
    state.warn(&format!("call to \"{shown}\" was not made: {error}"));
    match error {
        CallError::Unknown(_) | CallError::Refused(_) => refused,
        CallError::Overloaded(_) => Status::InternalFailure,
    }
}

/// In a callback that is told of a call: its status and what is said about it. 0 and nothing where all is well, and in
/// any other callback.
pub(super) fn get_status<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    return_code: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let answer = caller.data().answer.clone();
    let (code, message) = answer.as_ref().map_or((0, &[][..]), |answer| answer.status());
    let (memory, _) = parts(caller)?;
    range(memory.len(), return_code, 4)?;
    give(caller, message, return_data, return_size)?;
    put_u32(caller, return_code, code)
}
