//! Guests that add headers and log each callback: they load, are called, and change both directions.

use weir_tests::{Conf, Nginx, Origin, Reply, Request};

/// Runs guest `name`, whose headers are `header`, and checks what it changed and which callbacks it has logged.
fn check(name: &str, header: &str, callbacks: &[&str]) {
    for isolation in ["stream", "none"] {
        let origin = Origin::start(|_| Reply::text("hello"));
        let nginx = Nginx::start(
            Conf::new().guest_as(name, name, "of-the-vm").wasm("configuration_timeout 20s;").proxy(
                &origin,
                &format!("proxy_wasm_isolation {isolation}; proxy_wasm {name} of-the-filter;"),
            ),
        );
        for n in 0..5 {
            let response = nginx.send(Request::post(&format!("/{n}"), "body"));
            assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{name} {isolation}");
            assert_eq!(response.headers(header), ["response"], "{name} {isolation}");
            let seen = origin.last();
            assert_eq!((seen.headers(header), seen.body.as_slice()), (vec!["request"], &b"body"[..]));
        }
        let log = nginx.stop();
        for callback in callbacks {
            let line = format!("{name}: {callback}");
            assert!(log.contains(&line), "{line} is not in\n{log}");
        }
        let logged = log.matches(&format!("{name}: on_request_headers /")).count();
        assert_eq!(logged, 5, "{log}");
    }
}

const ALL: [&str; 8] = [
    "on_context_create",
    "on_vm_start of-the-vm",
    "on_configure of-the-filter",
    "on_request_headers /4",
    "on_response_headers 200",
    "on_done",
    "on_log",
    "on_delete",
];

#[test]
fn cpp() {
    check("add_headers_cpp", "x-weir-cpp", &ALL);
}

#[test]
fn assemblyscript() {
    // Its SDK gives contexts no callback for their deletion.
    check("add_headers_as", "x-weir-as", &ALL[..7]);
}

#[test]
fn go() {
    check("add_headers_go", "x-weir-go", &ALL);
}

#[test]
fn all_of_them_in_one_chain() {
    let origin = Origin::start(|_| Reply::text("hello"));
    let names = ["add_headers", "add_headers_cpp", "add_headers_as", "add_headers_go"];
    let conf =
        names.iter().fold(Conf::new().wasm("configuration_timeout 20s;"), |conf, name| conf.guest(name));
    let chain: String = names.iter().map(|name| format!("proxy_wasm {name};\n")).collect();
    let nginx = Nginx::start(conf.proxy(&origin, &chain));
    let response = nginx.get("/");
    for header in ["x-weir", "x-weir-cpp", "x-weir-as", "x-weir-go"] {
        assert_eq!(response.headers(header), ["response"]);
        assert_eq!(origin.last().headers(header), ["request"]);
    }
}
