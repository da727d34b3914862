//! `set_envoy_filter_state`: a value that the stream's other filters, and this one later, read as a property.

use crate::{
    abi::{
        properties::NotSet,
        proto::{self, Fields},
        status::{Hostcall, Status},
    },
    host::{Host, StreamHost},
    instance::State,
};

/// Fields of Envoy's `SetEnvoyFilterStateArguments`.
const PATH: u64 = 1;
const VALUE: u64 = 2;

/// Arguments: Envoy's message. Sets property `filter_state.PATH`; every life span is that of the stream.
pub(super) fn set<H: Host>(state: &mut State<H>, arguments: &[u8]) -> Hostcall<Vec<u8>> {
    let mut fields = Fields::new(arguments);
    fields.by_ref().for_each(drop);
    let path = proto::bytes(arguments, PATH).unwrap_or_default();
    if !fields.is_whole() || path.is_empty() {
        return Err(Status::BadArgument.into());
    }
    let value = proto::bytes(arguments, VALUE).unwrap_or_default();
    let path = [b"filter_state\0", path].concat();
    let stream = state.stream()?.ok_or(Status::NotFound)?;
    let set = stream.with_properties(|stored| stored.set(&path, value, false)).ok_or(Status::NotFound)?;
    set.map(|()| Vec::new()).map_err(|error| {
        state.warn(&format!(
            "set_envoy_filter_state: property \"{}\" was not set: {error}",
            path.escape_ascii()
        ));
        let status = if error == NotSet::ReadOnly { Status::BadArgument } else { Status::InternalFailure };
        status.into()
    })
}
