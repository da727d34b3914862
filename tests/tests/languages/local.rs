//! Guests that answer by themselves.

use weir_tests::{Nginx, Origin, Reply};

use crate::{ISOLATIONS, LANGUAGES, conf, directives};

#[test]
fn requests_are_answered_and_responses_replaced() {
    for language in LANGUAGES {
        for isolation in ISOLATIONS {
            let origin = Origin::start(|seen| match seen.target.as_str() {
                "/replaced" => Reply::text("origin").header("x-replace", "1"),
                _ => Reply::text("origin"),
            });
            let nginx = Nginx::start(
                conf("local", language).proxy(&origin, &directives("local", language, isolation, "")),
            );
            for round in 1..4 {
                let response = nginx.get("/local").expect_status(403);
                assert_eq!(response.text(), format!("denied by local_{language}"), "{isolation}");
                assert_eq!(response.headers("x-by"), [&format!("local_{language}"), "twice"]);
                let response = nginx.get("/replaced").expect_status(503);
                assert_eq!(response.text(), format!("replaced by local_{language}"), "{isolation}");
                assert_eq!(response.header("x-replace"), None, "a header of what it replaces");
                assert_eq!(nginx.get("/").expect_status(200).text(), "origin");
                assert_eq!(origin.count(), 2 * round, "the origin is not asked what the filter answers");
            }
            let log = nginx.stop();
            let details = format!("local response with status 403: local_{language} has answered");
            assert!(log.contains(&details), "{log}");
        }
    }
}
