//! What is said of a file that cannot be a filter, and how one that can is started.

use std::{fs, process::Command};

use weir_core::{
    engine::{Engine, Settings, cache::Cache, limits::MAX_MODULE_BYTES},
    filter::{AbiVersion, Callback, Filter, FilterSpec, LoadError, inspect::Unfit},
    testing::{Memory, Worker},
};

use crate::support::{Guest, call, engine, load, param, returns, say, settings, wat};

/// The parts of a module that every filter has, by name, so that one can be left out.
const PARTS: &[(&str, &str)] = &[
    ("marker", r#"(func (export "proxy_abi_version_0_2_1"))"#),
    ("memory", r#"(memory (export "memory") 1)"#),
    ("allocator", r#"(func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 8))"#),
];

/// The text of a module without the part `left_out`, with `more` in it.
fn module(left_out: &str, more: &str) -> String {
    let parts = PARTS.iter().filter(|(name, _)| *name != left_out).map(|(_, text)| *text);
    format!("(module {more} {})", parts.collect::<String>())
}

/// Why the bytes are no filter.
fn refused(wasm: &[u8]) -> LoadError {
    let spec = Guest::new().spec();
    load(engine(), &Cache::disabled(), &spec, wasm, &Worker::default()).expect_err("refused")
}

/// Why the module is no filter.
fn unfit(text: &str) -> Unfit {
    let error = refused(&wat::parse_str(text).expect("well-formed"));
    let said = error.to_string();
    match error {
        LoadError::Unfit { problem, path } => {
            assert_eq!(said, format!("\"{}\" {problem}", path.display()));
            problem
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_no_core_module_is_named() {
    assert!(matches!(refused(b""), LoadError::NotWasm { .. }));
    assert!(matches!(refused(b"\0asm\x01\0\0"), LoadError::NotWasm { .. }), "cut short");
    assert!(matches!(refused(b"(module"), LoadError::Text { .. }), "the text format, cut short");
    assert!(matches!(refused(b"(module)"), LoadError::Unfit { .. }), "the text format");
    assert!(matches!(refused(b"\0asm\x02\0\0\0"), LoadError::NotWasm { .. }), "a version to come");
    let component = wat::parse_str("(component)").expect("well-formed");
    let error = refused(&component);
    assert!(matches!(error, LoadError::Component { .. }));
    assert!(error.to_string().contains("wasm32-wasip1"), "{error}");
}

#[test]
fn what_does_not_validate_is_named() {
    let error = refused(b"\0asm\x01\0\0\0\xff");
    assert!(matches!(error, LoadError::Compile { .. }), "{error}");
    for text in ["(module (memory 1) (memory 1))", "(module (memory i64 1))"] {
        let error = refused(&wat::parse_str(text).expect("well-formed"));
        assert!(matches!(error, LoadError::Compile { .. }), "{text}: {error}");
        assert!(error.to_string().contains("does not compile: "), "{error}");
    }
}

#[test]
fn what_begins_with_more_than_the_limits_allow_is_told_which() {
    for (more, limit) in [
        (
            r#"(memory (export "memory") 2000)"#,
            "131072000 bytes of memory, more than \"memory_limit\" (67108864)",
        ),
        (
            r#"(memory (export "memory") 1) (table 200000 funcref)"#,
            "a table of 200000 elements, more than \"table_limit\" (100000)",
        ),
        (
            r#"(memory (export "memory") 1) (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref)
               (table 1 funcref)"#,
            "has 5 tables, more than 4",
        ),
    ] {
        let text = format!("(module {more} (func (export \"proxy_abi_version_0_2_1\")))");
        let error = refused(&wat::parse_str(text).expect("well-formed"));
        assert!(matches!(error, LoadError::Unfit { .. }), "{error}");
        assert!(error.to_string().contains(limit), "{error}");
    }
}

#[test]
fn files_that_cannot_be_read_or_are_too_large_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let spec = |path| FilterSpec { path, ..Guest::new().spec() };
    let try_load =
        |path| Filter::<Memory>::load(engine(), &Cache::disabled(), spec(path), &Worker::default());
    let absent = try_load(directory.path().join("absent.wasm")).expect_err("not there");
    assert!(
        matches!(absent, LoadError::Read { .. }) && absent.to_string().contains("absent.wasm"),
        "{absent}"
    );
    // Nobody will ever write into the pipe.
    let pipe = directory.path().join("pipe.wasm");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for path in [directory.path().to_owned(), pipe, "/dev/zero".into()] {
        let error = try_load(path).expect_err("no file");
        assert!(matches!(error, LoadError::Read { .. }), "{error}");
        assert!(error.to_string().ends_with("it is no regular file"), "{error}");
    }
    let path = directory.path().join("large.wasm");
    fs::File::create(&path)
        .and_then(|file| file.set_len(MAX_MODULE_BYTES + 1))
        .expect("a file full of holes");
    let error = try_load(path).expect_err("too large");
    assert!(matches!(error, LoadError::TooLarge { .. }) && error.to_string().contains("256 MiB"), "{error}");
}

#[test]
fn a_filter_needs_a_known_version() {
    assert!(matches!(unfit(&module("marker", "")), Unfit::NoVersion));
    let unknown = unfit(&module("marker", r#"(func (export "proxy_abi_version_0_3_0"))"#));
    assert!(matches!(&unknown, Unfit::UnknownVersion(name) if name == "proxy_abi_version_0_3_0"));
    for (_, marker) in AbiVersion::MARKERS {
        assert!(Unfit::NoVersion.to_string().contains(marker) && unknown.to_string().contains(marker));
    }
    let other_kind = module("marker", r#"(global (export "proxy_abi_version_0_2_1") i32 (i32.const 0))"#);
    assert!(matches!(unfit(&other_kind), Unfit::NoMark(_)), "a marker is a function");
    let several =
        Guest::new().version(AbiVersion::V0_1_0).plus(r#"(func (export "proxy_abi_version_0_2_0"))"#);
    assert_eq!(several.load().abi_version(), AbiVersion::V0_2_0, "the highest counts");
    let higress = module("marker", r#"(func (export "proxy_abi_version_0_2_100"))"#);
    let wasm = wat::parse_str(higress).expect("well-formed");
    let spec = Guest::new().spec();
    let higress = load(engine(), &Cache::disabled(), &spec, &wasm, &Worker::default()).expect("a filter");
    assert_eq!(higress.abi_version(), AbiVersion::V0_2_1);
}

#[test]
fn a_filter_needs_its_memory() {
    assert!(matches!(unfit(&module("memory", "")), Unfit::NoMemory));
    assert!(matches!(unfit(&module("memory", "(memory 1)")), Unfit::NoMemory), "not exported");
    let other_kind = module("memory", r#"(func (export "memory"))"#);
    assert!(matches!(unfit(&other_kind), Unfit::NoMemory), "not a memory");
    let empty = module("memory", r#"(memory (export "memory") 0)"#);
    assert!(matches!(unfit(&empty), Unfit::EmptyMemory), "no pages");
}

/// Numbers of globals and functions that a module does not have become those of what is added to it.
#[test]
fn what_is_added_to_modules_cannot_be_reached_from_them() {
    let refused = |body: &str| {
        let callback =
            format!(r#"(global i64 (i64.const 0)) (func (export "proxy_on_log") (param i32) {body})"#);
        Guest::new().plus(&callback).try_load().err()
    };
    assert!(refused("(drop (i64.add (global.get 1) (i64.const 1)))").is_none());
    for body in ["(global.set 2 (i64.const 1))", "(global.set 3 (i32.const 1))"] {
        assert!(matches!(refused(body), Some(LoadError::Compile { .. })), "{body}");
    }
    // The first function that there is not.
    let of_type =
        |number: &usize| refused(&format!("(call {number} (i32.const 0) (i32.const 0) (i32.const 0))"));
    assert!((0..40).map(|number| of_type(&number)).all(|refused| refused.is_some()));
}

#[test]
fn names_that_are_added_to_modules_are_refused_in_them() {
    for export in [
        r#"(global (export "weir\00global7") i32 (i32.const 0))"#,
        r#"(func (export "weir\00start"))"#,
        r#"(func (export "weir\00create") (param i32))"#,
        // Left as it is, since it changes tables.
        r#"(table 1 funcref) (func (export "weir\00end") (drop (table.grow (ref.null func) (i32.const 0))))"#,
    ] {
        assert!(matches!(unfit(&module("", export)), Unfit::Reserved), "{export}");
    }
    let other = Guest::new().plus(r#"(func (export "weir"))"#);
    assert_eq!(other.bench().run(), [""; 0]);
}

#[test]
fn a_filter_needs_an_allocator() {
    assert!(matches!(unfit(&module("allocator", "")), Unfit::NoAllocator));
    let wrong = module("allocator", r#"(func (export "malloc") (param i64) (result i32) (i32.const 0))"#);
    assert!(matches!(unfit(&wrong), Unfit::NoAllocator), "a malloc of its own kind");
    let malloc = r#"(func (export "malloc") (param i32) (result i32) (i32.const 70000))"#;
    let read = [call("proxy_get_buffer_bytes", [7, 0, 9, 0, 4]), crate::support::u32_at(0)];
    let only_malloc = Guest::new().allocator(malloc).on(Callback::RequestHeaders, read.clone());
    assert_eq!(only_malloc.bench().run(), ["0", "70000"]);
    let both = Guest::new().plus(malloc).on(Callback::RequestHeaders, read);
    assert_eq!(both.bench().run(), ["0", "65536"], "the specification's own wins");
}

#[test]
fn only_functions_can_be_imported() {
    for (what, import) in [
        ("memory", r#"(import "env" "thing" (memory 1))"#),
        ("table", r#"(import "env" "thing" (table 1 funcref))"#),
        ("global", r#"(import "env" "thing" (global i32))"#),
    ] {
        let left_out = if what == "memory" { "memory" } else { "" };
        let export = if what == "memory" { r#"(export "memory" (memory 0))"# } else { "" };
        let problem = unfit(&module(left_out, &format!("{import}{export}")));
        let text = problem.to_string();
        assert!(matches!(problem, Unfit::ForeignImport { .. }), "{text}");
        assert!(text.contains(&format!("{what} \"env.thing\"")), "{text}");
    }
}

/// Every callback in a shape that the ABI does not have.
#[test]
fn signatures_are_checked() {
    for callback in Callback::ALL {
        let name = callback.name();
        let left_out = if *callback == Callback::MemoryAllocate { "allocator" } else { "" };
        for shape in
            ["(param i64)", "(param i32 i32 i32 i32 i32 i32)", "(param i32) (result i64)", "(result i32 i32)"]
        {
            let text = module(left_out, &format!("(func (export \"{name}\") {shape} unreachable)"));
            if matches!(callback, Callback::Main | Callback::MainVoid | Callback::Malloc) {
                // Names that a program may use for itself.
                let wasm = wat::parse_str(&text).expect("well-formed");
                let loaded =
                    load(engine(), &Cache::disabled(), &Guest::new().spec(), &wasm, &Worker::default());
                assert!(!loaded.expect("loads").exports(*callback), "{text}");
                continue;
            }
            match unfit(&text) {
                Unfit::WrongSignature { name: found, expected, .. } => {
                    assert!(found == name && expected.starts_with('('), "{found} {expected}");
                }
                other => panic!("{text}: {other}"),
            }
        }
        let global = module(left_out, &format!("(global (export \"{name}\") i32 (i32.const 0))"));
        if *callback != Callback::MemoryAllocate {
            let wasm = wat::parse_str(&global).expect("well-formed");
            let loaded = load(engine(), &Cache::disabled(), &Guest::new().spec(), &wasm, &Worker::default());
            assert!(!loaded.expect("loads").exports(*callback), "{name} is no function");
        }
    }
}

#[test]
fn a_wrong_signature_is_shown_with_the_right_ones() {
    let headers = r#"(func (export "proxy_on_request_headers") (param i32 i64) (result i32) (i32.const 0))"#;
    let text = unfit(&module("", headers)).to_string();
    assert!(text.contains("(i32, i64) -> i32"), "{text}");
    assert!(text.contains("(i32, i32, i32) -> i32 or (i32, i32) -> i32"), "{text}");
}

/// One function cannot have two shapes, though it may be imported in either.
#[test]
fn imports_that_contradict_each_other_cannot_be_linked() {
    let twice = r#"(import "env" "proxy_continue_request" (func))
        (import "env" "proxy_continue_request" (func (result i32)))"#;
    let error = refused(&wat::parse_str(module("", twice)).expect("well-formed"));
    assert!(matches!(error, LoadError::Link { .. }), "{error}");
    assert!(error.to_string().contains("proxy_continue_request"), "{error}");
}

/// Which of the functions that start a module are called, in which order.
#[test]
fn initialize_wins_over_start_and_main_follows_it() {
    let guest = |callbacks: &[Callback]| {
        callbacks.iter().fold(Guest::new(), |guest, callback| guest.on(*callback, [say(callback.name())]))
    };
    use Callback::{Initialize, Main, MainVoid, Start};
    for (exported, called) in [
        (&[Initialize, Start, Main, MainVoid][..], &["_initialize", "main"][..]),
        (&[Initialize, MainVoid], &["_initialize", "__main_void"]),
        (&[Initialize, Start], &["_initialize"]),
        (&[Start], &["_start"]),
        (&[Start, Main, MainVoid], &["_start"]),
        (&[Main], &[]),
        (&[], &[]),
    ] {
        let bench = guest(exported).bench();
        bench.rehearse().expect("accepted");
        assert_eq!(bench.log(), called, "{exported:?}");
    }
    let arguments = Guest::new().on(Initialize, []).on(Main, [param(0), param(1), returns(1)]);
    assert_eq!(arguments.bench().run(), ["0", "0"], "what main returns does not matter");
}

#[test]
fn a_module_that_fails_to_start_is_refused() {
    for callback in [Callback::Initialize, Callback::Start] {
        let bench = Guest::new().on(callback, [wat("unreachable")]).bench();
        let refusal = bench.rehearse().expect_err("refused").to_string();
        assert!(refusal.contains(&format!("{} failed", callback.name())), "{refusal}");
    }
    let main = Guest::new().on(Callback::Initialize, []).on(Callback::MainVoid, [wat("unreachable")]);
    assert!(main.bench().rehearse().expect_err("refused").to_string().contains("__main_void failed"));
    let start = Guest::new().plus("(func $start unreachable) (start $start)");
    start.bench().rehearse().expect_err("the module's own start function");
}

#[test]
fn a_filter_says_what_it_is() {
    let filter = Guest::tracer().named("tracer").language("Go").load();
    assert_eq!(filter.spec().name, "tracer");
    assert!(filter.exports(Callback::RequestBody) && !filter.exports(Callback::Tick));
    assert!(!filter.panics_on_status());
    assert!(Guest::new().language("Rust").load().panics_on_status());
    assert!(format!("{filter:?}").contains("V0_2_1"));
}

#[test]
fn an_engine_that_cannot_be_made_is_an_error() {
    let settings = Settings { memory_reservation: 1 << 46, ..settings() };
    assert!(Engine::shared(&settings).is_err(), "500 times 64 TiB");
}
