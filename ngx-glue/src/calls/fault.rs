//! What goes wrong with a call, in a word for the guest and in a sentence for the log.

use std::{borrow::Cow, error::Error, fmt, io};

use weir_core::host::calls::CallFailure;

/// What has gone wrong.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The word.
    pub(crate) failure: CallFailure,
    /// What is known besides.
    pub(crate) detail: Cow<'static, str>,
    /// Whether another peer may be tried: nothing can have come of the request.
    pub(crate) is_harmless: bool,
    /// Why a stream of HTTP/2 was reset, where it was.
    pub(crate) reset: Option<h2::Reason>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.failure.word(), self.detail)
    }
}

impl Fault {
    /// A failure, after which nothing is tried again.
    pub(crate) fn new(failure: CallFailure, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { failure, detail: detail.into(), is_harmless: false, reset: None }
    }

    /// A failure before anything of the request has been sent.
    pub(crate) fn harmless(failure: CallFailure, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { is_harmless: true, ..Self::new(failure, detail) }
    }

    /// The call has taken too long.
    pub(crate) fn timeout() -> Self {
        Self::new(CallFailure::Timeout, "there was no complete response in time")
    }

    /// The response has more bytes than the configuration allows.
    pub(crate) fn too_large(most: usize) -> Self {
        let detail = format!("the response is larger than \"call_response_limit\" ({most} bytes)");
        Self::new(CallFailure::TooLarge, detail)
    }

    /// What the system, or TLS, says of a connection.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        Self::new(failure_of(error), error.to_string())
    }

    /// What hyper has found.
    pub(crate) fn of_hyper(error: &hyper::Error) -> Self {
        let cause = root_cause(error);
        let system = cause.downcast_ref::<io::Error>();
        let stream = cause.downcast_ref::<h2::Error>();
        let failure = if let Some(stream) = stream {
            if stream.is_library() { CallFailure::Protocol } else { CallFailure::Reset }
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            CallFailure::Reset
        } else {
            system.map_or(CallFailure::Protocol, failure_of)
        };
        // hyper's own words say where it stood, the cause what happened.
        let detail = match cause.to_string() {
            cause if cause == error.to_string() => cause,
            cause => format!("{error}: {cause}"),
        };
        Self { reset: stream.and_then(h2::Error::reason), ..Self::new(failure, detail) }
    }
}

fn failure_of(error: &io::Error) -> CallFailure {
    match error.kind() {
        io::ErrorKind::TimedOut => CallFailure::Timeout,
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => CallFailure::Protocol,
        _ => CallFailure::Reset,
    }
}

fn root_cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}
