//! What becomes of requests whose filter fails: the policies, and the suspension of filters that fail again and again.

use weir_tests::{
    Conf, Nginx, Origin, Protocol, Reply, Request, wait,
    wasm::faulty::{self, CALLBACKS, FAULTS, Fault},
};

const TRAP: Fault = FAULTS[0];

fn conf() -> Conf {
    Conf::new()
        .file("faulty.wasm", faulty::module(false))
        .wasm("module faulty faulty.wasm; memory_limit 4m;")
        .workers(1)
        .http("http2 on;")
}

/// The callbacks in which a failure can still change the response.
fn in_time() -> impl Iterator<Item = char> {
    CALLBACKS.iter().map(|(letter, ..)| *letter).filter(|letter| !"DLX".contains(*letter))
}

#[test]
fn a_closed_policy_answers_in_place_of_the_response() {
    let nginx = Nginx::start(conf().server(
        "proxy_wasm faulty;
         location / { return 200 fine; }
         location /busy { proxy_wasm_failure closed status=429; return 200 fine; }
         location /page { proxy_wasm_failure closed status=503; error_page 503 = @page; return 200 fine; }
         location @page { return 200 page; }",
    ));
    for callback in in_time() {
        let send = |path: &str| nginx.send(Request::post(path, "body").header("x-fault", &TRAP.at(callback)));
        let response = send("/");
        assert_eq!(response.status, 500, "{callback}");
        assert!(response.text().contains("500 Internal Server Error"), "{callback}: {}", response.text());
        assert_eq!(response.header("retry-after"), None);
        let response = send("/busy");
        assert_eq!(response.status, 429, "{callback}");
        assert!(response.text().contains("429 Too Many Requests"), "{callback}: {}", response.text());
    }
    // What fails before there is a response is nginx's own error.
    let response = nginx.send(Request::get("/page").header("x-fault", &TRAP.at('H')));
    assert_eq!((response.status, response.text().as_str()), (200, "page"));
    assert_eq!(nginx.get("/").text(), "fine");
}

#[test]
fn an_open_policy_leaves_requests_and_responses_as_they_are() {
    let origin =
        Origin::start(|seen| Reply::text(format!("{} {}", seen.target, String::from_utf8_lossy(&seen.body))));
    for isolation in ["stream", "none", "filter"] {
        let nginx = Nginx::start(conf().wasm("failure_limit off;").guest("add_headers").proxy(
            &origin,
            &format!(
                "proxy_wasm_isolation {isolation}; proxy_wasm_failure open;
                 proxy_wasm add_headers; proxy_wasm faulty; proxy_wasm faulty;"
            ),
        ));
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut connection = nginx.connect(protocol);
            for fault in FAULTS.iter().filter(|fault| fault.name != "table bomb" && !fault.is_slow) {
                for (callback, ..) in CALLBACKS {
                    let request =
                        Request::post("/path", "x".repeat(5000)).header("x-fault", &fault.at(callback));
                    let response = connection.send(request);
                    let what = format!("{isolation} {protocol:?} {} at {callback}", fault.name);
                    assert_eq!(response.status, 200, "{what}");
                    assert_eq!(response.text(), format!("/path {}", "x".repeat(5000)), "{what}");
                    assert_eq!(response.header("x-weir"), Some("response"), "the other filter runs: {what}");
                    assert_eq!(origin.last().header("x-weir"), Some("request"), "{what}");
                }
            }
        }
    }
}

#[test]
fn the_policy_is_inherited_and_can_be_changed() {
    let nginx = Nginx::start(conf().http("proxy_wasm_failure open;").server(
        "proxy_wasm faulty;
         location / { return 200 fine; }
         location /closed { proxy_wasm_failure closed; return 200 fine; }",
    ));
    let send = |path: &str| nginx.send(Request::get(path).header("x-fault", &TRAP.at('H'))).status;
    assert_eq!((send("/"), send("/closed")), (200, 500));
}

/// Once the headers have left there is nothing to answer with: the client must see that the response is broken.
#[test]
fn a_failure_after_the_headers_breaks_the_response_or_is_passed_over() {
    // Two pieces: the first one lets the headers go.
    let origin = Origin::start(|_| Reply::chunks(["first ", "second"]));
    // A filter that fails at the second piece of a body.
    let late = weir_tests::wasm::Minimal {
        more: r#"(global $pieces (mut i32) (i32.const 0))
            (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
                (global.set $pieces (i32.add (global.get $pieces) (i32.const 1)))
                (if (i32.ge_u (global.get $pieces) (i32.const 2)) (then unreachable))
                (i32.const 0))"#
            .to_owned(),
        ..weir_tests::wasm::Minimal::default()
    };
    for (policy, is_whole) in [("closed", false), ("open", true)] {
        let nginx = Nginx::start(
            Conf::new()
                .file("late.wasm", late.assemble())
                .wasm("module late late.wasm;")
                .http("http2 on;")
                .proxy(
                    &origin,
                    &format!("proxy_buffering off; proxy_wasm_failure {policy}; proxy_wasm late;"),
                ),
        );
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let response = nginx.connect(protocol).try_send(Request::get("/"));
            match response {
                Ok(response) => {
                    assert!(is_whole, "{policy} {protocol:?}: {response:?}");
                    assert_eq!(response.text(), "first second");
                }
                Err(error) => assert!(!is_whole, "{policy} {protocol:?}: {error}"),
            }
        }
    }
}

#[test]
fn a_filter_that_fails_again_and_again_is_suspended() {
    let nginx = Nginx::start(conf().wasm("failure_limit 5 10s; failure_backoff 300ms 2s;").server(
        "location / { proxy_wasm faulty; return 200 fine; }
         location /open { proxy_wasm faulty; proxy_wasm_failure open; return 200 fine; }
         location /other { proxy_wasm faulty 'another group'; return 200 fine; }",
    ));
    let fail = |path: &str| nginx.send(Request::get(path).header("x-fault", &TRAP.at('H')));
    for _ in 0..5 {
        assert_eq!(fail("/").status, 500);
    }
    let mark = nginx.mark();
    nginx.wait_for_log("filter \"faulty\": suspended for 0.3 s: 5 failures within 10 s");
    let response = fail("/");
    if response.status == 503 {
        assert_eq!(response.header("retry-after"), Some("1"));
        assert!(!nginx.log_since(mark).contains("unreachable"), "it is not run");
    }
    assert_eq!(nginx.get("/other").text(), "fine", "other directives are not concerned");
    // It is tried again, and is well.
    let served = wait::poll(|| (nginx.get("/").status == 200).then_some(()));
    assert!(served.is_some(), "{}", nginx.log());
    nginx.wait_for_log("filter \"faulty\": runs again after its suspension");

    for _ in 0..5 {
        assert_eq!(fail("/open").text(), "fine");
    }
    nginx.wait_for_lines(0, "suspended for", 2);
    for _ in 0..10 {
        assert_eq!(fail("/open").text(), "fine");
    }
}
