//! Bodies pass through filters whole, unchanged, and are seen whole, however nginx holds them.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, digest};

/// What the guest `body_reader` logs at the end of a body.
fn total(direction: &str, bytes: &[u8]) -> (String, String) {
    (format!("body_reader: {direction} total={} ", bytes.len()), format!("fnv={}", digest::fnv(bytes)))
}

/// Waits until the guest has seen exactly `bytes`.
#[track_caller]
fn assert_seen(nginx: &Nginx, mark: usize, direction: &str, bytes: &[u8]) {
    let (start, end) = total(direction, bytes);
    let line = nginx.wait_for_log_since(mark, &format!("body_reader: {direction} total="));
    assert!(line.contains(&start) && line.contains(&end), "{line}: not {start}… {end}");
    assert!(!nginx.log_since(mark).contains("could be read"), "a size was wrong");
}

const SIZES: [usize; 8] = [1, 2, 4095, 4096, 16_384, 100_001, 1 << 20, 10 << 20];

#[test]
fn request_bodies_reach_the_filter_and_the_origin() {
    let origin = Origin::start(|seen| Reply::text(digest::fnv(&seen.body)));
    let settings = [
        ("buffered", "client_body_buffer_size 16k;"),
        ("unbuffered", "proxy_request_buffering off;"),
        ("in a file", "client_body_in_file_only clean;"),
        ("in one buffer", "client_body_buffer_size 11m; client_body_in_single_buffer on;"),
    ];
    for (name, setting) in settings {
        let nginx = Nginx::start(
            Conf::new()
                .guest("body_reader")
                .http("http2 on; client_max_body_size 20m;")
                .proxy(&origin, &format!("proxy_wasm body_reader; {setting}")),
        );
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut connection = nginx.connect(protocol);
            for (seed, size) in (0_u64..).zip(SIZES) {
                let body = digest::bytes(size, seed);
                for request in [
                    Request::post("/", body.clone()),
                    Request::post_chunks("/", body.chunks(size.div_ceil(3))),
                ] {
                    let mark = nginx.mark();
                    let response = connection.send(request);
                    assert_eq!(response.text(), digest::fnv(&body), "{name}, {protocol:?}, {size} bytes");
                    assert_seen(&nginx, mark, "request", &body);
                }
            }
        }
    }
}

/// A body that comes slowly is seen as it comes, not only at its end.
#[test]
fn an_unbuffered_request_body_streams() {
    let origin = Origin::start(|seen| Reply::text(digest::fnv(&seen.body)));
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .proxy(&origin, "proxy_wasm body_reader; proxy_request_buffering off;"),
    );
    let mut raw = nginx.raw();
    raw.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\none");
    nginx.wait_for_log("body_reader: request chunk size=3 eos=false");
    raw.write("two");
    nginx.wait_for_lines(0, "body_reader: request chunk size=3 eos=false", 2);
    raw.write("six");
    assert_eq!(raw.response().text(), digest::fnv(b"onetwosix"));
    nginx.wait_for_log("body_reader: request total=9 calls=3");
}

/// HTTP/1.0 has no chunks, nor has a location that leaves their header out: the body keeps its length, and its form.
#[test]
fn an_unbuffered_request_body_without_chunks() {
    let origin = weir_tests::raw::Listener::start();
    let unchunked =
        "proxy_http_version 1.1; proxy_set_header Connection close; proxy_set_header Transfer-Encoding '';";
    let nginx = Nginx::start(Conf::new().guest("body_reader").set("ORIGIN", origin.address()).server(&format!(
        "proxy_wasm body_reader; proxy_request_buffering off;
         location /10 {{ proxy_http_version 1.0; proxy_pass http://@ORIGIN@; }}
         location /without {{ {unchunked} proxy_pass http://@ORIGIN@; }}
         location /11 {{ proxy_http_version 1.1; proxy_set_header Connection close; proxy_pass http://@ORIGIN@; }}"
    )));
    for (path, version, form) in [
        ("/10", "1.0", "body and more"),
        ("/without", "1.1", "body and more"),
        ("/11", "1.1", "4\r\nbody\r\n9\r\n and more\r\n0\r\n\r\n"),
    ] {
        let mut client = nginx.raw();
        client.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\nbody"));
        let mut server = origin.accept_raw();
        let head = server.request_head();
        assert!(head.starts_with(&format!("POST {path} HTTP/{version}\r\n")), "{head}");
        let is_chunked = head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
        assert_eq!(
            (is_chunked, head.contains("\r\nContent-Length: 13\r\n")),
            (path == "/11", path != "/11"),
            "{head}"
        );
        client.write(" and more");
        assert_eq!(String::from_utf8_lossy(&server.read(form.len())), form, "{path}");
        server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().status, 204);
        drop(server);
    }
    nginx.wait_for_lines(0, "body_reader: request total=13 ", 3);
}

/// And a response that comes slowly reaches the client as it comes.
#[test]
fn an_unbuffered_response_body_streams() {
    let origin = weir_tests::raw::Listener::start();
    let nginx = Nginx::start(Conf::new().guest("body_reader").set("ORIGIN", origin.address()).server(
        "location / { proxy_wasm body_reader; proxy_buffering off; proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }",
    ));
    let mut client = nginx.raw();
    client.write("GET / HTTP/1.0\r\n\r\n");
    let mut server = origin.accept();
    server.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\none");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.read(3), b"one");
    server.write("two");
    assert_eq!(client.read(3), b"two");
    drop(server);
    assert_eq!(client.read_to_end(), b"");
    nginx.wait_for_log("body_reader: response total=6 calls=3");
}

#[test]
fn response_bodies_reach_the_filter_and_the_client() {
    let origin = Origin::start(|seen| {
        let size: usize = seen.target.trim_start_matches(['/', 'c', 's']).parse().expect("a size");
        let body = digest::bytes(size, 7);
        if seen.target.starts_with("/c") {
            Reply::chunks(body.chunks(1 + size / 7))
        } else {
            Reply::text(body)
        }
    });
    for setting in
        ["", "proxy_buffering off;", "proxy_buffers 2 4k; proxy_buffer_size 4k; proxy_busy_buffers_size 4k;"]
    {
        let nginx = Nginx::start(
            Conf::new()
                .guest("body_reader")
                .http("http2 on;")
                .proxy(&origin, &format!("proxy_wasm body_reader; {setting}")),
        );
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut connection = nginx.connect(protocol);
            for size in SIZES {
                for kind in ["c", "s"] {
                    let (mark, body) = (nginx.mark(), digest::bytes(size, 7));
                    let response = connection.get(&format!("/{kind}{size}"));
                    assert!(
                        response.body == body,
                        "{protocol:?} {kind}{size}: {} bytes",
                        response.body.len()
                    );
                    assert_seen(&nginx, mark, "response", &body);
                }
            }
        }
    }
}

#[test]
fn files_are_seen_whole_however_they_are_sent() {
    let settings = [
        "sendfile off;",
        "sendfile on;",
        "sendfile on; tcp_nopush on; sendfile_max_chunk 64k;",
        "aio threads;",
        "output_buffers 1 4k;",
        "directio 4k; output_buffers 2 128k;",
    ];
    for setting in settings {
        let conf = SIZES.iter().fold(Conf::new().guest("body_reader"), |conf, size| {
            conf.file(&format!("html/{size}"), digest::bytes(*size, 9))
        });
        let nginx =
            Nginx::start(conf.http(setting).server("root html; location / { proxy_wasm body_reader; }"));
        let mut connection = nginx.connect(Protocol::Http1);
        for size in SIZES {
            let (mark, body) = (nginx.mark(), digest::bytes(size, 9));
            let response = connection.get(&format!("/{size}"));
            assert!(response.body == body, "{setting} {size}: {} bytes", response.body.len());
            assert_seen(&nginx, mark, "response", &body);
        }
        let mark = nginx.mark();
        let range = connection.send(Request::get("/100001").header("range", "bytes=5000-5099"));
        let expected = &digest::bytes(100_001, 9)[5000..5100];
        assert_eq!((range.status, range.body.as_slice()), (206, expected));
        assert_seen(&nginx, mark, "response", expected);
    }
}

#[test]
fn several_ranges_pass() {
    let body = digest::bytes(10_000, 3);
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .file("html/f", body.clone())
            .server("root html; location / { proxy_wasm body_reader; } location /off/ { alias html/; }"),
    );
    let ranges = |path: &str| nginx.send(Request::get(path).header("range", "bytes=0-9,100-109"));
    let (with, without) = (ranges("/f"), ranges("/off/f"));
    assert_eq!((with.status, with.body.len()), (206, without.body.len()));
    assert!(with.body.windows(10).any(|part| part == &body[100..110]));
    assert_eq!(with.header("content-length"), without.header("content-length"));
}

/// Filters see the body before gzip, and the client gets it compressed.
#[test]
fn gzip_comes_after_the_filters() {
    let body = "compress me ".repeat(20_000).into_bytes();
    let sent = body.clone();
    let origin = Origin::start(move |_| Reply::text(sent.clone()).header("content-type", "text/plain"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .guest("maps")
            .file("html/f.txt", body.clone())
            .http("gzip on; gzip_types text/plain; gzip_proxied any;")
            .proxy(
                &origin,
                "proxy_wasm body_reader; proxy_wasm maps 'response get content-encoding'; location /f.txt { root html; }",
            ),
    );
    for path in ["/", "/f.txt"] {
        let mark = nginx.mark();
        let response = nginx.send(Request::get(path).header("accept-encoding", "gzip"));
        assert!(response.body.len() < body.len() / 10);
        assert!(response.gunzip() == body);
        assert_seen(&nginx, mark, "response", &body);
        nginx.wait_for_log_since(mark, "response get content-encoding = None");
    }
}

/// What the origin has compressed stays so.
#[test]
fn what_the_origin_has_encoded_passes() {
    let packed = digest::bytes(50_000, 5);
    let sent = packed.clone();
    let origin = Origin::start(move |_| Reply::text(sent.clone()).header("content-encoding", "gzip"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .http("gzip on;")
            .proxy(&origin, "proxy_wasm body_reader; gzip_proxied any;"),
    );
    let mark = nginx.mark();
    let response = nginx.send(Request::get("/").header("accept-encoding", "gzip"));
    assert!(response.body == packed);
    assert_eq!(response.headers("content-encoding"), ["gzip"]);
    assert_eq!(response.header("content-length"), Some("50000"));
    assert_seen(&nginx, mark, "response", &packed);
}

/// nginx's own body filters that come after ours still work on what passes.
#[test]
fn other_body_filters_still_work() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .file("html/p.html", "before <!--# echo var=\"x\" default=\"ssi\" --> after")
            .http("proxy_wasm body_reader;")
            .server(
                "root html; default_type text/html;
                 location = /p.html { ssi on; }
                 location /sub/ { sub_filter before BEFORE; alias html/; }
                 location /add/ { add_after_body /more; alias html/; }
                 location = /more { return 200 '+more'; }",
            ),
    );
    assert_eq!(nginx.get("/p.html").text(), "before ssi after");
    assert!(nginx.get("/sub/p.html").text().starts_with("BEFORE"));
    assert!(nginx.get("/add/p.html").text().ends_with("after+more"));
}

/// Large bodies in both directions at once, over one connection, do not mix.
#[test]
fn bodies_at_once() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .http("http2 on; client_max_body_size 20m;")
            .proxy(&origin, "proxy_wasm body_reader; proxy_wasm body_reader;"),
    );
    let bodies: Vec<Vec<u8>> =
        (0..20).map(|seed| digest::bytes(200_000 + 1000 * seed, seed as u64)).collect();
    let responses =
        nginx.connect(Protocol::Http2).send_all(bodies.iter().map(|body| Request::post("/", body.clone())));
    for (body, response) in bodies.iter().zip(responses) {
        assert!(response.body == *body, "{} bytes of {}", response.body.len(), body.len());
    }
    let log = nginx.stop();
    for body in &bodies {
        for direction in ["request", "response"] {
            let (start, end) = total(direction, body);
            let lines = log.lines().filter(|line| line.contains(&start) && line.contains(&end)).count();
            assert_eq!(lines, 2, "{direction} {}", body.len());
        }
    }
}

/// nginx itself is the reader: the body is written to a file.
#[test]
fn a_body_that_is_stored() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("body_reader")
            .file("store/there", "")
            // Workers run as another user than the one who has made the folder.
            .open_folder("store")
            .server("location / { proxy_wasm body_reader; root store; dav_methods PUT; client_max_body_size 20m; }"),
    );
    for size in [1, 100_000, 2 << 20] {
        let (mark, body) = (nginx.mark(), digest::bytes(size, 8));
        let put = |connection: &mut weir_tests::Connection| {
            connection.send(Request::post("/f", body.clone()).method("PUT"))
        };
        let response = put(&mut nginx.connect(Protocol::Http1));
        assert!([201, 204].contains(&response.status), "{}", response.status);
        assert_seen(&nginx, mark, "request", &body);
        assert!(std::fs::read(nginx.prefix().join("store/f")).expect("the file") == body);
    }
}

#[test]
fn expect_100_continue_is_answered() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = Nginx::start(Conf::new().guest("body_reader").proxy(&origin, "proxy_wasm body_reader;"));
    let mut raw = nginx.raw();
    raw.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(raw.head().status, 100);
    raw.write("body");
    assert_eq!(raw.response().text(), "body");
    nginx.wait_for_log("body_reader: request total=4 ");
}

/// Parts of a stream reach the client as they come (`proxy_buffering off`), whatever filters do to them: the origin sends
/// the next one when the client has the last.
#[test]
fn parts_of_a_stream_do_not_wait_for_more() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (next, comes) = mpsc::channel::<&'static str>();
    thread::spawn(move || {
        let comes = comes;
        while let Ok((mut origin, _)) = listener.accept() {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                origin.read_exact(&mut byte).expect("a request");
                asked.push(byte[0]);
            }
            origin.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("a head");
            while let Ok(part) = comes.recv() {
                let _ = write!(origin, "{:x}\r\n{part}\r\n", part.len());
                if part.is_empty() {
                    break;
                }
            }
        }
    });
    let orders =
        ["", "resb.set=+", "resb.append=+ resb.prepend=-", "resb.cut", "resb.pause", "resb.prepend=."];
    let locations: Vec<String> = orders
        .iter()
        .enumerate()
        .map(|(at, order)| {
            format!("location = /{at} {{ proxy_wasm edits '{order}'; proxy_pass http://{address}; }}")
        })
        .collect();
    let nginx = Nginx::start(
        Conf::new()
            .guest("edits")
            .http("proxy_buffering off; proxy_http_version 1.1; proxy_wasm_isolation none;")
            .server(&format!(
                "{} location = /resume {{ proxy_wasm edits ''; return 200 x; }}",
                locations.join("\n")
            ))
            .workers(1),
    );
    for (at, order) in orders.iter().enumerate() {
        let mark = nginx.mark();
        let mut client = TcpStream::connect(nginx.address()).expect("connect to nginx");
        client.set_read_timeout(Some(weir_tests::wait::DEADLINE)).expect("a read timeout");
        write!(client, "GET /{at} HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
        let mut came = String::new();
        for part in ["first", "second", "third"] {
            let before = nginx.mark();
            next.send(part).expect("the origin goes on");
            let expected = match *order {
                "resb.set=+" => "1\r\n+\r\n".to_owned(),
                "resb.cut" => format!("2\r\n{}{}\r\n", &part[..1], &part[part.len() - 1..]),
                _ => format!("{part}\r\n"),
            };
            if *order == "resb.pause" {
                nginx.wait_for_log_since(before, &format!("edits: resb size={} end=false", part.len()));
                let id = nginx.log_since(mark);
                let id = id.split("edits: context ").nth(1).and_then(|rest| rest.split(',').next());
                let resume = Request::get("/resume").header("x-resume", &format!("{} 1", id.expect("an id")));
                let _ = nginx.send(resume).expect_status(200);
            }
            while !came.contains(&expected) {
                let mut buffer = [0; 4096];
                let read =
                    client.read(&mut buffer).unwrap_or_else(|error| panic!("{order}: {error}: {came:?}"));
                assert!(read > 0, "{order}: {came}");
                came.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            came.clear();
        }
        next.send("").expect("the origin goes on");
        drop(client);
    }
}
