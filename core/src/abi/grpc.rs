//! gRPC calls out: `proxy_grpc_call`, `proxy_grpc_stream`, `proxy_grpc_send`, `proxy_grpc_cancel`, `proxy_grpc_close`.
//!
//! A call has one message each way, and its guest is told once: `on_grpc_receive` of the message, or `on_grpc_close` of
//! the failure. A stream's guest is told of everything, and last of `on_grpc_close`. So it is in Envoy.

use wasmtime::Caller;

use super::{
    calls::{check, is_visible, not_made, timeout},
    memory::{parts, put_u32, range, slice},
    pairs::Pairs,
    proto,
    status::{Hostcall, Status},
    types::MapType,
};
use crate::{
    calls::Kind,
    host::{
        Calls, Host,
        calls::{CallError, CallFields, CallToken, GrpcCall},
    },
    instance::State,
};

/// A pointer and a size.
type Range = (i32, i32);

#[allow(clippy::too_many_arguments, reason = "the ABI's own list")]
pub(super) fn grpc_call<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    upstream: i32,
    upstream_size: i32,
    service: i32,
    service_size: i32,
    method: i32,
    method_size: i32,
    metadata: i32,
    metadata_size: i32,
    message: i32,
    message_size: i32,
    milliseconds: i32,
    return_call: i32,
) -> Hostcall {
    let target = [(upstream, upstream_size), (service, service_size), (method, method_size)];
    begin(
        caller,
        target,
        (metadata, metadata_size),
        Some(((message, message_size), milliseconds)),
        return_call,
    )
}

#[allow(clippy::too_many_arguments, reason = "the ABI's own list")]
pub(super) fn grpc_stream<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    upstream: i32,
    upstream_size: i32,
    service: i32,
    service_size: i32,
    method: i32,
    method_size: i32,
    metadata: i32,
    metadata_size: i32,
    return_stream: i32,
) -> Hostcall {
    let target = [(upstream, upstream_size), (service, service_size), (method, method_size)];
    begin(caller, target, (metadata, metadata_size), None, return_stream)
}

/// Begins a call with its message and timeout, or, without them, a stream.
fn begin<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    target: [Range; 3],
    metadata: Range,
    unary: Option<(Range, i32)>,
    return_call: i32,
) -> Hostcall {
    // Not below the guest's allocator.
    let _ = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    range(memory.len(), return_call, 4)?;
    let [upstream, service, method] = target;
    let upstream = slice(memory, upstream.0, upstream.1)?;
    let service = slice(memory, service.0, service.1)?;
    let method = slice(memory, method.0, method.1)?;
    let metadata = Pairs::parse(slice(memory, metadata.0, metadata.1)?)?;
    let message = match unary {
        Some((message, _)) => Some(slice(memory, message.0, message.1)?),
        None => None,
    };
    let upstream = upstream_name(upstream);
    let call = GrpcCall {
        upstream,
        service,
        method,
        metadata: CallFields::new(metadata),
        message,
        timeout: unary.map(|(_, milliseconds)| timeout(state, milliseconds)),
        most: state.filter.engine().settings().limits.call_response,
    };
    let kind = if message.is_some() { Kind::Unary(None) } else { Kind::Stream { open: true } };
    let is_name = |name: &[u8]| is_visible(name) && !name.contains(&b'/');
    let made = check(MapType::HttpRequestTrailers, metadata).and_then(|()| {
        if !is_name(service) || !is_name(method) {
            return Err(CallError::Refused("its service or method is no name".into()));
        }
        state.begin_call(kind, upstream, |root, token, by| root.grpc(token, by, &call))
    });
    // As Envoy says of an upstream that it does not know.
    let token = made.map_err(|error| not_made(state, upstream, &error, Status::ParseFailure))?;
    put_u32(caller, return_call, token.number())
}

/// Envoy's filters may give a serialized `envoy.config.core.v3.GrpcService` where others give a name: the name of its
/// cluster, or the URI of its target.
fn upstream_name(given: &[u8]) -> &[u8] {
    let named = |service| proto::bytes(proto::bytes(given, service)?, 1).filter(|name| !name.is_empty());
    // A name does not begin with the tag of such a field: a newline, or a control character.
    match given.first() {
        Some(b'\n') => named(1).unwrap_or(given),
        Some(0x12) => named(2).unwrap_or(given),
        _ => given,
    }
}

/// What may be done to the sending side of a stream.
enum Sending {
    Open,
    Closed,
    /// It is no stream.
    Other,
}

pub(super) fn grpc_send<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    stream: i32,
    message: i32,
    message_size: i32,
    end_of_stream: i32,
) -> Hostcall {
    let _ = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    let message = slice(memory, message, message_size)?;
    let token = CallToken::new(stream.cast_unsigned());
    if state.is_rehearsed(token) {
        return Ok(());
    }
    let sending = state.call_kind(token, |kind| match kind {
        Kind::Stream { open: true } => Sending::Open,
        Kind::Stream { open: false } => Sending::Closed,
        _ => Sending::Other,
    });
    match sending {
        None => return Err(Status::NotFound.into()),
        Some(Sending::Closed | Sending::Other) => return Err(Status::BadArgument.into()),
        Some(Sending::Open) => {}
    }
    let last = end_of_stream != 0;
    if let Err(error) = state.root.send(token, message, last) {
        state.warn(&format!("a message on gRPC stream {token} was not sent: {error}"));
        // The Rust SDK panics at any status but BAD_ARGUMENT and NOT_FOUND.
        return Err(state.surviving(Status::InternalFailure, Status::BadArgument).into());
    }
    if last {
        close_sending(state, token);
    }
    Ok(())
}

fn close_sending<H: Host>(state: &State<H>, token: CallToken) {
    state.call_kind(token, |kind| *kind = Kind::Stream { open: false });
}

/// A gRPC call or stream is reset; its guest is told nothing more.
pub(super) fn grpc_cancel<H: Host>(caller: &mut Caller<'_, State<H>>, call: i32) -> Hostcall {
    end(caller, call, |state, token, _| state.cancel_call(token))
}

/// The guest's side of a stream is closed. A call, which has no such side, is cancelled.
pub(super) fn grpc_close<H: Host>(caller: &mut Caller<'_, State<H>>, call: i32) -> Hostcall {
    end(caller, call, |state, token, sending| match sending {
        Sending::Open => {
            state.root.close(token);
            close_sending(state, token);
        }
        Sending::Closed => {}
        Sending::Other => state.cancel_call(token),
    })
}

fn end<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    call: i32,
    how: impl FnOnce(&mut State<H>, CallToken, Sending),
) -> Hostcall {
    let _ = caller.data().stream()?;
    let state = caller.data_mut();
    let token = CallToken::new(call.cast_unsigned());
    if state.is_rehearsed(token) {
        return Ok(());
    }
    let sending = state.call_kind(token, |kind| match kind {
        Kind::Stream { open: true } => Some(Sending::Open),
        Kind::Stream { open: false } => Some(Sending::Closed),
        Kind::Unary(_) => Some(Sending::Other),
        Kind::Http | Kind::Lookup => None,
    });
    match sending {
        Some(Some(sending)) => {
            how(state, token, sending);
            Ok(())
        }
        // The Rust SDK panics at any status but OK and NOT_FOUND.
        Some(None) => Err(state.surviving(Status::BadArgument, Status::NotFound).into()),
        // It has ended meanwhile. Methods of the Rust SDK's contexts panic at NOT_FOUND, too.
        None if state.filter.panics_on_status() => Ok(()),
        None => Err(Status::NotFound.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::upstream_name;

    #[test]
    fn envoy_s_message_names_an_upstream() {
        assert_eq!(upstream_name(b"plain"), b"plain");
        assert_eq!(upstream_name(b"\x0a\x06\x0a\x04name"), b"name");
        assert_eq!(upstream_name(b"\x12\x0a\x0a\x08host:443"), b"host:443");
        assert_eq!(upstream_name(b"\x0a\x07\x0a\x04name"), b"\x0a\x07\x0a\x04name", "cut short");
        assert_eq!(upstream_name(b""), b"");
    }
}
