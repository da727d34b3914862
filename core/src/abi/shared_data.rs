//! Shared data: `proxy_get_shared_data`, `proxy_set_shared_data`.

use wasmtime::Caller;

use super::{
    memory::{give, parts, put_u32, range, slice},
    status::{Hostcall, Status},
};
use crate::{
    host::Host,
    instance::State,
    shared::{WriteError, table::MAX_KEY},
};

pub(super) fn get_shared_data<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    key: i32,
    key_size: i32,
    return_data: i32,
    return_size: i32,
    return_cas: i32,
) -> Hostcall {
    let shared = caller.data().shared.clone().ok_or(Status::NotFound)?;
    shared.with_buffer(|content| {
        let (memory, state) = parts(caller)?;
        range(memory.len(), return_cas, 4)?;
        let key = slice(memory, key, key_size)?;
        if key.len() > MAX_KEY {
            return Err(Status::NotFound.into());
        }
        let scope = state.filter.spec().vm_id.as_bytes();
        let cas = shared.get(scope, key, content).ok_or(Status::NotFound)?;
        give(caller, content, return_data, return_size)?;
        put_u32(caller, return_cas, cas)
    })
}

/// A null pointer takes the value away: the entry reads as empty, and goes when its room is wanted.
pub(super) fn set_shared_data<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    key: i32,
    key_size: i32,
    value: i32,
    value_size: i32,
    cas: i32,
) -> Hostcall {
    let (memory, state) = parts(caller)?;
    let key = slice(memory, key, key_size)?;
    let content = slice(memory, value, value_size)?;
    let content = (value != 0 || value_size != 0).then_some(content);
    let shared = state.shared.as_ref().ok_or(Status::InternalFailure)?;
    let scope = state.filter.spec().vm_id.as_bytes();
    match shared.set(scope, key, content, cas.cast_unsigned()) {
        Ok(()) => Ok(()),
        Err(WriteError::CasMismatch) => Err(Status::CasMismatch.into()),
        Err(error) => {
            if let Some(zone) = shared.is_first_refusal(key) {
                state.warn(&format!(
                    "shared data was not set in zone \"{zone}\": {error} (said once in each worker)"
                ));
            }
            // The Rust SDK panics at any status but CAS_MISMATCH.
            let refused =
                if error == WriteError::Full { Status::InternalFailure } else { Status::BadArgument };
            Err(state.surviving(refused, Status::CasMismatch).into())
        }
    }
}
