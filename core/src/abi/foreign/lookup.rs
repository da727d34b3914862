//! `resolve`: the addresses of a name, found without waiting.

use crate::{
    abi::{
        calls::not_made,
        status::{Hostcall, Status},
    },
    calls::Kind,
    host::{Calls, Host, calls::CallError},
    instance::State,
};

/// Longest name of the domain name system, in text (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;

/// Arguments: a host's name. Answers the number that `on_foreign_function` will be called with when the addresses are
/// known, 4 bytes little-endian; buffer 8 has them then, 16 bytes each, and nothing where there are none.
pub(super) fn resolve<H: Host>(state: &mut State<H>, arguments: &[u8]) -> Hostcall<Vec<u8>> {
    let name = std::str::from_utf8(arguments).ok().filter(|name| {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_name)
    });
    let begun = name.ok_or_else(|| CallError::Refused("it is no name of a host".into()));
    let begun = begun.and_then(|name| {
        state.begin_call(Kind::Lookup, b"(resolver)", |root, token, by| root.resolve(token, by, name))
    });
    let token = begun.map_err(|error| not_made(state, arguments, &error, Status::BadArgument))?;
    Ok(token.number().to_le_bytes().to_vec())
}
