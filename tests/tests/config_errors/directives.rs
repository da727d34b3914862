//! Directives with what they cannot have.

use weir_tests::{Conf, Nginx};

use super::{assert_refused, case};

#[test]
fn names() {
    let conf = || Conf::new().guest("noop");
    assert_refused([
        case(
            "never declared",
            conf().server("location / { proxy_wasm nobody; }"),
            "proxy_wasm nobody",
            &["\"nobody\" is not declared", "module nobody PATH"],
        ),
        case(
            "no block at all",
            Conf::new().server("location / { proxy_wasm nobody; }"),
            "proxy_wasm nobody",
            &["\"nobody\" is not declared", "wasm {"],
        ),
        case(
            "declared twice",
            conf().wasm("module  noop guests/trace.wasm;"),
            "module  noop",
            &["\"noop\"", "twice", "nginx.conf:"],
        ),
        case("called off", Conf::new().wasm("module off guests/noop.wasm;"), "module off", &["off"]),
        case("without a name", Conf::new().wasm("module '' guests/noop.wasm;"), "module ''", &["name"]),
    ]);
}

#[test]
fn arguments() {
    let conf = || Conf::new().guest("noop");
    let location = |text: &str| conf().server(&format!("location / {{\n{text}\n}}"));
    assert_refused([
        case(
            "isolation",
            location("proxy_wasm_isolation maybe;"),
            "maybe",
            &["auto", "none", "stream", "filter"],
        ),
        case(
            "no isolation",
            location("proxy_wasm_isolation;"),
            "proxy_wasm_isolation;",
            &["number of arguments"],
        ),
        case("subrequests", location("proxy_wasm_subrequests maybe;"), "maybe", &["on", "off"]),
        case("ticks", location("proxy_wasm_ticks once;"), "once", &["all", "singleton"]),
        case("calls", location("proxy_wasm_allow_calls 10.0.0.0/33;"), "/33", &["10.0.0.0/8", "upstream"]),
        case("no calls", location("proxy_wasm_allow_calls none a;"), "none a", &["alone"]),
        case(
            "calls twice",
            location("proxy_wasm_allow_calls a;\nproxy_wasm_allow_calls  b;"),
            "calls  b",
            &["duplicate"],
        ),
        case("kept calls", conf().wasm("call_keepalive 0;"), "call_keepalive 0", &["1 to 10000"]),
        case(
            "kept calls' time",
            conf().wasm("call_keepalive 1 time=1s;"),
            "time=1s",
            &["timeout=", "requests="],
        ),
        case(
            "a call's response",
            conf().wasm("call_response_limit 1;"),
            "call_response_limit 1",
            &["1k", "1g"],
        ),
        case("verification", conf().wasm("call_ssl_verify maybe;"), "maybe", &["on", "off"]),
        case("encryption", conf().wasm("call_ssl maybe up;"), "maybe", &["on", "off"]),
        case("encryption of nothing", conf().wasm("call_ssl on;"), "call_ssl", &["number of arguments"]),
        case(
            "encryption twice",
            conf().wasm("call_ssl on a b; call_ssl off B;"),
            "call_ssl off B",
            &["\"B\" twice", "remove one"],
        ),
        case(
            "a resolver",
            conf().wasm("resolver no.such.host.invalid;"),
            "no.such.host.invalid",
            &["host not found"],
        ),
        case("no filter", location("proxy_wasm;"), "proxy_wasm;", &["number of arguments"]),
        case(
            "too much",
            location("proxy_wasm noop '' root_id=b file=c d;"),
            "=c d",
            &["number of arguments"],
        ),
        case(
            "text and a file",
            location("proxy_wasm noop a file=nginx.conf;"),
            "noop a file",
            &["exclude each other", "''"],
        ),
        case(
            "a folder",
            location("proxy_wasm noop '' file=/tmp;"),
            "file=/tmp",
            &["/tmp", "no regular file"],
        ),
        case(
            "no file",
            conf().wasm("module other guests/noop.wasm '' file=none;"),
            "=none",
            &["No such file"],
        ),
        case(
            "root ids",
            conf().wasm("module o guests/noop.wasm '' root_id=a;"),
            "root_id=a",
            &["proxy_wasm"],
        ),
        case("vm ids", location("proxy_wasm noop '' vm_id=a;"), "vm_id=a", &["belongs to \"module\""]),
        case("no vm id", conf().wasm("module o guests/noop.wasm '' vm_id=;"), "vm_id=;", &["vm_id=ID"]),
        case("no quotes", location("proxy_wasm noop a b;"), "noop a b", &["root_id=", "\"b\"", "quoted"]),
        case("off and others", location("proxy_wasm off;\nproxy_wasm noop;"), "proxy_wasm noop", &["off"]),
        case("others and off", location("proxy_wasm noop;\nproxy_wasm off;"), "proxy_wasm off", &["off"]),
        case(
            "isolation twice",
            location("proxy_wasm_isolation none;\nproxy_wasm_isolation  none;"),
            "isolation  none",
            &["duplicate"],
        ),
        case("no path", Conf::new().wasm("module noop;"), "module noop;", &["number of arguments"]),
        case(
            "a module elsewhere",
            Conf::new().http("module noop guests/noop.wasm;"),
            "module noop",
            &["module"],
        ),
        case("a filter elsewhere", conf().main("proxy_wasm noop;"), "proxy_wasm noop", &["not allowed here"]),
        case("a filter in the block", conf().wasm("proxy_wasm noop;"), "proxy_wasm noop", &["proxy_wasm"]),
        case("an unknown directive", conf().wasm("nonsense 1;"), "nonsense", &["nonsense"]),
        case(
            "more memory than room",
            conf().wasm("memory_limit 64m;\nmemory_reservation 16m;"),
            "wasm {",
            &["memory_limit", "memory_reservation"],
        ),
        case(
            "memory twice",
            conf().wasm("memory_limit 64m;\nmemory_limit  64m;"),
            "memory_limit  64m",
            &["duplicate"],
        ),
        case("a cache that cannot be", conf().cache("cache /proc/nowhere;"), "cache ", &["/proc/nowhere"]),
        case("an environment without a name", conf().wasm("environment =x;"), "environment", &["NAME"]),
    ]);

    for (directive, values) in [
        ("instances", &["0", "-1", "x", "30001", "99999999999999999999"][..]),
        ("memory_limit", &["0", "1k", "x", "5g", "-1m", "99999999999999999999g"]),
        ("memory_reservation", &["1k", "x", "65g"]),
        ("keep_resident", &["x", "-1"]),
        ("stack_limit", &["1k", "x", "7m"]),
        ("table_limit", &["0", "x", "10000001"]),
        ("callback_timeout", &["0", "0ms", "x", "2h", "-1s"]),
        ("configuration_timeout", &["0", "x", "2h"]),
        ("contexts_limit", &["0", "x"]),
        ("deferred_limit", &["-1", "x"]),
        ("log_limit", &["0", "x", "5 10"]),
        ("failure_limit", &["on", "5", "0 1s", "10001 1s", "5 x", "x 1s"]),
        ("failure_backoff", &["0 1s", "1s x", "2s 1s"]),
    ] {
        for value in values {
            let ended = Nginx::check(&conf().timeout("").wasm(&format!("{directive} {value};")));
            let place = ended.place(&format!("{directive} {value};"));
            let stderr = &ended.stderr;
            assert_eq!(ended.status.code(), Some(1), "{directive} {value}: {stderr}");
            // The message names the argument that is wrong.
            let argument =
                value.split(' ').find(|word| stderr.contains(&format!("\"{word}\""))).unwrap_or(value);
            for text in [directive, argument, &place, "[emerg]", "must be"] {
                assert!(stderr.contains(text), "{directive} {value}: {text:?} is not in {stderr}");
            }
        }
    }
}

#[test]
fn policies_that_there_are_not() {
    for (value, text) in [
        ("ajar", "must be \"closed\" or \"open\""),
        ("open status=503", "takes no status"),
        ("closed 503", "must be \"status=\" and a status"),
        ("closed status=200", "must be \"status=\" and a status"),
        ("closed; proxy_wasm_failure open", "duplicate"),
    ] {
        let directive = format!("proxy_wasm_failure {value};");
        let ended =
            Nginx::check(&Conf::new().guest("noop").server(&format!("location / {{\n{directive}\n}}")));
        assert_eq!(ended.status.code(), Some(1), "{value}: {}", ended.stderr);
        for text in [text, &ended.place(&directive), "proxy_wasm_failure"] {
            assert!(ended.stderr.contains(text), "{value}: {text:?} is not in {}", ended.stderr);
        }
    }
}

#[test]
fn a_second_block_is_refused() {
    let ended = Nginx::check(&Conf::new().guest("noop").main("wasm { cache off; }"));
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("\"wasm\" directive is duplicate"), "{}", ended.stderr);
    assert!(ended.stderr.contains("nginx.conf:"), "{}", ended.stderr);
}

/// A message stays one message, whatever is in a path or name.
#[test]
fn odd_characters_in_messages() {
    let conf = Conf::new().wasm("module broken \"no\\nwhere\\x1b[31m.wasm\";");
    let ended = Nginx::check(&conf);
    assert_eq!(ended.status.code(), Some(1));
    let message = ended.stderr.lines().find(|line| line.contains("[emerg]")).unwrap_or_default();
    assert!(message.contains(&ended.place("module broken")), "{}", ended.stderr);
    assert!(!ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
}

/// A configuration for ngx_wasm_module is read: what has no effect is said, line by line.
#[test]
fn directives_of_ngx_wasm_module() {
    let conf = Conf::new()
        .guest("noop")
        .wasm(
            "backtraces on; compiler cranelift; resolver 127.0.0.1; resolver_timeout 5s;
             tls_verify_cert off; tls_verify_host on;
             socket_connect_timeout 5s;
             socket_large_buffers 4 8k;
             tls_no_verify_warn on;
             proxy_wasm_log_dispatch_errors on;",
        )
        .http("wasm_socket_read_timeout 1s; wasm_response_body_buffers 4 64k;")
        .server(
            "location / {
                 proxy_wasm noop; proxy_wasm_log_dispatch_errors off;
                 proxy_wasm noop root_id=me; proxy_wasm noop '' root_id=me; proxy_wasm noop 'file=';
                 proxy_wasm_request_headers_in_access on;
                 return 200 x; }",
        );
    let checked = Nginx::check(&conf);
    assert!(checked.status.success(), "{}", checked.stderr);
    let warnings: Vec<&str> = checked.stderr.lines().filter(|line| line.contains("[warn]")).collect();
    let expected = [
        ("socket_connect_timeout", "\"call_timeout\""),
        ("socket_large_buffers", "\"call_response_limit\""),
        ("tls_no_verify_warn", "\"call_ssl_verify off\""),
        ("wasm_socket_read_timeout", "\"call_timeout\""),
        ("proxy_wasm_log_dispatch_errors off", "once for a burst"),
        ("proxy_wasm_request_headers_in_access", "rewrite phase"),
    ];
    for (directive, instead) in expected {
        let name = directive.split_whitespace().next().expect("a name");
        let place = checked.place(directive);
        let found =
            warnings.iter().find(|line| line.contains(&format!("\"{name}\"")) && line.contains(&place));
        assert!(found.is_some_and(|line| line.contains(instead)), "{directive} at {place}: {warnings:#?}");
    }
    // It may be meant for what it says.
    let place = checked.place("proxy_wasm noop root_id=me");
    let found = warnings.iter().find(|line| line.contains("\"root_id=me\" is the configuration"));
    assert!(found.is_some_and(|line| line.contains(&place)), "{place}: {warnings:#?}");
    assert_eq!(warnings.len(), expected.len() + 1, "{warnings:#?}");
    assert_refused([
        case("a compiler", Conf::new().wasm("compiler llvm;"), "compiler llvm", &["\"cranelift\""]),
        case(
            "a function",
            Conf::new().server("location / { wasm_call rewrite a b; }"),
            "wasm_call",
            &["Proxy-Wasm filters"],
        ),
    ]);
}
