//! Bodies: what is readable is what nginx has handed to the filter that runs now.

use std::ops::Range;

use weir_core::{
    abi::types::BufferType,
    host::{BufferError, Buffers},
};

use super::stream::RequestToken;
use crate::stream::io::Direction;

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
}

fn direction(buffer: BufferType) -> Option<Direction> {
    match buffer {
        BufferType::HttpRequestBody => Some(Direction::Request),
        BufferType::HttpResponseBody => Some(Direction::Response),
        _ => None,
    }
}
