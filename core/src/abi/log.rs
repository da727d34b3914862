//! `proxy_log`, `proxy_get_log_level`.

use wasmtime::Caller;

use super::{
    memory::{parts, put_u32, slice},
    status::{Hostcall, Status},
    types::LogLevel,
};
use crate::{
    engine::limits::MAX_LOG_LINE,
    host::{Host, Speaker},
    instance::State,
    wasi,
};

pub(super) fn log<H: Host>(caller: &mut Caller<'_, State<H>>, level: i32, data: i32, size: i32) -> Hostcall {
    let level = LogLevel::from_raw(level).ok_or(Status::BadArgument)?;
    let (memory, state) = parts(caller)?;
    let message = slice(memory, data, size)?;
    if !state.output.is_empty() {
        wasi::flush(state);
    }
    // As with standard output: many guests end a line as they would there.
    let message = message.strip_suffix(b"\n").unwrap_or(message);
    if level >= state.log_level() {
        let message = message.get(..MAX_LOG_LINE).unwrap_or(message);
        state.log(level, Speaker::Guest, message);
    }
    Ok(())
}

pub(super) fn get_log_level<H: Host>(caller: &mut Caller<'_, State<H>>, return_level: i32) -> Hostcall {
    let level = caller.data().log_level();
    put_u32(caller, return_level, level.raw().cast_unsigned())
}
