//! Which filters hold in which location: http → server → location, replaced as a whole, cleared by `off`.

use weir_tests::{Conf, Nginx};

/// The filters that a response has passed, outermost last: each has added its name.
fn filters(nginx: &Nginx, path: &str) -> Vec<String> {
    nginx.get(path).headers("x-trace").into_iter().map(str::to_owned).collect()
}

#[test]
fn lists_are_inherited_replaced_and_cleared() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .http("proxy_wasm trace h1; proxy_wasm trace h2;")
            .server(
                "location / { return 200 x; }
                 location /own { proxy_wasm trace l; return 200 x; location /own/nested { return 200 x; }
                     location /own/off { proxy_wasm off; return 200 x; location /own/off/again { proxy_wasm trace n; return 200 x; } } }
                 location /off { proxy_wasm off; return 200 x; }
                 location /if { if ($arg_a) { proxy_wasm trace i; return 200 if; } return 200 x; }
                 location /if-off { if ($arg_a) { proxy_wasm off; return 200 if; } return 200 x; }
                 location /limit { limit_except GET { deny all; } return 200 x; }",
            )
            .server("proxy_wasm trace s; location / { return 200 x; } location /off { proxy_wasm off; return 200 x; }")
            .server("proxy_wasm off; location / { return 200 x; } location /own { proxy_wasm trace l; return 200 x; }"),
    );
    // Responses pass the filters in reverse.
    for (path, expected) in [
        ("/", &["h2", "h1"][..]),
        ("/own", &["l"]),
        ("/own/nested", &["l"]),
        ("/own/off", &[]),
        ("/own/off/again", &["n"]),
        ("/off", &[]),
        ("/if", &["h2", "h1"]),
        ("/limit", &["h2", "h1"]),
    ] {
        assert_eq!(filters(&nginx, path), expected, "{path}");
    }
    let of_server = |server: usize, path: &str| {
        let response =
            weir_tests::Connection::open(nginx.address_of(server), weir_tests::Protocol::Http1).get(path);
        response.headers("x-trace").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_server(1, "/"), ["s"]);
    assert_eq!(of_server(1, "/off"), [""; 0]);
    assert_eq!(of_server(2, "/"), [""; 0]);
    assert_eq!(of_server(2, "/own"), ["l"]);
}

/// `if` in a location is decided in the rewrite phase, which is where filters begin: those of the location hold.
#[test]
fn filters_in_an_if_block_do_not_disturb_the_location() {
    let nginx = Nginx::start(Conf::new().guest("trace").server(
        "location /if { proxy_wasm trace l; if ($arg_a) { proxy_wasm trace i; return 200 if; } return 200 x; }",
    ));
    assert_eq!(filters(&nginx, "/if"), ["l"]);
    // One filter or the other, and the right body.
    let response = nginx.get("/if?a=1");
    assert_eq!((response.text().as_str(), response.headers("x-trace").len()), ("if", 1));
}

#[test]
fn included_files_and_the_order_of_blocks_do_not_matter() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .file("filters.conf", "proxy_wasm trace a;\nproxy_wasm trace b;\n")
            .file("wasm.conf", "module other guests/trace.wasm;\n")
            .wasm("include wasm.conf;")
            .server("include filters.conf; location / { return 200 x; } location /o { proxy_wasm other o; return 200 x; }"),
    );
    assert_eq!(filters(&nginx, "/"), ["b", "a"]);
    assert_eq!(filters(&nginx, "/o"), ["o"]);

    let reversed = "load_module modules/ngx_http_weir_module.so; worker_processes 2; pid nginx.pid; error_log error.log info;
        events {} http { server { listen 127.0.0.1:@PORT0@; location / { proxy_wasm trace x; return 200 x; } } }
        wasm { cache @CACHE@; module trace guests/trace.wasm; }";
    assert_eq!(filters(&Nginx::start(Conf::verbatim(reversed, 1)), "/"), ["x"]);
}

#[test]
fn isolation_is_inherited_by_itself() {
    let nginx = Nginx::start(Conf::new().guest("leak").workers(1).http("proxy_wasm leak;").server(
        "proxy_wasm_isolation none;
                 location / { return 200 x; }
                 location /stream { proxy_wasm_isolation stream; return 200 x; }",
    ));
    let count = |path: &str| nginx.get(path).header("x-count").map(str::to_owned);
    let counts: Vec<_> = ["/", "/", "/stream", "/stream", "/"].iter().map(|path| count(path)).collect();
    assert_eq!(counts, ["1", "2", "1", "1", "3"].map(|n| Some(n.to_owned())));
}

#[test]
fn without_any_filter_nothing_changes() {
    let nginx = Nginx::start(Conf::new().guest("trace").server("location / { return 200 x; }"));
    assert_eq!(filters(&nginx, "/"), [""; 0]);
    let nothing = Nginx::start(Conf::new().server("location / { return 200 x; }"));
    assert_eq!(nothing.get("/").text(), "x");
}
