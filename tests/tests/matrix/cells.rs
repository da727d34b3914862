//! The cells of the matrix: a fault in a callback, in a location. What is sent for one, and what has to come of it.

use std::{collections::BTreeMap, fmt};

use weir_tests::{
    Nginx, Raw,
    wasm::faulty::{CALLBACKS, CHATTER, FAULTS, FLOOD, Fault, TRAILERS, calling},
};

/// Requests that are written at once on a connection: nginx serves them one right after the other.
const AT_ONCE: usize = 8;

/// The status of requests whose filter has failed; a connection stays open after it.
pub(crate) const FAILED: u16 = 503;

/// A location in which filters fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) isolation: &'static str,
    pub(crate) policy: &'static str,
}

const fn place(isolation: &'static str, policy: &'static str) -> Place {
    Place { isolation, policy }
}

pub(crate) const PLACES: [Place; 6] = [
    place("stream", "closed"),
    place("stream", "open"),
    place("filter", "closed"),
    place("filter", "open"),
    place("none", "closed"),
    place("none", "open"),
];

/// Which part of the matrix: each has locations and filters of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The callbacks of every request.
    Requests,
    /// That of responses with trailers.
    Trailers,
    /// Those of calls that filters make.
    Calls,
}

impl Part {
    /// Letters and names of its callbacks.
    pub(crate) fn callbacks(self) -> Vec<(char, &'static str)> {
        match self {
            Self::Requests => CALLBACKS.iter().map(|(letter, name, ..)| (*letter, *name)).collect(),
            Self::Trailers => vec![(TRAILERS.0, TRAILERS.1)],
            Self::Calls => calling::CALLBACKS.iter().map(|(letter, name, _)| (*letter, *name)).collect(),
        }
    }

    /// Where its filters are.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Trailers => "trailers",
            Self::Calls => "calls",
        }
    }
}

/// All faults, the floods of the log among them.
pub(crate) fn faults() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().chain([&FLOOD, &CHATTER])
}

/// Whether instances of a module with this fault cannot be reset in place, so that it has a module of its own.
pub(crate) fn changes_tables(fault: &Fault) -> bool {
    fault.name == "table bomb"
}

/// One cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) fault: &'static Fault,
    pub(crate) part: Part,
    pub(crate) letter: char,
    pub(crate) callback: &'static str,
    pub(crate) place: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { isolation, policy } = PLACES[self.place];
        write!(f, "{} in {}, isolation {isolation}, policy {policy}", self.fault.name, self.callback)
    }
}

impl Cell {
    /// All cells of a part and place.
    pub(crate) fn all(part: Part, place: usize) -> Vec<Self> {
        let of_callback =
            |(letter, callback)| faults().map(move |fault| Self { fault, part, letter, callback, place });
        part.callbacks().into_iter().flat_map(of_callback).collect()
    }

    /// The path of its location, or of the one where all is as there but for the fault.
    fn path(&self) -> String {
        let table = if changes_tables(self.fault) { "/table" } else { "" };
        format!("{table}/{}/{}", self.part.path(), self.place)
    }

    /// The bytes of a request.
    fn request(&self, fault: &str) -> String {
        format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nx-fault: {fault}\r\nContent-Length: 6\r\n\r\na body",
            self.path()
        )
    }

    /// What the metrics call the reason of its failures.
    fn cause(&self) -> &'static str {
        match self.fault.name {
            "stack overflow" => "stack",
            "exit" => "exit",
            "endless loop" | "log flood" => "deadline",
            _ => "trap",
        }
    }

    /// Whether the response ends before its end, since its headers have left by then.
    fn is_cut(&self) -> bool {
        self.part == Part::Trailers && self.is_seen()
    }

    /// Whether the client is to see that the filter has failed; at the end of a request its response has been sent.
    fn is_seen(&self) -> bool {
        PLACES[self.place].policy == "closed" && self.fault.is_fatal && !"DLX".contains(self.letter)
    }

    /// The failures that `times` requests are to add to the metrics.
    fn provoked(&self, times: u64) -> Failures {
        let name = self.callback.trim_start_matches("proxy_").to_owned();
        let provoked = self.fault.is_fatal.then(|| ((name, self.cause().to_owned()), times));
        provoked.into_iter().collect()
    }

    /// Sends `times` requests, and checks each answer, and the metrics, which told of `before` until now. Answers how
    /// many failures there were.
    pub(crate) fn run(&self, nginx: &Nginx, times: u64, before: &mut Failures) -> u64 {
        let request = self.request(&self.fault.at(self.letter));
        if self.is_cut() {
            for _ in 0..times {
                let mut socket = nginx.raw();
                socket.write(&request);
                let seen = socket.read_to_end();
                assert!(!seen.ends_with(b"\r\n\r\n") || !contains(&seen, b"fine"), "{self}: it is whole");
            }
        } else {
            let status = if self.is_seen() { FAILED } else { 200 };
            send(nginx, &request, times, |seen, body| {
                assert_eq!(seen, status, "{self}: {body}");
                assert!(seen == FAILED || body == "fine", "{self}: {body}");
            });
        }
        let seen = failures(nginx);
        let new: Failures = seen
            .iter()
            .map(|(what, count)| (what.clone(), count - before.get(what).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect();
        *before = seen;
        assert_eq!(
            new,
            self.provoked(times),
            "{self}: the metrics tell of other failures than were provoked"
        );
        new.values().sum()
    }

    /// Sends `times` requests to its location that ask for no fault.
    pub(crate) fn spare(&self, nginx: &Nginx, times: u64) {
        send(nginx, &self.request(&format!("{}-", self.letter)), times, |seen, body| {
            assert_eq!((seen, body), (200, "fine"), "{self}, which was not asked for");
        });
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// How many failures there were, by callback and cause.
pub(crate) type Failures = BTreeMap<(String, String), u64>;

/// What the metrics tell of all filters' failures.
pub(crate) fn failures(nginx: &Nginx) -> Failures {
    let mut failures = Failures::new();
    for line in nginx.get("/metrics").text().lines() {
        let Some(rest) = line.strip_prefix("weir_failures_total{") else { continue };
        let label =
            |name: &str| rest.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(value, _)| value);
        let (Some(callback), Some(cause)) = (label("callback"), label("cause")) else { panic!("{line}") };
        let count: u64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
        *failures.entry((callback.to_owned(), cause.to_owned())).or_default() += count;
    }
    failures
}

/// Sends the same request `times` times, several at once, and shows `check` each answer's status and body.
fn send(nginx: &Nginx, request: &str, times: u64, check: impl Fn(u16, &str)) {
    let mut left = usize::try_from(times).expect("a number that a machine can do");
    let mut connection: Option<Raw> = None;
    while left > 0 {
        let batch = left.min(AT_ONCE);
        let socket = connection.get_or_insert_with(|| nginx.raw());
        socket.write(request.repeat(batch));
        for _ in 0..batch {
            let response = socket.response();
            left -= 1;
            check(response.status, &response.text());
            if response.header("connection") == Some("close") {
                // Those that it had not come to are sent again.
                connection = None;
                break;
            }
        }
    }
}
