//! Going on with a request that a filter has paused, or ending it, from an event of its own.

use super::{Headers, Stream};
use crate::{
    ngx::{code::CLOSE, event::Next, request::Request},
    phase::request_headers::{self, Step},
};

/// The event of `stream` has come: looks at what was asked for since.
pub(crate) fn run(stream: &'static Stream, request: Request<'_>) -> Next {
    if stream.io.take_close() {
        return Next::Finalize(CLOSE);
    }
    if stream.progress().headers.get() != Headers::Paused {
        return Next::Wait;
    }
    let Some(filter) = stream.io.take_resume() else { return Next::Wait };
    match request_headers::resume(stream, request, filter) {
        Step::GoOn => Next::Run,
        Step::Wait => Next::Wait,
        Step::Answer(code) => Next::Finalize(code),
    }
}
