//! Filters change headers: what the origin and the client get, in every protocol, and what nginx itself makes of it.

use proptest::{
    prelude::{Just, Strategy, prop_oneof},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use weir_tests::{Conf, Nginx, Origin, Protocol, Raw, Reply, Request, conf::quote};

/// A `proxy_wasm` directive for the guest `maps`, with its orders.
fn maps(orders: &str) -> String {
    format!("proxy_wasm maps {};", quote(orders))
}

/// The pairs that the guest `maps` has logged with `ORDER dump`.
fn dumped(line: &str) -> Vec<(String, String)> {
    let from = line.find("[[").expect("a list of pairs");
    let json = line[from..].split("]]").next().expect("its end");
    serde_json::from_str(&format!("{json}]]")).expect("JSON")
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    pairs.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn both_directions_in_every_protocol() {
    let origin = Origin::start(|_| Reply::text("hello"));
    let nginx = Nginx::start(
        Conf::new().guest("add_headers").http("http2 on;").proxy(&origin, "proxy_wasm add_headers;"),
    );
    let assert_changed = |response: &weir_tests::Response, version: &str| {
        assert_eq!(response.status, 200);
        assert_eq!(response.version, version);
        assert_eq!(response.headers("x-weir"), ["response"]);
        assert_eq!(origin.last().headers("x-weir"), ["request"]);
    };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let version = if protocol == Protocol::Http1 { "HTTP/1.1" } else { "HTTP/2.0" };
        let mut connection = nginx.connect(protocol);
        for request in [Request::get("/"), Request::head("/"), Request::post("/", "x"), Request::get("/")] {
            let is_head = format!("{request:?}").contains("HEAD");
            let response = connection.send(request);
            assert_changed(&response, version);
            assert_eq!(response.text(), if is_head { "" } else { "hello" });
        }
    }
    let mut raw = nginx.raw();
    raw.write("GET / HTTP/1.0\r\n\r\n");
    let response = raw.response();
    // nginx answers HTTP/1.0 with 1.1, as it always does, and closes.
    assert_changed(&response, "HTTP/1.1");
    assert_eq!(response.text(), "hello");
    assert!(raw.is_closed());
}

#[test]
fn requests_at_once_do_not_mix() {
    let origin = Origin::start(|seen| Reply::text(seen.header("x-id").unwrap_or("none")));
    let nginx = Nginx::start(
        Conf::new().guest("add_headers").http("http2 on;").proxy(&origin, "proxy_wasm add_headers;"),
    );
    let ids: Vec<String> = (0..100).map(|id| format!("{id}")).collect();
    let responses =
        nginx.connect(Protocol::Http2).send_all(ids.iter().map(|id| Request::get("/").header("x-id", id)));
    for (id, response) in ids.iter().zip(&responses) {
        assert_eq!((response.text(), response.headers("x-weir")), (id.clone(), vec!["response"]));
    }
    assert!(origin.seen().iter().all(|seen| seen.headers("x-weir") == ["request"]));
}

#[test]
fn pipelined_requests_are_each_filtered() {
    let origin = Origin::start(|seen| Reply::text(seen.target.clone()));
    let nginx = Nginx::start(Conf::new().guest("add_headers").proxy(&origin, "proxy_wasm add_headers;"));
    let mut raw = nginx.raw();
    let one = |n: usize| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n");
    raw.write((0..20).map(one).collect::<String>());
    for n in 0..20 {
        let response = raw.response();
        assert_eq!((response.text(), response.headers("x-weir")), (format!("/{n}"), vec!["response"]));
    }
}

#[test]
fn filters_run_in_order_and_in_reverse_for_responses() {
    let origin = Origin::start(|_| Reply::text("x"));
    let filters: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|n| maps(&format!("request add x-order {n}\nresponse add x-order {n}")))
        .collect();
    let nginx = Nginx::start(Conf::new().guest("maps").proxy(&origin, &filters.join("\n")));
    let response = nginx.get("/");
    assert_eq!(origin.last().headers("x-order"), ["a", "b", "c"]);
    assert_eq!(response.headers("x-order"), ["c", "b", "a"]);
}

#[test]
fn a_filter_sees_what_others_have_changed() {
    let origin = Origin::start(|_| Reply::text("x").header("x-down", "origin"));
    let first = maps("request replace x-up one\nresponse get x-down\nresponse get :status");
    let second = maps(
        "request get x-up\nrequest replace x-up two\nresponse replace x-down two\nresponse replace :status 201",
    );
    let nginx = Nginx::start(Conf::new().guest("maps").proxy(&origin, &format!("{first}\n{second}")));
    let response = nginx.send(Request::get("/").header("x-up", "client"));
    nginx.wait_for_log(r#"request get x-up = "one""#);
    nginx.wait_for_log(r#"response get x-down = "two""#);
    nginx.wait_for_log(r#"response get :status = "201""#);
    assert_eq!((response.status, response.header("x-down")), (201, Some("two")));
    assert_eq!(origin.last().headers("x-up"), ["two"]);
}

#[test]
fn names_values_and_pseudo_headers_as_the_guest_reads_them() {
    let origin = Origin::start(|_| Reply::text("x").header("set-cookie", "a=1").header("set-cookie", "b=2"));
    let orders = "request dump\nrequest get x-twice\nrequest get cookie\nrequest get X-TWICE\n\
                  request get x-missing\nrequest get :method\nrequest get :path\nrequest get :authority\n\
                  request get :scheme\nresponse dump\nresponse get set-cookie\nlog get :path\n\
                  log-response get :status";
    let nginx = Nginx::start(Conf::new().guest("maps").proxy(&origin, &maps(orders)));
    let mut raw = nginx.raw();
    raw.write(
        "PUT /a/b?c=d HTTP/1.1\r\nHost: Example.com:81\r\nX-Twice: 1\r\nx-tWICE: 2\r\nCookie: a=1\r\n\
         Cookie: b=2\r\nX-Bytes: \u{e9}\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(raw.response().status, 200);

    let pairs = dumped(&nginx.wait_for_log("maps: request dump"));
    let pseudo: Vec<&str> =
        pairs.iter().map(|(name, _)| name.as_str()).take_while(|name| name.starts_with(':')).collect();
    for name in [":method", ":path", ":authority", ":scheme"] {
        assert!(pseudo.contains(&name), "{name} is among the first of {pairs:?}");
    }
    assert!(pairs.iter().all(|(name, _)| *name == name.to_ascii_lowercase()), "{pairs:?}");
    assert_eq!(value(&pairs, "x-twice"), ["1", "2"]);
    assert_eq!(value(&pairs, "cookie"), ["a=1", "b=2"]);
    assert_eq!(value(&pairs, "x-bytes"), ["é"]);
    assert_eq!(value(&pairs, ":method"), ["PUT"]);
    for line in [
        r#"request get x-twice = "1, 2""#,
        r#"request get X-TWICE = "1, 2""#,
        r#"request get cookie = "a=1; b=2""#,
        "request get x-missing = None",
        r#"request get :method = "PUT""#,
        r#"request get :path = "/a/b?c=d""#,
        r#"request get :authority = "Example.com:81""#,
        r#"request get :scheme = "http""#,
        r#"response get set-cookie = "a=1, b=2""#,
        r#"log get :path = "/a/b?c=d""#,
        r#"log-response get :status = "200""#,
    ] {
        nginx.wait_for_log(line);
    }
    let pairs = dumped(&nginx.wait_for_log("maps: response dump"));
    assert_eq!(pairs[0], (":status".to_owned(), "200".to_owned()));
    assert_eq!(value(&pairs, "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(value(&pairs, "content-length"), ["1"]);
}

#[test]
fn the_request_line_can_be_changed() {
    let origin = Origin::start(|_| Reply::text("x"));
    let nginx = Nginx::start(Conf::new().guest("maps").set("ORIGIN", origin.address()).server(&format!(
        "location /path {{ {} proxy_pass http://@ORIGIN@; }}
         location /prefix/ {{ {} proxy_pass http://@ORIGIN@/base/; }}
         location /method {{ {} proxy_pass http://@ORIGIN@; }}
         location /host {{ {} proxy_set_header Host $http_host; proxy_set_header X-Host $host;
             proxy_pass http://@ORIGIN@; }}
         location /scheme {{ {} proxy_pass http://@ORIGIN@; }}
         location /fragment {{ {} proxy_set_header X-Uri '$uri $args $request_uri'; proxy_pass http://@ORIGIN@; }}",
        maps("request replace :path /other?x=%20y&z\nrequest get :path"),
        maps("request replace :path /prefix/deeper/file"),
        maps("request replace :method PUT\nrequest get :method"),
        maps("request replace :authority new.example:99\nrequest get :authority"),
        maps("request replace :scheme https\nrequest get :scheme"),
        maps("request replace :path /a?b#c"),
    )));
    assert_eq!(nginx.get("/path/of/old?query").status, 200);
    assert_eq!(origin.last().target, "/other?x=%20y&z");
    nginx.wait_for_log(r#"request get :path = "/other?x=%20y&z""#);

    let _ = nginx.get("/prefix/x");
    assert_eq!(origin.last().target, "/base/deeper/file");

    let _ = nginx.send(Request::post("/method", "body"));
    assert_eq!((origin.last().method.as_str(), origin.last().body.as_slice()), ("PUT", &b"body"[..]));
    let _ = nginx.get("/method");
    assert_eq!(origin.last().method, "PUT");

    let _ = nginx.get("/host");
    assert_eq!(origin.last().headers("host"), ["new.example:99"]);
    assert_eq!(origin.last().headers("x-host"), ["new.example"]);

    let _ = nginx.get("/scheme");
    nginx.wait_for_log(r#"request get :scheme = "https""#);

    // nginx passes a fragment on, and otherwise ignores it.
    let _ = nginx.get("/fragment");
    assert_eq!(origin.last().headers("x-uri"), ["/a b /a?b#c"]);
}

#[test]
fn a_location_stays_chosen_when_the_path_changes() {
    let nginx = Nginx::start(Conf::new().guest("maps").server(&format!(
        "location /a {{ {} return 200 'a $uri $request_uri $args'; }} location /b {{ return 200 b; }}",
        maps("request replace :path /b?x=1"),
    )));
    let text = nginx.get("/a").text();
    assert!(text.starts_with("a /b "), "{text}");
    assert!(text.ends_with("x=1"), "{text}");
}

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

#[test]
fn a_pair_that_would_split_the_message_is_dropped() {
    let origin = Origin::start(|_| Reply::text("x"));
    let orders = "request add x-a 1\\r\\nx-injected: 1\nrequest add x-b\\r\\nx-injected 1\n\
                  request replace x-c a\\rb\nrequest add x-good good\nresponse add x-d 1\\r\\nx-injected: 1\n\
                  response add x-good good";
    // `\r` and `\n` are read by nginx; the guest splits its orders at line ends only, so CR alone stays in a value.
    let orders = orders.replace("\\r\\n", "\\r");
    let directive = format!("proxy_wasm maps '{orders}';");
    let nginx = Nginx::start(Conf::new().guest("maps").proxy(&origin, &directive));
    let response = nginx.get("/").expect_status(200);
    let seen = origin.last();
    assert_eq!(seen.headers("x-good"), ["good"]);
    assert_eq!(response.headers("x-good"), ["good"]);
    for name in ["x-a", "x-b", "x-c", "x-injected"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!((response.header("x-d"), response.header("x-injected")), (None, None));
    let log = nginx.stop();
    let warnings = log.lines().filter(|line| line.contains("[warn]") && line.contains("\"maps\"")).count();
    assert_eq!(warnings, 4, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn names_that_are_no_names_are_dropped() {
    let origin = Origin::start(|_| Reply::text("x"));
    let orders = "request add b(d 1\nrequest add b:d 1\nrequest add bäd 1\nrequest add x-good good\n\
                  response replace :status 99\nresponse replace :status 600\nresponse replace :status abc\n\
                  response add :path /x\nrequest add :status 200\nrequest add :unknown x\nrequest remove :path";
    let nginx = Nginx::start(Conf::new().guest("maps").proxy(&origin, &maps(orders)));
    let mut raw = nginx.raw();
    raw.write("GET /path HTTP/1.1\r\nHost: x\r\n\r\n");
    let response = raw.response();
    assert_eq!(response.status, 200);
    let seen = origin.last();
    assert_eq!((seen.target.as_str(), seen.headers("x-good")), ("/path", vec!["good"]));
    let names = response.headers.iter().chain(&seen.headers).map(|(name, _)| name);
    for name in names {
        assert!(!name.starts_with('b') && !name.starts_with(':'), "{name}");
    }
}

#[test]
fn a_whole_map_can_be_replaced() {
    let origin = Origin::start(|_| Reply::text("hello").header("x-old", "1").header("set-cookie", "a=1"));
    let orders = "request set :method=GET;:path=/new;:authority=h.example;:scheme=http;x-a=1;x-a=2\n\
                  request dump\nresponse set :status=202;x-b=1;x-b=2\nresponse dump";
    let nginx = Nginx::start(
        Conf::new()
            .guest("maps")
            .proxy(&origin, &format!("{} proxy_set_header Host $http_host;", maps(orders))),
    );
    let response = nginx.send(Request::get("/old").header("x-old", "1").header("cookie", "a=1"));
    let seen = origin.last();
    assert_eq!((seen.target.as_str(), seen.headers("x-a")), ("/new", vec!["1", "2"]));
    assert_eq!(
        (seen.header("host"), seen.header("x-old"), seen.header("cookie")),
        (Some("h.example"), None, None)
    );
    assert_eq!((response.status, response.headers("x-b")), (202, vec!["1", "2"]));
    assert_eq!((response.header("x-old"), response.header("set-cookie")), (None, None));
    assert_eq!(response.text(), "hello");
}

#[test]
fn many_headers_survive() {
    let origin = Origin::start(|_| {
        (0..90).fold(Reply::text("x"), |reply, n| reply.header(&format!("x-down-{n}"), &"v".repeat(n)))
    });
    let orders = "request remove x-up-0\nrequest remove x-up-50\nrequest replace x-up-70 new\nrequest add x-up-90 new\n\
                  response remove x-down-0\nresponse remove x-down-50\nresponse replace x-down-70 new\n\
                  response add x-down-90 new";
    let nginx = Nginx::start(
        Conf::new()
            .guest("maps")
            .http("large_client_header_buffers 8 32k; proxy_buffer_size 32k; proxy_buffers 8 32k;")
            .proxy(&origin, &maps(orders)),
    );
    let request =
        (0..90).fold(Request::get("/"), |request, n| request.header(&format!("x-up-{n}"), &"v".repeat(n)));
    let response = nginx.send(request);
    let seen = origin.last();
    let expected = |n: usize| match n {
        0 | 50 => None,
        70 | 90 => Some("new".to_owned()),
        n => Some("v".repeat(n)),
    };
    for n in 0..=90 {
        assert_eq!(seen.header(&format!("x-up-{n}")), expected(n).as_deref(), "x-up-{n}");
        assert_eq!(response.header(&format!("x-down-{n}")), expected(n).as_deref(), "x-down-{n}");
    }
}

/// One edit of a map, and what it does to a model of the map.
#[derive(Debug, Clone)]
struct Edit {
    verb: &'static str,
    name: String,
    value: String,
}

impl Edit {
    fn order(&self, direction: &str) -> String {
        let Self { verb, name, value } = self;
        if *verb == "remove" {
            format!("{direction} remove {name}")
        } else {
            format!("{direction} {verb} {name} {value}")
        }
    }

    fn apply(&self, map: &mut Vec<(String, String)>) {
        let name = self.name.to_ascii_lowercase();
        let pair = (name.clone(), self.value.clone());
        match (self.verb, map.iter().position(|(n, _)| *n == name)) {
            ("remove", _) => map.retain(|(n, _)| *n != name),
            ("replace", Some(at)) => {
                map[at] = pair;
                let mut index = 0;
                map.retain(|(n, _)| {
                    index += 1;
                    *n != name || index - 1 == at
                });
            }
            _ => map.push(pair),
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    // Few names, so that edits meet; typed fields of nginx among them.
    const NAMES: &[&str] =
        &["x-a", "X-A", "x-b", "x-c", "accept", "user-agent", "referer", "cookie", "etag", "link", "expires"];
    let verb = prop_oneof![3 => Just("add"), 3 => Just("replace"), 2 => Just("remove")];
    let edit = (verb, proptest::sample::select(NAMES), 0..100_u32);
    let edit =
        edit.prop_map(|(verb, name, value)| Edit { verb, name: name.to_owned(), value: format!("v{value}") });
    proptest::collection::vec(edit, 1..25)
}

/// Whatever is done to a map, in whatever order, arrives at the other side as it does in a model of seven lines.
#[test]
fn any_sequence_of_edits_does_what_the_model_does() {
    const CASES: usize = 60;
    let mut runner = TestRunner::deterministic();
    let cases: Vec<Vec<Edit>> =
        (0..CASES).map(|_| edits().new_tree(&mut runner).expect("a case").current()).collect();
    let start: Vec<(String, String)> = ["x-a", "x-b", "cookie", "x-a"]
        .iter()
        .enumerate()
        .map(|(n, name)| ((*name).to_owned(), format!("o{n}")))
        .collect();
    let origin = {
        let start = start.clone();
        Origin::start(move |_| {
            start.iter().fold(Reply::text("x"), |reply, (name, value)| reply.header(name, value))
        })
    };
    let locations: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(n, case)| {
            let orders: Vec<String> =
                case.iter().flat_map(|edit| [edit.order("request"), edit.order("response")]).collect();
            format!("location = /{n} {{ {} proxy_pass http://@ORIGIN@; }}", maps(&orders.join("\n")))
        })
        .collect();
    let nginx = Nginx::start(
        Conf::new()
            .guest("maps")
            .log_level("warn")
            .workers(1)
            .set("ORIGIN", origin.address())
            .server(&locations.join("\n")),
    );
    for (n, case) in cases.iter().enumerate() {
        let mut expected = start.clone();
        case.iter().for_each(|edit| edit.apply(&mut expected));
        let mut raw = Raw::open(nginx.address());
        let headers: String = start.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        raw.write(format!("GET /{n} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"));
        let response = raw.response();
        let seen = origin.last();
        for name in
            ["x-a", "x-b", "x-c", "accept", "user-agent", "referer", "cookie", "etag", "link", "expires"]
        {
            let model = value(&expected, name);
            assert_eq!(seen.headers(name), model, "request {name} after {case:#?}");
            assert_eq!(response.headers(name), model, "response {name} after {case:#?}");
        }
    }
}
