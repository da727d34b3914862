//! `proxy_call_foreign_function`, and what each function makes of its bytes.

use std::time::Duration;

use weir_core::{
    abi::Status,
    filter::{AbiVersion, Callback},
    host::calls::{CallError, CallEvent, CallFailure},
    testing::calls::{Begun, What},
};

use crate::support::{Guest, OUT, SIZE, Step, bad_pointers, call, case, check, param, u32_at, value, wat};

const CALL: &str = "proxy_call_foreign_function";

/// Calls the function whose name is at 0 with `size` bytes at 256.
fn foreign(name: &str, size: usize) -> Step {
    let size = i64::try_from(size).expect("short");
    call(CALL, [0, i64::try_from(name.len()).expect("short"), 256, size, OUT, SIZE])
}

/// What function `name` answers to `arguments`: a status, and bytes where that is OK.
fn answer(name: &str, arguments: &[u8]) -> (String, Option<String>) {
    let guest = Guest::new().data(0, name).data(256, arguments);
    let bench = guest.on(Callback::RequestHeaders, [foreign(name, arguments.len()), value(OUT)]).bench();
    bench.serve(&bench.request());
    let (log, _) = bench.spoken();
    let bytes = (log[0] == "0").then(|| log[1].clone());
    (log[0].clone(), bytes)
}

#[test]
fn what_nobody_knows_is_not_found() {
    for name in ["", "nonsense", "Compress", "compress\0"] {
        assert_eq!(answer(name, b"").0, "1", "{name}");
    }
}

#[test]
fn compressed_bytes_are_zlib_s_and_come_back() {
    let text = "a text that says the same, says the same, says the same, says the same";
    let again = wat(format!(
        "(memory.copy (i32.const 8192) (i32.load (i32.const {OUT})) (i32.load (i32.const {SIZE})))
         (call $number (i32.const 0) (i64.extend_i32_u (call $proxy_call_foreign_function
            (i32.const 32) (i32.const 10) (i32.const 8192) (i32.load (i32.const {SIZE}))
            (i32.const {OUT}) (i32.const {SIZE}))))"
    ));
    let byte = wat("(call $number (i32.const 0) (i64.load8_u (i32.const 8192)))");
    let bench = Guest::new()
        .data(0, "compress")
        .data(32, "uncompress")
        .data(256, text)
        .on(
            Callback::RequestHeaders,
            [foreign("compress", text.len()), u32_at(SIZE), again, byte, value(OUT)],
        )
        .bench();
    let log = bench.run();
    assert_eq!(
        [&*log[0], &*log[2], &*log[3], &*log[4]],
        ["0", "0", "120", text],
        "0x78 begins a zlib stream"
    );
    assert!(log[1].parse::<usize>().expect("a number") < text.len());
    assert_eq!(answer("uncompress", b"no zlib"), ("3".into(), None));
    assert_eq!(answer("uncompress", b""), ("3".into(), None));
}

#[test]
fn filter_state_is_a_property_of_the_stream() {
    let arguments = b"\x0a\x04name\x12\x05value\x18\x01";
    let read = [call("proxy_get_property", [512, 17, OUT, SIZE]), value(OUT)];
    for path in ["filter_state.name", "filter_state\0name"] {
        let name = "set_envoy_filter_state";
        let guest = Guest::new().data(0, name).data(256, arguments).data(512, path);
        let set = guest.on(Callback::RequestHeaders, [foreign(name, arguments.len()), u32_at(SIZE)]);
        assert_eq!(set.on(Callback::Log, read.clone()).bench().run(), ["0", "0", "0", "value"]);
    }
    for bad in [&b"\x0a\x09name"[..], b"", b"\x12\x01v"] {
        assert_eq!(answer("set_envoy_filter_state", bad), ("2".into(), None));
    }
}

#[test]
fn a_property_that_is_declared_read_only_is_set_once() {
    // Field 1 is the name, 2 whether it is read-only, 3 what its values are.
    let arguments = b"\x0a\x04once\x10\x01\x18\x01";
    let name = "declare_property";
    let set = |at: i64| call("proxy_set_property", [512, 4, at, 3]);
    let read = [call("proxy_get_property", [512, 4, OUT, SIZE]), value(OUT)];
    let guest = Guest::new().data(0, name).data(256, arguments).data(512, "once").data(600, "onetwo");
    let declares = guest.on(Callback::Configure, [foreign(name, arguments.len())]);
    let sets = declares.on(Callback::RequestHeaders, [set(600), set(603)]).on(Callback::Log, read);
    let bench = sets.bench();
    bench.serve(&bench.request());
    let (log, warnings) = bench.spoken();
    assert_eq!(log, ["0", "0", "2", "0", "one"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("it can be set once only"), "{warnings:?}");
}

/// What a request declares is gone with it: the next one may declare the same in another way.
#[test]
fn what_a_request_declares_ends_with_it() {
    let name = "declare_property";
    // Read-only; field 4 is the time, so each request says something else.
    let arguments = b"\x0a\x04once\x10\x01\x22\x08________";
    let time = call("proxy_get_current_time_nanoseconds", [256 + 10]);
    let set = |at: i64| call("proxy_set_property", [512, 4, at, 3]);
    let guest = Guest::new().data(0, name).data(256, arguments).data(512, "once").data(600, "onetwo");
    let steps = [time, foreign(name, arguments.len()), set(600), set(603)];
    let bench = guest.on(Callback::RequestHeaders, steps).bench();
    for request in 0..2 {
        bench.serve(&bench.request());
        assert_eq!(bench.spoken().0, ["0", "0", "0", "2"], "request {request}");
        bench.worker.pass(Duration::from_millis(1));
    }
}

#[test]
fn a_property_is_declared_in_one_way() {
    let name = "declare_property";
    let same = b"\x0a\x01p\x18\x02";
    let guest = Guest::new().data(0, name).data(256, same).data(300, b"\x0a\x01p");
    let differs = call(CALL, [0, i64::try_from(name.len()).expect("short"), 300, 3, OUT, SIZE]);
    let steps = [foreign(name, same.len()), foreign(name, same.len()), differs];
    let bench = guest.on(Callback::RequestHeaders, steps).bench();
    bench.serve(&bench.request());
    assert_eq!(bench.spoken().0, ["0", "0", "2"]);
    for bad in [&b""[..], b"\x10\x01", b"\x0a\x00", b"\x0a\x09name", b"declare_property"] {
        assert_eq!(answer(name, bad), ("2".into(), None), "{}", bad.escape_ascii());
    }
    assert_eq!(answer(name, same), ("0".into(), Some(String::new())));
}

#[test]
fn the_route_cache_is_cleared_in_every_version() {
    for (version, _) in AbiVersion::MARKERS {
        let guest = Guest::new().version(version).data(0, "clear_route_cache");
        let bench =
            guest.on(Callback::RequestHeaders, [foreign("clear_route_cache", 0), u32_at(SIZE)]).bench();
        assert_eq!(bench.run(), ["0", "0"]);
    }
}

/// Looks a name up, and says what it is told.
fn resolver() -> Guest {
    let told = [
        param(0),
        param(1),
        param(2),
        call("proxy_get_buffer_bytes", [8, 10, 6, OUT, SIZE]),
        value(OUT),
        call("proxy_get_property", [512, 10, OUT, SIZE]),
    ];
    let number = u32_at(65536);
    Guest::new()
        .data(0, "resolve")
        .data(256, "host.test")
        .data(512, "call.error")
        .on(Callback::RequestHeaders, [foreign("resolve", 9), u32_at(SIZE), number])
        .on(Callback::ForeignFunction, told)
}

#[test]
fn a_name_is_resolved_later() {
    let bench = resolver().bench();
    let _chain = bench.headers(&bench.request());
    assert_eq!(bench.log(), ["0", "4", "1"], "the number it will be called with");
    let calls = bench.worker.take_calls();
    let [Begun { token, what: What::Resolve(name), .. }] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(name, "host.test");
    let addresses = vec!["65.66.67.68".parse().expect("IPv4"), "::1".parse().expect("IPv6")];
    bench.shard.called(*token, CallEvent::Resolved(addresses));
    let mapped = "\u{fffd}\u{fffd}ABCD";
    assert_eq!(bench.log(), ["1", "1", "32", "0", mapped, "1"]);
    assert_eq!(bench.shard.calls(), 0);
}

#[test]
fn a_name_that_has_no_address_is_told_of_too() {
    let bench = resolver().bench();
    let _chain = bench.headers(&bench.request());
    let token = bench.worker.take_calls()[0].token;
    drop(bench.log());
    bench.shard.called(token, CallEvent::Failed(CallFailure::Resolve));
    assert_eq!(bench.log(), ["1", "1", "0", "0", "", "0"]);
}

#[test]
fn what_is_no_name_is_not_looked_up() {
    let long = "a".repeat(254);
    for name in ["", "a b", "a\0", "[::1]", "a/b", "\u{e4}", &long] {
        assert_eq!(answer("resolve", name.as_bytes()).0, "2", "{name}");
    }
    let bench = resolver().bench();
    bench.worker.refuse_calls(Some(CallError::Refused("there is no resolver".into())));
    let _chain = bench.headers(&bench.request());
    let (answers, warnings) = bench.spoken();
    assert_eq!(answers[0], "2");
    assert_eq!(warnings, ["call to \"host.test\" was not made: there is no resolver"]);
}

#[test]
fn bad_pointers_are_refused_and_results_need_not_be_wanted() {
    let guest = || Guest::new().data(0, "compress").data(256, "bytes");
    let good = [0, 8, 256, 5, OUT, SIZE];
    check(guest(), |_| (), &bad_pointers(CALL, &good, &[(0, 1), (2, 3)], &[(4, 4), (5, 4)]));
    let cases = [
        case(CALL, [0, 8, 256, 5, 0, 0], Status::Ok),
        case(CALL, [0, 8, 256, 5, 0, SIZE], Status::Ok),
        case(CALL, good, Status::Ok),
    ];
    check(guest(), |_| (), &cases);
}

/// Fields of a message, each a number below 16 and bytes.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, bytes) in fields {
        let len = u8::try_from(bytes.len()).expect("short");
        // Two bytes for each length, as a writer may have it.
        message.extend_from_slice(&[number << 3 | 2, len & 0x7f | 0x80, len >> 7]);
        message.extend_from_slice(bytes);
    }
    message
}

/// What function `name` answers, as bytes where it is OK.
fn answer_bytes(name: &str, arguments: &[u8]) -> Result<Vec<u8>, String> {
    // Each byte is logged as a number.
    let dump = wat(format!(
        "(local $at i32)
         (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $at) (i32.load (i32.const {SIZE}))))
            (call $number (i32.const 0) (i64.load8_u (i32.add (i32.load (i32.const {OUT})) (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next)))"
    ));
    let guest = Guest::new().data(0, name).data(256, arguments);
    let steps = [dump, foreign(name, arguments.len())];
    let [dump, foreign] = steps;
    let Step::Wat(text) = dump else { panic!("text") };
    let (local, rest) = text.split_once('\n').expect("two lines");
    let bench = guest.on(Callback::RequestHeaders, [wat(local), foreign, wat(rest)]).bench();
    bench.serve(&bench.request());
    let (log, _) = bench.spoken();
    match &log[0][..] {
        "0" => Ok(log[1..].iter().map(|byte| byte.parse().expect("a byte")).collect()),
        status => Err(status.to_owned()),
    }
}

#[test]
fn a_signature_is_made_and_verified() {
    let signed = answer_bytes("sign", &message(&[(1, b"SHA256"), (2, b"key"), (3, b"text")])).expect("OK");
    assert_eq!(signed[..4], [0x08, 1, 0x12, 32], "it went well, and here is the signature");
    let signature = &signed[4..];
    let verify = |digest: &[u8], key: &[u8], text: &[u8]| {
        answer_bytes("verify_signature", &message(&[(1, digest), (2, key), (3, signature), (4, text)]))
    };
    assert_eq!(verify(b"sha256", b"key", b"text"), Ok(vec![0x08, 1]));
    for (digest, key, text) in
        [(&b"sha1"[..], &b"key"[..], &b"text"[..]), (b"sha256", b"key2", b"text"), (b"sha256", b"key", b"")]
    {
        let answered = verify(digest, key, text).expect("OK");
        assert_eq!(answered[0], 0x12, "an error alone");
    }
    // The same key as text.
    let pem = b"-----BEGIN PUBLIC KEY-----\na2V5\n-----END PUBLIC KEY-----\n";
    let fields = [(1, &b"sha256"[..]), (5, pem), (3, signature), (4, b"text")];
    assert_eq!(answer_bytes("verify_signature", &message(&fields)), Ok(vec![0x08, 1]));
}

#[test]
fn what_cannot_be_signed_or_verified_is_told_apart() {
    for (fields, bad) in [
        (&[(1, &b"sha256"[..]), (3, b"text")][..], true),
        (&[(1, b"sha256"), (2, b"no key"), (3, b"text")], true),
        (&[(1, b"sha256"), (2, b"key"), (4, b"key"), (3, b"text")], true),
        (&[(1, b"sha256"), (4, b"no PEM"), (3, b"text")], true),
        (&[(1, b"md5"), (2, b"key"), (3, b"text")], false),
        (&[(2, b"key"), (3, b"text")], false),
    ] {
        match answer_bytes("sign", &message(fields)) {
            Err(status) => assert_eq!((&*status, bad), ("2", true)),
            Ok(result) => assert!(!bad && result[0] == 0x1a, "an error alone: {result:?}"),
        }
    }
    assert_eq!(answer_bytes("sign", b"\x12\x09key"), Err("2".into()), "cut short");
}
