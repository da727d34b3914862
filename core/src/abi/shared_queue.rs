//! Shared queues: `proxy_register_shared_queue`, `proxy_resolve_shared_queue`, `proxy_enqueue_shared_queue`,
//! `proxy_dequeue_shared_queue`.

use wasmtime::Caller;

use super::{
    memory::{give, parts, put_u32, range, slice},
    status::{Hostcall, Status},
};
use crate::{
    host::Host,
    instance::State,
    shared::{QueueError, WriteError},
};

/// The queue is the calling filter's own; its root context is told of messages from now on.
pub(super) fn register_shared_queue<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    name: i32,
    name_size: i32,
    return_queue: i32,
) -> Hostcall {
    let (memory, state) = parts(caller)?;
    range(memory.len(), return_queue, 4)?;
    let name = slice(memory, name, name_size)?;
    let shared = state.shared.as_ref().ok_or(Status::InternalFailure)?;
    let scope = state.filter.spec().vm_id.as_bytes();
    let queue = shared.register(scope, name).map_err(|error| match error {
        WriteError::TooLarge => Status::BadArgument,
        WriteError::Full | WriteError::CasMismatch => Status::InternalFailure,
    })?;
    state.register(queue);
    put_u32(caller, return_queue, queue)
}

/// An empty `vm_id` is the calling filter's own.
pub(super) fn resolve_shared_queue<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    vm_id: i32,
    vm_id_size: i32,
    name: i32,
    name_size: i32,
    return_queue: i32,
) -> Hostcall {
    let (memory, state) = parts(caller)?;
    range(memory.len(), return_queue, 4)?;
    let given = slice(memory, vm_id, vm_id_size)?;
    let name = slice(memory, name, name_size)?;
    let shared = state.shared.as_ref().ok_or(Status::NotFound)?;
    let scope = if given.is_empty() { state.filter.spec().vm_id.as_bytes() } else { given };
    let queue = shared.resolve(scope, name).ok_or(Status::NotFound)?;
    put_u32(caller, return_queue, queue)
}

pub(super) fn enqueue_shared_queue<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    queue: i32,
    data: i32,
    size: i32,
) -> Hostcall {
    let (memory, state) = parts(caller)?;
    let message = slice(memory, data, size)?;
    let shared = state.shared.as_ref().ok_or(Status::NotFound)?;
    match shared.enqueue(queue.cast_unsigned(), message) {
        Ok(()) => Ok(()),
        Err(QueueError::NotFound | QueueError::Empty) => Err(Status::NotFound.into()),
        Err(QueueError::Refused(error)) => {
            if let Some(zone) = shared.is_first_refused_message(queue.cast_unsigned()) {
                state.warn(&format!(
                    "a message was not put into a queue of zone \"{zone}\": {error} (said once in each worker)"
                ));
            }
            // The Rust SDK panics at any status but NOT_FOUND.
            let refused =
                if error == WriteError::Full { Status::InternalFailure } else { Status::BadArgument };
            Err(state.surviving(refused, Status::NotFound).into())
        }
    }
}

pub(super) fn dequeue_shared_queue<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    queue: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let shared = caller.data().shared.clone().ok_or(Status::NotFound)?;
    let (memory, _) = parts(caller)?;
    // Before a message is taken that could not be handed over.
    range(memory.len(), return_data, 4)?;
    range(memory.len(), return_size, 4)?;
    shared.with_buffer(|message| match shared.dequeue(queue.cast_unsigned(), message) {
        Ok(()) => give(caller, message, return_data, return_size),
        Err(QueueError::Empty) => Err(Status::Empty.into()),
        Err(QueueError::NotFound) => Err(Status::NotFound.into()),
        Err(QueueError::Refused(_)) => Err(Status::InternalFailure.into()),
    })
}
