//! Going on with what a filter has held, or ending it, from an event of its own.

use weir_core::chain::Direction;

use super::{Headers, Stream};
use crate::{
    ngx::{
        code::{CLOSE, ERROR},
        event::Next,
        request::Request,
    },
    phase::{request_headers, response_body},
};

/// The event of `stream` has come: looks at what was asked for since.
pub(crate) fn run(stream: &'static Stream, request: Request<'_>) -> Next {
    if stream.progress().headers.get() == Headers::Waiting {
        return request_headers::begin_late(stream, request);
    }
    if stream.io.take_close() {
        return Next::Finalize(CLOSE);
    }
    if let Some(filter) = stream.io.take_wish(Direction::Response) {
        let sent = response_body::resume(stream, request, filter);
        again(stream);
        return if sent == ERROR { Next::Finalize(ERROR) } else { Next::Write };
    }
    if let Some(filter) = stream.io.take_wish(Direction::Request) {
        let next = request_headers::resume(stream, request, filter);
        again(stream);
        return next;
    }
    Next::Wait
}

/// One wish is granted at a time: nginx may end the request then.
fn again(stream: &'static Stream) {
    if stream.io.has_wishes() {
        stream.wake();
    }
}
