//! Which phase or filter of nginx calls which callbacks.
//!
//! | file | where nginx calls it | callbacks |
//! |---|---|---|
//! | `request_headers` | rewrite phase of a location, before `rewrite` and `return` | `on_request_headers` |
//! | `request_body` | filter of request bodies, as a handler reads the body | `on_request_body` |
//! | `response_headers` | header filter, before `add_header` and gzip | `on_response_headers` |
//! | `response_body` | body filter, right after the copy filter, before gzip | `on_response_body` |
//! | `response_trailers` | with the last piece of the body, where trailers follow it | `on_response_trailers` |
//! | `log` | log phase | `on_done`, `on_log`, `on_delete` |

pub(crate) mod log;
pub(crate) mod request_body;
pub(crate) mod request_headers;
pub(crate) mod response_body;
pub(crate) mod response_headers;
mod response_trailers;
pub(crate) mod sending;

use weir_core::chain::Direction;

pub(crate) use crate::ngx::filters::install;
use crate::{ngx::request::Request, stream::Sending};

/// Nothing of nginx's tells that a subrequest is over, but its log phase, where that runs (`log_subrequest`). So its
/// contexts end when all of its response has been passed on; until the main request ends is long for who waits for
/// their instances, which may be the next subrequest.
pub(crate) fn end_subrequest(request: Request<'_>) {
    if request.is_main() {
        return;
    }
    let Some(stream) = request.stream() else { return };
    let progress = stream.progress();
    let is_last = progress.response_passed.get() || progress.no_body.get() || request.header_only();
    let has_passed = progress.sending.get() == Sending::Sent && is_last;
    if has_passed && !stream.io.lane(Direction::Response).is_kept() && !request.logs_subrequests() {
        stream.finish();
    }
}
