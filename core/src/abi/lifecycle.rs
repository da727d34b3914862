//! Contexts and configuration: `proxy_set_effective_context`, `proxy_done`, `proxy_get_configuration`, and what
//! language runtimes import besides.

use wasmtime::Caller;

use super::{
    memory::{give, parts, slice},
    status::{Hostcall, HostcallError, Status},
    types::LogLevel,
};
use crate::{
    context::ContextId,
    engine::limits::MAX_LOG_LINE,
    filter::Callback,
    host::{Host, Speaker},
    instance::State,
};

pub(super) fn set_effective_context<H: Host>(caller: &mut Caller<'_, State<H>>, context: i32) -> Hostcall {
    let contexts = &mut caller.data_mut().contexts;
    let context = ContextId::from_raw(context);
    if !contexts.contains(context) {
        return Err(Status::BadArgument.into());
    }
    contexts.set_effective(context);
    Ok(())
}

/// The effective context, whose `on_done` runs or has answered false, is done.
pub(super) fn done<H: Host>(caller: &mut Caller<'_, State<H>>) -> Hostcall {
    let contexts = &mut caller.data_mut().contexts;
    if contexts.complete_effective() { Ok(()) } else { Err(Status::NotFound.into()) }
}

/// 0.1.0: the module's configuration in `on_vm_start`, else the directive's.
pub(super) fn get_configuration<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let state = caller.data();
    if state.callback == Callback::VmStart {
        let filter = std::sync::Arc::clone(&state.filter);
        return give(caller, &filter.spec().configuration, return_data, return_size);
    }
    let plugin = state.contexts.effective_plugin().cloned().ok_or(Status::NotFound)?;
    give(caller, &plugin.configuration, return_data, return_size)
}

/// emscripten tells that the memory has grown. Nothing here keeps pointers into it.
#[allow(clippy::unnecessary_wraps, reason = "every hostcall has this form")]
pub(super) fn notify_memory_growth<H: Host>(_: &mut Caller<'_, State<H>>, _memory: i32) -> Hostcall {
    Ok(())
}

/// AssemblyScript ends the program: message and file are its strings.
pub(super) fn abort<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    message: i32,
    file: i32,
    line: i32,
    column: i32,
) -> Hostcall {
    let (memory, state) = parts(caller)?;
    let text = format!(
        "abort: {} at {}:{}:{}",
        assemblyscript_string(memory, message),
        assemblyscript_string(memory, file),
        line.cast_unsigned(),
        column.cast_unsigned()
    );
    state.log(LogLevel::Critical, Speaker::Guest, text.as_bytes());
    Err(HostcallError::Trap(wasmtime::Error::msg(text)))
}

/// UTF-16 at `ptr`, its size in bytes in the `u32` before it (AssemblyScript's object header, `rtSize`).
fn assemblyscript_string(memory: &[u8], ptr: i32) -> String {
    let size = ptr.checked_sub(4).and_then(|at| slice(memory, at, 4).ok());
    let size = size.and_then(|bytes| bytes.first_chunk::<4>()).map_or(0, |bytes| i32::from_le_bytes(*bytes));
    let most = i32::try_from(MAX_LOG_LINE).unwrap_or(i32::MAX);
    let bytes = slice(memory, ptr, size.clamp(0, most)).unwrap_or_default();
    let units = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
