//! One request of nginx's, as its stream contexts see it.

use std::{borrow::Cow, fmt};

use weir_core::{
    abi::{
        properties::Properties,
        types::{LogLevel, StreamType},
    },
    chain::Direction,
    host::{Attribute, LocalResponse, LogLine, LogSink, StreamError, StreamHost, Value},
};

use super::{properties, root};
use crate::{
    ngx::{
        request::Request,
        variable::{self, Unset},
    },
    stream::{Stream, StreamIo},
};

/// The handle of one request. It stays harmless when the request is gone: nothing is found any more.
#[derive(Clone, Copy)]
pub(crate) struct RequestToken {
    stream: &'static Stream,
    generation: u64,
}

impl fmt::Debug for RequestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestToken")
            .field("generation", &self.generation)
            .field("is_live", &self.io().is_some())
            .finish_non_exhaustive()
    }
}

impl RequestToken {
    /// The handle of the request that `stream` serves now.
    pub(crate) fn new(stream: &'static Stream) -> Self {
        Self { stream, generation: stream.io.generation() }
    }

    /// What hostcalls reach of the request; `None` when it is gone.
    pub(super) fn io(&self) -> Option<&StreamIo> {
        let io = &self.stream.io;
        (io.generation() == self.generation).then_some(io)
    }

    /// The request; `None` when it is gone.
    pub(super) fn request(&self) -> Option<Request<'_>> {
        self.io()?.request()
    }
}

impl LogSink for RequestToken {
    fn log(&self, line: LogLine<'_>) {
        match self.request() {
            Some(request) => request.log().write_line(line),
            None => root::log(line),
        }
    }

    fn log_level(&self) -> LogLevel {
        self.request().map_or_else(root::log_level, |request| request.log().guest_level())
    }
}

impl StreamHost for RequestToken {
    const NATIVE_PREFIX: &'static [u8] = b"ngx";

    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        properties::attribute(self.io()?, self.request()?, attribute)
    }

    fn native(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        variable::get(self.request()?, name).map(Cow::Borrowed)
    }

    fn set_native(&self, name: &[u8], value: &[u8]) -> Result<(), StreamError> {
        let request = self.request().ok_or(StreamError::Gone)?;
        variable::set(request, name, value).map_err(|unset| match unset {
            Unset::Unknown => StreamError::Refused(
                "nginx has no such variable in its configuration: declare it, with \"set\" in the server block for example",
            ),
            Unset::ReadOnly => StreamError::Refused("nginx does not let this variable be changed"),
            Unset::Unbuffered => StreamError::Refused(
                "nginx cannot limit the rate of a response that it passes on as it comes: have it buffered (proxy_buffering on)",
            ),
            Unset::NoMemory => StreamError::NoMemory,
        })
    }

    fn with_properties<R>(&self, lend: impl FnOnce(&mut Properties) -> R) -> Option<R> {
        self.io()?.with_properties(lend)
    }

    fn send_local_response(&self, response: &LocalResponse<'_>) -> Result<(), StreamError> {
        let io = self.io().ok_or(StreamError::Gone)?;
        let answered = io.answer(response);
        if answered == Err(StreamError::TooLate) {
            // The event looks whether the response is held, once the callback has said so.
            self.stream.wake();
        }
        answered?;
        // Below a callback of this request its verdict says so; otherwise the event sees to it.
        if !self.stream.is_called() {
            io.set_answered();
            self.stream.wake();
        }
        Ok(())
    }

    fn withdraw_local_response(&self) {
        if let Some(io) = self.io() {
            io.withdraw_local();
        }
    }

    fn resume(&self, stream: StreamType, filter: usize) -> Result<(), StreamError> {
        let io = self.io().ok_or(StreamError::Gone)?;
        io.ask_to_resume(Direction::of(stream).ok_or(NO_SUCH_STREAM)?, filter);
        // Below a callback of this request it is looked at when that has returned.
        if !self.stream.is_called() {
            self.stream.wake();
        }
        Ok(())
    }

    fn withdraw_resume(&self, stream: StreamType, filter: usize) {
        if let (Some(io), Some(direction)) = (self.io(), Direction::of(stream)) {
            io.withdraw_wish(direction, filter);
        }
    }

    fn instance_free(&self) -> bool {
        let lives = self.io().is_some();
        if lives {
            self.stream.wake();
        }
        lives
    }

    fn close(&self, stream: StreamType) -> Result<(), StreamError> {
        let io = self.io().ok_or(StreamError::Gone)?;
        match stream {
            StreamType::HttpRequest | StreamType::HttpResponse => {
                // Below a callback of this request its verdict says so; otherwise the event does it.
                if !self.stream.is_called() {
                    io.ask_to_close();
                    self.stream.wake();
                }
                Ok(())
            }
            StreamType::Downstream | StreamType::Upstream => Err(NO_SUCH_STREAM),
        }
    }
}

/// An HTTP stream has no TCP directions.
const NO_SUCH_STREAM: StreamError =
    StreamError::Refused("an HTTP stream has no downstream or upstream of its own");
