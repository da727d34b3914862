//! `proxy_get_current_time_nanoseconds`.

use weir_core::{filter::Callback, testing::NOW_NS};

use crate::support::{END, Guest, OUT, bad_pointers, call, check, u64_at};

const GET: &str = "proxy_get_current_time_nanoseconds";

#[test]
fn it_is_the_proxy_s_clock_in_every_context() {
    let bench = Guest::new()
        .on(Callback::Configure, [call(GET, [OUT]), u64_at(OUT)])
        .on(Callback::RequestHeaders, [call(GET, [END - 8]), u64_at(END - 8)])
        .bench();
    let now = NOW_NS.to_string();
    assert_eq!(bench.run(), ["0", &now, "0", &now]);
}

#[test]
fn bad_places_are_told() {
    check(Guest::new(), |_| (), &bad_pointers(GET, &[OUT], &[], &[(0, 8)]));
}
