//! `proxy_set_tick_period_milliseconds`.

use wasmtime::Caller;

use super::status::{Hostcall, Status};
use crate::{
    host::{Host, RootHost},
    instance::State,
};

/// The effective context's root ticks each `period` milliseconds, unsigned; with 0 no more.
///
/// That needs an instance that lives as long as the worker. What is asked for while a configuration is rehearsed is
/// noted, and done in the workers; in an instance that is a request's own nothing would be left to tick.
pub(super) fn set_tick_period<H: Host>(caller: &mut Caller<'_, State<H>>, period: i32) -> Hostcall {
    let state = caller.data_mut();
    let root = state.contexts.effective_root().ok_or(Status::BadArgument)?;
    let period = period.cast_unsigned();
    if let Some(place) = state.place {
        state.root.set_tick(place.root(root), period);
    } else if state.contexts.effective_host().is_some() && period > 0 {
        state.warn(
            "asks for ticks in a request whose instance ends with it: there will be none; \
             ask in on_configure, or set \"proxy_wasm_isolation none\"",
        );
        return Ok(());
    }
    state.contexts.set_tick(root, period);
    Ok(())
}
