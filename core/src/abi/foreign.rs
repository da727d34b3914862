//! `proxy_call_foreign_function`: functions that no version of the ABI lists, each known by a name. docs/FOREIGN.md has
//! the bytes that go in and come out.

use wasmtime::Caller;

use super::{
    memory::{give, parts, put_u32, range, slice},
    status::{Hostcall, Status},
};
use crate::{host::Host, instance::State};

mod compression;
mod declare_property;
mod filter_state;
mod lookup;
mod pem;
mod signature;

/// A foreign function: its arguments, what it answers.
type Function<H> = fn(&mut State<H>, &[u8]) -> Hostcall<Vec<u8>>;

/// The function of that name.
fn find<H: Host>(name: &[u8]) -> Option<Function<H>> {
    Some(match name {
        b"clear_route_cache" => clear_route_cache,
        b"compress" => compression::compress,
        b"declare_property" => declare_property::declare,
        b"resolve" => lookup::resolve,
        b"set_envoy_filter_state" => filter_state::set,
        b"sign" => signature::sign,
        b"uncompress" => compression::uncompress,
        b"verify_signature" => signature::verify,
        _ => return None,
    })
}

/// As in `proxy_clear_route_cache`: a location that was chosen stays chosen.
#[allow(clippy::unnecessary_wraps, reason = "every foreign function has this form")]
fn clear_route_cache<H: Host>(_: &mut State<H>, _: &[u8]) -> Hostcall<Vec<u8>> {
    Ok(Vec::new())
}

/// A guest that does not want to know what comes back gives 0 for the places of pointer and size.
pub(super) fn call_foreign_function<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    name: i32,
    name_size: i32,
    arguments: i32,
    arguments_size: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    // Not below the guest's allocator.
    let _ = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    for place in [return_data, return_size] {
        range(memory.len(), place, 4)?;
    }
    let function = find(slice(memory, name, name_size)?);
    let arguments = slice(memory, arguments, arguments_size)?;
    let result = function.ok_or(Status::NotFound)?(state, arguments)?;
    match (return_data, return_size) {
        (0, 0) => Ok(()),
        (0, _) => put_u32(caller, return_size, super::memory::guest_size(result.len())?),
        _ => give(caller, &result, return_data, return_size),
    }
}
