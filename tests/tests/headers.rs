//! Filters change headers: what the origin and the client get, in every protocol. What nginx itself makes of it is in
//! `typed_headers`.

use proptest::{
    prelude::{Just, Strategy, prop_oneof},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use weir_tests::{Conf, Nginx, Origin, Protocol, Raw, Reply, Request, conf::maps};

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

/// The host has two names in a list of all headers: a filter that writes it back with one of them changed has changed it,
/// wherever it stands.
#[test]
fn the_host_is_what_has_been_changed() {
    let origin = Origin::start(|_| Reply::text("hello"));
    let rest = ":method=GET;:path=/;:scheme=http";
    for (authority, host, expected) in [
        ("new.example", "old.example", "new.example"),
        ("old.example", "new.example", "new.example"),
        ("new.example", "other.example", "new.example"),
        ("new.example", "new.example", "new.example"),
    ] {
        for list in [
            format!("{rest};:authority={authority};Host={host}"),
            format!("host={host};:authority={authority};{rest}"),
        ] {
            let nginx = Nginx::start(Conf::new().guest("maps").http("http2 on;").proxy(
                &origin,
                &format!("{} proxy_set_header Host $http_host;", maps(&format!("request set {list}"))),
            ));
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let mut connection = nginx.connect(protocol);
                assert_eq!(connection.send(Request::get("/").header("host", "old.example")).status, 200);
                assert_eq!(origin.last().headers("host"), [expected], "{list} {protocol:?}");
            }
        }
    }
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
