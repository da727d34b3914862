//! What has become of the calls that guests have made.

use super::Shard;
use crate::host::{
    Host,
    calls::{CallEvent, CallToken},
};

impl<H: Host> Shard<H> {
    /// Something has become of call `token`: the context that made it is told. From an event of the proxy's own, never
    /// below a hostcall.
    ///
    /// False when nobody waits for this call any more: the proxy drops it.
    pub fn called(&self, token: CallToken, event: CallEvent) -> bool {
        // No guest can make calls yet, so there is none that one waits for.
        let _ = (token, event);
        false
    }
}
