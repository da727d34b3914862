//! Files that are no filters, and those that just are.

use weir_tests::{
    Conf, Nginx,
    wasm::{Minimal, assemble, component},
};

use super::{MODULE, assert_refused, case, with_module};

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
