//! What is wrong with a configuration is found by `nginx -t`, with file, line and a sentence that helps.

use weir_tests::{
    Conf, Nginx,
    wasm::{Minimal, assemble, component},
};

/// One wrong configuration.
struct Case {
    name: &'static str,
    conf: Conf,
    /// A text in the line of nginx.conf that the message has to name.
    line: &'static str,
    /// What the message has to say.
    says: &'static [&'static str],
}

fn case(name: &'static str, conf: Conf, line: &'static str, says: &'static [&'static str]) -> Case {
    Case { name, conf, line, says }
}

#[track_caller]
fn assert_refused(cases: impl IntoIterator<Item = Case>) {
    for Case { name, conf, line, says } in cases {
        let ended = Nginx::check(&conf);
        assert_eq!(ended.status.code(), Some(1), "{name}: {} {}", ended.status, ended.stderr);
        let emerg: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("[emerg]")).collect();
        let message = *emerg.first().unwrap_or_else(|| panic!("{name}: no [emerg] in {}", ended.stderr));
        let place = ended.place(line);
        assert!(message.contains(&place), "{name}: {place} is not in {message}");
        for text in says {
            assert!(ended.stderr.contains(text), "{name}: {text:?} is not in {}", ended.stderr);
        }
        assert!(ended.stderr.contains("test failed"), "{name}: {}", ended.stderr);
    }
}

/// A configuration that declares and uses a file of the prefix as a filter.
fn with_module(content: impl Into<Vec<u8>>) -> Conf {
    Conf::new()
        .file("the.wasm", content)
        .wasm("module broken the.wasm;")
        .server("location / { proxy_wasm broken; return 200 x; }")
}

const MODULE: &str = "module broken";

#[test]
fn files_that_are_no_filters() {
    let allocator = Minimal { allocator: None, ..Minimal::default() };
    let wrong_allocator = Minimal {
        more: "(func (export \"malloc\") (param i64) (result i32) (i32.const 0))".to_owned(),
        ..allocator.clone()
    };
    let marker = |markers: &[&str]| Minimal {
        markers: markers.iter().map(|marker| (*marker).to_owned()).collect(),
        ..Minimal::default()
    };
    let mut truncated = Minimal::default().assemble();
    truncated.truncate(truncated.len() - 5);
    let invalid = b"\0asm\x01\0\0\0\x03\x02\x01\x00".to_vec();
    let imports = "(module (import \"env\" \"memory\" (memory 1)) (export \"memory\" (memory 0)) \
                   (func (export \"malloc\") (param i32) (result i32) (i32.const 8)) (func (export \"proxy_abi_version_0_2_1\")))";
    assert_refused([
        case(
            "missing",
            Conf::new().wasm("module broken nowhere/x.wasm;"),
            MODULE,
            &["nowhere/x.wasm", "No such file"],
        ),
        case("a folder", Conf::new().wasm("module broken guests;"), MODULE, &["guests", "no regular file"]),
        case("empty", with_module(""), MODULE, &["not WebAssembly", "the.wasm"]),
        case(
            "text",
            with_module("(module\n (func (export \"a\") (call $b)))"),
            MODULE,
            &["text format", "line 2"],
        ),
        case("no filter", with_module("(module)"), MODULE, &["proxy_abi_version"]),
        case(
            "something else",
            with_module(vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0]),
            MODULE,
            &["not WebAssembly"],
        ),
        case("a component", with_module(component()), MODULE, &["component", "wasm32-wasip1"]),
        case("truncated", with_module(truncated), MODULE, &["does not compile"]),
        case("invalid", with_module(invalid), MODULE, &["does not compile"]),
        case(
            "no marker",
            with_module(marker(&[]).assemble()),
            MODULE,
            &["proxy_abi_version_0_1_0", "proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1"],
        ),
        case(
            "unknown marker",
            with_module(marker(&["proxy_abi_version_0_3_0"]).assemble()),
            MODULE,
            &["proxy_abi_version_0_3_0", "proxy_abi_version_0_2_1"],
        ),
        case(
            "no memory",
            with_module(Minimal { memory: false, ..Minimal::default() }.assemble()),
            MODULE,
            &["export", "memory"],
        ),
        case(
            "no allocator",
            with_module(allocator.assemble()),
            MODULE,
            &["proxy_on_memory_allocate", "malloc"],
        ),
        case("an allocator of another kind", with_module(wrong_allocator.assemble()), MODULE, &["malloc"]),
        case("an imported memory", with_module(assemble(imports)), MODULE, &["env.memory"]),
        case(
            "a callback of another kind",
            with_module(
                Minimal {
                    more: "(func (export \"proxy_on_request_headers\") (param f64))".to_owned(),
                    ..Minimal::default()
                }
                .assemble(),
            ),
            MODULE,
            &["proxy_on_request_headers"],
        ),
        case(
            "more memory than it may have",
            with_module(
                Minimal {
                    memory: false,
                    more: "(memory (export \"m\") 1) (memory $big 40)".to_owned(),
                    ..Minimal::default()
                }
                .assemble(),
            )
            .wasm("memory_limit 128k;"),
            MODULE,
            &["the.wasm"],
        ),
    ]);
}

/// Every filter that is declared is checked, used or not.
#[test]
fn declared_and_unused() {
    assert_refused([case(
        "unused",
        Conf::new().file("the.wasm", "x").wasm("module broken the.wasm;").server("return 200 x;"),
        MODULE,
        &["not WebAssembly"],
    )]);
}

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

/// A function that no version of the ABI has: the module loads, with a warning, and traps only if it calls it.
#[test]
fn unknown_imports_are_a_warning() {
    let text = "(module
        (import \"env\" \"proxy_from_the_future\" (func $f (param i32)))
        (memory (export \"memory\") 1)
        (func (export \"malloc\") (param i32) (result i32) (i32.const 8))
        (func (export \"proxy_abi_version_0_2_1\"))
        (func (export \"proxy_on_context_create\") (param i32 i32))
        (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32)
            (call $f (i32.const 1)) (i32.const 0)))";
    let conf = with_module(assemble(text)).server("return 200 x;");
    let ended = Nginx::check(&conf);
    assert!(ended.status.success(), "{}", ended.stderr);
    let warnings: Vec<&str> =
        ended.stderr.lines().filter(|line| line.contains("proxy_from_the_future")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("[warn]"), "{}", ended.stderr);
    let nginx = Nginx::start(conf);
    assert_eq!(nginx.get("/").status, 500);
    nginx.wait_for_log("proxy_from_the_future");
}

/// Modules of all three versions are accepted, the smallest ones as well, whatever callbacks they lack.
#[test]
fn the_smallest_filters_are_accepted() {
    for version in ["0_1_0", "0_2_0", "0_2_1"] {
        for allocator in ["malloc", "proxy_on_memory_allocate"] {
            let module = Minimal {
                markers: vec![format!("proxy_abi_version_{version}")],
                allocator: Some(allocator.to_owned()),
                ..Minimal::default()
            };
            let nginx = Nginx::start(with_module(module.assemble()));
            assert_eq!(nginx.get("/").text(), "x", "{version} {allocator}");
        }
    }
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
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
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
