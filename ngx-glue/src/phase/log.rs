//! The log phase: the contexts end, and can still read everything that is known of the request.

use crate::ngx::{code::OK, request::Request};

/// The log phase of a request; of a subrequest only with `log_subrequest on`.
pub(crate) fn run(request: Request<'_>) -> isize {
    if let Some(stream) = request.stream() {
        stream.finish();
    }
    OK
}
