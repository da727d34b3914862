//! Going on with what a filter has held, or ending it, from an event of its own.

use weir_core::chain::{Chain, Direction};

use super::{Headers, Sending, Stream};
use crate::{
    ngx::{
        code::{CLOSE, ERROR, TIMED_OUT, of_status},
        event::Next,
        log::Level,
        request::Request,
    },
    phase::{end_subrequest, request_headers, response_body, sending},
};

/// The event of `stream` has come: looks at what was asked for since.
pub(crate) fn run(stream: &'static Stream, request: Request<'_>, timed_out: bool) -> Next {
    let next = look_again(stream, request, timed_out);
    end_subrequest(request);
    next
}

fn look_again(stream: &'static Stream, request: Request<'_>, timed_out: bool) -> Next {
    if stream.progress().headers.get() == Headers::Waiting {
        return request_headers::begin_late(stream, request);
    }
    if stream.io.take_close() {
        return Next::Finalize(CLOSE);
    }
    if stream.io.take_late() && sending::holds_response(stream) {
        request.log().write(
            Level::Error,
            "weir: a filter holds a response that it wanted to replace, whose headers have left: it is closed",
        );
        return Next::Finalize(CLOSE);
    }
    if stream.io.has_local()
        && let Some(next) = answer(stream, request)
    {
        again(stream);
        return next;
    }
    if stream.progress().waits_in_vain.take() {
        stream.pass_on(request);
    }
    if stream.progress().given_up.get() {
        while stream.io.take_wish(Direction::Request).is_some() {}
    }
    if stream.progress().sending.get() == Sending::Unseen {
        // Nothing of a response is held where there is none.
        while stream.io.take_wish(Direction::Response).is_some() {}
    }
    if let Some(filter) = stream.io.take_wish(Direction::Response) {
        let sent = response_body::resume(stream, request, filter);
        again(stream);
        return if sent == ERROR { Next::Finalize(ERROR) } else { Next::Write };
    }
    if let Some(filter) = stream.io.take_wish(Direction::Request) {
        let next = request_headers::resume(stream, request, filter);
        again(stream);
        return next;
    }
    if timed_out { look(stream, request) } else { Next::Wait }
}

/// Nothing has happened for a while to what a filter holds.
fn look(stream: &'static Stream, request: Request<'_>) -> Next {
    let holds_request =
        stream.progress().headers.get() == Headers::Paused || stream.io.lane(Direction::Request).is_held();
    if holds_request && stream.progress().sending.get() == Sending::Unseen {
        request.log().write(
            Level::Error,
            "weir: a filter has held the request for \"proxy_wasm_pause_timeout\": it is answered with 504",
        );
        request_headers::give_up(stream, request);
        stream.progress().overdue.set(true);
        return Next::Finalize(of_status(504));
    }
    if !sending::holds_response(stream) {
        return Next::Wait;
    }
    if request.reads_from_upstream() {
        // Whose own timer bounds that.
        stream.watch(request.send_timeout());
    } else {
        request
            .log()
            .write(Level::Info, "weir: a filter has held the response for \"send_timeout\": it is closed");
        return Next::Finalize(TIMED_OUT);
    }
    Next::Wait
}

/// A filter has sent a local response in no callback of this request, if there is something to be done about it now.
fn answer(stream: &'static Stream, request: Request<'_>) -> Option<Next> {
    if !stream.io.take_answered() {
        return None;
    }
    if stream.progress().sending.get() == Sending::Unseen {
        return request_headers::answer(stream, request);
    }
    let verdict = stream.drive(Direction::Response, Chain::answer);
    Some(match response_body::advance(stream, request, verdict, None) {
        ERROR => Next::Finalize(ERROR),
        _ => Next::Write,
    })
}

/// One wish is granted at a time: nginx may end the request then.
fn again(stream: &'static Stream) {
    if stream.io.has_wishes() {
        stream.wake();
    }
}
