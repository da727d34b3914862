//! `proxy_clear_route_cache`: there is nothing to clear, and every version may ask.

use weir_core::filter::{AbiVersion, Callback};

use crate::support::{Guest, call};

#[test]
fn it_is_accepted_in_every_version_and_context() {
    for (version, _) in AbiVersion::MARKERS {
        let clear = || [call("proxy_clear_route_cache", [])];
        let guest = Guest::new().version(version);
        let bench = guest.on(Callback::Configure, clear()).on(Callback::RequestHeaders, clear()).bench();
        assert_eq!(bench.run(), ["0", "0"]);
    }
}
