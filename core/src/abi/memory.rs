//! The guest's memory: checked ranges in, allocated values out.
//!
//! Whatever number a guest gives is treated as hostile: pointers and lengths are widened before they are added, and a
//! range that is not wholly inside the memory is [`OutOfBounds`], answered with INVALID_MEMORY_ACCESS.

use wasmtime::{AsContextMut, Caller};

use super::status::{Hostcall, HostcallError, Status};
use crate::{host::Host, instance::State};

/// A pointer or length leads outside the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfBounds;

/// The range of `len` bytes at `ptr`, inside a memory of `size` bytes. Both numbers are unsigned in the guest.
pub(crate) fn range(size: usize, ptr: i32, len: i32) -> Result<std::ops::Range<usize>, OutOfBounds> {
    let start = u64::from(ptr.cast_unsigned());
    let end = start + u64::from(len.cast_unsigned());
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if end <= size => Ok(start..end),
        _ => Err(OutOfBounds),
    }
}

/// `len` bytes at `ptr`. No bytes at all are fine wherever they are said to be: SDKs pass null or dangling pointers
/// for empty values.
pub(crate) fn slice(memory: &[u8], ptr: i32, len: i32) -> Result<&[u8], OutOfBounds> {
    if len == 0 {
        return Ok(&[]);
    }
    memory.get(range(memory.len(), ptr, len)?).ok_or(OutOfBounds)
}

/// `len` bytes at `ptr`, to write.
pub(crate) fn slice_mut(memory: &mut [u8], ptr: i32, len: i32) -> Result<&mut [u8], OutOfBounds> {
    let range = range(memory.len(), ptr, len)?;
    memory.get_mut(range).ok_or(OutOfBounds)
}

/// The guest's memory and the instance's state, side by side.
pub(crate) fn parts<'a, H: Host>(
    caller: &'a mut Caller<'_, State<H>>,
) -> Hostcall<(&'a mut [u8], &'a mut State<H>)> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        // The module's own start function runs before the exports are resolved.
        None => caller
            .get_export("memory")
            .and_then(wasmtime::Extern::into_memory)
            .ok_or(HostcallError::Status(Status::InvalidMemoryAccess))?,
    };
    Ok(memory.data_and_store_mut(caller))
}

/// Writes a `u32` at `ptr`.
pub(crate) fn put_u32<H: Host>(caller: &mut Caller<'_, State<H>>, ptr: i32, value: u32) -> Hostcall {
    put(caller, ptr, &value.to_le_bytes())
}

/// Writes a `u64` at `ptr`.
pub(crate) fn put_u64<H: Host>(caller: &mut Caller<'_, State<H>>, ptr: i32, value: u64) -> Hostcall {
    put(caller, ptr, &value.to_le_bytes())
}

/// Writes `bytes` at `ptr`.
pub(crate) fn put<H: Host>(caller: &mut Caller<'_, State<H>>, ptr: i32, bytes: &[u8]) -> Hostcall {
    let (memory, _) = parts(caller)?;
    let range = range(memory.len(), ptr, 0)?;
    let place = memory.get_mut(range.start..).and_then(|rest| rest.get_mut(..bytes.len()));
    place.ok_or(OutOfBounds)?.copy_from_slice(bytes);
    Ok(())
}

/// Size of a value that is handed out, as the guest counts it.
pub(crate) fn guest_size(len: usize) -> Hostcall<u32> {
    // More than 4 GiB cannot be put into a 32-bit memory.
    u32::try_from(len).map_err(|_| HostcallError::Status(Status::InternalFailure))
}

/// Hands `value` out: allocates in the guest, copies once, writes pointer and size.
pub(crate) fn give<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    value: &[u8],
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    give_with(caller, value.len(), return_data, return_size, |place| {
        place.copy_from_slice(value);
        Ok(())
    })
}

/// Hands out a value of `len` bytes that `fill` writes into the guest's memory.
///
/// Nothing is allocated for an empty value: pointer 0, size 0.
pub(crate) fn give_with<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    len: usize,
    return_data: i32,
    return_size: i32,
    fill: impl FnOnce(&mut [u8]) -> Hostcall,
) -> Hostcall {
    let size = guest_size(len)?;
    {
        // Before anything is allocated, so that nothing leaks in the guest.
        let (memory, _) = parts(caller)?;
        range(memory.len(), return_data, 4)?;
        range(memory.len(), return_size, 4)?;
    }
    let mut data = 0;
    if len > 0 {
        data = allocate(caller, size)?;
        let (memory, _) = parts(caller)?;
        fill(slice_mut(memory, data, size.cast_signed())?)?;
    }
    put_u32(caller, return_data, data.cast_unsigned())?;
    put_u32(caller, return_size, size)
}

/// Lets the guest allocate `size` bytes; 0 means that it has none.
fn allocate<H: Host>(caller: &mut Caller<'_, State<H>>, size: u32) -> Hostcall<i32> {
    let allocator = caller.data().allocator.clone().ok_or(Status::InternalFailure)?;
    // Bytes that the host lends are borrowed while the allocator runs: it must not change them.
    if std::mem::replace(&mut caller.data_mut().allocating, true) {
        return Err(HostcallError::Trap(wasmtime::Error::msg("the guest's allocator asked for memory")));
    }
    let result = allocator.call(caller.as_context_mut(), size.cast_signed());
    caller.data_mut().allocating = false;
    match result {
        Ok(0) => Err(Status::InternalFailure.into()),
        Ok(data) => Ok(data),
        Err(error) => Err(HostcallError::Trap(error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{OutOfBounds, range, slice};

    #[test]
    fn ranges_at_the_edges() {
        assert_eq!(range(10, 0, 10), Ok(0..10));
        assert_eq!(range(10, 10, 0), Ok(10..10));
        assert_eq!(range(10, 10, 1), Err(OutOfBounds));
        assert_eq!(range(10, 11, 0), Err(OutOfBounds));
        assert_eq!(range(10, -1, -1), Err(OutOfBounds), "4 GiB - 1 twice does not wrap around");
        assert_eq!(range(10, 5, -1), Err(OutOfBounds));
    }

    #[test]
    fn an_empty_value_may_be_anywhere() {
        assert_eq!(slice(&[], -1, 0), Ok(&[][..]));
    }

    proptest! {
        #[test]
        fn no_range_reaches_outside(size in 0usize..100_000, ptr: i32, len: i32) {
            if let Ok(range) = range(size, ptr, len) {
                prop_assert!(range.end <= size);
                prop_assert_eq!(range.len(), len.cast_unsigned() as usize);
            }
        }
    }
}
