//! Calls out: what core asks the proxy to send, and what the proxy tells core when something comes back.
//!
//! ```text
//!  guest ─► proxy_http_call ─► core: a token ─► Calls::http ─► proxy connects, sends, waits ...
//!                                                                 │ an event of the proxy's loop
//!  guest ◄─ on_http_call_response ◄─ core ◄─ Shard::called(token, CallEvent) ◄────┘
//! ```
//!
//! A call is known by its [`CallToken`] and by nothing else: no side holds a pointer into the other. Core knows which
//! context waits for it; the proxy knows the connection. A token whose call has ended, or was cancelled, finds nothing.
//!
//! # What core promises
//! - A token is not given again while its call lives.
//! - How many calls live at once is counted by core ([`Limits::calls`](crate::engine::limits::Limits::calls)); the
//!   proxy has only its own bounds (for an upstream, say) to keep, and answers [`CallError::Overloaded`] beyond them.
//! - When a request ends before a call of its contexts does, core [cancels](Calls::cancel) it, unless the context lives
//!   on (a deferred `on_done`): the proxy cancels nothing by itself because a request has gone.
//! - Names of headers are HTTP tokens and values have no NUL, CR or LF; `method`, `path` and `authority` are not empty.
//!   Nothing else about them is checked.
//!
//! # What the proxy promises
//! - No method here calls [`Shard::called`](crate::shard::Shard::called), or enters a guest in any other way: what fails
//!   at once is returned, everything later is an event of its own.
//! - Each call that was begun ends with exactly one last event ([`CallEvent::is_last`]), unless it is cancelled: then
//!   none follows. `called` may tell it to stop, by answering false.
//! - Methods here may be called while `called` runs (a callback makes the next call, or cancels the very call that it
//!   is told of).
//!
//! # Settings
//! The bounds of calls are fields of [`Limits`](crate::engine::limits::Limits), so directives of the proxy set them:
//! `calls` (directive `calls_limit`), `call_response` (`call_response_limit`), `call_timeout` (`call_timeout`). Core
//! hands what applies to a call over with it.

use std::{borrow::Cow, collections::HashMap, fmt, hash::BuildHasherDefault, net::IpAddr, time::Duration};

use bytes::Bytes;

use crate::{abi::pairs::Pairs, context::IdHasher};

mod fields;

pub use fields::Fields;

/// Number of a call, as its guest sees it. Unique in a worker among the calls that live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallToken(u32);

impl CallToken {
    /// The token of that number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Something for each of the calls that live.
pub type ByCall<T> = HashMap<CallToken, T, BuildHasherDefault<IdHasher>>;

impl fmt::Display for CallToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker offers to guests that call others. `S` is the proxy's handle of a request. A proxy that makes no calls
/// leaves everything as it is here: each one is refused.
pub trait Calls<S> {
    /// Begins an HTTP call. [`CallEvent::Response`] or [`CallEvent::Failed`] ends it.
    ///
    /// Everything in `call` is borrowed from the guest and has to be copied.
    ///
    /// # Errors
    /// [`CallError`]: the call was not begun, and `token` means nothing.
    fn http(&self, token: CallToken, by: By<'_, S>, call: &HttpCall<'_>) -> Result<(), CallError> {
        let _ = (token, by, call);
        Err(NO_CALLS)
    }

    /// Begins a gRPC call. [`CallEvent::Closed`] ends it; before that come initial metadata, messages and trailing
    /// metadata, for every kind of call: core knows what of them a guest is told.
    ///
    /// # Errors
    /// As [`http`](Self::http).
    fn grpc(&self, token: CallToken, by: By<'_, S>, call: &GrpcCall<'_>) -> Result<(), CallError> {
        let _ = (token, by, call);
        Err(NO_CALLS)
    }

    /// Sends one more message on a stream that [`grpc`](Self::grpc) has begun; `last` says that none follows. Core calls
    /// it only for tokens of such streams that live, and never after `last` or [`close`](Self::close).
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when too much waits to be sent: the message was not taken, the stream lives on.
    fn send(&self, token: CallToken, message: &[u8], last: bool) -> Result<(), CallError> {
        let _ = (token, message, last);
        Err(NO_CALLS)
    }

    /// No message follows on this stream: its sending side is closed. It goes on until the other side ends it.
    fn close(&self, token: CallToken) {
        let _ = token;
    }

    /// Nobody waits for this call any more: it is reset, and no event follows. A token that means nothing is fine.
    fn cancel(&self, token: CallToken) {
        let _ = token;
    }

    /// Looks up the addresses of host `name`. [`CallEvent::Resolved`] or [`CallEvent::Failed`] ends it.
    ///
    /// # Errors
    /// [`CallError`]: there is no resolver, or this is no name.
    fn resolve(&self, token: CallToken, by: By<'_, S>, name: &str) -> Result<(), CallError> {
        let _ = (token, by, name);
        Err(NO_CALLS)
    }
}

/// What a proxy answers that makes no calls.
const NO_CALLS: CallError = CallError::Refused(Cow::Borrowed("this proxy makes no calls"));

/// Who makes a call.
#[derive(Debug, Clone, Copy)]
pub struct By<'a, S> {
    /// The context's request, which lives, for what depends on it: variables that choose a peer, the location's rules.
    /// `None` for a root context, and for a stream context that has outlived its request.
    pub stream: Option<&'a S>,
    /// Whether it is a root context, which may make calls for as long as there is a worker.
    pub is_root: bool,
    /// What the directive has as its [`Plugin::calls`](crate::plan::Plugin::calls): the proxy's own number for what a
    /// filter may call where there is no request.
    pub rules: u32,
    /// Name of the filter, for the log.
    pub filter: &'a str,
}

/// An HTTP request that a guest sends.
#[derive(Debug, Clone, Copy)]
pub struct HttpCall<'a> {
    /// Where to: the name of an upstream, `unix:/PATH`, `HOST[:PORT]` or an address; any bytes.
    pub upstream: &'a [u8],
    /// `:method`
    pub method: &'a [u8],
    /// `:path`: path and query.
    pub path: &'a [u8],
    /// `:authority`: the Host header.
    pub authority: &'a [u8],
    /// `:scheme`, where the guest gave one: `https` asks for TLS.
    pub scheme: Option<&'a [u8]>,
    /// All other headers.
    pub headers: CallFields<'a>,
    /// The body; Content-Length is its length.
    pub body: &'a [u8],
    /// Trailers; often none.
    pub trailers: CallFields<'a>,
    /// Longest that the whole call may take.
    pub timeout: Duration,
    /// Most bytes of the response: of its headers, and of its body. More is [`CallFailure::TooLarge`].
    pub most: usize,
}

/// A gRPC call that a guest makes.
#[derive(Debug, Clone, Copy)]
pub struct GrpcCall<'a> {
    /// Where to, as in [`HttpCall::upstream`].
    pub upstream: &'a [u8],
    /// Full name of the service.
    pub service: &'a [u8],
    /// Name of its method.
    pub method: &'a [u8],
    /// Metadata that goes first.
    pub metadata: CallFields<'a>,
    /// The one message, where the guest's side is just that; else messages follow through [`Calls::send`].
    pub message: Option<&'a [u8]>,
    /// Longest that the whole call may take, told to the other side as `grpc-timeout`; `None` for a stream, which lasts
    /// until one side ends it.
    pub timeout: Option<Duration>,
    /// Most bytes of one message that comes back, and of metadata.
    pub most: usize,
}

/// Headers or metadata of a call that a guest makes, without pseudo-headers, and without the fields that the connection
/// and the framing decide (`connection`, `content-length`, `transfer-encoding`, ...): those are the proxy's to send.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallFields<'a>(Pairs<'a>);

/// Fields that say how a message travels, not what it says (RFC 9110, 7.6.1; RFC 9113, 8.2.2).
const TRAVEL: [&[u8]; 8] = [
    b"connection",
    b"content-length",
    b"host",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
];

impl<'a> CallFields<'a> {
    /// What of `pairs` is sent as it is.
    #[must_use]
    pub fn new(pairs: Pairs<'a>) -> Self {
        Self(pairs)
    }

    /// Names, as the guest wrote them, and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let travels = |name: &[u8]| TRAVEL.iter().any(|field| name.eq_ignore_ascii_case(field));
        self.0.iter().filter(move |(name, _)| !name.starts_with(b":") && !travels(name))
    }
}

/// Why a call was not begun. The sentence goes to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The name leads nowhere: BAD_ARGUMENT, or PARSE_FAILURE for gRPC.
    #[error("{0}")]
    Unknown(Cow<'static, str>),
    /// The filter may not call that: answered like an unknown name.
    #[error("{0}")]
    Refused(Cow<'static, str>),
    /// There are too many calls, or no memory: INTERNAL_FAILURE.
    #[error("{0}")]
    Overloaded(Cow<'static, str>),
}

/// Why a call that was begun has failed. Guests read the word as property `call.error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallFailure {
    /// It took longer than its timeout.
    Timeout,
    /// Nobody accepts connections there.
    Connect,
    /// The connection was closed or reset before the response was complete.
    Reset,
    /// The name has no address, or the resolver did not say.
    Resolve,
    /// The TLS handshake failed, or the certificate did not hold.
    Tls,
    /// The response is larger than allowed.
    TooLarge,
    /// What came back is not HTTP (or gRPC).
    Protocol,
    /// The other side, or the proxy, which ends, has cancelled it.
    Cancelled,
    /// The name has led to an address that the filter may not call.
    Refused,
    /// No peer of the upstream is in service.
    Unavailable,
}

impl CallFailure {
    /// Every failure.
    pub const ALL: &'static [Self] = &[
        Self::Timeout,
        Self::Connect,
        Self::Reset,
        Self::Resolve,
        Self::Tls,
        Self::TooLarge,
        Self::Protocol,
        Self::Cancelled,
        Self::Refused,
        Self::Unavailable,
    ];

    /// The word that guests are given.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Resolve => "resolve",
            Self::Tls => "tls",
            Self::TooLarge => "too_large",
            Self::Protocol => "protocol",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }

    /// What guests of ngx_wasm_module know it by (its `ngx_wasm_socket_tcp.c`); the word where that has none.
    #[must_use]
    pub const fn dispatch_status(self) -> &'static str {
        match self {
            Self::Connect | Self::Reset | Self::Unavailable => "broken connection",
            Self::Resolve => "resolver failure",
            Self::Tls => "tls handshake failure",
            Self::TooLarge | Self::Protocol => "reader failure",
            Self::Timeout | Self::Cancelled | Self::Refused => self.word(),
        }
    }
}

/// What has become of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEvent {
    /// HTTP: the whole response.
    Response(Response),
    /// HTTP, or a name that was looked up: there is no answer.
    Failed(CallFailure),
    /// gRPC: initial metadata.
    InitialMetadata(Fields),
    /// gRPC: a message, without its frame. The proxy may let more come when [`Shard::called`] has returned.
    ///
    /// [`Shard::called`]: crate::shard::Shard::called
    Message(Bytes),
    /// gRPC: trailing metadata. [`Closed`](Self::Closed) follows.
    TrailingMetadata(Fields),
    /// gRPC: it is over.
    Closed(Closed),
    /// The addresses of a name, at least one.
    Resolved(Vec<IpAddr>),
}

impl CallEvent {
    /// Whether it is the last of its call: the token is free.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Response(_) | Self::Failed(_) | Self::Closed(_) | Self::Resolved(_))
    }
}

/// The response to an HTTP call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Headers, `:status` first; lower-case names.
    pub headers: Fields,
    /// The body, in the pieces that it came in.
    pub body: Vec<Bytes>,
    /// Trailers.
    pub trailers: Fields,
}

/// How a gRPC call ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closed {
    /// Its status: 0 is good. Where the other side gave none, what stands for the failure.
    pub status: u32,
    /// What was said about it (`grpc-message`, decoded).
    pub message: Vec<u8>,
    /// What failed here, where something did.
    pub failure: Option<CallFailure>,
}

#[cfg(test)]
mod tests {
    use super::{CallFailure, CallFields};
    use crate::abi::pairs::{Pairs, encode};

    #[test]
    fn what_the_connection_decides_is_not_the_guest_s() {
        let bytes = encode([
            (&b":path"[..], &b"/"[..]),
            (b"Content-Length", b"7"),
            (b"te", b"gzip"),
            (b"x-a", b"1"),
            (b"HOST", b"h"),
            (b"x-b", b"2"),
        ]);
        let pairs = Pairs::parse(&bytes).expect("well-formed");
        let kept: Vec<_> = CallFields::new(pairs).iter().collect();
        assert_eq!(kept, [(&b"x-a"[..], &b"1"[..]), (b"x-b", b"2")]);
    }

    #[test]
    fn failures_have_words_of_their_own() {
        let mut words: Vec<_> = CallFailure::ALL.iter().map(|failure| failure.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), CallFailure::ALL.len());
    }
}
