//! `proxy_http_call`.

use wasmtime::Caller;

use super::{
    calls::{check, check_pair, is_visible, not_made, timeout},
    maps,
    memory::{parts, put_u32, range, slice},
    pairs::Pairs,
    status::{Hostcall, Status},
    types::MapType,
};
use crate::{
    calls::Kind,
    host::{
        Calls, Host,
        calls::{CallError, CallFields, HttpCall},
    },
    instance::State,
};

#[allow(clippy::too_many_arguments, reason = "the ABI's own list")]
pub(super) fn http_call<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    upstream: i32,
    upstream_size: i32,
    headers: i32,
    headers_size: i32,
    body: i32,
    body_size: i32,
    trailers: i32,
    trailers_size: i32,
    milliseconds: i32,
    return_call: i32,
) -> Hostcall {
    // Not below the guest's allocator.
    let _ = caller.data().stream()?;
    let (memory, state) = parts(caller)?;
    range(memory.len(), return_call, 4)?;
    let upstream = slice(memory, upstream, upstream_size)?;
    let headers = Pairs::parse(slice(memory, headers, headers_size)?)?;
    let body = slice(memory, body, body_size)?;
    let trailers = Pairs::parse(slice(memory, trailers, trailers_size)?)?;
    let made = request(upstream, headers, body, trailers).and_then(|mut call| {
        // As Envoy has it (`Context::httpCall`), which takes the number as signed.
        if milliseconds < 0 {
            return Err(CallError::Refused(format!("its timeout of {milliseconds} ms is negative").into()));
        }
        call.timeout = timeout(state, milliseconds);
        call.most = state.filter.engine().settings().limits.call_response;
        state.begin_call(Kind::Http, upstream, |root, token, by| root.http(token, by, &call))
    });
    let token = made.map_err(|error| not_made(state, upstream, &error, Status::BadArgument))?;
    put_u32(caller, return_call, token.number())
}

/// The request that a guest describes, without what Weir decides of it.
fn request<'a>(
    upstream: &'a [u8],
    headers: Pairs<'a>,
    body: &'a [u8],
    trailers: Pairs<'a>,
) -> Result<HttpCall<'a>, CallError> {
    let pseudo = pseudo_headers(headers)?;
    check(MapType::HttpRequestTrailers, trailers)?;
    let required = |value: Option<&'a [u8]>, name: &str| {
        let value = value.filter(|value| !value.is_empty());
        value.ok_or_else(|| CallError::Refused(format!("it has no \"{name}\"").into()))
    };
    // Envoy asks for it to be there, so there are guests that leave it empty.
    let authority = match pseudo.authority {
        Some([]) if upstream.starts_with(b"unix:") => b"localhost",
        Some([]) => upstream,
        authority => required(authority, ":authority")?,
    };
    let call = HttpCall {
        upstream,
        method: required(pseudo.method, ":method")?,
        path: required(pseudo.path, ":path")?,
        authority,
        scheme: pseudo.scheme,
        headers: CallFields::new(headers),
        body,
        trailers: CallFields::new(trailers),
        timeout: std::time::Duration::ZERO,
        most: 0,
    };
    if !maps::is_token(call.method) {
        return Err(CallError::Refused("its method is none".into()));
    }
    if ![call.path, call.authority].into_iter().all(is_visible) {
        return Err(CallError::Refused("its path or authority has spaces or control characters".into()));
    }
    Ok(call)
}

/// The last of each pseudo-header that there is: what a filter adds to headers that it passes on from its client counts.
#[derive(Debug, Default)]
struct PseudoHeaders<'a> {
    method: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
}

/// Those among `headers`, all of which are checked on the way.
fn pseudo_headers(headers: Pairs<'_>) -> Result<PseudoHeaders<'_>, CallError> {
    let mut found = PseudoHeaders::default();
    for (name, value) in headers.iter() {
        check_pair(MapType::HttpRequestHeaders, name, value)?;
        let Some(b':') = name.first() else { continue };
        // `check_pair` knows no others.
        let place = match name.len() {
            5 => &mut found.path,
            10 => &mut found.authority,
            7 if name.eq_ignore_ascii_case(b":method") => &mut found.method,
            _ => &mut found.scheme,
        };
        *place = Some(value);
    }
    Ok(found)
}
