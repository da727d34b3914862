//! Modules that start in other ways than a reactor, or were built for an older ABI.

use weir_tests::{Conf, Nginx, Origin, Reply};

use crate::ISOLATIONS;

/// The value of response header `name` in several requests to guest `guest`.
fn values(guest: &str, name: &str) -> Vec<String> {
    let mut values = Vec::new();
    for isolation in ISOLATIONS {
        let origin = Origin::start(|_| Reply::text("hello"));
        let text = format!("proxy_wasm_isolation {isolation}; proxy_wasm {guest} of-the-filter;");
        let nginx = Nginx::start(Conf::new().guest_as(guest, guest, "of-the-vm").proxy(&origin, &text));
        for _ in 0..3 {
            let response = nginx.get("/").expect_status(200);
            assert_eq!(response.text(), "hello");
            values.extend(response.headers(name).into_iter().map(str::to_owned));
        }
    }
    values
}

#[test]
fn a_command_has_run_its_main_once() {
    assert_eq!(values("command_cpp", "x-command"), ["1 0 of main"; 6]);
}

#[test]
fn the_main_of_a_reactor_runs_after_its_constructors() {
    assert_eq!(values("main_cpp", "x-main"), ["constructor main"; 6]);
}

#[test]
fn a_filter_of_abi_0_1_0_gets_what_that_version_has() {
    assert_eq!(values("legacy_cpp", "x-legacy"), ["of-the-vm of-the-filter"; 6]);
    let origin = Origin::start(|_| Reply::text("hello"));
    let nginx = Nginx::start(Conf::new().guest("legacy_cpp").proxy(&origin, "proxy_wasm legacy_cpp;"));
    assert_eq!(nginx.get("/").text(), "hello");
    assert_eq!(origin.last().headers("x-legacy"), ["[]"], "a header that is not there reads as empty");
}
