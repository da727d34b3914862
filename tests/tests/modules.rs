//! nginx's own modules beside filters that change what passes: caches, mirrors, subrequests, limits, ranges.

use std::sync::atomic::{AtomicUsize, Ordering};

use weir_tests::{Conf, Connection, Nginx, Origin, Protocol, Reply, Request, Response, digest, wait};

const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// Changes the whole body of a response, and its headers.
const CHANGE: &str = "proxy_wasm maps 'response add x-weir yes'; proxy_wasm edits 'resb.collect resb.prepend=[ resb.append=]';";

fn guests() -> Conf {
    Conf::new().guest("edits").guest("maps").guest("trace").guest("body_reader").http("http2 on;")
}

/// The length that is announced is that of the body.
#[track_caller]
fn assert_body(response: &Response, text: &str) {
    assert!(response.text() == text, "{:?}: {} bytes", response.headers, response.body.len());
    if let Some(length) = response.header("content-length") {
        assert_eq!(length, text.len().to_string());
    }
    assert_eq!(response.headers("x-weir"), ["yes"]);
}

#[test]
fn what_a_cache_keeps_is_the_origins_and_is_filtered_once() {
    static REQUESTS: AtomicUsize = AtomicUsize::new(0);
    let body = "c".repeat(100_000);
    let sent = body.clone();
    let origin = Origin::start(move |seen| {
        // All but the first are asked for when what is cached is too old.
        let first = REQUESTS.fetch_add(1, Ordering::Relaxed) == 0;
        match seen.target.as_str() {
            "/stale" if !first => Reply::status(500).body("sorry"),
            "/again" if seen.header("if-none-match").is_some() => Reply::status(304).header("etag", "\"1\""),
            _ => Reply::text(sent.clone()).header("etag", "\"1\"").header("cache-control", "max-age=1"),
        }
    });
    let nginx = Nginx::start(guests().http("proxy_cache_path cache keys_zone=c:1m;").proxy(
        &origin,
        &format!(
            "{CHANGE} proxy_cache c; proxy_cache_use_stale error http_500; proxy_cache_revalidate on;
             proxy_cache_bypass $arg_bypass; add_header x-cache $upstream_cache_status always;"
        ),
    ));
    let expected = format!("[{body}]");
    for path in ["/stale", "/again"] {
        REQUESTS.store(0, Ordering::Relaxed);
        let mut connection = nginx.connect(Protocol::Http1);
        let mut status = |target: &str| {
            let response = connection.get(target).expect_status(200);
            assert_body(&response, &expected);
            response.header("x-cache").expect("a status").to_owned()
        };
        assert_eq!(status(path), "MISS");
        // A second may pass before it is asked again.
        let mut seen = vec![status(path)];
        let old = wait::poll(|| {
            seen.push(status(path));
            seen.last().filter(|status| *status != "HIT").cloned()
        });
        assert_eq!(old.as_deref(), Some(if path == "/stale" { "STALE" } else { "REVALIDATED" }));
        assert!(seen.contains(&"HIT".to_owned()), "{seen:?}");
        REQUESTS.store(0, Ordering::Relaxed);
        assert_eq!(status(&format!("{path}?bypass=1")), "BYPASS");
    }
    // Whoever has the ETag of the changed body is told that it has not changed.
    let response = nginx.get("/again");
    assert_eq!(response.header("etag"), Some("W/\"1\""));
    let unmodified = nginx.send(Request::get("/again").header("if-none-match", "W/\"1\""));
    assert_eq!((unmodified.status, unmodified.text().as_str()), (304, ""));
    assert_eq!(unmodified.headers("x-weir"), ["yes"]);
}

/// The cached body is in a file, and may be sent by the system.
#[test]
fn cached_files() {
    let body = digest::bytes(300_000, 1);
    let sent = body.clone();
    let origin = Origin::start(move |_| Reply::text(sent.clone()).header("cache-control", "max-age=1000"));
    for setting in ["sendfile on;", "sendfile off;", "aio threads;", "sendfile on; directio 4k;"] {
        let nginx =
            Nginx::start(guests().http(&format!("{setting} proxy_cache_path cache keys_zone=c:1m;")).proxy(
                &origin,
                "proxy_wasm body_reader; proxy_wasm edits 'resh.nolength resb.append=end'; proxy_cache c;",
            ));
        for protocol in PROTOCOLS {
            let mut connection = nginx.connect(protocol);
            for _ in 0..3 {
                let mark = nginx.mark();
                let response = connection.get("/");
                assert!(response.body == [&body[..], b"end"].concat(), "{setting}: {}", response.body.len());
                nginx.wait_for_log_since(mark, "body_reader: response total=300003 ");
            }
        }
        assert!(origin.count() > 0);
    }
}

#[test]
fn what_filters_change_is_compressed_and_substituted_afterwards() {
    let body = "text ".repeat(20_000);
    let nginx = Nginx::start(
        guests()
            .file("html/f.txt", body.clone())
            .http("gzip on; gzip_types text/plain;")
            .server(&format!(
                "root html; {CHANGE}
                 location / {{ }}
                 location /sub/ {{ sub_filter '[' '<'; sub_filter ']' '>'; sub_filter_types *; alias html/; }}
                 location /add/ {{ add_before_body /more; add_after_body /more; addition_types *; alias html/; }}
                 location /ssi/ {{ ssi on; ssi_types *; alias html/; }}
                 location = /more {{ return 200 more; }}"
            ))
            .file("html/s.txt", "<!--# include virtual=\"/more\" -->."),
    );
    for protocol in PROTOCOLS {
        let mut connection = nginx.connect(protocol);
        let response = connection.send(Request::get("/f.txt").header("accept-encoding", "gzip"));
        assert!(response.gunzip() == format!("[{body}]").into_bytes());
        assert_body(&connection.get("/f.txt"), &format!("[{body}]"));
        assert_body(&connection.get("/sub/f.txt"), &format!("<{body}>"));
        assert_body(&connection.get("/add/f.txt"), &format!("more[{body}]more"));
        assert_body(&connection.get("/ssi/s.txt"), "[more.]");
    }
}

#[test]
fn authorization_by_a_subrequest() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    let nginx = Nginx::start(guests().set("ORIGIN", origin.address()).server(&format!(
        "location / {{ {CHANGE} proxy_wasm trace A; proxy_wasm edits 'reqb.collect reqb.append=up';
             auth_request /auth;
             proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }}
         location = /auth {{ internal; if ($http_x_deny) {{ return 403; }} return 204; }}"
    )));
    for protocol in PROTOCOLS {
        let mut connection = nginx.connect(protocol);
        let response = connection.send(Request::post("/", "body"));
        assert_body(&response, "[bodyup]");
        assert_eq!(origin.last().body, b"bodyup");
        let denied = connection.send(Request::post("/", "body").header("x-deny", "1"));
        assert_eq!((denied.status, denied.headers("x-trace")), (403, vec!["A"]));
        assert!(denied.text().starts_with('[') && denied.text().ends_with(']'), "{}", denied.text());
    }
    let log = nginx.stop();
    assert_eq!(log.matches("trace: on_log").count(), 4);
}

/// A mirror gets what the origin gets.
#[test]
fn mirrors() {
    let origin = Origin::start(|_| Reply::text("origin"));
    let mirror = Origin::start(|_| Reply::text("mirror"));
    let nginx = Nginx::start(
        guests().set("ORIGIN", origin.address()).set("MIRROR", mirror.address()).server(&format!(
            "location / {{ {CHANGE} proxy_wasm edits 'reqb.collect reqb.append=up';
                 proxy_wasm maps 'request add x-up yes'; mirror /mirror;
                 proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }}
             location = /mirror {{ internal; proxy_http_version 1.1; proxy_pass http://@MIRROR@; }}"
        )),
    );
    for (protocol, number) in PROTOCOLS.into_iter().zip([1, 2]) {
        assert_body(&nginx.connect(protocol).send(Request::post("/", "body")), "[origin]");
        assert!(
            wait::poll(|| (mirror.count() == number).then_some(())).is_some(),
            "the mirror was not asked"
        );
        for seen in [origin.last(), mirror.last()] {
            assert_eq!((seen.body.as_slice(), seen.header("x-up")), (&b"bodyup"[..], Some("yes")));
            assert_eq!(seen.header("content-length"), Some("6"), "{protocol:?}");
        }
    }
}

#[test]
fn limits() {
    let nginx = Nginx::start(
        guests()
            .file("html/f", "file")
            .http("limit_req_zone $server_port zone=r:1m rate=1r/m; limit_req_status 429;")
            .server(&format!(
                "root html; {CHANGE}
                 location /f {{ limit_req zone=r; }}"
            )),
    );
    assert_body(&nginx.get("/f"), "[file]");
    let limited = nginx.get("/f").expect_status(429);
    assert!(limited.text().starts_with('[') && limited.text().ends_with(']'));
    assert_eq!(limited.headers("x-weir"), ["yes"]);
}

#[test]
fn slices() {
    let body = digest::bytes(250_000, 2);
    let whole = body.clone();
    let origin = Origin::start(move |seen| {
        let range = seen.header("range").expect("a range").trim_start_matches("bytes=").to_owned();
        let (from, to) = range.split_once('-').expect("two ends");
        let from: usize = from.parse().expect("a number");
        let to = to.parse::<usize>().expect("a number").min(whole.len() - 1);
        Reply::status(206)
            .body(&whole[from..=to])
            .header("content-range", &format!("bytes {from}-{to}/{}", whole.len()))
            .header("etag", "\"1\"")
    });
    let nginx = Nginx::start(guests().http("proxy_cache_path cache keys_zone=c:1m;").proxy(
        &origin,
        "proxy_wasm edits 'resh.nolength resb.append=end'; proxy_cache c; proxy_cache_valid 206 1h;
         slice 64k; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;",
    ));
    for protocol in PROTOCOLS {
        let response = nginx.connect(protocol).get("/f");
        assert_eq!(response.status, 200);
        assert!(response.body == [&body[..], b"end"].concat(), "{} bytes", response.body.len());
    }
}

/// A body that a filter changes has no ranges, no strong ETag, and no length but its own.
#[test]
fn validators_and_ranges_of_changed_bodies() {
    let nginx = Nginx::start(guests().file("html/f", "0123456789".repeat(1000)).server(&format!(
        "root html;
         location / {{ {CHANGE} }}
         location /same/ {{ proxy_wasm body_reader; alias html/; }}
         location /announced/ {{ proxy_wasm edits 'resh.nolength resb.prepend=x'; alias html/; }}"
    )));
    let same = nginx.get("/same/f");
    let etag = same.header("etag").expect("an ETag");
    assert!(etag.starts_with('"'));
    assert_eq!(same.header("accept-ranges"), Some("bytes"));
    for path in ["/f", "/announced/f"] {
        let changed = nginx.get(path);
        assert_eq!(changed.header("etag"), Some(format!("W/{etag}").as_str()), "{path}");
        assert_eq!(changed.header("accept-ranges"), None, "{path}");
        assert_eq!(changed.header("last-modified"), same.header("last-modified"), "{path}");
        let conditional = |name: &str, value: &str| nginx.send(Request::get(path).header(name, value)).status;
        assert_eq!(conditional("if-none-match", etag), 304, "{path}");
        assert_eq!(conditional("if-none-match", &format!("W/{etag}")), 304, "{path}");
        assert_eq!(conditional("if-none-match", "\"other\""), 200, "{path}");
        let head = nginx.send(Request::head(path));
        assert_eq!((head.status, head.text().as_str()), (200, ""), "{path}");
    }
    let range = nginx.send(Request::get("/same/f").header("range", "bytes=1-3"));
    assert_eq!((range.status, range.text().as_str()), (206, "123"));
}

/// What an origin sends piece by piece goes on piece by piece.
#[test]
fn unbuffered_responses() {
    let origin = weir_tests::raw::Listener::start();
    let nginx = Nginx::start(guests().set("ORIGIN", origin.address()).server(
        "location / { proxy_wasm edits 'resh.nolength resb.prepend=+'; proxy_buffering off;
             proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }",
    ));
    let mut client = nginx.raw();
    client.write("GET / HTTP/1.0\r\n\r\n");
    let mut server = origin.accept();
    server.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none");
    assert_eq!(client.head().header("content-length"), None);
    assert_eq!(client.read(4), b"+one");
    server.write("two");
    assert_eq!(client.read(4), b"+two");
    server.write("six");
    // The end is a piece without bytes.
    assert_eq!(client.read_to_end(), b"+six+");
}

/// Connections to origins are used again, whatever filters do to what passes over them.
#[test]
fn kept_connections_to_origins_stay_in_step() {
    let origin =
        Origin::start(|seen| Reply::text(format!("{} {}", seen.target, String::from_utf8_lossy(&seen.body))));
    let location = |name: &str, filter: &str| {
        format!(
            "location /{name} {{ proxy_wasm edits '{filter}'; proxy_http_version 1.1;
                 proxy_set_header Connection ''; proxy_pass http://kept; }}\n"
        )
    };
    let places = [
        ("longer", "reqb.collect reqb.append=up resb.collect resb.append=down"),
        ("shorter", "reqb.collect reqb.cut resb.collect resb.cut"),
        ("headers", "resh.local=no"),
        ("body", "resb.local=no"),
        ("request", "reqb.local=no"),
        ("plain", ""),
    ];
    let nginx = Nginx::start(
        guests()
            .workers(1)
            .http("upstream kept { server @ORIGIN@; keepalive 4; }")
            .set("ORIGIN", origin.address())
            .server(&places.map(|(name, filter)| location(name, filter)).concat()),
    );
    for protocol in PROTOCOLS {
        let mut connection = nginx.connect(protocol);
        for round in 0..20 {
            for (name, filter) in places {
                let body = format!("{name}{round}");
                let target = format!("/{name}/{round}");
                let response = connection.send(Request::post(&target, body.clone()));
                let text = response.text();
                if filter.ends_with("local=no") {
                    assert_eq!((response.status, text.as_str()), (418, "no"));
                    continue;
                }
                match name {
                    "longer" => assert_eq!(text, format!("{target} {body}updown")),
                    "shorter" => assert_eq!(text.len(), 2),
                    _ => assert_eq!(text, format!("{target} {body}")),
                }
            }
        }
    }
}

/// Files of many buffers, however nginx has them.
#[test]
fn changed_files() {
    let body = digest::bytes(1 << 20, 3);
    for setting in [
        "sendfile off;",
        "sendfile on;",
        "sendfile on; sendfile_max_chunk 64k; tcp_nopush on;",
        "aio threads;",
        "output_buffers 1 4k;",
        "directio 4k; output_buffers 2 128k;",
    ] {
        let nginx = Nginx::start(guests().file("html/f", body.clone()).http(setting).server(
            "root html;
             location / { proxy_wasm edits 'resh.nolength resb.append=end'; }
             location /cut/ { proxy_wasm edits 'resb.collect resb.cut'; proxy_wasm_response_body_buffer 2m;
                 alias html/; }",
        ));
        for protocol in PROTOCOLS {
            let mut connection = Connection::open(nginx.address(), protocol);
            let response = connection.get("/f");
            assert!(response.body == [&body[..], b"end"].concat(), "{setting} {}", response.body.len());
            let response = connection.get("/cut/f");
            let ends = [body[0], body[body.len() - 1]];
            assert_eq!((response.body.as_slice(), response.header("content-length")), (&ends[..], Some("2")));
        }
    }
}
