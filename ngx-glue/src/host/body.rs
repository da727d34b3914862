//! Bodies: what is readable is the parcel that the filters see now.

use std::ops::Range;

use weir_core::{
    abi::types::{BufferType, StreamType},
    chain::Direction,
    host::{Bodies, BufferError, Buffers, Hold},
};

use super::stream::RequestToken;
use crate::ngx::lane::Lane;

impl RequestToken {
    /// The body that can be seen as `buffer` now.
    fn parcel(&self, buffer: BufferType) -> Option<&Lane> {
        let direction = match buffer {
            BufferType::HttpRequestBody => Direction::Request,
            BufferType::HttpResponseBody => Direction::Response,
            _ => return None,
        };
        Some(self.io()?.lane(direction)).filter(|lane| lane.is_open())
    }
}

impl Buffers for RequestToken {
    fn buffer_len(&self, buffer: BufferType) -> Option<usize> {
        self.parcel(buffer).map(Lane::len)
    }

    fn read_buffer(
        &self,
        buffer: BufferType,
        range: Range<usize>,
        piece: &mut dyn FnMut(&[u8]),
    ) -> Result<(), BufferError> {
        let parcel = self.parcel(buffer).ok_or(BufferError::Unavailable)?;
        parcel.read(range, piece).map_err(|_| BufferError::Io)
    }

    fn write_buffer(&self, buffer: BufferType, range: Range<usize>, bytes: &[u8]) -> Result<(), BufferError> {
        let parcel = self.parcel(buffer).ok_or(BufferError::Unavailable)?;
        let request = self.request().ok_or(BufferError::Unavailable)?;
        parcel.write(request, range, bytes).map_err(|_| BufferError::NoMemory)
    }
}

impl Bodies for RequestToken {
    fn hold(&self, stream: StreamType, filter: usize) -> Hold {
        let (Some(io), Some(request), Some(direction)) = (self.io(), self.request(), Direction::of(stream))
        else {
            return Hold::StreamThrough;
        };
        let lane = io.lane(direction);
        match io.bodies().limit(direction).judge(lane.len()) {
            Hold::Kept if lane.hold(request, filter).is_ok() => Hold::Kept,
            // nginx has logged that it has no memory.
            Hold::Kept => Hold::TooLarge,
            beyond => beyond,
        }
    }

    fn recall(&self, stream: StreamType, filter: usize) {
        if let (Some(io), Some(direction)) = (self.io(), Direction::of(stream)) {
            io.lane(direction).recall(filter);
        }
    }

    fn swap_held(&self, stream: StreamType, filter: usize) -> bool {
        let lane = self.io().zip(Direction::of(stream)).map(|(io, direction)| io.lane(direction));
        lane.is_some_and(|lane| lane.swap_held(filter))
    }
}
