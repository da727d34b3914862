//! The response's trailers: those that an upstream has sent, and those that filters add.
//!
//! nginx has an upstream's trailers in its list when it passes the last piece of the body on
//! (`ngx_http_upstream_finalize_request()`), and writes the list when that piece reaches the client's protocol: in the
//! last chunk, or in a frame of their own over HTTP/2 and HTTP/3. So the last piece stays here until the filters have
//! let the trailers go. Trailers of requests nginx drops while it reads them.

use weir_core::{
    chain::{Chain, Direction, Verdict},
    filter::Callback,
};

use crate::{
    host::Ngx,
    ngx::{headers_out::HeadersOut, list::Field, request::Request},
    stream::Stream,
};

/// Whether the response has trailers, as far as is known now.
fn exist(request: Request<'_>) -> bool {
    HeadersOut::of(request).trailers().iter().any(Field::is_live)
}

/// Whether trailers that filters are to see follow the piece of the body that has come, which is the last.
pub(super) fn follow(stream: &Stream, request: Request<'_>) -> bool {
    let wanted = stream.wants(Callback::ResponseTrailers) || stream.wants(Callback::ResponseBody);
    wanted && !stream.progress().no_body.get() && exist(request)
}

/// The response's headers are about to leave. Where a filter has added trailers, nginx has to make room for them: a
/// response of HTTP/1.1 is sent in chunks then, and loses its Content-Length.
pub(super) fn announce(request: Request<'_>) {
    if exist(request) {
        request.expect_trailers();
    }
}

/// Shows the last piece of the body, and the trailers that follow it.
pub(super) fn show(chain: &mut Chain<Ngx>) -> Verdict {
    match chain.body(Direction::Response, false) {
        // A filter that holds the body lets it go with the trailers, or goes on holding both.
        Verdict::Continue | Verdict::Pause => chain.trailers(Direction::Response),
        verdict => verdict,
    }
}
