//! The request's body, piece by piece as nginx reads it for whoever wants it (`ngx_http_request_body.c`).
//!
//! A body that is thrown away (`ngx_http_discard_request_body()`: a static file, `return`) never comes by here.

use weir_core::{
    chain::{Direction, Verdict},
    filter::Callback,
};

use crate::{
    ngx::{
        chain::Body,
        code::{CLOSE, TOO_LARGE, UNAVAILABLE, of_status},
        request::Request,
    },
    stream::Stream,
};

/// The filter of request bodies.
pub(crate) fn run(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    let verdict = match (request.stream(), body) {
        (Some(stream), Some(body)) => call(stream, body),
        // nginx asks whether a filter has something to add.
        _ => Verdict::Continue,
    };
    match verdict {
        Verdict::Continue | Verdict::Pause => request.pass_request_body(body),
        Verdict::LocalResponse => {
            // nginx makes an error of this code and sends a page for it, in whose place our header filter puts the
            // response. 503 is the one code that neither ends keep-alive, nor means something to an access phase, nor
            // is kept by caches.
            request.expect_own_response();
            request.forbid_error_page();
            abandon_rest(request);
            UNAVAILABLE
        }
        Verdict::TooLarge => {
            abandon_rest(request);
            TOO_LARGE
        }
        Verdict::Closed => CLOSE,
        Verdict::Failed { status } => {
            abandon_rest(request);
            of_status(status)
        }
    }
}

/// What has not been read of the body must not be taken for the connection's next request.
fn abandon_rest(request: Request<'_>) {
    if !request.has_exactly_read_body() {
        request.end_keepalive();
    }
}

fn call(stream: &Stream, body: Body<'_>) -> Verdict {
    let progress = stream.progress();
    if progress.request_ended.get() || !stream.wants(Callback::RequestBody) {
        return Verdict::Continue;
    }
    let measure = body.measure();
    if measure.bytes == 0 && !measure.last {
        return Verdict::Continue;
    }
    progress.request_ended.set(measure.last);
    stream.io.with_body(Direction::Request, body, || {
        stream.drive(|chain| chain.body(Direction::Request, measure.last))
    })
}
