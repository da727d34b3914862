//! `proxy_get_property`.

use std::borrow::Cow;

use weir_core::{
    abi::{Status, pairs::Pairs, types::MapType},
    engine::limits::MAX_PROPERTY_PATH,
    filter::Callback,
    host::{Attribute, Value},
    testing::Request,
};

use crate::support::{
    END, Guest, HIGH, OUT, SIZE, bad_pointers, call, case, check, len, pairs, u32_at, u64_at, value,
};

const GET: &str = "proxy_get_property";

fn prepare(request: &Request) {
    let mut parts = request.edit();
    let path = Value::Bytes(Cow::Borrowed(&b"/path"[..]));
    parts.attributes.insert(Attribute::RequestPath, path);
    parts.attributes.insert(Attribute::ResponseCode, Value::Int(404));
    parts.attributes.insert(Attribute::SourcePort, Value::Int(-1));
    parts.attributes.insert(Attribute::ConnectionMtls, Value::Bool(true));
    parts.attributes.insert(Attribute::RouteName, Value::Bytes(Cow::Borrowed(b"")));
    parts.attributes.insert(Attribute::ConnectionId, Value::Bytes(Cow::Borrowed(b"connection 7")));
    parts.native.insert(b"remote_addr".to_vec(), b"127.0.0.1".to_vec());
    parts.native.insert(b"arg_a.b".to_vec(), b"dotted".to_vec());
    parts.maps.insert(MapType::HttpResponseTrailers, pairs(&[("T", "1")]));
    parts.properties.set(b"my.own", b"stored", false).expect("room");
    parts.properties.set(b"my\0segments", b"segmented", false).expect("room");
}

/// What a guest reads under `path` in a callback of its request: the status and the value.
fn get(path: &[u8]) -> Vec<String> {
    let read = [call(GET, [8, len(path), OUT, SIZE]), value(OUT)];
    let bench = Guest::new().data(8, path).on(Callback::RequestHeaders, read).bench();
    let request = bench.request();
    prepare(&request);
    bench.serve(&request);
    bench.log()
}

#[test]
fn paths_lead_to_attributes_headers_variables_and_what_was_set() {
    for (path, expected) in [
        ("request\0path", "/path"),
        ("request\0path\0", "/path"),
        ("request.path", "/path"),
        ("route_name", ""),
        ("connection.mtls", "\u{1}"),
        ("request.headers.accept", "*/*"),
        ("request\0headers\0ACCEPT", "*/*"),
        ("response.headers.:status", "200"),
        ("response.trailers.t", "1"),
        ("mem.remote_addr", "127.0.0.1"),
        ("mem\0remote_addr", "127.0.0.1"),
        ("mem.arg_a.b", "dotted"),
        ("my.own", "stored"),
        ("filter_state.wasm.my.own", "stored"),
        ("filter_state\0wasm.my.own", "stored"),
        ("filter_state\0wasm.my\0segments", "segmented"),
        ("listener_direction", "\u{1}\0\0\0\0\0\0\0"),
        ("connection_id", "connection 7"),
        ("connection.id", "connection 7"),
        ("my\0segments", "segmented"),
        ("plugin_name", "guest"),
        ("plugin_root_id", "root"),
        ("plugin_vm_id", "guest-vm"),
        ("plugin_vm_memory", "\0\0\u{4}\0\0\0\0\0"),
    ] {
        assert_eq!(get(path.as_bytes()), ["0", expected], "{path:?}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let long = vec![b'a'; MAX_PROPERTY_PATH + 1];
    for path in [
        &b""[..],
        b"\0",
        b"nothing",
        b"request",
        b"request\0",
        b"request.query",
        b"request.headers.absent",
        b"request.trailers.x",
        b"mem.absent",
        b"mem",
        b"my",
        b"my.segments",
        b"filter_state.my.own",
        b"filter_state.wasm.absent",
        b"connection_id.x",
        b"plugin_name.x",
        b"\xff\xfe",
        &long,
    ] {
        assert_eq!(get(path)[0], "1", "{}", path.escape_ascii());
    }
}

#[test]
fn numbers_are_eight_bytes_and_truth_is_one() {
    let read = |at: i64, size: i64| call(GET, [at, size, OUT, SIZE]);
    let number = || crate::support::number(format!("(i64.load (i32.load (i32.const {OUT})))"));
    let steps = [read(8, 13), u32_at(SIZE), number(), read(40, 11), number(), read(80, 15), u32_at(SIZE)];
    let guest = Guest::new().data(8, "response.code").data(40, "source.port").data(80, "connection.mtls");
    let bench = guest.on(Callback::RequestHeaders, steps).bench();
    let request = bench.request();
    prepare(&request);
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "8", "404", "0", &u64::MAX.to_string(), "0", "1"]);
}

#[test]
fn whole_maps_are_serialized_pairs() {
    let log = get(b"request.headers");
    let read = Pairs::parse(log[1].as_bytes()).expect("well-formed");
    let names: Vec<_> = read.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b":method"[..], b":scheme", b":authority", b":path", b"accept"]);
    assert_eq!(get(b"response.trailers")[0], "0");
    assert_eq!(get(b"response\0headers\0")[0], "0");
}

#[test]
fn a_root_context_knows_its_names_only() {
    let texts = [
        "plugin_name",
        "plugin_root_id",
        "plugin_vm_id",
        "listener_direction",
        "connection_id",
        "request.path",
        "my.own",
        "mem.remote_addr",
    ];
    let mut guest = Guest::new();
    for (at, text) in (0..).step_by(32).zip(texts) {
        let read = [call(GET, [at, len(text), OUT, SIZE])];
        guest = guest.data(at, text).on(Callback::Configure, read);
    }
    assert_eq!(guest.bench().run(), ["0", "0", "0", "0", "1", "1", "1", "1"]);
    // Before there is one, there is no directive either.
    let early = Guest::new().data(0, "plugin_nameplugin_root_id").on(
        Callback::Initialize,
        [call(GET, [0, 11, OUT, SIZE]), value(OUT), call(GET, [11, 14, OUT, SIZE])],
    );
    assert_eq!(early.bench().run(), ["0", "guest", "1"]);
}

#[test]
fn nothing_is_allocated_for_an_empty_value() {
    let guest = Guest::new().data(8, "route_name").data(OUT, [1; 8]).allocating("unreachable");
    let bench = guest.on(Callback::RequestHeaders, [call(GET, [8, 10, OUT, SIZE]), u64_at(OUT)]).bench();
    let request = bench.request();
    prepare(&request);
    bench.serve(&request);
    assert_eq!(bench.log(), ["0", "0"]);
}

#[test]
fn statuses() {
    let mut cases = bad_pointers(GET, &[8, 12, OUT, SIZE], &[(0, 1)], &[(2, 4), (3, 4)]);
    cases.push(case(GET, [HIGH, 0, OUT, SIZE], Status::NotFound));
    cases.push(case(GET, [8, 12, END - 4, END - 8], Status::Ok));
    check(Guest::new().data(8, "request.path"), prepare, &cases);
    check(
        Guest::new().data(8, "request.path"),
        |request| request.edit().gone = true,
        &[case(GET, [8, 12, OUT, SIZE], Status::NotFound)],
    );
}
