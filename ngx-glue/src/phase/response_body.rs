//! The response's body, piece by piece as it comes, uncompressed.

use weir_core::chain::{Direction, Verdict};

use super::{response_headers, response_trailers, sending};
use crate::{
    ngx::{
        chain::Body,
        code::{ERROR, OK},
        log::Level,
        request::Request,
    },
    stream::{Sending, Stream, local::Local},
};

/// The body filter.
pub(crate) fn run(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    let sent = filter(request, body);
    super::end_subrequest(request);
    sent
}

fn filter(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    let Some(stream) = request.stream() else { return request.pass_body(body) };
    let progress = stream.progress();
    if progress.bypass.get() || progress.sending.get() == Sending::Unseen {
        return request.pass_body(body);
    }
    match body {
        Some(body) if !progress.swallow.get() => feed(stream, request, body),
        Some(body) => {
            body.consume();
            sending::write_out(stream, request)
        }
        None => sending::write_out(stream, request),
    }
}

/// A fault of ours, which has been logged, has ended [`run`]. What has come of the body is lost: the response is an error
/// where its headers have not left, and is closed short where they have.
pub(crate) fn recover(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    let Some(stream) = request.stream() else { return request.pass_body(body) };
    let progress = stream.progress();
    if progress.bypass.get() || progress.sending.get() == Sending::Unseen {
        return request.pass_body(body);
    }
    if !progress.keeps_headers() || stream.abandon() == Some(Verdict::Closed) {
        return broken(stream, request);
    }
    if let Some(body) = body {
        body.consume();
    }
    stream.io.lane(Direction::Response).discard();
    let status = request.location().and_then(|location| location.policy().failed()).unwrap_or(500);
    let local = Local::failure(request, status);
    response_headers::as_body_filter(response_headers::show(stream, request, Some(local)))
}

/// Takes in a part of the body, from nginx or of a response of ours.
pub(super) fn feed(stream: &'static Stream, request: Request<'_>, body: Body<'_>) -> isize {
    let progress = stream.progress();
    let lane = stream.io.lane(Direction::Response);
    let measure = body.measure();
    let last = measure.last || (measure.last_in_chain && !request.is_main());
    let nothing = measure.bytes == 0 && !last;
    if nothing && measure.flush && request.has_given_up_upstream() && !progress.response_ended.get() {
        // The end will not come: what waits for it must not.
        if progress.keeps_headers() || lane.is_kept() {
            return broken(stream, request);
        }
    }
    let is_held =
        progress.sending.get() == Sending::Held && !stream.body_comes_while_paused(Direction::Response);
    if !is_held && nothing && progress.keeps_headers() {
        // It only asks for what is before it to be written.
        body.consume();
        return OK;
    }
    let wanted =
        response_headers::body_is_wanted(stream) || (last && response_trailers::follow(stream, request));
    if progress.sending.get() == Sending::Sent
        && !lane.is_waiting()
        && (nothing || progress.response_passed.get() || !wanted)
    {
        return sending::pass_untouched(stream, request, body, last);
    }
    progress.response_ended.set(progress.response_ended.get() || last);
    progress.response_came.set(progress.response_came.get().saturating_add(measure.bytes as u64));
    if is_held || lane.is_waiting() || measure.in_file {
        lane.keep_waiting(body);
        sending::mark(stream, request);
        return if is_held { OK } else { pump(stream, request) };
    }
    lane.take_in(body);
    call(stream, request, Some(body))
}

/// Shows what waits to the filters, piece by piece, as long as the client takes it.
pub(super) fn pump(stream: &'static Stream, request: Request<'_>) -> isize {
    let is_held = || {
        stream.progress().sending.get() == Sending::Held
            && !stream.body_comes_while_paused(Direction::Response)
    };
    while !is_held() && stream.io.lane(Direction::Response).take_in_waiting() {
        let sent = call(stream, request, None);
        if sent != OK {
            return sent;
        }
    }
    OK
}

/// Shows the parcel to the filters, which see nothing of a body that their headers callback has said there is not.
fn call(stream: &'static Stream, request: Request<'_>, came: Option<Body<'_>>) -> isize {
    let progress = stream.progress();
    let last = progress.response_ended.get() && !stream.io.lane(Direction::Response).is_waiting();
    let verdict = if progress.no_body.get() {
        Verdict::Continue
    } else {
        let trailers = last && response_trailers::follow(stream, request);
        progress.trailers.set(trailers);
        stream.drive(Direction::Response, |chain| {
            if trailers { response_trailers::show(chain) } else { chain.body(Direction::Response, last) }
        })
    };
    let verdict = if verdict == Verdict::Pause && (request.ends_with_response() || progress.overdue.get()) {
        // Nobody would come back for what is held.
        stream.drive(Direction::Response, |chain| chain.resume_all(Direction::Response))
    } else {
        verdict
    };
    advance(stream, request, verdict, came)
}

/// Filter number `filter` has asked for what it holds to go on.
pub(crate) fn resume(stream: &'static Stream, request: Request<'_>, filter: usize) -> isize {
    let verdict = stream.drive(Direction::Response, |chain| chain.resume(Direction::Response, filter));
    match advance(stream, request, verdict, None) {
        ERROR => ERROR,
        _ => pump(stream, request),
    }
}

/// Goes on after filters have been called, with what they have let go. `came` is what the parcel is made of, where it
/// has come just now.
pub(crate) fn advance(
    stream: &'static Stream,
    request: Request<'_>,
    verdict: Verdict,
    came: Option<Body<'_>>,
) -> isize {
    let progress = stream.progress();
    match verdict {
        Verdict::Continue | Verdict::Pause => {
            let passed = stream.headers_passed(Direction::Response);
            if progress.sending.get() == Sending::Held && passed {
                let sent = sending::let_headers_go(stream, request);
                if sent == ERROR {
                    return ERROR;
                }
            }
            sending::go_on(stream, request, came)
        }
        Verdict::Closed => broken(stream, request),
        verdict => {
            let is_sent = progress.sending.get() == Sending::Sent;
            if verdict == Verdict::TooLarge {
                request.log().write(
                    Level::Error,
                    format_args!(
                        "weir: a filter holds more of the response's body than \"proxy_wasm_response_body_buffer\" \
                         allows{}",
                        if is_sent { ", and its headers have left: the connection is closed" } else { "" }
                    ),
                );
            }
            // When the headers have left nothing is left to say but that the response is broken.
            if is_sent {
                return broken(stream, request);
            }
            stream.io.lane(Direction::Response).discard();
            let local = response_headers::replacement_for(stream, request, verdict);
            response_headers::as_body_filter(response_headers::show(stream, request, local))
        }
    }
}

/// The response cannot be completed: its connection is closed.
pub(super) fn broken(stream: &Stream, request: Request<'_>) -> isize {
    stream.io.lane(Direction::Response).discard();
    request.close_after();
    ERROR
}
