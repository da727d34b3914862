//! What one request offers to its stream contexts: maps, buffers, properties, the local response, resumption.

use std::borrow::Cow;

use super::{Bodies, Buffers, LogSink, Maps};
use crate::abi::{LocalHeaders, properties::Properties, types::StreamType};

/// One request. A cheap handle (a token or a counted reference), cloned at will; it must never reach memory that the
/// request no longer owns: once the request is gone every method answers with nothing.
pub trait StreamHost: LogSink + Maps + Buffers + Bodies + Clone + std::fmt::Debug + 'static {
    /// First segment of property paths that belong to the proxy itself (`ngx` for nginx).
    const NATIVE_PREFIX: &'static [u8];

    /// An attribute of the request, the response or the connection; `None` when there is none (yet).
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>>;

    /// The proxy's own variable `name` (the path without [`NATIVE_PREFIX`](Self::NATIVE_PREFIX)).
    fn native(&self, name: &[u8]) -> Option<Cow<'_, [u8]>>;

    /// Sets the proxy's own variable.
    ///
    /// # Errors
    /// [`StreamError::Refused`] when there is none of that name, or it cannot be written.
    fn set_native(&self, name: &[u8], value: &[u8]) -> Result<(), StreamError>;

    /// Lends the properties that filters have set on this stream; `None` when the stream is gone.
    fn with_properties<R>(&self, lend: impl FnOnce(&mut Properties) -> R) -> Option<R>;

    /// Records a response that the proxy sends, once the callback has returned, in place of any other.
    ///
    /// Everything in `response` is borrowed from the guest and has to be copied. Where the callback is none of this
    /// stream's chain, but one of another stream or of a root context, no verdict will say so: the proxy sees to it in
    /// an event of its own, and tells the chain ([`Chain::answer`](crate::chain::Chain::answer)).
    ///
    /// # Errors
    /// [`StreamError::TooLate`] when the response's headers have left.
    fn send_local_response(&self, response: &LocalResponse<'_>) -> Result<(), StreamError>;

    /// Forgets the local response that was recorded last: the callback that sent it has failed.
    fn withdraw_local_response(&self);

    /// Asks for what filter number `filter` holds in that direction to go on, once the callback has returned, from an
    /// event of its own ([`Chain::resume`](crate::chain::Chain::resume)). Nothing held: no error.
    ///
    /// # Errors
    /// [`StreamError`] when the stream has no such direction.
    fn resume(&self, stream: StreamType, filter: usize) -> Result<(), StreamError>;

    /// What [`resume`](Self::resume) has asked for is not to be done: that filter holds nothing of that direction, and what
    /// it holds next is not what was meant.
    fn withdraw_resume(&self, stream: StreamType, filter: usize);

    /// The stream has waited for an instance ([`Shard::wait`](crate::shard::Shard::wait)), and one may be free now: it
    /// tries again from an event of its own. False when the stream is gone.
    fn instance_free(&self) -> bool;

    /// Asks for the stream to be closed, once the callback has returned.
    ///
    /// # Errors
    /// [`StreamError`] when the stream has no such direction.
    fn close(&self, stream: StreamType) -> Result<(), StreamError>;
}

/// A response made by a filter (`proxy_send_local_response`).
#[derive(Debug, Clone, Copy)]
pub struct LocalResponse<'a> {
    /// HTTP status, 200 to 999 (checked by core).
    pub status: u16,
    /// Why, for the log; often empty.
    pub details: &'a [u8],
    /// The body; Content-Length is its length.
    pub body: &'a [u8],
    /// Headers to add; valid names and values (core has dropped others).
    pub headers: LocalHeaders<'a>,
    /// gRPC status, where the guest gave one.
    pub grpc_status: Option<u32>,
}

/// Why a request could not do what a filter asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The response's headers have left already.
    #[error("the response's headers have been sent")]
    TooLate,
    /// The proxy refuses it; the text says why.
    #[error("{0}")]
    Refused(&'static str),
    /// The stream is gone, or has no such part.
    #[error("the stream is gone")]
    Gone,
    /// The proxy has no memory for it.
    #[error("no memory")]
    NoMemory,
}

/// The value of an [`Attribute`]; core encodes it as the ABI wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Bytes as they are.
    Bytes(Cow<'a, [u8]>),
    /// 8 bytes, little-endian: sizes, ports, statuses, and nanoseconds of times and durations.
    Int(i64),
    /// 1 byte.
    Bool(bool),
}

/// Attributes that the proxy knows (`abi/properties.rs` has the paths that lead to them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Path and query as the client sent them.
    RequestPath,
    /// Path without the query.
    RequestUrlPath,
    /// Query without `?`.
    RequestQuery,
    /// Host header.
    RequestHost,
    /// `http` or `https`.
    RequestScheme,
    /// Method.
    RequestMethod,
    /// `HTTP/1.1` and the like.
    RequestProtocol,
    /// User-Agent header.
    RequestUserAgent,
    /// Referer header.
    RequestReferer,
    /// X-Request-Id header, else an identifier of the proxy's.
    RequestId,
    /// Start of the request, ns since the epoch.
    RequestTime,
    /// Time since the start, ns.
    RequestDuration,
    /// Bytes of the request's body.
    RequestSize,
    /// Bytes of the whole request.
    RequestTotalSize,
    /// Status of the response.
    ResponseCode,
    /// Why the response is as it is.
    ResponseCodeDetails,
    /// Flags of the response.
    ResponseFlags,
    /// Bytes of the response's body sent so far.
    ResponseSize,
    /// Bytes of the whole response sent so far.
    ResponseTotalSize,
    /// `grpc-status` of the response.
    ResponseGrpcStatus,
    /// Time the upstream took, ns.
    ResponseBackendLatency,
    /// The client, `address:port`.
    SourceAddress,
    /// The client's port.
    SourcePort,
    /// The address the client reached, `address:port`.
    DestinationAddress,
    /// The port the client reached.
    DestinationPort,
    /// Number of the connection.
    ConnectionId,
    /// Whether the client's certificate was verified.
    ConnectionMtls,
    /// Server name of the TLS handshake.
    ConnectionRequestedServerName,
    /// TLS version.
    ConnectionTlsVersion,
    /// Subject of our certificate.
    ConnectionSubjectLocalCertificate,
    /// Subject of the client's certificate.
    ConnectionSubjectPeerCertificate,
    /// DNS name of our certificate.
    ConnectionDnsSanLocalCertificate,
    /// DNS name of the client's certificate.
    ConnectionDnsSanPeerCertificate,
    /// URI of our certificate.
    ConnectionUriSanLocalCertificate,
    /// URI of the client's certificate.
    ConnectionUriSanPeerCertificate,
    /// SHA-256 of the client's certificate, hexadecimal.
    ConnectionSha256PeerCertificateDigest,
    /// The upstream peer, `address:port`.
    UpstreamAddress,
    /// The upstream peer's port.
    UpstreamPort,
    /// Our address on the upstream connection.
    UpstreamLocalAddress,
    /// TLS version of the upstream connection.
    UpstreamTlsVersion,
    /// Subject of the certificate shown to the upstream.
    UpstreamSubjectLocalCertificate,
    /// Subject of the upstream's certificate.
    UpstreamSubjectPeerCertificate,
    /// DNS name of the certificate shown to the upstream.
    UpstreamDnsSanLocalCertificate,
    /// DNS name of the upstream's certificate.
    UpstreamDnsSanPeerCertificate,
    /// URI of the certificate shown to the upstream.
    UpstreamUriSanLocalCertificate,
    /// URI of the upstream's certificate.
    UpstreamUriSanPeerCertificate,
    /// SHA-256 of the upstream's certificate, hexadecimal.
    UpstreamSha256PeerCertificateDigest,
    /// Why the upstream could not be reached.
    UpstreamTransportFailureReason,
    /// Name of the upstream.
    ClusterName,
    /// Name of the location.
    RouteName,
    /// Name of the machine.
    NodeId,
}
