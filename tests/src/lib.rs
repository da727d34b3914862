//! The test kit: a real nginx with Weir's module, real clients and real origins, for the tests in `tests/*.rs`.
//!
//! A test describes a configuration, starts it, sends requests and looks at what arrived:
//!
//! ```no_run
//! use weir_tests::{Conf, Nginx, Origin, Reply};
//!
//! let origin = Origin::start(|_| Reply::text("hello"));
//! let nginx = Nginx::start(
//!     Conf::new()
//!         .guest("add_headers")
//!         .set("ORIGIN", origin.address())
//!         .server("location / { proxy_wasm add_headers; proxy_pass http://@ORIGIN@; }"),
//! );
//! let response = nginx.get("/");
//! assert_eq!(response.header("x-weir"), Some("response"));
//! assert_eq!(origin.last().header("x-weir"), Some("request"));
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`conf`] | the pieces of an nginx.conf, and the placeholders in them |
//! | [`nginx`] | a running nginx: start, reload, stop, its log, its workers |
//! | [`http`] | requests and responses as tests write and read them |
//! | [`client`] | HTTP/1.1, HTTP/2 and HTTP/3 connections |
//! | [`raw`] | bytes on a socket: HTTP/1.0, pipelining, what no client library sends |
//! | [`origin`] | a server in this process that records what it was asked |
//! | [`gateway`] | servers of FastCGI, SCGI and uwsgi |
//! | [`grpc`] | a gRPC server, tonic's |
//! | [`dns`] | a server of DNS |
//! | [`limiter`] | a rate limit service of Envoy's |
//! | [`prometheus`] | a real Prometheus that scrapes |
//! | [`browser`] | a real browser |
//! | [`tls`] | certificates, and curl as a client |
//! | [`authority`] | an authority that issues certificates |
//! | [`wasm`] | modules made on the spot, the broken ones above all |
//! | [`trace`] | the callbacks that the guest `trace` has logged |
//! | [`digest`] | the hash that the guest `body_reader` logs |
//! | [`paths`] | where `scripts/build` has left nginx, the module and the guests |
//! | [`ports`] | free ports that stay free until nginx takes them |
//! | [`wait`] | the one loop that waits |
//!
//! Nothing here sleeps for a fixed time or uses a fixed port. What takes too long fails with the reason and the log.
//! An [`Nginx`] that goes out of scope is stopped gracefully, and a worker that died, leaked a connection or logged
//! an alert fails the test it happened in.
#![forbid(unsafe_code)]

pub mod authority;
pub mod browser;
pub mod client;
pub mod conf;
pub mod digest;
pub mod dns;
pub mod gateway;
pub mod grpc;
pub mod http;
pub mod limiter;
pub mod nginx;
pub mod origin;
pub mod paths;
pub mod ports;
pub mod prometheus;
pub mod raw;
mod readable;
pub mod tls;
pub mod trace;
pub mod wait;
pub mod wasm;

pub use client::{Connection, Protocol};
pub use conf::Conf;
pub use http::{Request, Response};
pub use nginx::Nginx;
pub use origin::{Origin, Reply};
pub use raw::Raw;
