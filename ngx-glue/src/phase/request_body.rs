//! The request's body, piece by piece as nginx reads it for whoever wants it (`ngx_http_request_body.c`).
//!
//! Where a handler answers that reads no body (a static file, `return`), `phase/request_headers` has it read. A part
//! that a filter holds has not been saved for nginx, which therefore waits for the rest.

use weir_core::{
    chain::{Direction, Verdict},
    filter::Callback,
};

use crate::{
    ngx::{
        chain::Body,
        code::{CLIENT_GONE, CLOSE, INTERNAL_ERROR, OK, TOO_LARGE, UNAVAILABLE, of_status},
        headers_in::HeadersIn,
        log::Level,
        request::Request,
    },
    stream::{Headers, Stream},
};

/// The filter of request bodies.
pub(crate) fn run(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    let Some(stream) = request.stream() else { return request.pass_request_body(body) };
    let progress = stream.progress();
    if progress.given_up.get() {
        return request.pass_request_body(body);
    }
    let lane = stream.io.lane(Direction::Request);
    if let Some(code) = progress.request_code.take() {
        return code;
    }
    if request.streams_body() && !request.is_chunked() && stream.wants(Callback::RequestBody) {
        request.announce_no_length();
    }
    if body.is_none() && progress.request_came.get() {
        request.remember_body_has_come();
    }
    let done = match body {
        Some(body) if !progress.request_ended.get() && stream.wants(Callback::RequestBody) => {
            feed(stream, request, body)
        }
        // All of it has been read, so nginx does not look at the connection, and a filter holds the end of it.
        None if progress.request_ended.get() && lane.is_held() && request.has_lost_client() => CLIENT_GONE,
        // Without a body nginx asks whether a filter has something to add.
        _ => request.pass_request_body(body),
    };
    lane.settle();
    done
}

/// Shows a piece of the body to the filters. The answer is the one of the filter of bodies.
pub(super) fn feed(stream: &'static Stream, request: Request<'_>, body: Body<'_>) -> isize {
    let measure = body.measure();
    if measure.bytes == 0 && !measure.last {
        return request.pass_request_body(Some(body));
    }
    stream.progress().request_ended.set(measure.last);
    stream.progress().request_came.set(measure.last);
    stream.io.lane(Direction::Request).take_in(body);
    let verdict = stream.drive(Direction::Request, |chain| chain.body(Direction::Request, measure.last));
    advance(stream, request, verdict, Some(body))
}

/// Goes on after filters have been called, with what they have let go. The answer is the one of the filter.
pub(super) fn advance(
    stream: &'static Stream,
    request: Request<'_>,
    verdict: Verdict,
    came: Option<Body<'_>>,
) -> isize {
    let progress = stream.progress();
    match verdict {
        Verdict::Continue | Verdict::Pause => {
            if progress.headers.get() == Headers::Paused && stream.headers_passed(Direction::Request) {
                // A body that goes on lets the headers go before it.
                progress.headers.set(Headers::Seen);
                stream.stop_watching();
            }
            go_on(stream, request, came)
        }
        Verdict::LocalResponse => {
            // nginx makes an error of this code and sends a page for it, in whose place our header filter puts the
            // response. 503 is the one code that neither ends keep-alive, nor means something to an access phase, nor
            // is kept by caches.
            request.expect_own_response();
            request.forbid_error_page();
            fail(stream, request, UNAVAILABLE)
        }
        Verdict::TooLarge => {
            request.log().write(
                Level::Error,
                "weir: a filter holds more of the request's body than \"proxy_wasm_request_body_buffer\" allows",
            );
            fail(stream, request, TOO_LARGE)
        }
        Verdict::Closed => fail(stream, request, CLOSE),
        Verdict::Failed { status } => fail(stream, request, of_status(status)),
    }
}

/// What has not been read of the body must not be taken for the connection's next request.
fn fail(stream: &Stream, request: Request<'_>, code: isize) -> isize {
    stream.io.lane(Direction::Request).discard();
    if !request.has_exactly_read_body() {
        request.end_keepalive();
    }
    code
}

/// Passes on what has got past the filters.
fn go_on(stream: &'static Stream, request: Request<'_>, came: Option<Body<'_>>) -> isize {
    let progress = stream.progress();
    let lane = stream.io.lane(Direction::Request);
    let last = stream.body_ended(Direction::Request) && !progress.request_passed.get();
    if lane.len() == 0 && !last {
        // nginx's buffer may be full of what has been passed on before, and has to be emptied.
        return request.pass_request_body(None);
    }
    let total = progress.request_bytes.get().saturating_add(lane.len() as u64);
    progress.request_bytes.set(total);
    if !settle_length(stream, request, total, last) {
        return fail(stream, request, INTERNAL_ERROR);
    }
    progress.request_passed.set(last);
    match came.filter(|_| lane.is_as_it_came()) {
        Some(body) => {
            lane.let_go();
            request.pass_request_body(Some(body))
        }
        None => match lane.pass_on(request, last, |body| request.pass_request_body(Some(body))) {
            Ok(passed) => passed.unwrap_or(OK),
            Err(_) => fail(stream, request, INTERNAL_ERROR),
        },
    }
}

/// Makes nginx know the length that the filters have given the body. Where the body is passed on while it is being read,
/// its length has been told already, and must be kept: false, and logged, when it is not.
fn settle_length(stream: &Stream, request: Request<'_>, total: u64, last: bool) -> bool {
    if !stream.io.lane(Direction::Request).is_resized() {
        return true;
    }
    if stream.progress().is_unannounced.get() {
        return true;
    }
    if request.is_reading_body() && !request.is_chunked() {
        return keeps_length(request, total, last);
    }
    if last && !request.is_reading_body() {
        request.set_body_length(total);
        return HeadersIn::of(request).set_listed_length(total);
    }
    true
}

/// Whether `total` bytes, of which more follow or which are the last, are in agreement with the announced length. That
/// they are not is logged.
fn keeps_length(request: Request<'_>, total: u64, last: bool) -> bool {
    let announced = u64::try_from(request.body_length()).unwrap_or_default();
    let kept = if last { total == announced } else { total <= announced };
    if !kept {
        request.log().write(
            Level::Error,
            format_args!(
                "weir: a filter has changed the size of a request's body after its headers have been passed on with \
                 Content-Length {announced}: have it read whole first (proxy_request_buffering on, or what the upstream's \
                 protocol has in its place), or passed on in chunks (proxy_http_version 1.1)"
            ),
        );
    }
    kept
}

/// Whether the upstream can be told the length that the client has announced: what has been read with the headers may
/// have grown beyond that already.
pub(crate) fn can_announce_length(stream: &Stream, request: Request<'_>) -> bool {
    keeps_length(request, stream.progress().request_bytes.get(), false)
}

/// Filter number `filter` has asked for what it holds of the body to go on.
pub(super) fn resume(stream: &'static Stream, request: Request<'_>, filter: usize) {
    let verdict = stream.drive(Direction::Request, |chain| chain.resume(Direction::Request, filter));
    end(stream, request, verdict);
}

/// Does what a verdict says that an event has led to.
pub(super) fn end(stream: &'static Stream, request: Request<'_>, verdict: Verdict) {
    let code = advance(stream, request, verdict, None);
    stream.io.lane(Direction::Request).settle();
    if code != OK {
        // Whoever reads the body ends with it.
        stream.progress().request_code.set(Some(code));
    }
}
