//! Properties: paths to attributes of the stream, and what filters set themselves.

use std::{borrow::Cow, fmt::Display, sync::Arc};

use wasmtime::Caller;

use super::{
    maps,
    memory::{give, parts, slice},
    status::{Hostcall, Status},
    types::MapType,
};
use crate::{
    engine::limits::{MAX_PROPERTIES, MAX_PROPERTY_PATH, MAX_PROPERTY_VALUE},
    host::{Attribute, Host, Maps, StreamError, StreamHost, Value},
    instance::State,
    plan::{Declaration, DeclaredHere, Undeclared},
};

/// `listener_direction` of Envoy's: inbound. Filters here see what clients ask for.
const INBOUND: i64 = 1;

/// Where Envoy's filters find what was set under a name of its own: `filter_state`, and this before the name.
const SET_BY_FILTERS: &[u8] = b"filter_state\0wasm.";

/// Properties that the filters of one stream have set, by path.
#[derive(Debug, Default)]
pub struct Properties {
    entries: Vec<Entry>,
    declared: DeclaredHere,
}

#[derive(Debug)]
struct Entry {
    path: Vec<u8>,
    value: Vec<u8>,
    read_only: bool,
}

/// Why a property was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSet {
    /// It is read-only, and has a value.
    #[error("it can be set once only")]
    ReadOnly,
    /// A bound of `engine/limits.rs` forbids it.
    #[error("too many, or too large")]
    NoRoom,
}

impl Properties {
    /// The value that was set for `path` (segments separated by NUL).
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.entries.iter().find(|entry| entry.path == path).map(|entry| &entry.value[..])
    }

    /// A context of the stream says of a property what it will be.
    pub(crate) fn declare(&mut self, declaration: &Declaration<'_>) -> Result<(), Undeclared> {
        self.declared.declare(declaration)
    }

    /// The value that a guest reads under `path`: what was set for it, and, as in Envoy, what was set for `NAME` under
    /// `filter_state` and `wasm.NAME`.
    fn read(&self, path: &[u8]) -> Option<&[u8]> {
        self.get(path).or_else(|| self.get(path.strip_prefix(SET_BY_FILTERS)?))
    }

    /// Sets `path` to `value`. If `read_only` says so, or a context of the stream has declared it, nobody sets it again.
    ///
    /// # Errors
    /// [`NotSet`].
    pub fn set(&mut self, path: &[u8], value: &[u8], read_only: bool) -> Result<(), NotSet> {
        if path.len() > MAX_PROPERTY_PATH || value.len() > MAX_PROPERTY_VALUE {
            return Err(NotSet::NoRoom);
        }
        if let Some(old) = self.entries.iter_mut().find(|entry| entry.path == path) {
            if old.read_only {
                return Err(NotSet::ReadOnly);
            }
            old.value.clear();
            old.value.extend_from_slice(value);
            return Ok(());
        }
        if self.entries.len() >= MAX_PROPERTIES {
            return Err(NotSet::NoRoom);
        }
        let read_only = read_only || self.declared.is_read_only(path);
        self.entries.push(Entry { path: path.to_vec(), value: value.to_vec(), read_only });
        Ok(())
    }

    /// Forgets everything: the stream has ended, its record is used again.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.declared.clear();
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// An attribute that the proxy knows.
    Attribute(Attribute),
    /// A header of the request or response: `request.headers.NAME`.
    Header(MapType, &'a [u8]),
    /// A whole map: `request.headers`.
    Map(MapType),
    /// The name of the filter.
    PluginName,
    /// Bytes of the instance's memory.
    PluginVmMemory,
    /// The root id of the directive.
    PluginRootId,
    /// The vm_id of the module.
    PluginVmId,
    /// Which side of the proxy filters are on.
    ListenerDirection,
    /// A variable of the proxy's own: `ngx.NAME`.
    Native(&'a [u8]),
    /// The word for why the call has failed that the callback is told of.
    CallError,
    /// Whatever a filter has set.
    Stored,
}

/// Brings a path into its one form: segments separated by NUL, no trailing NUL. A path without any NUL may be dotted.
///
/// Only for paths whose first segment has a meaning here: a dotted path that nobody knows stays as it is, so that what
/// was set under it is found under it.
#[must_use]
pub fn normalize<'a>(path: &'a [u8], native_prefix: &[u8]) -> Cow<'a, [u8]> {
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    if path.contains(&0) || !path.contains(&b'.') {
        return Cow::Borrowed(path);
    }
    let first = path.split(|byte| *byte == b'.').next().unwrap_or_default();
    let limit = match first {
        // A header's name may hold dots: `request.headers.x.y`.
        b"request" | b"response" => 3,
        b"source" | b"destination" | b"connection" | b"upstream" | b"node" | b"call" | b"filter_state" => 2,
        first if first == native_prefix => 2,
        _ => return Cow::Borrowed(path),
    };
    let mut parts = path.splitn(limit, |byte| *byte == b'.');
    let mut joined = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        joined.push(0);
        joined.extend_from_slice(part);
    }
    Cow::Owned(joined)
}

/// The attributes and the paths that lead to them (Envoy's "Attributes", which every SDK documents).
pub(super) const ATTRIBUTES: &[(&str, Attribute)] = &[
    ("request.path", Attribute::RequestPath),
    ("request.url_path", Attribute::RequestUrlPath),
    ("request.query", Attribute::RequestQuery),
    ("request.host", Attribute::RequestHost),
    ("request.scheme", Attribute::RequestScheme),
    ("request.method", Attribute::RequestMethod),
    ("request.protocol", Attribute::RequestProtocol),
    ("request.useragent", Attribute::RequestUserAgent),
    ("request.referer", Attribute::RequestReferer),
    ("request.id", Attribute::RequestId),
    ("request.time", Attribute::RequestTime),
    ("request.duration", Attribute::RequestDuration),
    ("request.size", Attribute::RequestSize),
    ("request.total_size", Attribute::RequestTotalSize),
    ("response.code", Attribute::ResponseCode),
    ("response.code_details", Attribute::ResponseCodeDetails),
    ("response.flags", Attribute::ResponseFlags),
    ("response.size", Attribute::ResponseSize),
    ("response.total_size", Attribute::ResponseTotalSize),
    ("response.grpc_status", Attribute::ResponseGrpcStatus),
    ("response.backend_latency", Attribute::ResponseBackendLatency),
    ("source.address", Attribute::SourceAddress),
    ("source.port", Attribute::SourcePort),
    ("destination.address", Attribute::DestinationAddress),
    ("destination.port", Attribute::DestinationPort),
    ("connection.id", Attribute::ConnectionId),
    ("connection.mtls", Attribute::ConnectionMtls),
    ("connection.requested_server_name", Attribute::ConnectionRequestedServerName),
    ("connection.tls_version", Attribute::ConnectionTlsVersion),
    ("connection.subject_local_certificate", Attribute::ConnectionSubjectLocalCertificate),
    ("connection.subject_peer_certificate", Attribute::ConnectionSubjectPeerCertificate),
    ("connection.dns_san_local_certificate", Attribute::ConnectionDnsSanLocalCertificate),
    ("connection.dns_san_peer_certificate", Attribute::ConnectionDnsSanPeerCertificate),
    ("connection.uri_san_local_certificate", Attribute::ConnectionUriSanLocalCertificate),
    ("connection.uri_san_peer_certificate", Attribute::ConnectionUriSanPeerCertificate),
    ("connection.sha256_peer_certificate_digest", Attribute::ConnectionSha256PeerCertificateDigest),
    ("upstream.address", Attribute::UpstreamAddress),
    ("upstream.port", Attribute::UpstreamPort),
    ("upstream.local_address", Attribute::UpstreamLocalAddress),
    ("upstream.tls_version", Attribute::UpstreamTlsVersion),
    ("upstream.subject_local_certificate", Attribute::UpstreamSubjectLocalCertificate),
    ("upstream.subject_peer_certificate", Attribute::UpstreamSubjectPeerCertificate),
    ("upstream.dns_san_local_certificate", Attribute::UpstreamDnsSanLocalCertificate),
    ("upstream.dns_san_peer_certificate", Attribute::UpstreamDnsSanPeerCertificate),
    ("upstream.uri_san_local_certificate", Attribute::UpstreamUriSanLocalCertificate),
    ("upstream.uri_san_peer_certificate", Attribute::UpstreamUriSanPeerCertificate),
    ("upstream.sha256_peer_certificate_digest", Attribute::UpstreamSha256PeerCertificateDigest),
    ("upstream.transport_failure_reason", Attribute::UpstreamTransportFailureReason),
    ("cluster_name", Attribute::ClusterName),
    ("route_name", Attribute::RouteName),
    ("node.id", Attribute::NodeId),
];

/// What a path in its one form ([`normalize`]) leads to.
#[must_use]
pub fn resolve<'a>(path: &'a [u8], native_prefix: &[u8]) -> Target<'a> {
    let (first, rest) = match path.iter().position(|byte| *byte == 0) {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    };
    match (first, rest) {
        (b"plugin_name", None) => return Target::PluginName,
        (b"plugin_root_id", None) => return Target::PluginRootId,
        (b"plugin_vm_id", None) => return Target::PluginVmId,
        // Higress's, whose SDK logs an error where it is not there.
        (b"plugin_vm_memory", None) => return Target::PluginVmMemory,
        (b"listener_direction", None) => return Target::ListenerDirection,
        // Envoy has it under both names.
        (b"connection_id", None) => return Target::Attribute(Attribute::ConnectionId),
        (b"call", Some(b"error")) => return Target::CallError,
        (prefix, Some(name)) if prefix == native_prefix => return Target::Native(name),
        (b"request", Some(rest)) => {
            if let Some(target) = map_target(MapType::HttpRequestHeaders, b"headers", rest) {
                return target;
            }
        }
        (b"response", Some(rest)) => {
            let headers = map_target(MapType::HttpResponseHeaders, b"headers", rest);
            let trailers = || map_target(MapType::HttpResponseTrailers, b"trailers", rest);
            if let Some(target) = headers.or_else(trailers) {
                return target;
            }
        }
        _ => {}
    }
    let leads_here = |dotted: &str| {
        dotted.len() == path.len() && dotted.bytes().zip(path).all(|(a, b)| a == *b || (a == b'.' && *b == 0))
    };
    ATTRIBUTES
        .iter()
        .find(|(dotted, _)| leads_here(dotted))
        .map_or(Target::Stored, |(_, attribute)| Target::Attribute(*attribute))
}

fn map_target<'a>(map: MapType, word: &[u8], rest: &'a [u8]) -> Option<Target<'a>> {
    match rest.strip_prefix(word)? {
        [] => Some(Target::Map(map)),
        [0, name @ ..] => Some(Target::Header(map, name)),
        _ => None,
    }
}

pub(super) fn get_property<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    path: i32,
    path_size: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let stream = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    let memory_size = i64::try_from(memory.len()).unwrap_or(i64::MAX);
    let path = slice(memory, path, path_size)?;
    if path.len() > MAX_PROPERTY_PATH {
        return Err(Status::NotFound.into());
    }
    let path = normalize(path, H::Stream::NATIVE_PREFIX);
    let target = resolve(&path, H::Stream::NATIVE_PREFIX);
    let (filter, plugin);
    let value = match (target, &stream) {
        (Target::PluginName, _) => {
            filter = Arc::clone(&state.filter);
            Value::Bytes(Cow::Borrowed(filter.spec().name.as_bytes()))
        }
        (Target::PluginVmId, _) => {
            filter = Arc::clone(&state.filter);
            Value::Bytes(Cow::Borrowed(filter.spec().vm_id.as_bytes()))
        }
        (Target::PluginRootId, _) => {
            plugin = Arc::clone(state.contexts.effective_plugin().ok_or(Status::NotFound)?);
            Value::Bytes(Cow::Borrowed(plugin.root_id.as_bytes()))
        }
        (Target::CallError, _) => {
            let failure = state.answer.as_ref().and_then(|answer| answer.failure());
            Value::Bytes(Cow::Borrowed(failure.ok_or(Status::NotFound)?.word().as_bytes()))
        }
        (Target::PluginVmMemory, _) => Value::Int(memory_size),
        (Target::ListenerDirection, _) => Value::Int(INBOUND),
        (_, None) => return Err(Status::NotFound.into()),
        (Target::Attribute(attribute), Some(stream)) => {
            stream.attribute(attribute).ok_or(Status::NotFound)?
        }
        (Target::Header(map, name), Some(stream)) => {
            Value::Bytes(stream.value(map, name).ok_or(Status::NotFound)?)
        }
        (Target::Map(map), Some(stream)) if stream.has_map(map) => {
            Value::Bytes(Cow::Owned(maps::serialize(stream, map)))
        }
        (Target::Map(_), Some(_)) => return Err(Status::NotFound.into()),
        (Target::Native(name), Some(stream)) => Value::Bytes(stream.native(name).ok_or(Status::NotFound)?),
        (Target::Stored, Some(stream)) => {
            let stored = stream.with_properties(|stored| stored.read(&path).map(<[u8]>::to_vec)).flatten();
            Value::Bytes(Cow::Owned(stored.ok_or(Status::NotFound)?))
        }
    };
    // As SDKs expect it: integers as 8 bytes little-endian, booleans as 1 byte.
    match value {
        Value::Bytes(bytes) => give(caller, &bytes, return_data, return_size),
        Value::Int(number) => give(caller, &number.to_le_bytes(), return_data, return_size),
        Value::Bool(truth) => give(caller, &[u8::from(truth)], return_data, return_size),
    }
}

/// Bytes of a path that a line of the log shows.
const SHOWN: usize = 128;

pub(super) fn set_property<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    path: i32,
    path_size: i32,
    value: i32,
    value_size: i32,
) -> Hostcall {
    let stream = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    let path = slice(memory, path, path_size)?;
    let value = slice(memory, value, value_size)?;
    let refuse = |state: &State<H>, why: &dyn Display, status| -> Hostcall {
        let shown = path.get(..SHOWN).unwrap_or(path).escape_ascii();
        state.warn(&format!("property \"{shown}\" was not set: {why}"));
        Ok(state.refused_property(status)?)
    };
    if path.is_empty() || path.len() > MAX_PROPERTY_PATH {
        let why = format!("its path has {} bytes, which should be 1 to {MAX_PROPERTY_PATH}", path.len());
        return refuse(state, &why, Status::BadArgument);
    }
    let Some(stream) = stream else {
        return refuse(state, &"there is no request that it would belong to", Status::NotFound);
    };
    let path = normalize(path, H::Stream::NATIVE_PREFIX);
    if let Target::Native(name) = resolve(&path, H::Stream::NATIVE_PREFIX) {
        return stream.set_native(name, value).or_else(|error| refuse(state, &error, Status::NotFound));
    }
    let plugin = state.contexts.effective_plugin();
    let read_only = plugin.is_some_and(|plugin| plugin.declared.is_read_only(&path));
    match stream.with_properties(|stored| stored.set(&path, value, read_only)) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => {
            let status =
                if error == NotSet::ReadOnly { Status::BadArgument } else { Status::InternalFailure };
            refuse(state, &error, status)
        }
        None => refuse(state, &StreamError::Gone, Status::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::{ATTRIBUTES, NotSet, Properties, Target, normalize, resolve};
    use crate::{
        abi::types::MapType,
        engine::limits::{MAX_PROPERTIES, MAX_PROPERTY_VALUE},
        host::Attribute,
    };

    fn target(path: &[u8]) -> String {
        let path = normalize(path, b"ngx");
        format!("{:?}", resolve(&path, b"ngx"))
    }

    #[test]
    fn dots_and_nuls_separate_alike() {
        for path in [&b"request\0path"[..], b"request.path", b"request\0path\0"] {
            assert_eq!(target(path), format!("{:?}", Target::Attribute(Attribute::RequestPath)));
        }
        assert_eq!(
            target(b"request.headers.x.y"),
            format!("{:?}", Target::Header(MapType::HttpRequestHeaders, b"x.y"))
        );
        assert_eq!(target(b"ngx.arg_a.b"), format!("{:?}", Target::Native(b"arg_a.b")));
        assert_eq!(target(b"my.own"), "Stored");
        assert_eq!(target(b"request"), "Stored");
        assert_eq!(target(b"request\0headersx"), "Stored");
    }

    #[test]
    fn every_attribute_has_one_path() {
        for (path, attribute) in ATTRIBUTES {
            assert_eq!(target(path.as_bytes()), format!("{:?}", Target::Attribute(*attribute)));
        }
        let mut seen: Vec<_> = ATTRIBUTES.iter().map(|(_, attribute)| format!("{attribute:?}")).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), ATTRIBUTES.len());
    }

    #[test]
    fn stored_properties_are_bounded() {
        let mut stored = Properties::default();
        let set = |stored: &mut Properties, path: &[u8], value: &[u8]| stored.set(path, value, false);
        assert_eq!((set(&mut stored, b"a", b"1"), set(&mut stored, b"a", b"2")), (Ok(()), Ok(())));
        assert_eq!(stored.get(b"a"), Some(&b"2"[..]));
        assert_eq!(set(&mut stored, b"big", &vec![0; MAX_PROPERTY_VALUE + 1]), Err(NotSet::NoRoom));
        for number in 1..MAX_PROPERTIES {
            set(&mut stored, format!("p{number}").as_bytes(), b"").expect("room");
        }
        assert_eq!(set(&mut stored, b"one more", b""), Err(NotSet::NoRoom));
        stored.clear();
        assert_eq!(stored.get(b"a"), None);
    }
}
