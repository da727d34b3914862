//! Which callbacks a filter gets for which request, in which order, and with which arguments.

use weir_tests::{
    Conf, Nginx, Origin, Protocol, Reply, Request,
    trace::{Call, calls, outline, stream_calls},
};

mod bodies;

/// The callbacks of one request without a body of its own, whose response has a body.
const WITH_BODY: [&str; 7] = [
    "on_context_create",
    "on_request_headers:true",
    "on_response_headers:false",
    "on_response_body:true",
    "on_done",
    "on_log",
    "on_delete",
];

/// The same without a body.
const WITHOUT_BODY: [&str; 6] = [
    "on_context_create",
    "on_request_headers:true",
    "on_response_headers:true",
    "on_done",
    "on_log",
    "on_delete",
];

/// Sends one request and gives the calls that it led to, once its context is gone.
fn trace(nginx: &Nginx, send: impl FnOnce()) -> Vec<Call> {
    let mark = nginx.mark();
    send();
    nginx.wait_for_log_since(mark, "trace: on_delete ctx=2");
    stream_calls(&nginx.log_since(mark))
}

fn get(nginx: &Nginx, path: &str, status: u16) -> Vec<Call> {
    trace(nginx, || {
        let response = nginx.get(path).expect_status(status);
        assert_eq!(response.header("x-trace"), Some("A"), "the filter has changed the response");
    })
}

/// Body callbacks of a direction: `end_of_stream` comes once, last; their sizes, put together.
fn body_size(calls: &[Call], callback: &str) -> usize {
    let calls: Vec<&Call> = calls.iter().filter(|call| call.callback == callback).collect();
    let (last, others) = calls.split_last().expect("a body callback");
    assert!(last.end_of_stream(), "{calls:?}");
    assert!(others.iter().all(|call| !call.end_of_stream() && call.number("body_size") > 0), "{calls:?}");
    calls.iter().map(|call| call.number("body_size")).sum()
}

/// Callbacks without their repetitions: what a body in several pieces leads to.
fn order(calls: &[Call]) -> Vec<&str> {
    let mut order: Vec<&str> = calls.iter().map(|call| call.callback.as_str()).collect();
    order.dedup();
    order
}

#[test]
fn responses_that_nginx_makes_itself() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .file("html/file", "x".repeat(5000))
            .file("html/empty", "")
            .file("html/dir/index.html", "index")
            .http("proxy_wasm trace A;")
            .server(
                "root html;
                 location = /return { return 200 'hello'; }
                 location = /empty-return { return 200 ''; }
                 location = /none { return 204; }
                 location = /moved { return 302 /x; }
                 location = /forbidden { deny all; }
                 location = /pixel { empty_gif; }
                 location = /list/ { autoindex on; alias html/dir/; index none; }",
            ),
    );
    let outline_of = |path: &str, status: u16| outline(&get(&nginx, path, status));
    assert_eq!(outline_of("/return", 200), WITH_BODY);
    assert_eq!(outline_of("/pixel", 200), WITH_BODY);
    assert_eq!(outline_of("/file", 200), WITH_BODY);
    assert_eq!(outline_of("/dir/index.html", 200), WITH_BODY);
    assert_eq!(outline_of("/moved", 302), WITH_BODY);
    assert_eq!(outline_of("/missing", 404), WITH_BODY);
    assert_eq!(outline_of("/forbidden", 403), WITH_BODY);
    assert_eq!(outline_of("/none", 204), WITHOUT_BODY);
    assert_eq!(outline_of("/empty", 200), WITHOUT_BODY);
    assert_eq!(outline_of("/empty-return", 200), WITHOUT_BODY);
    let listed = get(&nginx, "/list/", 200);
    assert_eq!(order(&listed)[2..4], ["on_response_headers", "on_response_body"]);

    let file = get(&nginx, "/file", 200);
    assert_eq!(body_size(&file, "on_response_body"), 5000);
    assert_eq!(body_size(&get(&nginx, "/return", 200), "on_response_body"), 5);
}

#[test]
fn head_not_modified_and_ranges() {
    let nginx = Nginx::start(Conf::new().guest("trace").file("html/file", "x".repeat(5000)).server(
        "root html; location / { proxy_wasm trace A; } location = /r { proxy_wasm trace A; return 200 x; }",
    ));
    for path in ["/file", "/r", "/missing"] {
        let head = trace(&nginx, || assert_eq!(nginx.send(Request::head(path)).text(), ""));
        assert_eq!(outline(&head), WITHOUT_BODY, "{path}");
    }
    let mut modified = String::new();
    trace(&nginx, || nginx.get("/file").header("last-modified").expect("a date").clone_into(&mut modified));
    let unmodified = trace(&nginx, || {
        let request = Request::get("/file").header("if-modified-since", &modified);
        assert_eq!(nginx.send(request).status, 304);
    });
    assert_eq!(outline(&unmodified), WITHOUT_BODY);
    let range = trace(&nginx, || {
        let response = nginx.send(Request::get("/file").header("range", "bytes=10-29"));
        assert_eq!((response.status, response.body.len()), (206, 20));
    });
    assert_eq!(body_size(&range, "on_response_body"), 20);
}

#[test]
fn proxied_responses() {
    let body = "z".repeat(100_000);
    let sent = body.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/chunks" => Reply::chunks(sent.as_bytes().chunks(1000)),
        "/no-chunks" => Reply::chunks([""; 0]),
        "/none" => Reply::status(204),
        "/unmodified" => Reply::status(304),
        "/error" => Reply::status(500).body("sorry"),
        "/empty" => Reply::text(""),
        _ => Reply::text(sent.clone()),
    });
    for buffering in ["on", "off"] {
        let nginx = Nginx::start(
            Conf::new()
                .guest("trace")
                .proxy(&origin, &format!("proxy_wasm trace A; proxy_buffering {buffering};")),
        );
        let sized = get(&nginx, "/sized", 200);
        assert_eq!(
            order(&sized),
            [
                "on_context_create",
                "on_request_headers",
                "on_response_headers",
                "on_response_body",
                "on_done",
                "on_log",
                "on_delete"
            ]
        );
        assert_eq!(body_size(&sized, "on_response_body"), body.len());
        let chunks = get(&nginx, "/chunks", 200);
        assert_eq!(outline(&chunks)[2], "on_response_headers:false");
        assert_eq!(body_size(&chunks, "on_response_body"), body.len());
        assert_eq!(body_size(&get(&nginx, "/no-chunks", 200), "on_response_body"), 0);
        assert_eq!(body_size(&get(&nginx, "/error", 500), "on_response_body"), 5);
        assert_eq!(outline(&get(&nginx, "/none", 204)), WITHOUT_BODY);
        assert_eq!(outline(&get(&nginx, "/empty", 200)), WITHOUT_BODY);
        assert_eq!(outline(&get(&nginx, "/unmodified", 304)), WITHOUT_BODY);
    }
}

#[test]
fn cached_responses() {
    let origin = Origin::start(|_| Reply::text("c".repeat(10_000)).header("cache-control", "max-age=60"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .http("proxy_cache_path cache keys_zone=c:1m;")
            .proxy(&origin, "proxy_wasm trace A; proxy_cache c; add_header x-cache $upstream_cache_status;"),
    );
    let cached = |state: &str| {
        trace(&nginx, || {
            let response = nginx.get("/");
            assert_eq!((response.header("x-cache"), response.body.len()), (Some(state), 10_000));
            assert_eq!(response.headers("x-trace"), ["A"], "a cached response is not filtered twice");
        })
    };
    let first = cached("MISS");
    let second = cached("HIT");
    assert_eq!(order(&first), order(&second));
    assert_eq!(body_size(&second, "on_response_body"), 10_000);
    assert_eq!(origin.count(), 1);
}

#[test]
fn errors_of_the_origin() {
    // A port that nobody listens on any more.
    let gone = weir_tests::ports::free();
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .set("GONE", gone)
            .server("location / { proxy_wasm trace A; proxy_pass http://127.0.0.1:@GONE@; }"),
    );
    assert_eq!(outline(&get(&nginx, "/", 502)), WITH_BODY);
}

#[test]
fn requests_that_are_refused_before_a_location_is_found() {
    let mut nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .http("proxy_wasm trace A; large_client_header_buffers 2 1k; client_max_body_size 10;")
            .server("location / { return 200 ok; }"),
    );
    nginx.tolerate("client sent");
    let exchange = |bytes: &str| {
        let mut raw = nginx.raw();
        raw.write(bytes);
        raw.response().status
    };
    assert_eq!(exchange("nonsense\r\n\r\n"), 400);
    assert_eq!(exchange("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(exchange("GET / HTTP/9.9\r\n\r\n"), 505);
    assert_eq!(exchange(&format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(2000))), 414);
    assert_eq!(exchange(&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(2000))), 400);
    assert_eq!(exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"), 413);
    assert_eq!(exchange("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: y\r\n\r\n"), 400);
    assert_eq!(nginx.get("/").text(), "ok");
    let calls = stream_calls(&nginx.stop());
    let count = |callback: &str| calls.iter().filter(|call| call.callback == callback).count();
    let created = count("on_context_create");
    assert!(created >= 1);
    assert_eq!((count("on_done"), count("on_log"), count("on_delete")), (created, created, created));
}

#[test]
fn a_client_that_goes_away() {
    let origin = Origin::start(|_| Reply::text("ok"));
    let nginx = Nginx::start(Conf::new().guest("trace").proxy(&origin, "proxy_wasm trace A;"));
    let calls = trace(&nginx, || {
        let mut raw = nginx.raw();
        raw.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
        nginx.wait_for_log("trace: on_request_headers");
    });
    let order = order(&calls);
    assert_eq!(order[..2], ["on_context_create", "on_request_headers"]);
    assert!(order.ends_with(&["on_done", "on_log", "on_delete"]), "{order:?}");
}

#[test]
fn each_request_of_a_connection_has_its_own_context() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .http("http2 on;")
            .server("location / { proxy_wasm trace A; return 200 ok; }"),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        for _ in 0..5 {
            assert_eq!(outline(&trace(&nginx, || drop(connection.get("/")))), WITH_BODY);
        }
    }
}

/// A response that is made before any location is chosen.
#[test]
fn responses_of_the_server_itself() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .server("proxy_wasm trace A; return 200 server;")
            .server("proxy_wasm trace A; rewrite ^/r /moved redirect; location / { return 200 ok; }"),
    );
    assert_eq!(outline(&get(&nginx, "/", 200)), WITH_BODY);
    let second = |path: &str, status: u16| {
        trace(&nginx, || {
            let response = weir_tests::Connection::open(nginx.address_of(1), Protocol::Http1).get(path);
            assert_eq!((response.status, response.headers("x-trace")), (status, vec!["A"]));
        })
    };
    assert_eq!(outline(&second("/r", 302)), WITH_BODY);
    assert_eq!(outline(&second("/", 200)), WITH_BODY);
}

/// The order of two filters in every callback: as configured for requests, reversed for responses.
#[test]
fn two_filters() {
    let origin = Origin::start(|_| Reply::text("ok"));
    let nginx =
        Nginx::start(Conf::new().guest("trace").proxy(&origin, "proxy_wasm trace A; proxy_wasm trace B;"));
    let _ = nginx.send(Request::post("/", "body"));
    let calls = stream_calls(&nginx.stop());
    let sequence = |callback: &str| -> Vec<&str> {
        calls.iter().filter(|call| call.callback == callback).map(|call| call.name.as_str()).collect()
    };
    for callback in ["on_context_create", "on_request_headers", "on_request_body"] {
        assert_eq!(sequence(callback), ["A", "B"], "{callback}");
    }
    assert_eq!(sequence("on_response_headers"), ["B", "A"]);
    // nginx may pass a body in several pieces: each goes through both.
    let pieces = sequence("on_response_body");
    assert!(!pieces.is_empty() && pieces.chunks(2).all(|piece| piece == ["B", "A"]), "{pieces:?}");
    for callback in ["on_done", "on_log", "on_delete"] {
        let mut names = sequence(callback);
        names.sort_unstable();
        assert_eq!(names, ["A", "B"], "{callback}");
    }
}

/// The count in a headers callback is the length of the map that the guest then reads.
#[test]
fn header_counts_are_the_lengths_of_the_maps() {
    let origin = Origin::start(|_| Reply::text("ok").header("x-a", "1").header("x-a", "2"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("trace")
            .guest("maps")
            .proxy(&origin, "proxy_wasm maps 'request dump\nresponse dump'; proxy_wasm trace A;"),
    );
    let _ = nginx.send(Request::get("/").header("x-b", "1"));
    let log = nginx.stop();
    let pairs = |what: &str| {
        let line = log.lines().find(|line| line.contains(what)).expect("a dump");
        line.matches("[\"").count()
    };
    let count = |callback: &str| {
        let calls = stream_calls(&log);
        calls.iter().find(|call| call.callback == callback).expect("the callback").number("n")
    };
    assert_eq!(count("on_request_headers"), pairs("maps: request dump"));
    assert_eq!(
        count("on_response_headers") + 1,
        pairs("maps: response dump"),
        "trace has added one in between"
    );
}

/// Root contexts are made with the instance, before its stream contexts, and configured once.
#[test]
fn root_contexts() {
    let nginx = Nginx::start(
        Conf::new()
            .guest_as("trace", "trace", "vm!")
            .workers(1)
            .server("location / { proxy_wasm_isolation none; proxy_wasm trace A; return 200 ok; }"),
    );
    let mark = nginx.mark();
    for _ in 0..3 {
        let _ = nginx.get("/");
    }
    nginx.wait_for_lines(mark, "trace: on_log", 3);
    let worker = nginx.worker_pid();
    let log = nginx.stop();
    // The master configures the filter, once; the worker begins where that has ended.
    let of_worker: String = log
        .lines()
        .filter(|line| line.contains(&format!(" {worker}#")))
        .map(|line| format!("{line}\n"))
        .collect();
    let calls = calls(&log);
    let outline: Vec<(String, u32)> =
        calls.iter().take(3).map(|call| (call.callback.clone(), call.context)).collect();
    let expected = [("on_context_create", 1), ("on_vm_start", 1), ("on_configure", 1)];
    assert_eq!(outline, expected.map(|(callback, context)| (callback.to_owned(), context)));
    assert_eq!((calls[1].number("size"), calls[2].number("size")), (3, 1));
    let contexts: Vec<u32> = stream_calls(&of_worker)
        .iter()
        .filter(|call| call.callback == "on_context_create")
        .map(|call| call.context)
        .collect();
    assert_eq!(contexts, [2, 3, 4], "one instance, one context for each request");
}
