//! The request's headers: where a stream begins, and where it can be paused.

use weir_core::chain::{Direction, Verdict};

use crate::{
    ngx::{
        code::{CLOSE, DECLINED, DONE, INTERNAL_ERROR, TOO_LARGE, of_status},
        request::Request,
    },
    stream::{Headers, Stream},
};

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its phases go on.
    GoOn,
    /// A filter holds it.
    Wait,
    /// It is over: this is what the phase answers.
    Answer(isize),
}

/// The rewrite phase of a location.
pub(crate) fn run(request: Request<'_>) -> isize {
    if let Some(stream) = request.stream() {
        // A stream begins once; a redirect to another location, or a resumed request, comes by here again.
        return if stream.progress().headers.get() == Headers::Paused { DONE } else { DECLINED };
    }
    let step = match Stream::begin(request) {
        Ok(None) => return DECLINED,
        Err(_) => Step::Answer(INTERNAL_ERROR),
        Ok(Some(stream)) => begin(stream, request),
    };
    match step {
        Step::GoOn => DECLINED,
        Step::Wait => {
            request.stop_phases();
            DONE
        }
        Step::Answer(code) => code,
    }
}

/// Calls the filters for the first time.
fn begin(stream: &'static Stream, request: Request<'_>) -> Step {
    let end_of_stream = !request.has_body();
    stream.progress().request_ended.set(end_of_stream);
    let verdict = stream.drive(|chain| chain.headers(Direction::Request, end_of_stream));
    proceed(stream, request, verdict)
}

/// Calls the filters after number `filter`, which has paused the request.
pub(crate) fn resume(stream: &'static Stream, request: Request<'_>, filter: usize) -> Step {
    stream.progress().headers.set(Headers::Pending);
    let verdict = call_further(stream, filter);
    proceed(stream, request, verdict)
}

/// Calls the filters after number `filter`, which has paused the request.
fn call_further(stream: &Stream, filter: usize) -> Verdict {
    stream.drive(|chain| chain.resume(Direction::Request, filter))
}

fn proceed(stream: &'static Stream, request: Request<'_>, mut verdict: Verdict) -> Step {
    // A filter may take its pause back in the same callback.
    while verdict == Verdict::Pause
        && let Some(filter) = stream.io.take_resume()
    {
        verdict = call_further(stream, filter);
    }
    stream.progress().headers.set(if verdict == Verdict::Pause { Headers::Paused } else { Headers::Seen });
    match verdict {
        Verdict::Continue => Step::GoOn,
        Verdict::Pause => Step::Wait,
        Verdict::LocalResponse => {
            Step::Answer(stream.io.take_local().map_or(INTERNAL_ERROR, |local| local.send(request)))
        }
        Verdict::TooLarge => Step::Answer(TOO_LARGE),
        Verdict::Closed => Step::Answer(CLOSE),
        Verdict::Failed { status } => Step::Answer(of_status(status)),
    }
}
