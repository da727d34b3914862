//! Filters change headers that nginx keeps in fields of its own: nginx itself follows, and so does what leaves it.

use weir_tests::{Conf, Nginx, Origin, Protocol, Reply, Request, conf::maps};

/// What nginx reads from typed fields follows the change: each location answers with what it made of it.
#[test]
fn nginx_itself_acts_on_changed_request_headers() {
    let long = "x".repeat(2000);
    let nginx = Nginx::start(
        Conf::new()
            .guest("maps")
            .file("html/static/file.txt", long.clone())
            .http("gzip on; gzip_min_length 1; gzip_types text/plain;")
            .server(&format!(
                "root html;
                 location /static/ {{ }}
                 location /no-gzip/ {{ {no_gzip} alias html/static/; }}
                 location /gzip/ {{ {gzip} alias html/static/; }}
                 location /no-condition/ {{ {no_condition} alias html/static/; }}
                 location /range/ {{ {range} alias html/static/; }}
                 location /agent {{ {agent} return 200 $http_user_agent; }}
                 location /user {{ {user} return 200 $remote_user; }}
                 location /forwarded {{ {forwarded} return 200 $proxy_add_x_forwarded_for; }}
                 location /cookie {{ {cookie} return 200 '$http_cookie|$cookie_b'; }}
                 location /length {{ {length} return 200 '$http_content_type|$content_type'; }}",
                no_gzip = maps("request remove accept-encoding"),
                gzip = maps("request replace accept-encoding gzip"),
                no_condition = maps("request remove if-modified-since\nrequest remove if-none-match"),
                range = maps("request replace range bytes=0-9"),
                agent = maps("request replace user-agent weir"),
                user = maps("request replace authorization Basic dTpw"),
                forwarded = maps("request replace x-forwarded-for 192.0.2.1"),
                cookie = maps("request replace cookie b=2"),
                length = maps("request replace content-type text/x"),
            )),
    );
    let accepts = |path: &str| nginx.send(Request::get(path).header("accept-encoding", "gzip"));
    assert_eq!(accepts("/static/file.txt").header("content-encoding"), Some("gzip"));
    let response = accepts("/no-gzip/file.txt");
    assert_eq!((response.header("content-encoding"), response.text()), (None, long));
    assert_eq!(nginx.get("/gzip/file.txt").header("content-encoding"), Some("gzip"));

    let modified = nginx.get("/static/file.txt").header("last-modified").expect("a date").to_owned();
    let conditional =
        |path: &str| nginx.send(Request::get(path).header("if-modified-since", &modified)).status;
    assert_eq!(conditional("/static/file.txt"), 304);
    assert_eq!(conditional("/no-condition/file.txt"), 200);

    let range = nginx.get("/range/file.txt");
    assert_eq!((range.status, range.text().len()), (206, 10));
    assert_eq!(nginx.send(Request::get("/agent").header("user-agent", "old")).text(), "weir");
    assert_eq!(nginx.get("/agent").text(), "weir");
    assert_eq!(nginx.get("/user").text(), "u");
    assert_eq!(
        nginx.send(Request::get("/forwarded").header("x-forwarded-for", "198.51.100.1")).text(),
        "192.0.2.1, 127.0.0.1"
    );
    assert_eq!(nginx.get("/forwarded").text(), "192.0.2.1, 127.0.0.1");
    let cookies = Request::get("/cookie").header("cookie", "a=1; b=1").header("cookie", "c=3");
    assert_eq!(nginx.send(cookies).text(), "b=2|2");
    assert_eq!(nginx.send(Request::get("/length").header("content-type", "a")).text(), "text/x|text/x");
}

/// Every header that nginx's parser knows by name (`ngx_http_headers_in[]`), but for the ones that frame a message: what
/// a filter makes of it is what nginx's variable says, what the origin gets, and what the next filter sees; where it is
/// removed, it is gone, and where it is added to a request without it, it is there.
#[test]
fn every_request_header_of_nginx_s_table() {
    const NAMES: [&str; 25] = [
        "If-Modified-Since",
        "If-Unmodified-Since",
        "If-Match",
        "If-None-Match",
        "User-Agent",
        "Referer",
        "Content-Range",
        "Content-Type",
        "Range",
        "If-Range",
        "Accept-Encoding",
        "Via",
        "Authorization",
        "X-Forwarded-For",
        "X-Real-IP",
        "Accept",
        "Accept-Language",
        "Depth",
        "Destination",
        "Overwrite",
        "Date",
        "Cookie",
        "Cache-Control",
        "Origin",
        "X-Unknown",
    ];
    let origin = Origin::start(|_| Reply::text("fine"));
    let each = |line: &dyn Fn(&str) -> String| NAMES.map(line).join("\n");
    let seen: Vec<String> = NAMES
        .iter()
        .map(|name| format!("add_header x-{name} \"$http_{}\";", name.to_lowercase().replace('-', "_")))
        .collect();
    let nginx = Nginx::start(
        Conf::new().guest("maps").set("ORIGIN", origin.address()).http("http2 on;").server(&format!(
            "{seen}
             location /replaced {{ {replaced} {get} proxy_pass http://@ORIGIN@; }}
             location /removed {{ {removed} {get} proxy_pass http://@ORIGIN@; }}
             location /added {{ {added} {get} proxy_pass http://@ORIGIN@; }}",
            seen = seen.join("\n"),
            replaced = maps(&each(&|name| format!("request replace {name} new-{name}"))),
            removed = maps(&each(&|name| format!("request remove {name}"))),
            added = maps(&each(&|name| format!("request add {} added", name.to_uppercase()))),
            get = maps(&each(&|name| format!("request get {name}"))),
        )),
    );
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = nginx.connect(protocol);
        let full =
            |path: &str| NAMES.iter().fold(Request::get(path), |request, name| request.header(name, "old"));
        let empty = |path: &str| Request::get(path);
        let cases = [
            (full("/replaced"), None),
            (empty("/replaced"), None),
            (full("/removed"), Some(None)),
            (empty("/removed"), Some(None)),
            (empty("/added"), Some(Some("added"))),
        ];
        for (request, expected) in cases {
            let shown = format!("{request:?} {protocol:?}");
            let response = connection.send(request).expect_status(200);
            let came = origin.last();
            for name in NAMES {
                let new = format!("new-{name}");
                let expected = expected.unwrap_or(Some(&new));
                assert_eq!(came.header(name), expected, "{name} at the origin, {shown}");
                assert_eq!(response.header(&format!("x-{name}")), expected, "${name}, {shown}");
            }
        }
        // Several fields of one name: the first is replaced and the others go; one more is added at the end.
        let twice = full("/replaced").header("X-Forwarded-For", "2").header("Cookie", "b=2");
        let _ = connection.send(twice);
        let came = origin.last();
        assert_eq!(came.headers("x-forwarded-for"), ["new-X-Forwarded-For"]);
        assert_eq!(came.headers("cookie"), ["new-Cookie"]);
        let _ = connection.send(full("/added"));
        let came = origin.last();
        assert_eq!(came.headers("x-forwarded-for"), ["old", "added"], "{protocol:?}");
    }
    for name in NAMES {
        nginx.wait_for_log(&format!("request get {name} = \"new-{name}\""));
    }
}

/// What nginx keeps in typed fields of a response leaves as the filter left it, once.
#[test]
fn typed_response_headers_leave_as_they_were_set() {
    let origin = Origin::start(|_| {
        Reply::text("hello")
            .header("content-type", "text/html")
            .header("server", "origin")
            .header("date", "Thu, 01 Jan 1970 00:00:00 GMT")
            .header("etag", "\"old\"")
            .header("last-modified", "Thu, 01 Jan 1970 00:00:01 GMT")
            .header("cache-control", "no-store")
            .header("cache-control", "private")
            .header("location", "/old")
            .header("www-authenticate", "Basic")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("x-gone", "1")
            .header("x-gone", "2")
    });
    let orders = [
        ("content-type", "text/css; charset=utf-8"),
        ("server", "mine"),
        ("date", "Fri, 02 Jan 1970 00:00:00 GMT"),
        ("etag", "\"new\""),
        ("last-modified", "Fri, 02 Jan 1970 00:00:01 GMT"),
        ("cache-control", "max-age=5"),
        ("location", "/new"),
        ("www-authenticate", "Bearer"),
        ("set-cookie", "c=3"),
        ("expires", "0"),
        ("content-language", "de"),
        ("link", "</x>; rel=preload"),
        ("refresh", "5"),
        ("vary", "x-a"),
        ("content-encoding", "br"),
        ("accept-ranges", "none"),
    ];
    let text: Vec<String> = orders
        .iter()
        .map(|(name, value)| format!("response replace {name} {value}\nresponse get {name}"))
        .collect();
    let filter = maps(&format!("{}\nresponse remove x-gone", text.join("\n")));
    let nginx = Nginx::start(Conf::new().guest("maps").http("http2 on;").proxy(
        &origin,
        &format!("{filter} proxy_pass_header Server; proxy_pass_header Date; proxy_redirect off;"),
    ));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let response = nginx.connect(protocol).get("/");
        for (name, value) in orders {
            assert_eq!(response.headers(name), [value], "{name}");
        }
        assert_eq!(response.headers("x-gone"), [""; 0]);
        assert_eq!(response.text(), "hello");
    }
    for (name, value) in orders {
        nginx.wait_for_log(&format!("response get {name} = {value:?}"));
    }
}

#[test]
fn nginx_itself_acts_on_changed_response_headers() {
    let body = "y".repeat(3000);
    let sent = body.clone();
    let origin = Origin::start(move |_| Reply::text(sent.clone()).header("content-type", "text/plain"));
    let nginx = Nginx::start(
        Conf::new()
            .guest("maps")
            .set("ORIGIN", origin.address())
            .http("gzip on; gzip_min_length 1; gzip_types text/plain; proxy_http_version 1.1;")
            .server(&format!(
                "location /encoded {{ {encoded} proxy_pass http://@ORIGIN@; }}
                 location /other-type {{ {other_type} proxy_pass http://@ORIGIN@; }}
                 location /no-length {{ {no_length} proxy_pass http://@ORIGIN@; }}
                 location /status {{ {status} add_header x-added 1; proxy_pass http://@ORIGIN@; }}
                 location /expires {{ {expires} expires 1h; proxy_pass http://@ORIGIN@; }}",
                encoded = maps("response add content-encoding br"),
                other_type = maps("response replace content-type image/png"),
                no_length = maps("response remove content-length"),
                status = maps("response replace :status 503\nresponse get :status"),
                expires = maps("response replace cache-control private"),
            )),
    );
    let get = |path: &str| nginx.send(Request::get(path).header("accept-encoding", "gzip"));
    assert_eq!(get("/encoded").headers("content-encoding"), ["br"]);
    let other = get("/other-type");
    assert_eq!((other.headers("content-type"), other.header("content-encoding")), (vec!["image/png"], None));
    assert_eq!(other.header("content-length"), Some("3000"));

    let mut raw = nginx.raw();
    raw.write("GET /no-length HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = raw.response();
    assert_eq!(response.header("content-length"), None);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    assert_eq!(response.text(), body);

    let status = nginx.get("/status");
    assert_eq!(status.status, 503);
    assert_eq!(status.text(), body);
    // add_header adds to few statuses, and 503 is none of them: it acts on what the filter has set.
    assert_eq!(status.header("x-added"), None);
    // The filter is before nginx's own header filter, which has the last word, as for what an origin sends.
    assert!(nginx.get("/expires").headers("cache-control").contains(&"max-age=3600"));
}
