//! nginx as the proxy that [`weir_core`] runs filters in: core's traits, over the unsafe room's safe faces.

use weir_core::host::Host;

mod body;
mod calls;
mod crypto;
mod maps;
mod properties;
mod request_headers;
pub(crate) mod response_headers;
mod response_trailers;
pub(crate) mod root;
pub(crate) mod stream;

/// nginx.
#[derive(Debug)]
pub(crate) struct Ngx;

impl Host for Ngx {
    type Root = root::Worker;
    type Stream = stream::RequestToken;
}
