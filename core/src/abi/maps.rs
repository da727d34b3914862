//! Header maps: the seven `proxy_*_header_map_*` functions.
//!
//! Reading a map that does not exist in a phase finds nothing; changing it is refused. Names and values that could
//! split a response or smuggle a request never reach the proxy.

use std::{borrow::Cow, rc::Rc};

use wasmtime::Caller;

use super::{
    memory::{give, give_with, guest_size, parts, put_u32, slice},
    pairs::{Measure, Pairs, Writer},
    status::{Hostcall, Status},
    types::MapType,
};
use crate::{
    engine::limits::MAX_PAIRS_BYTES,
    filter::AbiVersion,
    host::{Host, MapError, Maps, calls::Fields},
    instance::{
        State,
        answer::{Answer, is_call_map},
    },
};

fn map_type(raw: i32) -> Hostcall<MapType> {
    MapType::from_raw(raw).ok_or(Status::BadArgument.into())
}

pub(super) fn get_size<H: Host>(caller: &mut Caller<'_, State<H>>, map: i32, return_size: i32) -> Hostcall {
    let map = map_type(map)?;
    let size = view(caller.data(), map)?.map_or(0, |view| view.measure().bytes());
    put_u32(caller, return_size, guest_size(size)?)
}

pub(super) fn get_pairs<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    map: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let map = map_type(map)?;
    let Some(view) = view(caller.data(), map)? else { return give(caller, &[], return_data, return_size) };
    let measure = view.measure();
    give_with(caller, measure.bytes(), return_data, return_size, |place| {
        let mut writer = Writer::new(place, &measure).ok_or(Status::SerializationFailure)?;
        view.visit(&mut |name, value| writer.push(name, value));
        if writer.finish() { Ok(()) } else { Err(Status::SerializationFailure.into()) }
    })
}

/// A map that can be read now.
enum View<S> {
    /// The effective context's request has it.
    Stream(S, MapType),
    /// It is of a call that the callback is told of.
    Call(Rc<Answer>, MapType),
}

/// What `map` is now; `None` where there is no such map.
fn view<H: Host>(state: &State<H>, map: MapType) -> Hostcall<Option<View<H::Stream>>> {
    let stream = state.stream()?;
    Ok(if is_call_map(map) {
        let answer = state.answer.clone().filter(|answer| answer.map(map).is_some());
        answer.map(|answer| View::Call(answer, map))
    } else {
        stream.filter(|stream| stream.has_map(map)).map(|stream| View::Stream(stream, map))
    })
}

impl<S: Maps> View<S> {
    fn visit(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        match self {
            Self::Stream(stream, map) => stream.visit(*map, visit),
            Self::Call(answer, map) => {
                let fields = answer.map(*map).into_iter().flat_map(Fields::iter);
                fields.for_each(|(name, value)| visit(name, value));
            }
        }
    }

    fn measure(&self) -> Measure {
        let mut measure = Measure::default();
        self.visit(&mut |name, value| measure.add(name, value));
        measure
    }

    fn value(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Stream(stream, map) => stream.value(*map, name),
            Self::Call(answer, map) => answer.value(*map, name),
        }
    }
}

/// Every pair of `map` as the ABI serializes it: for properties that are whole maps.
pub(super) fn serialize(stream: &impl Maps, map: MapType) -> Vec<u8> {
    let mut measure = Measure::default();
    stream.visit(map, &mut |name, value| measure.add(name, value));
    let mut bytes = vec![0; measure.bytes()];
    if let Some(mut writer) = Writer::new(&mut bytes, &measure) {
        stream.visit(map, &mut |name, value| writer.push(name, value));
    }
    bytes
}

pub(super) fn get_value<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    map: i32,
    key: i32,
    key_size: i32,
    return_data: i32,
    return_size: i32,
) -> Hostcall {
    let map = map_type(map)?;
    let view = view(caller.data(), map)?;
    let (memory, state) = parts(caller)?;
    let name = slice(memory, key, key_size)?;
    let old = state.filter.abi_version() == AbiVersion::V0_1_0;
    let value = view.as_ref().and_then(|view| view.value(name));
    match value {
        Some(value) => give(caller, &value, return_data, return_size),
        None if old => give(caller, &[], return_data, return_size),
        None => Err(Status::NotFound.into()),
    }
}

/// The request whose `map` may be edited. Those of calls may not.
fn writable<H: Host>(state: &State<H>, map: MapType) -> Hostcall<Option<H::Stream>> {
    Ok(state.stream()?.filter(|_| !is_call_map(map)))
}

/// What an edit does to one pair.
#[derive(Clone, Copy)]
enum Edit {
    Add,
    Replace,
}

pub(super) fn add<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    map: i32,
    key: i32,
    key_size: i32,
    value: i32,
    value_size: i32,
) -> Hostcall {
    edit(caller, Edit::Add, map, (key, key_size), (value, value_size))
}

pub(super) fn replace<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    map: i32,
    key: i32,
    key_size: i32,
    value: i32,
    value_size: i32,
) -> Hostcall {
    edit(caller, Edit::Replace, map, (key, key_size), (value, value_size))
}

fn edit<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    edit: Edit,
    map: i32,
    key: (i32, i32),
    value: (i32, i32),
) -> Hostcall {
    let map = map_type(map)?;
    let stream = writable(caller.data(), map)?;
    let (memory, state) = parts(caller)?;
    let name = slice(memory, key.0, key.1)?;
    let value = slice(memory, value.0, value.1)?;
    let result = match &stream {
        None => Err(MapError::Unavailable),
        Some(stream) => check(map, name, value).and_then(|()| match edit {
            Edit::Add => stream.add(map, name, value),
            Edit::Replace => stream.replace(map, name, value),
        }),
    };
    settle(state, map, name, result)
}

pub(super) fn remove<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    map: i32,
    key: i32,
    key_size: i32,
) -> Hostcall {
    let map = map_type(map)?;
    let stream = writable(caller.data(), map)?;
    let (memory, state) = parts(caller)?;
    let name = slice(memory, key, key_size)?;
    let result = match &stream {
        None => Err(MapError::Unavailable),
        // A name that no header can have is absent.
        Some(_) if !is_token(name) && !name.starts_with(b":") => Ok(()),
        Some(stream) => stream.remove(map, name),
    };
    settle(state, map, name, result)
}

pub(super) fn set_pairs<H: Host>(
    caller: &mut Caller<'_, State<H>>,
    map: i32,
    data: i32,
    size: i32,
) -> Hostcall {
    let map = map_type(map)?;
    let stream = writable(caller.data(), map)?;
    let (memory, state) = parts(caller)?;
    let pairs = Pairs::parse(slice(memory, data, size)?)?;
    let Some(stream) = stream else { return settle(state, map, b"*", Err(MapError::Unavailable)) };
    let outdated = outdated(&stream, map, &pairs);
    if let Err(error) = stream.clear(map) {
        return settle(state, map, b"*", Err(error));
    }
    let mut answer = Ok(());
    let is_outdated = |name: &[u8]| outdated.is_some_and(|outdated| name.eq_ignore_ascii_case(outdated));
    for (name, value) in pairs.iter().filter(|(name, _)| !is_outdated(name)) {
        let result = check(map, name, value).and_then(|()| stream.add(map, name, value));
        if let Err(error) = result {
            // The others are set all the same: a map must not be lost for one bad pair.
            answer = answer.and(settle(state, map, name, Err(error)));
        }
    }
    answer
}

/// `:authority` and `host` of a request are one thing under two names, and a guest that writes all pairs back may have
/// changed one of them: where they differ, the name of the one that does not count. That is the one which is as it was, and
/// `host` where neither is (RFC 9113 §8.3.1).
fn outdated(stream: &impl Maps, map: MapType, pairs: &Pairs<'_>) -> Option<&'static [u8]> {
    const NAMES: [&[u8]; 2] = [b":authority", b"host"];
    if map != MapType::HttpRequestHeaders {
        return None;
    }
    let named = |name: &[u8]| pairs.iter().find(|pair| pair.0.eq_ignore_ascii_case(name)).map(|pair| pair.1);
    let [authority, host] = NAMES.map(named);
    if authority? == host? {
        return None;
    }
    let is_new = stream.value(map, NAMES[0]).as_deref() != authority;
    Some(if is_new { NAMES[1] } else { NAMES[0] })
}

/// Answers an edit: a refusal is logged and becomes what the SDK survives.
fn settle<H: Host>(state: &State<H>, map: MapType, name: &[u8], result: Result<(), MapError>) -> Hostcall {
    match result {
        Ok(()) => Ok(()),
        Err(MapError::NoMemory) => Err(Status::InternalFailure.into()),
        Err(error) => {
            warn(state, map, name, error);
            Ok(state.refused()?)
        }
    }
}

fn warn<H: Host>(state: &State<H>, map: MapType, name: &[u8], error: MapError) {
    let name = name.get(..64).unwrap_or(name).escape_ascii();
    state.warn(&format!("change of \"{name}\" in {map:?} dropped in {}: {error}", state.callback.name()));
}

/// Whether a pair may reach the proxy at all.
pub(crate) fn check(map: MapType, name: &[u8], value: &[u8]) -> Result<(), MapError> {
    if let [b':', ..] = name {
        let known = match map {
            MapType::HttpRequestHeaders => {
                let all = [&b":method"[..], b":path", b":authority", b":scheme"];
                all.iter().any(|known| name.eq_ignore_ascii_case(known))
            }
            MapType::HttpResponseHeaders => name.eq_ignore_ascii_case(b":status"),
            _ => false,
        };
        if !known {
            return Err(MapError::Refused("there is no such pseudo-header in this map"));
        }
        if name.eq_ignore_ascii_case(b":status") && !is_status(value) {
            return Err(MapError::Refused("a status is a number from 100 to 599"));
        }
    } else if !is_token(name) {
        return Err(MapError::Refused("the name is empty, or has characters that no header's name has"));
    }
    // Without a branch between bytes: that is what vector instructions are for.
    if value.iter().fold(false, |bad, byte| bad | matches!(byte, 0 | b'\r' | b'\n')) {
        return Err(MapError::Refused("the value has NUL, CR or LF, which could split the message"));
    }
    if name.len().saturating_add(value.len()) > MAX_PAIRS_BYTES {
        return Err(MapError::Refused("the pair is larger than any message may be"));
    }
    Ok(())
}

fn is_status(value: &[u8]) -> bool {
    matches!(value, [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'])
}

/// RFC 9110 §5.6.2: what a header's name may consist of.
const IN_TOKENS: [bool; 256] = {
    let mut all = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        all[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    all
};

/// Whether `name` is a token, as the name of a header and a method have to be.
pub(super) fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| IN_TOKENS[usize::from(*byte)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::check;
    use crate::abi::types::MapType::{HttpRequestHeaders, HttpResponseHeaders};

    #[test]
    fn names_and_values_that_split_messages_are_refused() {
        for name in [&b""[..], b"a b", b"a:b", b"a\r\nb", b"a\0", "ä".as_bytes(), b":", b":nonsense"] {
            assert!(check(HttpRequestHeaders, name, b"v").is_err(), "{}", name.escape_ascii());
        }
        for value in [&b"a\r\nb: c"[..], b"a\0", b"\n"] {
            assert!(check(HttpRequestHeaders, b"name", value).is_err(), "{}", value.escape_ascii());
        }
        assert!(check(HttpRequestHeaders, b"x-Name_1", b"\xff\t ok").is_ok());
    }

    #[test]
    fn pseudo_headers_belong_to_their_map() {
        assert!(check(HttpRequestHeaders, b":path", b"/").is_ok());
        assert!(check(HttpResponseHeaders, b":path", b"/").is_err());
        for (status, good) in
            [(&b"100"[..], true), (b"599", true), (b"600", false), (b"99", false), (b"+20", false)]
        {
            assert_eq!(check(HttpResponseHeaders, b":status", status).is_ok(), good);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_accepted_holds_a_line_break(name: Vec<u8>, value: Vec<u8>) {
            if check(HttpResponseHeaders, &name, &value).is_ok() {
                let both = [name, value].concat();
                prop_assert!(!both.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
            }
        }
    }
}
