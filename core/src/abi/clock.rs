//! `proxy_get_current_time_nanoseconds`.

use wasmtime::Caller;

use super::{memory::put_u64, status::Hostcall};
use crate::{
    host::{Host, RootHost},
    instance::State,
};

pub(super) fn get_current_time<H: Host>(caller: &mut Caller<'_, State<H>>, return_time: i32) -> Hostcall {
    let now = caller.data().root.realtime_ns();
    put_u64(caller, return_time, now)
}
