//! `declare_property`: a filter says of a property, before it sets it, what it will be.

use crate::{
    abi::{
        properties::normalize,
        proto::{self, Fields, Value},
        status::{Hostcall, Status},
    },
    engine::limits::{MAX_PROPERTY_PATH, MAX_PROPERTY_VALUE},
    host::{Host, StreamHost},
    instance::State,
    plan::{Declaration, Undeclared},
};

/// Fields of Envoy's `DeclarePropertyArguments`. Those after them (what values are, their schema, how long they last)
/// count only in that they must not change.
const NAME: u64 = 1;
const READ_ONLY: u64 = 2;

/// Arguments: Envoy's message. What a root context declares holds for all its requests, what is declared in a request's
/// context for that request alone.
pub(super) fn declare<H: Host>(state: &mut State<H>, arguments: &[u8]) -> Hostcall<Vec<u8>> {
    let mut fields = Fields::new(arguments);
    let mut read_only = false;
    for field in fields.by_ref() {
        if let (READ_ONLY, Value::Number(number)) = field {
            read_only = number != 0;
        }
    }
    let name = proto::bytes(arguments, NAME).unwrap_or_default();
    let fits = name.len() <= MAX_PROPERTY_PATH && arguments.len() <= MAX_PROPERTY_VALUE;
    if !fields.is_whole() || name.is_empty() || !fits {
        return Err(Status::BadArgument.into());
    }
    let path = normalize(name, H::Stream::NATIVE_PREFIX);
    let declaration = Declaration { path: &path, read_only, message: arguments };
    let declared = match state.stream()? {
        Some(stream) => stream.with_properties(|stored| stored.declare(&declaration)),
        None => state.contexts.effective_plugin().map(|plugin| plugin.declared.declare(&declaration)),
    };
    declared.ok_or(Status::NotFound)?.map(|()| Vec::new()).map_err(|why| {
        let why = match why {
            Undeclared::Different => "it was declared before, in another way",
            Undeclared::Full => "too many are",
        };
        state.warn(&format!("property \"{}\" was not declared: {why}", path.escape_ascii()));
        Status::BadArgument.into()
    })
}
