//! `proxy_get_configuration` of 0.1.0.

use weir_core::{
    abi::Status,
    filter::{AbiVersion, Callback},
};

use crate::support::{Guest, OUT, SIZE, bad_pointers, call, check, u32_at, value};

const GET: &str = "proxy_get_configuration";

#[test]
fn the_module_s_in_on_vm_start_and_the_directive_s_elsewhere() {
    let read = || [call(GET, [OUT, SIZE]), value(OUT)];
    for version in [AbiVersion::V0_1_0, AbiVersion::V0_2_1] {
        let bench = Guest::new()
            .version(version)
            .on(Callback::VmStart, read())
            .on(Callback::Configure, read())
            .on(Callback::RequestHeaders, read())
            .bench();
        assert_eq!(bench.run(), ["0", "vm", "0", "plugin", "0", "plugin"]);
    }
}

#[test]
fn before_there_is_a_root_context_there_is_none() {
    let bench = Guest::new().on(Callback::Initialize, [call(GET, [OUT, SIZE])]).bench();
    assert_eq!(bench.run(), [Status::NotFound.raw().to_string()]);
}

#[test]
fn nothing_is_allocated_for_an_empty_one() {
    let read = [call(GET, [OUT, SIZE]), u32_at(OUT), u32_at(SIZE)];
    let guest = Guest::new().configuration("").data(OUT, [1; 8]).allocating("unreachable");
    assert_eq!(guest.on(Callback::VmStart, read).bench().run(), ["0", "0", "0"]);
}

#[test]
fn bad_places_are_told() {
    check(Guest::new(), |_| (), &bad_pointers(GET, &[OUT, SIZE], &[], &[(0, 4), (1, 4)]));
}
