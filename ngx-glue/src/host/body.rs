//! Bodies: what is readable is what nginx has handed to the filter that runs now.

use std::ops::Range;

use weir_core::{
    abi::types::{BufferType, StreamType},
    chain::Direction,
    host::{Bodies, BufferError, Buffers, Hold},
};

use super::stream::RequestToken;

impl Buffers for RequestToken {
    fn buffer_len(&self, buffer: BufferType) -> Option<usize> {
        self.io()?.look_at_body(direction(buffer)?, |body| body.measure().bytes)
    }

    fn read_buffer(
        &self,
        buffer: BufferType,
        range: Range<usize>,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BufferError> {
        let (io, direction) = self.io().zip(direction(buffer)).ok_or(BufferError::Unavailable)?;
        io.look_at_body(direction, |body| body.read(range, piece))
            .ok_or(BufferError::Unavailable)?
            .map_err(|_| BufferError::Io)
    }

    fn write_buffer(&self, _: BufferType, _: Range<usize>, _: &[u8]) -> Result<(), BufferError> {
        Err(BufferError::Frozen)
    }
}

/// Nothing is held: it goes on.
impl Bodies for RequestToken {
    fn hold(&self, _: StreamType, _: usize) -> Hold {
        Hold::StreamThrough
    }

    fn recall(&self, _: StreamType, _: usize) {}
}

fn direction(buffer: BufferType) -> Option<Direction> {
    match buffer {
        BufferType::HttpRequestBody => Some(Direction::Request),
        BufferType::HttpResponseBody => Some(Direction::Response),
        _ => None,
    }
}
