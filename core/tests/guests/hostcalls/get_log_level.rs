//! `proxy_get_log_level`.

use weir_core::{abi::types::LogLevel, filter::Callback};

use crate::support::{END, Guest, OUT, bad_pointers, call, check, u32_at};

const GET: &str = "proxy_get_log_level";

#[test]
fn it_is_the_least_severe_level_that_is_logged() {
    let guest = Guest::new()
        .on(Callback::Configure, [call(GET, [OUT]), u32_at(OUT)])
        .on(Callback::RequestHeaders, [call(GET, [END - 4]), u32_at(END - 4)]);
    for level in LogLevel::ALL {
        let bench = guest.bench();
        bench.worker.set_log_level(*level);
        let level = level.raw().to_string();
        assert_eq!(bench.run(), ["0", &level, "0", &level]);
    }
}

#[test]
fn bad_places_are_told() {
    check(Guest::new(), |_| (), &bad_pointers(GET, &[OUT], &[], &[(0, 4)]));
}
