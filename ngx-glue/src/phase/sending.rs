//! What goes on to nginx's further filters of a response: headers when no filter holds them, then the body.
//!
//! Where a length is announced and filters see the body, the headers wait until the first part of the body has got past
//! the filters: by then the length is known, if that was all of it, or dropped, if its size has been changed. After
//! that it is a promise, which a body that turns out longer or shorter breaks.
//!
//! While something is kept here, a bit in the request's `buffered` tells nginx that the response is not complete.

use weir_core::chain::Direction;

use super::{response_body::broken, response_headers::body_is_wanted};
use crate::{
    ngx::{
        chain::Body,
        code::{ERROR, OK},
        headers_out::HeadersOut,
        log::Level,
        request::{Request, stops_output},
    },
    stream::{Sending, Stream, io::Access},
};

/// A filter holds the headers.
pub(super) fn hold_headers(stream: &Stream, request: Request<'_>) -> isize {
    keep_headers(stream, request, Sending::Held)
}

fn keep_headers(stream: &Stream, request: Request<'_>, sending: Sending) -> isize {
    stream.progress().sending.set(sending);
    if stream.progress().no_body.get() {
        // Nobody is to make a body, and nginx's own filter, which says so, has not been called.
        if !matches!(HeadersOut::of(request).content_length(), Some(0)) {
            request.set_header_only();
        }
    } else {
        // Later filters have not been asked whether they need that.
        request.need_body_in_memory();
    }
    mark(stream, request);
    OK
}

/// No filter holds the headers: they are sent, or wait for the first part of the body.
pub(super) fn let_headers_go(stream: &Stream, request: Request<'_>) -> isize {
    let announced = HeadersOut::of(request).content_length().is_some();
    if announced && request.is_main() && body_is_wanted(stream) {
        return keep_headers(stream, request, Sending::Waiting);
    }
    send_headers(stream, request)
}

fn send_headers(stream: &Stream, request: Request<'_>) -> isize {
    let progress = stream.progress();
    let out = HeadersOut::of(request);
    progress.sending.set(Sending::Sent);
    stream.io.set_response_access(Access::Read);
    if body_is_wanted(stream) {
        request.need_body_in_memory();
        // Ranges would be cut out before the filters see the body.
        if request.forbid_ranges() {
            out.remove(b"accept-ranges");
        }
    }
    if stream.io.lane(Direction::Response).is_edited() {
        request.weaken_etag();
    }
    let length = out.content_length();
    let sent = request.pass_headers();
    // Later filters may have dropped it.
    progress.announced.set(length.filter(|_| request.is_main() && out.content_length() == length));
    mark(stream, request);
    sent
}

/// Passes on what has got past the filters.
pub(super) fn go_on(stream: &'static Stream, request: Request<'_>, came: Option<Body<'_>>) -> isize {
    let progress = stream.progress();
    let lane = stream.io.lane(Direction::Response);
    let last = has_ended(stream) && !progress.response_passed.get();
    if progress.sending.get() == Sending::Held || (lane.len() == 0 && !last) {
        mark(stream, request);
        return OK;
    }
    if progress.sending.get() == Sending::Waiting {
        settle_length(stream, request, last);
        let sent = send_headers(stream, request);
        if stops_output(sent) || request.header_only() {
            lane.discard();
            mark(stream, request);
            return if sent == ERROR { ERROR } else { OK };
        }
    }
    if !keeps_promise(stream, request, lane.len(), last) {
        return broken(stream, request);
    }
    progress.response_passed.set(last);
    let sent = match came.filter(|_| lane.is_as_it_came()) {
        Some(body) => {
            lane.let_go();
            request.pass_body(Some(body))
        }
        None => match lane.pass_on(request, last, |body| request.pass_body(Some(body))) {
            Ok(sent) => sent.unwrap_or(OK),
            Err(_) => return broken(stream, request),
        },
    };
    mark(stream, request);
    sent
}

/// Whether what has got past the filters is the end of the body.
fn has_ended(stream: &Stream) -> bool {
    let progress = stream.progress();
    if progress.no_body.get() {
        progress.response_ended.get()
    } else {
        stream.body_ended(Direction::Response)
    }
}

/// The first part of the body has got past the filters: settles what the headers say of its length.
fn settle_length(stream: &Stream, request: Request<'_>, last: bool) {
    let lane = stream.io.lane(Direction::Response);
    let out = HeadersOut::of(request);
    if last {
        out.set_content_length(u64::try_from(lane.len()).ok());
    } else if lane.is_resized() {
        out.set_content_length(None);
    }
}

/// Counts `bytes` that are about to be passed on; false, and logged, when they are more than the headers say, or their
/// end leaves them less.
fn keeps_promise(stream: &Stream, request: Request<'_>, bytes: usize, last: bool) -> bool {
    let progress = stream.progress();
    let total = progress.response_bytes.get().saturating_add(bytes as u64);
    progress.response_bytes.set(total);
    let Some(announced) = progress.announced.get() else { return true };
    if total > announced || (last && total < announced && stream.io.lane(Direction::Response).is_resized()) {
        request.log().write(
            Level::Error,
            format_args!(
                "weir: a filter has changed the size of a response's body after its headers have left with \
                 Content-Length {announced}: the connection is closed; remove the header in on_response_headers"
            ),
        );
        return false;
    }
    true
}

/// Passes a part of the body on that no filter sees.
pub(super) fn pass_untouched(
    stream: &Stream,
    request: Request<'_>,
    body: Body<'_>,
    bytes: usize,
    last: bool,
) -> isize {
    if !keeps_promise(stream, request, bytes, last) {
        return broken(stream, request);
    }
    if last {
        stream.progress().response_passed.set(true);
    }
    request.pass_body(Some(body))
}

/// nginx wants what waits further on to be written.
pub(super) fn write_out(stream: &Stream, request: Request<'_>) -> isize {
    let lane = stream.io.lane(Direction::Response);
    // With nothing to write, the write filter would call this an error.
    let wrote = if !stream.progress().keeps_headers() && request.has_pending_output() {
        request.pass_body(None)
    } else {
        OK
    };
    lane.settle();
    mark(stream, request);
    wrote
}

/// Tells nginx whether something of the response is kept here.
pub(super) fn mark(stream: &Stream, request: Request<'_>) {
    let lane = stream.io.lane(Direction::Response);
    request.set_buffered_here(stream.progress().keeps_headers() || lane.is_busy());
}
