//! Guests that read lists of headers and properties, set a property, and replace and remove headers.

use weir_tests::{Nginx, Origin, Reply, Request};

use crate::{ISOLATIONS, LANGUAGES, conf, directives};

#[test]
fn lists_and_properties_are_read_and_written() {
    for language in LANGUAGES {
        for isolation in ISOLATIONS {
            let origin = Origin::start(|_| Reply::status(201));
            let nginx = Nginx::start(
                conf("properties", language)
                    .proxy(&origin, &directives("properties", language, isolation, "")),
            );
            for _ in 0..3 {
                let request = Request::get("/path?query")
                    .header("x-first", "1")
                    .header("X-Removed", "gone")
                    .header("x-replaced", "old")
                    .header("x-empty", "");
                let response = nginx.send(request).expect_status(201);
                let seen = "/path?query HTTP/1.1 201 mine GET -";
                assert_eq!(response.headers("x-seen"), [seen], "{language} {isolation}");
                let names = "x-first=1,x-removed=gone,x-replaced=old,x-empty=";
                assert_eq!(response.headers("x-names"), [names], "{language} {isolation}");
                let seen = origin.last();
                assert_eq!(seen.headers("x-replaced"), ["new"]);
                assert_eq!(seen.headers("x-removed"), Vec::<&str>::new());
                assert_eq!(seen.headers("x-first"), ["1"]);
            }
        }
    }
}
