//! The unsafe room: safe faces for nginx's structures, one file for each kind.
//!
//! nginx runs all of it in one thread for each process. A face is made from nginx's pointer in an entry that nginx
//! calls, with a promise that is written there, and lives no longer than that entry. See docs/UNSAFE.md.

pub(crate) mod again;
mod backtrace;
pub(crate) mod chain;
pub(crate) mod code;
pub(crate) mod conf;
pub(crate) mod connection;
pub(crate) mod content;
#[cfg(ngx_feature = "ssl")]
pub(crate) mod crypto;
pub(crate) mod cycle;
pub(crate) mod deadline;
pub(crate) mod event;
pub(crate) mod filters;
mod framing;
pub(crate) mod guard;
pub(crate) mod headers_in;
pub(crate) mod headers_out;
pub(crate) mod lane;
pub(crate) mod list;
pub(crate) mod log;
mod memory;
mod name;
pub(crate) mod net;
mod outgoing;
mod parts;
pub(crate) mod pool;
pub(crate) mod record;
pub(crate) mod request;
mod response;
mod subrequest;
pub(crate) mod tail;
mod target;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod timer;
#[cfg(ngx_feature = "ssl")]
pub(crate) mod tls;
#[cfg(not(ngx_feature = "ssl"))]
#[path = "ngx/tls/none.rs"]
pub(crate) mod tls;
pub(crate) mod unannounced;
pub(crate) mod upstream;
pub(crate) mod variable;
pub(crate) mod watch;
