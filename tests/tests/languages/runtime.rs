//! Guests that use what the standard library of their language wants from WASI.

use weir_tests::{Nginx, Origin, Reply};

use crate::{ISOLATIONS, LANGUAGES, conf, directives};

/// The variable that was granted and no other, random numbers, clocks, and no files.
const FINDINGS: &str = "granted=of nginx home=- random=yes clocks=yes files=no";

#[test]
fn standard_libraries_find_what_they_need() {
    for language in LANGUAGES {
        for isolation in ISOLATIONS {
            let origin = Origin::start(|_| Reply::text("hello"));
            let nginx = Nginx::start(
                conf("runtime", language)
                    .wasm("environment 'GRANTED=of nginx';")
                    .proxy(&origin, &directives("runtime", language, isolation, "")),
            );
            for _ in 0..5 {
                let response = nginx.get("/").expect_status(200);
                assert_eq!(response.headers("x-runtime"), [FINDINGS], "{language} {isolation}");
            }
            let log = nginx.stop();
            let line =
                |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_default().to_owned();
            let output = line("to the output: ");
            assert!(output.contains("[info]") && output.contains(FINDINGS), "{language}: {output}\n{log}");
            let errors = line("to the errors: 42 text");
            assert!(errors.contains("[error]"), "{language}: {errors}\n{log}");
        }
    }
}
