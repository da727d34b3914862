//! What a filter has held goes on among nginx's own modules, which make something of a request's or a response's parts
//! themselves, and look at them at their own times.

use std::thread;

use weir_tests::{Conf, Connection, Nginx, Origin, Protocol, Reply, Request, Response, digest};

use super::{PROTOCOLS, context, exchange, order};

/// nginx with the file `f` of 3000 bytes, and a location for orders.
fn conf(file: &[u8], locations: &str) -> Conf {
    Conf::new().guest("edits").guest("trace").workers(1).file("html/f", file).http("http2 on;").server(
        &format!(
            "root html;
         {locations}
         location /order {{ proxy_wasm_isolation none; proxy_wasm edits; return 200; }}"
        ),
    )
}

/// Filters around the one that follows `orders`.
fn filters(orders: &str) -> String {
    format!("proxy_wasm_isolation none; proxy_wasm trace A; proxy_wasm edits '{orders}'; proxy_wasm trace B;")
}

/// Sends requests on one connection, each of which pauses in a callback of its response until it is resumed, and then
/// one that does not: whatever is left over of a response would be taken for its answer.
fn responses(nginx: &Nginx, protocol: Protocol, when: &str, requests: Vec<Request>) -> Vec<Response> {
    after_pauses(nginx, protocol, (when, 1), requests)
}

/// The same, where each pauses so many times.
fn after_pauses(
    nginx: &Nginx,
    protocol: Protocol,
    (when, pauses): (&str, usize),
    requests: Vec<Request>,
) -> Vec<Response> {
    let mut connection: Connection = nginx.connect(protocol);
    let send = |request| {
        let mark = nginx.mark();
        thread::scope(|scope| {
            let held = scope.spawn(|| connection.send(request));
            let context = context(nginx, mark, when);
            for pause in 1..=pauses {
                nginx.wait_for_lines(mark, " Pause", pause);
                order(nginx, "resume", &context, 1);
            }
            held.join().expect("the client")
        })
    };
    let responses = requests.into_iter().map(send).collect();
    assert_eq!(connection.get("/order").expect_status(200).text(), "");
    responses
}

/// nginx has written what a filter has let go of a body to a file by the time that the end of it goes on.
#[test]
fn the_end_of_a_request_s_body_that_is_in_a_file() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()));
    for settings in ["", "client_body_in_file_only clean;", "proxy_request_buffering off;"] {
        for orders in ["reqb.pause_end", "reqb.pause_end reqb.append=more"] {
            let location = format!(
                "location / {{ {} {settings} proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }}",
                filters(orders)
            );
            let nginx = Nginx::start(conf(b"", &location).set("ORIGIN", origin.address()));
            for protocol in PROTOCOLS {
                for size in [5, 5_000, 70_000] {
                    let mut body = digest::bytes(size, 5);
                    let request = Request::post_chunks("/", body.chunks(30_000).map(<[u8]>::to_vec));
                    let response = exchange(&nginx, protocol, request, ("reqb", 0), "resume");
                    let response = response.expect("a response").expect_status(200);
                    if orders.contains("append") {
                        body.extend(b"more");
                    }
                    assert!(
                        response.body == body,
                        "{settings} {orders} {protocol:?} {size}: {}",
                        response.body.len()
                    );
                }
            }
        }
    }
}

/// nginx cuts parts out of a response before filters see its body, but only once it has seen the headers.
#[test]
fn a_response_whose_client_asks_for_a_part() {
    let file = digest::bytes(3000, 5);
    for when in ["resh", "resb"] {
        let location = format!(
            "location / {{ {} }}
             location /forced/ {{ {} proxy_force_ranges on; proxy_set_header Range ''; proxy_pass http://127.0.0.1:@PORT1@/; }}",
            filters(&format!("{when}.pause")),
            filters(&format!("{when}.pause")),
        );
        let nginx = Nginx::start(conf(&file, &location).server("root html;"));
        for protocol in PROTOCOLS {
            let ranges = ["bytes=5-10", "bytes=0-1,100-200", "bytes=99999-", "bytes=-5"];
            for path in ["/f", "/forced/f"] {
                let requests = if when == "resb" { &ranges[..1] } else { &ranges[..] };
                let requests =
                    requests.iter().map(|range| Request::get(path).header("range", range)).collect();
                for response in responses(&nginx, protocol, when, requests) {
                    if when == "resb" {
                        assert_eq!(response.status, 206, "{path} {protocol:?}");
                        assert!(response.body == file[5..=10], "{path}: {} bytes", response.body.len());
                    } else {
                        assert_eq!(response.status, 200, "{path} {protocol:?}");
                        assert!(response.body == file, "{path}: {} bytes", response.body.len());
                    }
                }
            }
            let [whole] = &responses(&nginx, protocol, when, vec![Request::get("/f")])[..] else { panic!() };
            assert_eq!((whole.status, whole.header("accept-ranges")), (200, Some("bytes")));
            assert!(whole.body == file, "{} bytes", whole.body.len());
        }
    }
}

/// nginx ends the main request's own part of a response without an end, and the response when it has all parts.
#[test]
fn a_response_in_slices() {
    let file = digest::bytes(350, 5);
    let slices = "slice 100; proxy_set_header Range $slice_range; proxy_http_version 1.1;
        proxy_pass http://127.0.0.1:@PORT1@/;";
    let locations = format!(
        "location /plain/ {{ {} {slices} }} location /headers/ {{ {} {slices} }} location /body/ {{ {} {slices} }}
         location /parts/ {{ {} proxy_wasm_subrequests on; {slices} }}",
        filters(""),
        filters("resh.pause"),
        filters("resb.pause"),
        filters(""),
    );
    let mut conf = conf(&file, &locations).server("root html;");
    for size in [1, 99, 100, 101, 200] {
        conf = conf.file(&format!("html/{size}"), &file[..size]);
    }
    let nginx = Nginx::start(conf);
    for protocol in PROTOCOLS {
        for (name, size) in [("1", 1), ("99", 99), ("100", 100), ("101", 101), ("200", 200), ("f", 350)] {
            for folder in ["plain", "parts"] {
                let response = nginx.connect(protocol).get(&format!("/{folder}/{name}")).expect_status(200);
                assert!(
                    response.body == file[..size],
                    "{protocol:?} {folder} {size}: {}",
                    response.body.len()
                );
            }
            for (folder, when) in [("headers", "resh"), ("body", "resb")] {
                let request = Request::get(&format!("/{folder}/{name}"));
                // nginx asks for the second slice when the first one has gone on; the end comes after them.
                let pauses = if when == "resb" && size > 100 { 2 } else { 1 };
                let [response] = &after_pauses(&nginx, protocol, (when, pauses), vec![request])[..] else {
                    panic!()
                };
                assert_eq!(response.status, 200, "{protocol:?} {folder} {size}");
                assert!(
                    response.body == file[..size],
                    "{protocol:?} {folder} {size}: {}",
                    response.body.len()
                );
            }
        }
        // What is cut out of slices cannot wait.
        let request = Request::get("/headers/f").header("range", "bytes=150-249");
        let response = nginx.connect(protocol).send(request).expect_status(206);
        assert!(response.body == file[150..250], "{} bytes", response.body.len());
    }
    assert!(nginx.log().contains("is a range put together of slices: it goes on"));
}

/// Parts are added to a response that has no body of its own.
#[test]
fn an_empty_response_with_parts_around_it() {
    let origin = Origin::start(|_| Reply::text("").header("content-type", "text/html"));
    let (before, after) = ("add_before_body /part;", "add_after_body /part;");
    let location = |name: &str, parts: &str, orders: &str| {
        format!("location /{name} {{ {} {parts} proxy_pass http://@ORIGIN@; }}\n", filters(orders))
    };
    let mut locations = "location = /part { return 200 part; }\n".to_owned();
    for (orders, kind) in [("", "goes-on"), ("resh.pause", "held")] {
        locations += &location(&format!("after-{kind}"), after, orders);
        locations += &location(&format!("before-{kind}"), before, orders);
        locations += &location(&format!("both-{kind}"), &format!("{before} {after}"), orders);
    }
    let nginx = Nginx::start(conf(b"", &locations).set("ORIGIN", origin.address()));
    for protocol in PROTOCOLS {
        for (name, text) in [("after", "part"), ("before", "part"), ("both", "partpart")] {
            let response = nginx.connect(protocol).get(&format!("/{name}-goes-on")).expect_status(200);
            assert_eq!(response.text(), text, "{protocol:?} {name}");
            let request = Request::get(&format!("/{name}-held"));
            let [response] = &responses(&nginx, protocol, "resh", vec![request])[..] else { panic!() };
            assert_eq!((response.status, response.text().as_str()), (200, text), "{protocol:?} {name}");
        }
    }
}

/// nginx puts a page of its own in the place of a response, and ends the request when that has been passed on.
#[test]
fn a_page_that_says_that_a_condition_is_not_met() {
    for when in ["resh", "resb"] {
        let location = format!("location / {{ {} }}", filters(&format!("{when}.pause")));
        let nginx = Nginx::start(conf(b"file", &location));
        for protocol in PROTOCOLS {
            for (name, value) in
                [("if-match", "\"x\""), ("if-unmodified-since", "Mon, 01 Jan 1990 00:00:00 GMT")]
            {
                let response = nginx.connect(protocol).send(Request::get("/f").header(name, value));
                assert_eq!(response.status, 412, "{when} {protocol:?} {name}");
                assert!(response.text().contains("412 Precondition Failed"), "{}", response.text());
                assert_eq!(response.headers("x-trace"), ["B", "A"]);
            }
        }
    }
}

/// Requests that nginx makes for parts of a response have the client's body, which is in a file.
#[test]
fn parts_of_a_response_to_a_request_with_a_large_body() {
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/part" => Reply::text(seen.body.len().to_string()),
        _ => Reply::text("[<!--# include virtual=\"/part\" -->]").header("content-type", "text/html"),
    });
    let location = format!(
        "location / {{ {} ssi on; proxy_pass http://@ORIGIN@; }}
         location /added {{ {} add_after_body /part; addition_types *; proxy_pass http://@ORIGIN@; }}
         location = /part {{ proxy_pass http://@ORIGIN@; }}",
        filters(""),
        filters("")
    );
    let nginx = Nginx::start(conf(b"", &location).set("ORIGIN", origin.address()));
    for protocol in PROTOCOLS {
        let mut connection = nginx.connect(protocol);
        let response = connection.send(Request::post("/", digest::bytes(70_000, 5))).expect_status(200);
        assert_eq!(response.text(), "[70000]", "{protocol:?}");
        let response = connection.send(Request::post("/added", digest::bytes(70_000, 5))).expect_status(200);
        assert!(response.text().ends_with("]70000"), "{}", response.text());
    }
}

/// A filter that holds a subrequest's headers sees its body meanwhile, and lets that go, and the headers with it.
#[test]
fn a_subrequest_whose_body_goes_on_before_its_headers() {
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/page" => {
            Reply::text("[<!--# include virtual=\"/included\" -->]").header("content-type", "text/html")
        }
        _ => Reply::text(seen.body.clone()),
    });
    let held =
        format!("{} proxy_wasm_subrequests on; proxy_wasm_body_while_paused on;", filters("reqh.pause"));
    let locations = format!(
        "location /mirrored {{ mirror /copy; proxy_pass http://@ORIGIN@; }}
         location = /copy {{ internal; {held} proxy_pass http://@ORIGIN@/copy; }}
         location = /page {{ ssi on; proxy_pass http://@ORIGIN@; }}
         location = /included {{ {held} proxy_pass http://@ORIGIN@; }}"
    );
    let nginx = Nginx::start(conf(b"", &locations).set("ORIGIN", origin.address()));
    let mut count = 0;
    for protocol in PROTOCOLS {
        for body in ["a body", &"large ".repeat(20_000)] {
            let mut connection = nginx.connect(protocol);
            let response = connection.send(Request::post("/mirrored", body)).expect_status(200);
            assert!(response.text() == body, "{protocol:?}: {} bytes", response.body.len());
            count += 2;
            weir_tests::wait::poll(|| (origin.count() == count).then_some(())).expect("the copy");
            assert!(origin.last().body == body.as_bytes());
            // The main request has ended, too.
            let response = connection.send(Request::post("/page", body)).expect_status(200);
            assert!(response.text() == format!("[{body}]"), "{protocol:?}: {} bytes", response.body.len());
            count += 2;
        }
    }
}

/// A range has the length that nginx has announced for it.
#[test]
fn a_range_that_a_filter_makes_longer_or_shorter() {
    let file = digest::bytes(3000, 5);
    let locations = "location /longer/ { proxy_wasm edits 'resb.append=more'; alias html/; }
        location /empty/ { proxy_wasm edits 'resb.set='; alias html/; }
        location /forced/ { proxy_wasm edits 'resb.append=more'; proxy_force_ranges on; proxy_set_header Range '';
            proxy_pass http://127.0.0.1:@PORT1@/; }
        location /unannounced/ { proxy_wasm edits 'resh.nolength resb.append=more'; alias html/; }";
    let nginx = Nginx::start(conf(&file, locations).server("root html;"));
    for protocol in PROTOCOLS {
        for path in ["/longer/f", "/empty/f", "/forced/f"] {
            for range in ["bytes=5-10", "bytes=0-1,100-200"] {
                let mark = nginx.mark();
                let request = Request::get(path).header("range", range);
                assert!(nginx.connect(protocol).try_send(request).is_err(), "{protocol:?} {path} {range}");
                nginx.wait_for_log_since(mark, "a filter has changed the size of a response's body");
            }
        }
        let request = Request::get("/unannounced/f").header("range", "bytes=5-10");
        let response = nginx.connect(protocol).send(request).expect_status(200);
        assert!(response.body == [&file[..], b"more"].concat(), "{} bytes", response.body.len());
    }
}

/// Handlers are told that there is no body, where that is so; another response may have one.
#[test]
fn a_response_without_a_body() {
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/204" => Reply::status(204),
        "/304" => Reply::status(304).header("etag", "\"1\""),
        _ => Reply::text(""),
    });
    let locations = format!(
        "location / {{ {} proxy_pass http://@ORIGIN@; }} location /static/ {{ {} alias html/; }}
         location /answered/ {{ {} proxy_pass http://@ORIGIN@/; }}
         location /answered/static/ {{ {} alias html/; }}",
        filters("resh.nolength resh.pause"),
        filters("resh.nolength resh.pause"),
        filters("resh.pause"),
        filters("resh.pause"),
    );
    let conf = conf(b"file", &locations).file("html/none", "").set("ORIGIN", origin.address());
    let nginx = Nginx::start(conf);
    for protocol in PROTOCOLS {
        for (path, status) in [("/empty", 200), ("/204", 204), ("/304", 304), ("/static/none", 200)] {
            let [response] = &responses(&nginx, protocol, "resh", vec![Request::get(path)])[..] else {
                panic!()
            };
            assert_eq!((response.status, response.text().as_str()), (status, ""), "{protocol:?} {path}");
        }
        let fresh =
            Request::get("/answered/static/f").header("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT");
        let paths = ["/answered/empty", "/answered/204", "/answered/304"];
        for request in paths.map(Request::get).into_iter().chain([fresh]) {
            let response = exchange(&nginx, protocol, request, ("resh", 1), "answer").expect("a response");
            assert_eq!((response.status, response.text().as_str()), (418, "answered"), "{protocol:?}");
        }
    }
}

/// nginx's handler of PUT has nothing to send; a filter has.
#[test]
fn an_answer_to_a_file_that_is_stored() {
    let locations = "location / { proxy_wasm edits 'resh.local=denied'; root store; dav_methods PUT; }";
    // Workers run as another user than the one who has made the folder.
    let nginx = Nginx::start(conf(b"", locations).file("store/there", "").open_folder("store"));
    for protocol in PROTOCOLS {
        let mut connection = nginx.connect(protocol);
        for _ in 0..2 {
            let response = connection.send(Request::post("/f", "file").method("PUT"));
            assert_eq!((response.status, response.text().as_str()), (418, "denied"), "{protocol:?}");
        }
    }
}
