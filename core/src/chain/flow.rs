//! One direction of a request through its filters: how far headers and trailers are, and which filters hold bodies.
//!
//! A part of a body travels as a *parcel*: the bytes that the host shows as the buffer. It goes from filter to filter;
//! one that pauses puts it aside (the host's [`hold`](crate::host::Bodies::hold)), and the next parcel that reaches
//! that filter finds those bytes before its own ([`recall`](crate::host::Bodies::recall)). A parcel that gets past the
//! last filter is the proxy's.

use crate::{
    abi::types::{BufferType, MapType, StreamType},
    filter::Callback,
};

/// Request or response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client: filters in the order of the configuration.
    Request,
    /// To the client: filters in the reverse order.
    Response,
}

impl Direction {
    /// Which of the two stream types of HTTP it is.
    #[must_use]
    pub const fn stream(self) -> StreamType {
        match self {
            Self::Request => StreamType::HttpRequest,
            Self::Response => StreamType::HttpResponse,
        }
    }

    /// The direction of an HTTP stream type.
    #[must_use]
    pub const fn of(stream: StreamType) -> Option<Self> {
        match stream {
            StreamType::HttpRequest => Some(Self::Request),
            StreamType::HttpResponse => Some(Self::Response),
            StreamType::Downstream | StreamType::Upstream => None,
        }
    }

    /// The buffer its parcels are shown in.
    #[must_use]
    pub const fn buffer(self) -> BufferType {
        match self {
            Self::Request => BufferType::HttpRequestBody,
            Self::Response => BufferType::HttpResponseBody,
        }
    }

    /// Callbacks for headers, body and trailers.
    pub(super) const fn callbacks(self) -> (Callback, Callback, Callback) {
        match self {
            Self::Request => (Callback::RequestHeaders, Callback::RequestBody, Callback::RequestTrailers),
            Self::Response => (Callback::ResponseHeaders, Callback::ResponseBody, Callback::ResponseTrailers),
        }
    }

    /// Maps of headers and trailers.
    pub(super) const fn maps(self) -> (MapType, MapType) {
        match self {
            Self::Request => (MapType::HttpRequestHeaders, MapType::HttpRequestTrailers),
            Self::Response => (MapType::HttpResponseHeaders, MapType::HttpResponseTrailers),
        }
    }

    /// Index, in the configuration's order, of the filter that comes as number `order` of `count` in this direction.
    /// The same the other way round.
    pub(super) const fn turn(self, order: usize, count: usize) -> usize {
        match self {
            Self::Request => order,
            Self::Response => count - 1 - order,
        }
    }
}

/// How far one direction is. Filters are counted in the direction's order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// How many filters have seen the headers.
    headers_seen: u32,
    /// The last of those holds them.
    pub(super) headers_held: bool,
    /// The headers are all there is.
    pub(super) headers_only: bool,
    /// How many filters have seen the trailers.
    trailers_seen: u32,
    /// The last of those holds them.
    pub(super) trailers_held: bool,
    /// The parcel that got past the last filter is the last one.
    pub(super) ended: bool,
}

impl Flow {
    /// Nothing has come.
    pub(super) const NEW: Self = Self {
        headers_seen: 0,
        headers_held: false,
        headers_only: false,
        trailers_seen: 0,
        trailers_held: false,
        ended: false,
    };

    /// How many filters have seen the headers.
    #[inline]
    pub(super) fn headers_seen(&self) -> usize {
        self.headers_seen as usize
    }

    /// How many filters have seen the trailers.
    #[inline]
    pub(super) fn trailers_seen(&self) -> usize {
        self.trailers_seen as usize
    }

    /// One more filter sees the headers.
    #[inline]
    pub(super) fn show_headers(&mut self) {
        self.headers_seen += 1;
    }

    /// One more filter sees the trailers.
    #[inline]
    pub(super) fn show_trailers(&mut self) {
        self.trailers_seen += 1;
    }
}

/// What one filter holds in one direction.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Held {
    /// It has put a parcel aside.
    pub(super) body: bool,
    /// That parcel is the last.
    pub(super) end: bool,
}

/// How a filter that pauses in its headers callback holds the headers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// With all that follows them: `StopAllIterationAndBuffer` and its like.
    #[default]
    All,
    /// `StopIteration`: what follows may be shown meanwhile, if the proxy does that.
    Headers,
    /// Until it has seen the body, which is what a module of Higress's means by that.
    HeadersForBody,
}

#[cfg(test)]
mod tests {
    use super::Direction;

    #[test]
    fn responses_meet_the_filters_in_reverse() {
        assert_eq!([0, 1, 2].map(|order| Direction::Request.turn(order, 3)), [0, 1, 2]);
        assert_eq!([0, 1, 2].map(|order| Direction::Response.turn(order, 3)), [2, 1, 0]);
    }
}
