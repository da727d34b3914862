//! Names of hosts, which a server of DNS in the test knows.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::json;
use weir_tests::{
    Conf, Nginx, Origin, Reply,
    dns::{Answer, Dns},
};

use super::{assert_failed, outcome, status};

fn start(dns: &Dns, text: &str) -> Nginx {
    Nginx::start(
        Conf::new()
            .guest("calls")
            .workers(1)
            .wasm(&format!("resolver {} valid=1h;", dns.address()))
            .server(&format!("location / {{ proxy_wasm calls; {text} return 200; }}")),
    )
}

fn answer(name: &str) -> Answer {
    match name {
        "four.test" => Answer::addresses([Ipv4Addr::LOCALHOST.into()]),
        // The first of these has nobody.
        "both.test" => Answer::addresses([Ipv4Addr::new(127, 9, 9, 9).into(), Ipv4Addr::LOCALHOST.into()]),
        "six.test" => Answer::addresses([Ipv6Addr::LOCALHOST.into()]),
        "alias.test" => Answer::Alias("four.test".to_owned()),
        "metadata.test" => Answer::addresses([Ipv4Addr::new(169, 254, 169, 254).into()]),
        "empty.test" => Answer::addresses([]),
        "silent.test" => Answer::Silence,
        _ => Answer::Unknown,
    }
}

#[test]
fn hosts_are_looked_up() {
    let origin = Origin::start(|_| Reply::text("called"));
    let dns = Dns::start(answer);
    let nginx = start(&dns, "");
    let port = origin.address().port();
    for host in ["four.test", "FOUR.test", "four.test.", "alias.test", "both.test"] {
        let called = outcome(&nginx, json!({"upstream": format!("{host}:{port}")}));
        assert_eq!(status(&called), 200, "{host}: {called} {}", nginx.log());
    }
    assert_eq!(dns.questions("four.test", "A"), 1, "an answer is kept as long as it is good");
    assert_eq!(dns.questions("four.test", "AAAA"), 1, "of both families");
    for host in ["none.test", "empty.test"] {
        assert_failed(&nginx, &outcome(&nginx, json!({"upstream": host})), "resolve");
    }
    // Nobody listens there, but that was found out by asking.
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": format!("six.test:{port}")})), "connect");
}

/// What nginx itself looks up at a location, calls from there do, too.
#[test]
fn the_resolver_of_a_location_is_asked_first() {
    let origin = Origin::start(|_| Reply::text("called"));
    let (near, far) = (Dns::start(answer), Dns::start(|_| Answer::Unknown));
    let nginx =
        Nginx::start(
            Conf::new().guest("calls").workers(1).wasm(&format!("resolver {};", far.address())).server(
                &format!("resolver {}; location / {{ proxy_wasm calls; return 200; }}", near.address()),
            ),
        );
    let called = outcome(&nginx, json!({"upstream": format!("four.test:{}", origin.address().port())}));
    assert_eq!(status(&called), 200, "{called} {}", nginx.log());
    assert_eq!((near.questions("four.test", "A"), far.questions("four.test", "A")), (1, 0));
}

#[test]
fn an_address_that_may_not_be_called_is_not() {
    let dns = Dns::start(answer);
    let nginx = start(&dns, "");
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "metadata.test"})), "refused");
    nginx.wait_for_log("the host has address 169.254.169.254, which this filter may not call");
    drop(nginx);
    let nginx = start(&dns, "proxy_wasm_allow_calls 127.0.0.0/8 other.test;");
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "metadata.test"})), "refused");
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "four.test:1"})), "connect");
    drop(nginx);
    let nginx = start(&dns, "proxy_wasm_allow_calls other.test;");
    assert_eq!(outcome(&nginx, json!({"upstream": "four.test:1"}))["refused"], json!(2));
}

#[test]
fn a_resolver_that_is_silent_is_waited_for_as_long_as_the_call_may_take() {
    let dns = Dns::start(answer);
    let nginx = start(&dns, "");
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "silent.test", "timeout": 100})), "timeout");
    drop(nginx);
    let conf = Conf::new()
        .guest("calls")
        .workers(1)
        .wasm("resolver_timeout 100ms;")
        .http(&format!("resolver {};", dns.address()))
        .server("location / { proxy_wasm calls; return 200; }");
    let nginx = Nginx::start(conf);
    assert_failed(&nginx, &outcome(&nginx, json!({"upstream": "silent.test", "timeout": 60000})), "resolve");
    nginx.wait_for_log("no resolver has said where the host is");
}
