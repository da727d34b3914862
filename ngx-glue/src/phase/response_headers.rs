//! The response's headers: the last place where another response can be sent instead.

use weir_core::{
    chain::{Direction, Verdict},
    filter::Callback,
};

use super::response_body;
use crate::{
    ngx::{
        chain::Body,
        code::{ERROR, SENT},
        headers_out::HeadersOut,
        request::Request,
    },
    stream::{Headers, Stream, io::Access, local::Local},
};

/// The header filter.
pub(crate) fn run(request: Request<'_>) -> isize {
    let (stream, is_new) = match request.stream() {
        Some(stream) => (stream, false),
        None => match Stream::begin(request) {
            Ok(None) => return request.pass_headers(),
            Ok(Some(stream)) => (stream, true),
            Err(_) => return ERROR,
        },
    };
    if stream.progress().client_sent_head.get() {
        request.set_header_only();
    }
    // An error of a filter further on sends headers again (`ngx_http_filter_finalize_request()`).
    if stream.progress().response_seen.replace(true) {
        return request.pass_headers();
    }
    let replacement = match call(stream, request, is_new) {
        Ok(replacement) => replacement,
        Err(Ended) => return ERROR,
    };
    stream.io.set_response_access(Access::Read);
    if stream.wants(Callback::ResponseBody) && !stream.progress().response_ended.get() {
        request.need_body_in_memory();
    }
    let sent = request.pass_headers();
    match replacement {
        Some(replacement) if sent != ERROR => send_body(stream, request, replacement),
        _ => sent,
    }
}

/// The connection is to be closed without a response, or there is no memory for one.
#[derive(Debug)]
struct Ended;

/// Calls the filters; the answer is the response that has taken the place of nginx's, if one has.
fn call<'s>(stream: &'static Stream, request: Request<'s>, is_new: bool) -> Result<Option<Local<'s>>, Ended> {
    let mut replacement = None;
    let mut replace = |local: Option<Local<'s>>| {
        let local = local.ok_or(Ended)?;
        replacement = Some(local);
        if local.put(request) { Ok(()) } else { Err(Ended) }
    };
    // What a filter has sent while the request's body was read, or late as below.
    if let Some(local) = stream.io.take_local() {
        replace(Some(local))?;
    } else if is_new && request.has_begun() {
        match request_headers_late(stream, request) {
            Verdict::Continue | Verdict::Pause => {}
            Verdict::LocalResponse => replace(stream.io.take_local())?,
            Verdict::TooLarge => replace(Some(Local::failure(502)))?,
            Verdict::Closed => return Err(Ended),
            Verdict::Failed { status } => replace(Some(Local::failure(status)))?,
        }
    }
    stream.io.set_response_access(Access::Edit);
    loop {
        let end_of_stream = !has_body(stream, request);
        stream.progress().response_ended.set(end_of_stream);
        // Called again, it goes on with the filters that have not seen the headers.
        match stream.drive(|chain| chain.headers(Direction::Response, end_of_stream)) {
            Verdict::Continue | Verdict::Pause => return Ok(replacement),
            Verdict::LocalResponse => replace(stream.io.take_local())?,
            Verdict::TooLarge => replace(Some(Local::failure(502)))?,
            Verdict::Closed => return Err(Ended),
            Verdict::Failed { status } => replace(Some(Local::failure(status)))?,
        }
    }
}

/// A response has been made before a location's rewrite phase: by `return` of a server, or an error. The filters see
/// the request's headers now; that they cannot pause any more is said once, by core.
fn request_headers_late(stream: &'static Stream, request: Request<'_>) -> Verdict {
    let progress = stream.progress();
    let end_of_stream = !request.has_body();
    progress.request_ended.set(end_of_stream);
    let mut verdict = stream.drive(|chain| chain.headers(Direction::Request, end_of_stream));
    if verdict == Verdict::Pause {
        request.log().write(
            crate::ngx::log::Level::Warn,
            "weir: a filter has paused a request that already has its response: it goes on",
        );
    }
    let mut filter = 0;
    while verdict == Verdict::Pause {
        verdict = stream.drive(|chain| {
            if filter < chain.filters() {
                chain.resume(Direction::Request, filter)
            } else {
                Verdict::Continue
            }
        });
        filter += 1;
    }
    progress.headers.set(Headers::Seen);
    verdict
}

/// Whether a body follows the headers as they are now.
fn has_body(stream: &Stream, request: Request<'_>) -> bool {
    let out = HeadersOut::of(request);
    !(stream.progress().client_sent_head.get()
        || request.header_only()
        || request.is_head()
        || matches!(out.status(), 204 | 304)
        || out.content_length() == Some(0))
}

/// Sends the body of a response of ours, whose headers have been sent; what nginx makes of the body of its own is
/// thrown away from now on.
fn send_body(stream: &'static Stream, request: Request<'_>, local: Local<'_>) -> isize {
    let sent = if request.header_only() {
        SENT
    } else {
        let Some(body) = Body::whole(request, local.body()) else { return ERROR };
        match response_body::call_and_pass(stream, request, body) {
            ERROR => ERROR,
            _ => SENT,
        }
    };
    stream.progress().swallow.set(true);
    sent
}
