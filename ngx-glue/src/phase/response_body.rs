//! The response's body, piece by piece as it comes, uncompressed, in memory where a filter reads it.

use weir_core::{
    chain::{Direction, Verdict},
    filter::Callback,
};

use crate::{
    ngx::{
        chain::Body,
        code::{ERROR, OK},
        request::Request,
    },
    stream::Stream,
};

/// The body filter.
pub(crate) fn run(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    let Some(stream) = request.stream() else { return request.pass_body(body) };
    if stream.progress().swallow.get() {
        return swallow(request, body);
    }
    match body {
        Some(body) => call_and_pass(stream, request, body),
        None => request.pass_body(None),
    }
}

/// Throws a piece away, and lets nginx write what still waits of the body that was sent instead.
fn swallow(request: Request<'_>, body: Option<Body<'_>>) -> isize {
    if let Some(body) = body {
        body.consume();
    }
    // With nothing to write, the write filter would call this an error.
    if request.has_pending_output() { request.pass_body(None) } else { OK }
}

/// Calls the filters, and passes the piece on.
pub(crate) fn call_and_pass(stream: &Stream, request: Request<'_>, body: Body<'_>) -> isize {
    match call(stream, request, body) {
        Verdict::Continue | Verdict::Pause => request.pass_body(Some(body)),
        // The headers have left: nothing is left to say but that the response is broken.
        Verdict::LocalResponse | Verdict::TooLarge | Verdict::Closed | Verdict::Failed { .. } => {
            request.close_after();
            ERROR
        }
    }
}

fn call(stream: &Stream, request: Request<'_>, body: Body<'_>) -> Verdict {
    let progress = stream.progress();
    if progress.response_ended.get() || !stream.wants(Callback::ResponseBody) {
        return Verdict::Continue;
    }
    let measure = body.measure();
    let last = measure.last || (measure.last_in_chain && !request.is_main());
    if measure.bytes == 0 && !last {
        return Verdict::Continue;
    }
    progress.response_ended.set(last);
    stream
        .io
        .with_body(Direction::Response, body, || stream.drive(|chain| chain.body(Direction::Response, last)))
}
