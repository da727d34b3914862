//! The request's headers: where a stream begins, and where it can be paused.
//!
//! Filters that want a body see it even where the handler that will answer does not read it: then the body is read
//! here, and the phases go on after that. Handlers that pass requests on read it themselves.

use weir_core::{
    chain::{Chain, Direction, Verdict},
    filter::Callback,
};

use super::request_body;
use crate::{
    ngx::{
        code::{CLOSE, DECLINED, DONE, INTERNAL_ERROR, OK, TOO_LARGE, of_status},
        event::Next,
        request::Request,
    },
    stream::{Headers, Reading, Stream},
};

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
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
        let progress = stream.progress();
        if progress.waits() && progress.stopped_at.get() != request.uri_changes() {
            // nginx has made an error of the request, and goes where the page for that is.
            give_up(stream, request);
        }
        return match (progress.headers.get(), progress.reading.get()) {
            _ if progress.given_up.get() => DECLINED,
            (Headers::Waiting, _) | (_, Reading::Begun) => DONE,
            (Headers::Paused, _) => wait(stream, request),
            _ => read_body(stream, request).unwrap_or(DECLINED),
        };
    }
    let stream = match Stream::begin(request, true) {
        Ok(None) => return DECLINED,
        Err(failed) => return of_status(failed.status),
        Ok(Some(stream)) => stream,
    };
    if stream.progress().headers.get() == Headers::Waiting {
        stop(stream, request);
        return DONE;
    }
    match begin(stream, request) {
        Step::GoOn => read_body(stream, request).unwrap_or(DECLINED),
        Step::Wait => wait(stream, request),
        Step::Answer(code) => code,
    }
}

/// A filter holds the headers.
fn wait(stream: &'static Stream, request: Request<'_>) -> isize {
    match read_body(stream, request) {
        Some(code) => code,
        // The body of a subrequest, which has gone on, lets the headers go before it.
        None if stream.progress().headers.get() != Headers::Paused => DECLINED,
        None => {
            stop(stream, request);
            DONE
        }
    }
}

/// Phases stop here until the stream is woken.
fn stop(stream: &'static Stream, request: Request<'_>) {
    stream.progress().stopped_at.set(request.uri_changes());
    request.stop_phases();
}

/// nginx answers the request with an error, whatever it waits for: a filter that holds it, an instance, the rest of its
/// body. That does not matter any more, nor what filters say of it later: its phases do not go on.
pub(crate) fn give_up(stream: &'static Stream, request: Request<'_>) {
    let progress = stream.progress();
    progress.given_up.set(true);
    stream.stop_waiting(request);
    if progress.headers.get() == Headers::Paused {
        progress.headers.set(Headers::Seen);
        stream.stop_watching();
    }
    if progress.reading.get() == Reading::Begun {
        progress.reading.set(Reading::Done);
    }
    stream.io.lane(Direction::Request).discard();
}

/// A request that waits for an instance has been woken.
pub(crate) fn begin_late(stream: &'static Stream, request: Request<'_>) -> Next {
    match stream.start(request) {
        Err(failed) => Next::Finalize(of_status(failed.status)),
        Ok(false) => Next::Wait,
        Ok(true) => match begin(stream, request) {
            // The phase comes by again, and sees how far it is.
            Step::GoOn | Step::Wait => Next::Run,
            Step::Answer(code) => Next::Finalize(code),
        },
    }
}

/// Calls the filters for the first time.
fn begin(stream: &'static Stream, request: Request<'_>) -> Step {
    let end_of_stream = !request.brings_body();
    stream.progress().request_ended.set(end_of_stream);
    let verdict = stream.drive(Direction::Request, |chain| chain.headers(Direction::Request, end_of_stream));
    proceed(stream, request, verdict)
}

/// A filter holds the request: for so long that may go on.
fn watch(stream: &'static Stream) {
    stream.watch(usize::try_from(stream.io.bodies().pause.as_millis()).unwrap_or(usize::MAX));
}

fn proceed(stream: &'static Stream, request: Request<'_>, verdict: Verdict) -> Step {
    stream.progress().headers.set(if verdict == Verdict::Pause { Headers::Paused } else { Headers::Seen });
    if verdict == Verdict::Pause {
        watch(stream);
    } else {
        stream.stop_watching();
    }
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

/// Begins to read the body, if that is our business; the answer is then the one of the phase, and the request may be
/// gone.
fn read_body(stream: &'static Stream, request: Request<'_>) -> Option<isize> {
    let progress = stream.progress();
    let is_paused = progress.headers.get() == Headers::Paused;
    let wanted = progress.reading.get() == Reading::No
        && !progress.request_ended.get()
        && stream.wants(Callback::RequestBody);
    let may_come = !is_paused || stream.body_comes_while_paused(Direction::Request);
    if wanted && may_come && !request.is_main() {
        return show_shared_body(stream, request);
    }
    let ours = if is_paused { may_come } else { !request.has_content_handler() };
    if !wanted || !ours {
        return None;
    }
    request.read_stored_body_into_file();
    progress.stopped_at.set(request.uri_changes());
    progress.reading.set(Reading::Begun);
    Some(request.read_body())
}

/// The body of a subrequest is its main request's, which has been read: filters see all of it at once, and what they
/// make of it is the subrequest's alone. The answer is as that of [`read_body`].
fn show_shared_body(stream: &'static Stream, request: Request<'_>) -> Option<isize> {
    let Some(body) = request.separate_body() else { return Some(INTERNAL_ERROR) };
    stream.progress().reading.set(Reading::Begun);
    let code = request_body::feed(stream, request, body);
    if code != OK {
        return Some(code);
    }
    if !shared_body_has_passed(stream) {
        // Nobody reads it, so nothing else bounds that.
        watch(stream);
        stop(stream, request);
        return Some(DONE);
    }
    None
}

/// Whether filters have let the body of a subrequest go.
fn shared_body_has_passed(stream: &Stream) -> bool {
    let passed = stream.body_ended(Direction::Request);
    if passed {
        stream.progress().reading.set(Reading::Done);
    }
    passed
}

/// What follows once a filter has asked for a body that it holds to go on, or has answered meanwhile. Whoever reads the
/// body of a main request sees to that; that of a subrequest has been read.
fn after_body(stream: &'static Stream, request: Request<'_>) -> Next {
    let progress = stream.progress();
    if request.is_main() || progress.reading.get() != Reading::Begun {
        return Next::Read;
    }
    if let Some(code) = progress.request_code.take() {
        return Next::Finalize(code);
    }
    if shared_body_has_passed(stream) && progress.headers.get() != Headers::Paused {
        stream.stop_watching();
        return Next::Run;
    }
    Next::Wait
}

/// All of the body has been read that we have begun to read.
pub(crate) fn body_read(request: Request<'_>) -> Next {
    let Some(stream) = request.stream() else { return Next::Run };
    stream.progress().reading.set(Reading::Done);
    if stream.progress().headers.get() == Headers::Paused {
        stop(stream, request);
        return Next::Wait;
    }
    Next::Run
}

/// A filter has sent a local response in no callback of this request, whose own response has not begun. What an upstream
/// would answer is not waited for; `None` where something else is: it takes the place of the response when that comes.
pub(crate) fn answer(stream: &'static Stream, request: Request<'_>) -> Option<Next> {
    let progress = stream.progress();
    let (headers, reading) = (progress.headers.get(), progress.reading.get());
    let is_held = headers == Headers::Paused && reading != Reading::Begun;
    if !is_held && (reading == Reading::Begun || stream.io.lane(Direction::Request).is_held()) {
        let verdict = stream.drive(Direction::Request, Chain::answer);
        request_body::end(stream, request, verdict);
        return Some(after_body(stream, request));
    }
    if !is_held && !request.waits_for_upstream() {
        stream.io.set_answered();
        return None;
    }
    request.end_upstream();
    let verdict = stream.drive(Direction::Request, Chain::answer);
    Some(match proceed(stream, request, verdict) {
        Step::Answer(code) => Next::Finalize(code),
        Step::GoOn | Step::Wait => Next::Wait,
    })
}

/// Filter number `filter` has asked for what it holds to go on.
pub(crate) fn resume(stream: &'static Stream, request: Request<'_>, filter: usize) -> Next {
    let progress = stream.progress();
    if !stream.holds(Direction::Request) {
        return Next::Wait;
    }
    if progress.headers.get() != Headers::Paused {
        request_body::resume(stream, request, filter);
        return after_body(stream, request);
    }
    if progress.reading.get() == Reading::Begun {
        request_body::resume(stream, request, filter);
        // The phases go on when the rest of the body has been read.
        return after_body(stream, request);
    }
    let verdict = stream.drive(Direction::Request, |chain| chain.resume(Direction::Request, filter));
    match proceed(stream, request, verdict) {
        Step::GoOn => Next::Run,
        Step::Wait => Next::Wait,
        Step::Answer(code) => Next::Finalize(code),
    }
}
