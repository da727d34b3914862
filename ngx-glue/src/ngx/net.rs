//! Connections that are ours: to peers of calls, on nginx's event loop, with its balancers, its resolver and its TLS.

pub(crate) mod address;
pub(crate) mod connect;
pub(crate) mod lookup;
mod quiet;
pub(crate) mod servers;
pub(crate) mod shadow;
pub(crate) mod sleep;
pub(crate) mod socket;
#[cfg(ngx_feature = "ssl")]
pub(crate) mod tls;
#[cfg(not(ngx_feature = "ssl"))]
#[path = "net/tls/none.rs"]
pub(crate) mod tls;
pub(crate) mod turn;
