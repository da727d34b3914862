//! Filters that do not start, or refuse what they are configured with.

use weir_tests::{Conf, Nginx, wasm::Minimal};

use super::{assert_refused, case, with_module};

#[test]
fn filters_that_refuse_their_configuration() {
    let with = |vm: &str, own: &str| {
        Conf::new()
            .guest_as("picky", "refuse", vm)
            .server(&format!("location / {{\nproxy_wasm picky '{own}';\n}}"))
    };
    assert!(Nginx::check(&with("ok", "ok")).status.success());
    for (vm, own, callback) in [
        ("vm:false", "ok", "on_vm_start"),
        ("vm:panic", "ok", "on_vm_start"),
        ("ok", "configure:false", "on_configure"),
        ("ok", "configure:panic", "on_configure"),
    ] {
        let conf = with(vm, own);
        assert_refused([case(callback, conf.clone(), "proxy_wasm picky", &["\"picky\"", "configuration"])]);
        // At start as well, and then nothing runs.
        let ended = Nginx::try_start(conf).expect_err("it must not start");
        let place = ended.place("proxy_wasm picky");
        let message = ended.stderr.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
        assert!(message.contains(callback) && message.contains(&place), "{vm} {own}: {}", ended.stderr);
    }
}

/// Each directive is tried out, in whichever location; the one that is refused is named.
#[test]
fn the_one_directive_that_is_refused_is_named() {
    for isolation in ["none", "stream", "filter"] {
        let conf = Conf::new().guest("refuse").http(&format!("proxy_wasm_isolation {isolation};")).server(
            "proxy_wasm refuse good;
             location / { return 200 x; }
             location /a {
                 proxy_wasm refuse fine;
                 proxy_wasm refuse configure:false;
                 return 200 x;
             }",
        );
        assert_refused([case(
            "the second of a list",
            conf,
            "configure:false",
            &["\"refuse\"", "on_configure"],
        )]);
    }
}

#[test]
fn a_filter_that_never_finishes_its_start_is_stopped() {
    let endless = |export: &str| {
        let more = format!(
            "(func (export \"{export}\") (param i32 i32) (result i32) (loop $l (br $l)) (i32.const 1))"
        );
        with_module(Minimal { more, ..Minimal::default() }.assemble()).wasm("configuration_timeout 100ms;")
    };
    assert_refused([
        case("on_vm_start", endless("proxy_on_vm_start"), "proxy_wasm broken", &["on_vm_start", "limit"]),
        case("on_configure", endless("proxy_on_configure"), "proxy_wasm broken", &["on_configure", "limit"]),
    ]);
    let more = "(func (export \"_initialize\") (loop $l (br $l)))".to_owned();
    let conf =
        with_module(Minimal { more, ..Minimal::default() }.assemble()).wasm("configuration_timeout 100ms;");
    assert_refused([case("_initialize", conf, "proxy_wasm broken", &["limit"])]);
}

/// What no request could ever get is refused when the configuration is read.
#[test]
fn filters_of_a_location_have_to_find_room() {
    let conf = |instances: u32| {
        let location =
            "location / { proxy_wasm noop; proxy_wasm add_headers; proxy_wasm noop; return 200 x; }";
        Conf::new()
            .guest("noop")
            .guest("add_headers")
            .wasm(&format!("instances {instances} wait=0; stack_limit 6m;"))
            .server(location)
    };
    assert_refused([case(
        "instances",
        conf(1),
        "wasm {",
        &["\"instances\" 1 leaves no room", "set 2 or more"],
    )]);
    assert_eq!(Nginx::start(conf(2)).get("/").text(), "x");
}
