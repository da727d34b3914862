//! Guests that hold the bodies of both directions and replace a word in them.

use weir_tests::{Nginx, Origin, Reply, Request};

use crate::{ISOLATIONS, LANGUAGES, conf, directives};

#[test]
fn words_are_replaced_in_both_directions() {
    for language in LANGUAGES {
        for isolation in ISOLATIONS {
            let origin = Origin::start(|seen| match seen.method.as_str() {
                "POST" => Reply::text(seen.body.clone()),
                _ if seen.target == "/none" => Reply::text(""),
                _ => Reply::chunks(["three ol", "d words, ", "old"]),
            });
            let nginx = Nginx::start(
                conf("bodies", language)
                    .proxy(&origin, &directives("bodies", language, isolation, "old=NEWER")),
            );
            for _ in 0..3 {
                let response = nginx.send(Request::post("/", "one old two"));
                assert_eq!(response.text(), "one NEWER two", "{language} {isolation}");
                let seen = origin.last();
                assert_eq!(seen.body, b"one NEWER two", "{language} {isolation}");
                assert_eq!(seen.headers("content-length"), ["13"]);

                let response = nginx.send(Request::post_chunks("/", ["o", "ld o", "ld"]));
                assert_eq!(origin.last().body, b"NEWER NEWER", "{language} {isolation}");
                assert_eq!(response.text(), "NEWER NEWER");

                assert_eq!(nginx.get("/").text(), "three NEWER words, NEWER", "{language} {isolation}");
                assert_eq!(nginx.get("/none").text(), "");
                assert_eq!(nginx.send(Request::head("/")).text(), "");
            }
            let long = "0123456789 old ".repeat(6000);
            let response = nginx.send(Request::post("/", long.clone()));
            assert_eq!(response.text(), long.replace("old", "NEWER"), "{language} {isolation}");
            assert_eq!(response.headers("content-length"), [response.body.len().to_string()]);
        }
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    for language in LANGUAGES {
        let server = format!("location / {{ proxy_wasm bodies_{language} nothing; return 200 x; }}");
        let ended = Nginx::check(&conf("bodies", language).server(&server));
        assert!(!ended.status.success(), "{language}");
        let why = "does not accept its configuration: proxy_on_configure returned false";
        assert!(ended.stderr.contains(why), "{language}: {}", ended.stderr);
    }
}
