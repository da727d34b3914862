//! Guests whose `on_done` puts the end of a context off.

use weir_tests::{Nginx, Origin, Reply};

use crate::{LANGUAGES, conf, directives};

/// What the guest has logged, by word.
fn said(log: &str, language: &str) -> Vec<String> {
    let prefix = format!("deferred_{language}: ");
    let lines = log.lines().filter_map(|line| line.split_once(&prefix));
    // nginx adds what it does meanwhile, and for whom.
    let own =
        |text: &str| text.split(',').next().and_then(|text| text.split(" while ").next()).map(str::to_owned);
    lines.filter_map(|(_, text)| own(text)).collect()
}

fn run(language: &str, isolation: &str) -> Vec<String> {
    let origin = Origin::start(|_| Reply::text("hello"));
    let nginx = Nginx::start(
        conf("deferred", language)
            .workers(1)
            .proxy(&origin, &directives("deferred", language, isolation, "")),
    );
    for path in ["/1", "/2"] {
        assert_eq!(nginx.get(path).text(), "hello");
        nginx.wait_for_lines(
            0,
            &format!("deferred_{language}: defers"),
            path[1..].parse().expect("a number"),
        );
    }
    said(&nginx.stop(), language)
}

/// The context outlives its request, of which it sees nothing any more, until another one's callback completes it.
#[test]
fn in_an_instance_of_the_worker_a_context_lasts_until_it_is_done() {
    for language in LANGUAGES {
        let requests = [
            "begins 2 sees /1",
            "defers 2 sees /1",
            "begins 3 sees /2",
            "completes 2 sees nothing",
            "logs 2 sees nothing",
            "goes 2 sees nothing",
            "defers 3 sees /2",
        ];
        // The worker ends, and with it what still waits, and then the root context. In AssemblyScript that is an
        // object of another class.
        let end = ["logs 3 sees nothing", "goes 3 sees nothing"];
        let root = if language == "as" { &[][..] } else { &["defers 1 sees nothing", "goes 1 sees nothing"] };
        assert_eq!(run(language, "none"), [&requests[..], &end, root].concat(), "{language}");
    }
}

/// Nothing can complete it later, so it ends with its request, which it still sees.
#[test]
fn in_an_instance_of_its_own_a_context_ends_with_its_request() {
    for language in LANGUAGES {
        let one =
            |path: &str| ["begins", "defers", "logs", "goes"].map(|what| format!("{what} 2 sees {path}"));
        assert_eq!(run(language, "stream"), [one("/1"), one("/2")].concat(), "{language}");
    }
}
