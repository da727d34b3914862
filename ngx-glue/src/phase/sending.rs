//! What goes on to nginx's further filters of a response: headers when no filter holds them, then the body.
//!
//! Where a length is announced and filters see the body, the headers wait until the first part of the body has got past
//! the filters: by then the length is known, if that was all of it, or dropped, if its size has been changed. After
//! that it is a promise, which a body that turns out longer or shorter breaks. They do not wait where the client asks
//! for ranges: nginx cuts these out before our filters, as soon as it has seen the headers.
//!
//! While something is kept here, a bit in the request's `buffered` tells nginx that the response is not complete.

use weir_core::chain::Direction;

use super::{
    response_body::{broken, pump},
    response_headers::body_is_wanted,
    response_trailers,
};
use crate::{
    host::response_headers,
    ngx::{
        chain::Body,
        code::{ERROR, OK},
        headers_out::HeadersOut,
        log::Level,
        request::{Request, stops_output},
    },
    stream::{Sending, Stream, io::Access},
};

/// The status of a part of a response.
const PARTIAL: usize = 206;

/// A filter holds the headers.
pub(super) fn hold_headers(stream: &'static Stream, request: Request<'_>) -> isize {
    keep_headers(stream, request, Sending::Held)
}

fn keep_headers(stream: &'static Stream, request: Request<'_>, sending: Sending) -> isize {
    stream.progress().sending.set(sending);
    // Filters that make requests of their own for a response say this when they see its headers, which is too late then.
    request.preserve_body();
    // Nobody is to make a body, and nginx's own filter, which says so, has not been called.
    let has_none = request.is_head() || matches!(HeadersOut::of(request).status(), 101 | 204 | 304);
    if stream.progress().no_body.get() && has_none && !request.header_only() {
        stream.progress().header_only.set(true);
        request.set_header_only();
    }
    mark(stream, request);
    OK
}

/// No filter holds the headers: they are sent, or wait for the first part of the body.
pub(super) fn let_headers_go(stream: &'static Stream, request: Request<'_>) -> isize {
    let announced = HeadersOut::of(request).content_length().is_some();
    if announced && request.is_main() && body_is_wanted(stream) && !request.cuts_ranges() {
        return keep_headers(stream, request, Sending::Waiting);
    }
    send_headers(stream, request)
}

fn send_headers(stream: &'static Stream, request: Request<'_>) -> isize {
    let progress = stream.progress();
    let out = HeadersOut::of(request);
    let were_kept = progress.keeps_headers();
    progress.sending.set(Sending::Sent);
    stream.io.set_response_access(Access::Read);
    let lane = stream.io.lane(Direction::Response);
    // A filter that removes the length announces a change.
    let announces = progress.had_length.get() && out.content_length().is_none() && body_is_wanted(stream);
    if lane.is_edited() || announces {
        request.weaken_etag();
        request.forbid_ranges();
        out.remove(b"accept-ranges");
    }
    let length = out.content_length();
    response_trailers::announce(request);
    response_headers::settle(request);
    let was_whole = out.status() != PARTIAL;
    let sent = request.pass_headers();
    if were_kept && !stream.io.tail().set_up(request) {
        return ERROR;
    }
    // Later filters may have dropped it. nginx cuts out what a client asks for before filters see the body, and says how long
    // that is now.
    let is_cut = was_whole && out.status() == PARTIAL;
    let length = out.content_length().filter(|now| is_cut || length == Some(*now));
    progress.announced.set(length.filter(|_| request.is_main()));
    mark(stream, request);
    sent
}

/// Passes on what has got past the filters.
pub(super) fn go_on(stream: &'static Stream, request: Request<'_>, came: Option<Body<'_>>) -> isize {
    let progress = stream.progress();
    let lane = stream.io.lane(Direction::Response);
    let last = has_ended(stream) && !progress.response_passed.get();
    if progress.sending.get() == Sending::Held || (lane.len() == 0 && !last && !lane.has_gathered()) {
        mark(stream, request);
        return OK;
    }
    let total = progress.response_bytes.get().saturating_add(lane.len() as u64);
    progress.response_bytes.set(total);
    if !last && is_complete(stream, request, total) {
        if lane.keep_back(request).is_err() {
            return broken(stream, request);
        }
        mark(stream, request);
        return OK;
    }
    if !last && came.is_none() && lane.gather() {
        mark(stream, request);
        return OK;
    }
    if progress.sending.get() == Sending::Waiting {
        settle_length(stream, request, last.then_some(total));
        let sent = send_headers(stream, request);
        if stops_output(sent) || request.header_only() {
            lane.discard();
            mark(stream, request);
            return if sent == ERROR { ERROR } else { OK };
        }
    }
    if !keeps_promise(stream, request, total, last) {
        return broken(stream, request);
    }
    progress.response_passed.set(last);
    let sent = match came.filter(|_| lane.is_as_it_came()) {
        Some(body) => {
            lane.let_go();
            stream.io.tail().pass_body(request, Some(body))
        }
        None => match lane.pass_on(request, last, |body| stream.io.tail().pass_body(request, Some(body))) {
            Ok(sent) => sent.unwrap_or(OK),
            Err(_) => return broken(stream, request),
        },
    };
    mark(stream, request);
    sent
}

/// Whether what has got past the filters is the end of the body, and nothing that follows it is held.
fn has_ended(stream: &Stream) -> bool {
    let progress = stream.progress();
    if progress.no_body.get() {
        progress.response_ended.get() && !stream.io.lane(Direction::Response).is_waiting()
    } else if progress.trailers.get() {
        stream.trailers_passed(Direction::Response)
    } else {
        stream.body_ended(Direction::Response)
    }
}

/// Whether all bytes are there that a Content-Length speaks of, though not the end: only then filters that add to the
/// end of a body do so, and a body that turns out longer must not look complete.
fn is_complete(stream: &'static Stream, request: Request<'_>, total: u64) -> bool {
    let progress = stream.progress();
    if progress.sending.get() == Sending::Waiting {
        let all = HeadersOut::of(request).content_length() == Some(progress.response_came.get());
        return all && !stream.io.lane(Direction::Response).is_waiting();
    }
    progress.announced.get() == Some(total)
}

/// The first part of the body has got past the filters: settles what the headers say of its length, which is `whole` if
/// that was all of it.
fn settle_length(stream: &'static Stream, request: Request<'_>, whole: Option<u64>) {
    let out = HeadersOut::of(request);
    if whole.is_some() || stream.io.lane(Direction::Response).is_resized() {
        out.set_content_length(whole);
    }
}

/// Whether the body is as long as the headers that have left say, as far as it has come: `total` bytes. That it is not
/// is logged.
fn keeps_promise(stream: &'static Stream, request: Request<'_>, total: u64, last: bool) -> bool {
    let Some(announced) = stream.progress().announced.get() else { return true };
    if total <= announced && !(last && total < announced && stream.io.lane(Direction::Response).is_resized())
    {
        return true;
    }
    request.log().write(
        Level::Error,
        format_args!(
            "weir: a filter has changed the size of a response's body after its headers have left with Content-Length \
             {announced}: the connection is closed; remove the header in on_response_headers"
        ),
    );
    false
}

/// Passes a part of the body on that no filter sees.
pub(super) fn pass_untouched(
    stream: &'static Stream,
    request: Request<'_>,
    body: Body<'_>,
    last: bool,
) -> isize {
    if last {
        stream.progress().response_passed.set(true);
    }
    let sent = stream.io.tail().pass_body(request, Some(body));
    mark(stream, request);
    sent
}

/// nginx wants what waits further on to be written.
pub(super) fn write_out(stream: &'static Stream, request: Request<'_>) -> isize {
    let lane = stream.io.lane(Direction::Response);
    // With nothing to write, the write filter would call this an error.
    let wrote = if !stream.progress().keeps_headers()
        && (request.has_pending_output() || stream.io.tail().is_busy())
    {
        stream.io.tail().pass_body(request, None)
    } else {
        OK
    };
    mark(stream, request);
    if wrote == OK && lane.is_waiting() { pump(stream, request) } else { wrote }
}

/// Whether the end of the response is kept for its trailers.
fn keeps_end(stream: &Stream) -> bool {
    stream.progress().trailers.get() && !stream.progress().response_passed.get()
}

/// Whether a filter holds something of the response.
pub(crate) fn holds_response(stream: &Stream) -> bool {
    let is_held = stream.progress().sending.get() == Sending::Held;
    is_held || stream.io.lane(Direction::Response).is_held() || keeps_end(stream)
}

/// Tells nginx whether something of the response is kept here.
pub(super) fn mark(stream: &'static Stream, request: Request<'_>) {
    let lane = stream.io.lane(Direction::Response);
    // Whatever was passed on last may have taken with it what was passed on before.
    lane.settle();
    let progress = stream.progress();
    let keeps_end = keeps_end(stream);
    // What a subrequest has passed on is sent with its main request, which ends after it.
    // And nginx asks for the next slice of a response when nothing is kept of one.
    let is_lane_busy =
        if request.is_main() && !request.is_sliced() { lane.is_busy() } else { lane.is_kept() };
    let is_kept = progress.keeps_headers() || keeps_end || is_lane_busy || stream.io.tail().is_busy();
    request.set_buffered_here(is_kept);
    if holds_response(stream) {
        stream.watch(request.send_timeout());
    } else {
        stream.stop_watching();
    }
}
