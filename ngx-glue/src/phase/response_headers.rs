//! The response's headers: shown to the filters, held where one of them says so, replaced by another response.

use weir_core::{
    chain::{Chain, Direction, Verdict},
    filter::Callback,
};

use super::{request_headers, response_body, sending};
use crate::{
    conf::Location,
    ngx::{
        chain::Body,
        code::{ERROR, OK, SENT},
        headers_out::HeadersOut,
        log::Level,
        request::Request,
    },
    stream::{
        Headers, Sending, Stream,
        io::Access,
        local::{Local, decimal},
    },
};

/// The header filter.
pub(crate) fn run(request: Request<'_>) -> isize {
    let sent = filter(request);
    super::end_subrequest(request);
    sent
}

fn filter(request: Request<'_>) -> isize {
    let (stream, is_new) = match request.stream() {
        Some(stream) => (stream, false),
        None => match Stream::begin(request, false) {
            Ok(None) => return request.pass_headers(),
            Ok(Some(stream)) => (stream, true),
            Err(failed) => {
                let Some(stream) = request.stream() else { return ERROR };
                return show(stream, request, Some(Local::failure(request, failed.status)));
            }
        },
    };
    let progress = stream.progress();
    if progress.client_sent_head.get() {
        request.set_header_only();
    }
    // An error of a filter further on sends headers again (`ngx_http_filter_finalize_request()`).
    if progress.sending.get() != Sending::Unseen {
        progress.bypass.set(true);
        progress.sending.set(Sending::Sent);
        stream.io.lane(Direction::Response).discard();
        return request.pass_headers();
    }
    if progress.waits() {
        request_headers::give_up(stream, request);
    }
    let replacement = match stream.io.take_local() {
        // What a filter has sent while the request's body was read.
        Some(local) => {
            if stream.io.take_answered() {
                stream.drive(Direction::Response, Chain::answer);
            }
            Some(local)
        }
        None if is_new && request.has_begun() => match request_headers_late(stream, request) {
            Verdict::Closed => return ERROR,
            verdict => replacement_for(stream, request, verdict),
        },
        None => None,
    };
    show(stream, request, replacement)
}

/// A fault of ours, which has been logged, has ended [`run`]. Where the headers have not left, the response is one that
/// the location's policy wants: an error, or what nginx has made, without filters.
pub(crate) fn recover(request: Request<'_>) -> isize {
    let Some(stream) = request.stream() else {
        // Nothing has been begun: no response leaves without the filters that it should have passed.
        let is_filtered = request.location().is_some_and(Location::has_chain);
        return if is_filtered { ERROR } else { request.pass_headers() };
    };
    let progress = stream.progress();
    if progress.sending.get() == Sending::Sent {
        return ERROR;
    }
    let policy = request.location().map(Location::policy).unwrap_or_default();
    let replacement = match stream.abandon() {
        Some(Verdict::Closed) => return ERROR,
        Some(verdict) => replacement_for(stream, request, verdict),
        // It still waited for an instance, as the request for which nginx gives an answer of its own then.
        None if progress.headers.get() == Headers::Waiting => None,
        None => policy.failed().map(|status| Local::failure(request, status)),
    };
    show(stream, request, replacement)
}

/// The response that a verdict puts in the place of nginx's, if it does. That of [`Verdict::Closed`] is none.
pub(super) fn replacement_for<'s>(
    stream: &'s Stream,
    request: Request<'s>,
    verdict: Verdict,
) -> Option<Local<'s>> {
    let failure = |status| Local::failure(request, status);
    match verdict {
        Verdict::Continue | Verdict::Pause | Verdict::Closed => None,
        Verdict::LocalResponse => Some(stream.io.take_local().unwrap_or_else(|| failure(500))),
        Verdict::TooLarge => Some(failure(502)),
        Verdict::Failed { status } => Some(failure(status)),
    }
}

/// Shows the response to the filters, or the one that takes its place, and lets it go on as far as they do; the answer
/// is the one of the header filter.
pub(super) fn show<'s>(
    stream: &'static Stream,
    request: Request<'s>,
    mut replacement: Option<Local<'s>>,
) -> isize {
    let mut replaced = None;
    let held = loop {
        if let Some(local) = replacement.take() {
            if request.is_part() && request.main_header_sent() {
                request.log().write(
                    Level::Error,
                    "weir: a part of a response cannot be replaced by another response, since what is before it has \
                     left: the connection is closed",
                );
                request.close_after();
                return ERROR;
            }
            // What filters have made of the response's body goes with it, and that it had none.
            stream.io.lane(Direction::Response).discard();
            let is_ours = stream.progress().header_only.take();
            let is_head = request.is_head() || stream.progress().client_sent_head.get();
            if is_ours || (request.is_main() && !is_head) {
                request.clear_header_only();
            }
            if !local.put(request) {
                return ERROR;
            }
            replaced = Some(local);
        }
        say_when_to_retry(stream, request);
        stream.progress().had_length.set(HeadersOut::of(request).content_length().is_some());
        stream.io.set_response_access(Access::Edit);
        let end_of_stream = !has_body(stream, request);
        stream.progress().no_body.set(end_of_stream);
        stream.progress().response_ended.set(false);
        stream.progress().response_came.set(0);
        stream.progress().response_bytes.set(0);
        stream.progress().trailers.set(false);
        // Called again, it goes on with the filters that have not seen the headers.
        let mut verdict =
            stream.drive(Direction::Response, |chain| chain.headers(Direction::Response, end_of_stream));
        let held = verdict == Verdict::Pause && may_be_held(stream, request);
        if verdict == Verdict::Pause && !held {
            verdict = stream.drive(Direction::Response, |chain| chain.resume_all(Direction::Response));
        }
        match verdict {
            Verdict::Closed => return ERROR,
            verdict => match replacement_for(stream, request, verdict) {
                Some(local) => replacement = Some(local),
                None => break held,
            },
        }
    };
    let sent =
        if held { sending::hold_headers(stream, request) } else { sending::let_headers_go(stream, request) };
    match replaced {
        Some(local) if sent != ERROR => send_body(stream, request, local),
        _ => sent,
    }
}

/// An error that tells of a failed filter also tells after how many seconds to ask again, where that is known.
fn say_when_to_retry(stream: &Stream, request: Request<'_>) {
    let out = HeadersOut::of(request);
    if out.status() >= 400
        && let Some(seconds) = stream.retry_after()
    {
        // Without memory for it the error goes out as it is.
        let _ = out.replace(b"retry-after", decimal(seconds, &mut [0; 10]));
    }
}

/// Whether a response can wait. Where the client asks for a part of it, it gets all: the filter that cuts parts out is
/// before ours, and has to have seen the headers when the body comes.
fn may_be_held(stream: &Stream, request: Request<'_>) -> bool {
    let obstacle = if HeadersOut::of(request).status() == 101 {
        // nginx passes bytes on by itself after it (`ngx_http_upstream_upgrade()`).
        "switches protocols"
    } else if stream.progress().overdue.get() {
        "says that the request has been held too long"
    } else if request.ends_with_response() {
        "nginx has made in the place of another one"
    } else if request.is_sliced() && request.asks_for_range() {
        "is a range put together of slices"
    } else {
        if request.asks_for_range() {
            request.forbid_ranges();
        }
        return true;
    };
    request
        .log()
        .write(Level::Warn, format_args!("weir: a filter has paused a response that {obstacle}: it goes on"));
    false
}

/// A response has been made before a location's rewrite phase: by `return` of a server, or an error. The filters see
/// the request's headers now; they cannot pause any more.
fn request_headers_late(stream: &'static Stream, request: Request<'_>) -> Verdict {
    let progress = stream.progress();
    let end_of_stream = !request.brings_body();
    progress.request_ended.set(end_of_stream);
    let mut verdict =
        stream.drive(Direction::Request, |chain| chain.headers(Direction::Request, end_of_stream));
    if verdict == Verdict::Pause {
        request.log().write(
            Level::Warn,
            "weir: a filter has paused a request that already has its response: it goes on",
        );
        verdict = stream.drive(Direction::Request, |chain| chain.resume_all(Direction::Request));
    }
    progress.headers.set(Headers::Seen);
    verdict
}

/// Whether a body follows the headers as they are now.
pub(super) fn has_body(stream: &Stream, request: Request<'_>) -> bool {
    let out = HeadersOut::of(request);
    !(stream.progress().client_sent_head.get()
        || request.header_only()
        || request.is_head()
        || matches!(out.status(), 101 | 204 | 304)
        || out.content_length() == Some(0))
}

/// Whether filters are to see a body that follows.
pub(super) fn body_is_wanted(stream: &Stream) -> bool {
    stream.wants(Callback::ResponseBody) && !stream.progress().no_body.get()
}

/// Sends the body of a response of ours, whose headers have come by; what nginx makes of the body of its own is thrown
/// away from now on.
fn send_body(stream: &'static Stream, request: Request<'_>, local: Local<'_>) -> isize {
    stream.progress().swallow.set(true);
    if request.header_only() {
        return SENT;
    }
    let Some(body) = Body::whole(request, local.body()) else { return ERROR };
    match response_body::feed(stream, request, body) {
        ERROR => ERROR,
        _ => SENT,
    }
}

/// The answer of a body filter, or an event, where [`show`] has replaced a response.
pub(super) const fn as_body_filter(sent: isize) -> isize {
    if sent == ERROR { ERROR } else { OK }
}
