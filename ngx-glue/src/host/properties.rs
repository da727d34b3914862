//! Attributes of a request, its response and its connections (docs/ABI.md has the paths that lead to them).

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use weir_core::host::{Attribute, Value};

use crate::{
    ngx::{
        headers_in::{HeadersIn, decimal},
        headers_out::HeadersOut,
        list::Field,
        request::{Part, Request},
        tls::Tls,
        upstream::{PeerFailure, Upstream},
        variable,
    },
    stream::StreamIo,
};

/// The value of `attribute`; `None` when there is none, or none yet.
pub(super) fn attribute<'a>(
    io: &'a StreamIo,
    request: Request<'a>,
    attribute: Attribute,
) -> Option<Value<'a>> {
    use Attribute as A;
    match attribute {
        // That of a subrequest is its main request's.
        A::RequestPath if !request.is_main() => bytes(request.target()),
        A::RequestPath => bytes(request.part(Part::UnparsedUri)),
        A::RequestUrlPath => bytes(request.part(Part::Uri)),
        A::RequestQuery => bytes(request.part(Part::Args)),
        A::RequestHost => bytes(HeadersIn::of(request).authority()),
        A::RequestScheme => bytes(super::request_headers::scheme(request)),
        A::RequestMethod => bytes(request.part(Part::Method)),
        A::RequestProtocol => bytes(request.part(Part::Protocol)),
        A::RequestUserAgent => header(request, b"user-agent"),
        A::RequestReferer => header(request, b"referer"),
        A::RequestId => header(request, b"x-request-id").or_else(|| variable(request, b"request_id")),
        A::RequestTime => nanoseconds(started(request)),
        A::RequestDuration => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            nanoseconds(now.saturating_sub(started(request)))
        }
        A::RequestSize => Some(Value::Int(request.body_length().max(0))),
        A::RequestTotalSize => Some(Value::Int(request.length())),
        A::ResponseCode => match HeadersOut::of(request).status() {
            0 => None,
            status => int(status),
        },
        A::ResponseCodeDetails => match io.details() {
            [] => {
                Upstream::of(request).filter(|peer| peer.has_responded()).and_then(|_| bytes(b"via_upstream"))
            }
            details => bytes(details),
        },
        // `$body_bytes_sent`.
        A::ResponseSize => {
            let sent = request.connection().sent().saturating_sub(request.response_header_size());
            Some(Value::Int(sent.max(0)))
        }
        A::ResponseTotalSize => Some(Value::Int(request.connection().sent())),
        A::ResponseGrpcStatus => {
            let out = HeadersOut::of(request);
            let mut fields = out.trailers().named(b"grpc-status").chain(out.list().named(b"grpc-status"));
            decimal(fields.next()?.value()).map(Value::Int)
        }
        A::ResponseBackendLatency => {
            nanoseconds(Duration::from_millis(Upstream::of(request)?.response_time()?))
        }
        A::SourceAddress => bytes(request.connection().remote_text(request)?),
        A::SourcePort => int(request.connection().remote_port()?),
        A::DestinationAddress => bytes(request.connection().local_text(request)?),
        A::DestinationPort => int(request.connection().local_port()?),
        A::ConnectionId => int(request.connection().number()),
        A::ConnectionMtls => {
            let verified = variable::get(request, b"ssl_client_verify") == Some(b"SUCCESS");
            Some(Value::Bool(verified))
        }
        A::ConnectionRequestedServerName => variable(request, b"ssl_server_name"),
        A::ConnectionTlsVersion => variable(request, b"ssl_protocol"),
        A::UpstreamAddress => bytes(Upstream::of(request)?.address()?),
        A::UpstreamPort => port(Upstream::of(request)?.address()?).and_then(int),
        A::ClusterName => match Upstream::of(request).and_then(Upstream::name) {
            Some(name) => bytes(name),
            None => variable(request, b"proxy_host"),
        },
        A::RouteName => Some(request.location_name()).filter(|name| !name.is_empty()).and_then(bytes),
        A::ResponseFlags => Some(Value::Int(flags(request))),
        A::UpstreamTransportFailureReason => bytes(match Upstream::of(request)?.failure()? {
            PeerFailure::Connection => b"connection failure",
            PeerFailure::ConnectionTimeout => b"connection timeout",
            PeerFailure::Termination => b"connection termination",
            PeerFailure::ResponseTimeout => return None,
        }),
        A::NodeId => variable(request, b"hostname"),
        A::ConnectionSubjectLocalCertificate => bytes(downstream(request)?.local()?.subject(request)?),
        A::ConnectionSubjectPeerCertificate => bytes(downstream(request)?.peer()?.subject(request)?),
        A::ConnectionDnsSanLocalCertificate => bytes(downstream(request)?.local()?.dns_name(request)?),
        A::ConnectionDnsSanPeerCertificate => bytes(downstream(request)?.peer()?.dns_name(request)?),
        A::ConnectionUriSanLocalCertificate => bytes(downstream(request)?.local()?.uri(request)?),
        A::ConnectionUriSanPeerCertificate => bytes(downstream(request)?.peer()?.uri(request)?),
        A::ConnectionSha256PeerCertificateDigest => bytes(downstream(request)?.peer()?.digest(request)?),
        A::UpstreamLocalAddress => bytes(Upstream::of(request)?.connection()?.local_text(request)?),
        A::UpstreamTlsVersion => bytes(upstream(request)?.version()),
        A::UpstreamSubjectLocalCertificate => bytes(upstream(request)?.local()?.subject(request)?),
        A::UpstreamSubjectPeerCertificate => bytes(upstream(request)?.peer()?.subject(request)?),
        A::UpstreamDnsSanLocalCertificate => bytes(upstream(request)?.local()?.dns_name(request)?),
        A::UpstreamDnsSanPeerCertificate => bytes(upstream(request)?.peer()?.dns_name(request)?),
        A::UpstreamUriSanLocalCertificate => bytes(upstream(request)?.local()?.uri(request)?),
        A::UpstreamUriSanPeerCertificate => bytes(upstream(request)?.peer()?.uri(request)?),
        A::UpstreamSha256PeerCertificateDigest => bytes(upstream(request)?.peer()?.digest(request)?),
    }
}

/// TLS of the client's connection.
fn downstream(request: Request<'_>) -> Option<Tls<'_>> {
    Tls::of(request.connection())
}

/// TLS of the connection to the upstream, while it is open.
fn upstream(request: Request<'_>) -> Option<Tls<'_>> {
    Tls::of(Upstream::of(request)?.connection()?)
}

/// Envoy's response flags, as far as nginx has the like (`envoy/stream_info/stream_info.h`).
fn flags(request: Request<'_>) -> i64 {
    const UPSTREAM_REQUEST_TIMEOUT: i64 = 0x4;
    const UPSTREAM_CONNECTION_FAILURE: i64 = 0x20;
    const UPSTREAM_CONNECTION_TERMINATION: i64 = 0x40;
    const RATE_LIMITED: i64 = 0x800;
    const DOWNSTREAM_CONNECTION_TERMINATION: i64 = 0x4000;
    let upstream = match Upstream::of(request).and_then(Upstream::failure) {
        None => 0,
        Some(PeerFailure::Connection | PeerFailure::ConnectionTimeout) => UPSTREAM_CONNECTION_FAILURE,
        Some(PeerFailure::Termination) => UPSTREAM_CONNECTION_TERMINATION,
        Some(PeerFailure::ResponseTimeout) => UPSTREAM_REQUEST_TIMEOUT,
    };
    let rejects = |name: &[u8]| variable::get(request, name) == Some(b"REJECTED");
    let limited =
        if rejects(b"limit_req_status") || rejects(b"limit_conn_status") { RATE_LIMITED } else { 0 };
    let gone = if request.connection().is_broken() { DOWNSTREAM_CONNECTION_TERMINATION } else { 0 };
    upstream | limited | gone
}

#[expect(clippy::unnecessary_wraps, reason = "the arms of one match answer alike")]
fn bytes(value: &[u8]) -> Option<Value<'_>> {
    Some(Value::Bytes(Cow::Borrowed(value)))
}

fn int<'a>(value: impl TryInto<i64>) -> Option<Value<'a>> {
    value.try_into().ok().map(Value::Int)
}

fn nanoseconds<'a>(time: Duration) -> Option<Value<'a>> {
    int(time.as_nanos())
}

fn header<'a>(request: Request<'a>, name: &[u8]) -> Option<Value<'a>> {
    HeadersIn::of(request).list().named(name).next().map(Field::value).and_then(bytes)
}

fn variable<'a>(request: Request<'a>, name: &[u8]) -> Option<Value<'a>> {
    variable::get(request, name).filter(|value| !value.is_empty()).and_then(bytes)
}

/// When the request began, since 1970.
fn started(request: Request<'_>) -> Duration {
    let (seconds, milliseconds) = request.started();
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default()) + Duration::from_millis(milliseconds)
}

/// The port of `address:port`; `None` for a Unix socket.
fn port(address: &[u8]) -> Option<i64> {
    if address.starts_with(b"unix:") {
        return None;
    }
    let colon = address.iter().rposition(|byte| *byte == b':')?;
    decimal(address.get(colon + 1..)?)
}

#[cfg(test)]
mod tests {
    use super::port;

    #[test]
    fn a_port_follows_the_last_colon() {
        assert_eq!(port(b"127.0.0.1:8080"), Some(8080));
        assert_eq!(port(b"[::1]:80"), Some(80));
        assert_eq!(port(b"unix:/run/x:1"), None);
        assert_eq!(port(b"127.0.0.1"), None);
    }
}
