//! What profilers are told of guests, and workers that profile themselves.
#![allow(missing_docs, reason = "a test")]

use std::{
    fs,
    io::Read as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use flate2::read::GzDecoder;
use weir_tests::{
    Conf, Connection, Nginx, Protocol, Request, Response, authority::Authority, paths, tls::Certificate, wait,
};

fn map(pid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/perf-{pid}.map"))
}

#[test]
fn a_worker_writes_where_guests_functions_are_as_long_as_it_lives() {
    let location = "location / { proxy_wasm noop; proxy_wasm add_headers; return 200 ok; }";
    let conf = Conf::new().guest("noop").guest("add_headers").workers(1).server(location);
    let nginx = Nginx::start(conf.clone().wasm("perf_map on;"));
    let path = map(nginx.worker_pid());
    let text = fs::read_to_string(&path).expect("a map");
    let mut code = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ' ');
        let mut number = || usize::from_str_radix(parts.next().expect("a number"), 16).expect("a number");
        code.push((number(), number()));
        assert!(parts.next().is_some_and(|name| !name.is_empty()), "{line}");
    }
    // Each of the two modules has one.
    assert_eq!(text.lines().filter(|line| line.ends_with(" proxy_on_request_headers")).count(), 2);
    code.sort_unstable();
    assert!(code.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "pieces of code do not overlap");
    // It is code that the worker runs.
    let maps = fs::read_to_string(format!("/proc/{}/maps", nginx.worker_pid())).expect("maps");
    let is_code = |at: usize| {
        maps.lines().any(|line| {
            let (range, rest) = line.split_once(' ').expect("a range");
            let (from, to) = range.split_once('-').expect("a range");
            let number = |text: &str| usize::from_str_radix(text, 16).expect("a number");
            rest.starts_with("r-x") && (number(from)..number(to)).contains(&at)
        })
    };
    assert!(code.iter().all(|(at, _)| is_code(*at)), "{maps}");
    let _ = nginx.get("/").expect_status(200);
    let _ = nginx.stop();
    assert!(!path.exists());

    let nginx = Nginx::start(conf.clone());
    assert!(!map(nginx.worker_pid()).exists(), "off by default");
    let ended = Nginx::check(&conf.wasm("perf_map perhaps;"));
    assert!(ended.stderr.contains("it must be \"on\" or \"off\""), "{}", ended.stderr);
}

/// What of pprof's format is looked at (`proto/profile.proto` of google/pprof).
mod pprof {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Profile {
        #[prost(message, repeated, tag = "2")]
        pub(super) samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(super) mappings: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub(super) locations: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(super) functions: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub(super) strings: Vec<String>,
        #[prost(int64, tag = "10")]
        pub(super) duration: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub(super) locations: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub(super) values: Vec<i64>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Mapping {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "5")]
        pub(super) name: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Location {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(uint64, tag = "2")]
        pub(super) mapping: u64,
        #[prost(message, repeated, tag = "4")]
        pub(super) lines: Vec<Line>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Line {
        #[prost(uint64, tag = "1")]
        pub(super) function: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Function {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "2")]
        pub(super) name: i64,
    }

    impl Profile {
        fn string(&self, place: i64) -> &str {
            &self.strings[usize::try_from(place).expect("a place")]
        }

        /// The functions of a sample, the innermost first, each with the file that it is in.
        pub(super) fn stack(&self, sample: &Sample) -> Vec<(&str, &str)> {
            let frame = |id: &u64| {
                let location = self.locations.iter().find(|one| one.id == *id).expect("a location");
                let function = location.lines[0].function;
                let function = self.functions.iter().find(|one| one.id == function).expect("a function");
                let mapping = self.mappings.iter().find(|one| one.id == location.mapping);
                (self.string(function.name), mapping.map_or("", |mapping| self.string(mapping.name)))
            };
            sample.locations.iter().map(frame).collect()
        }
    }
}

const PROFILED: &str = "keepalive_requests 1000000000;
    location = / { proxy_wasm add_headers; proxy_wasm regexes; return 200 ok; }
    location = /faults { proxy_wasm faults; return 200 ok; }
    location = /profile { weir_profile; }";

fn profiled() -> Conf {
    Conf::new().guest("add_headers").guest("regexes").guest("faults").workers(1).server(PROFILED)
}

/// Asks for `target`, while `load` is called over and over with a connection of its own.
fn under_load(nginx: &Nginx, target: &str, load: impl Fn(&mut Connection, usize) + Sync) -> Response {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = nginx.connect(Protocol::Http1);
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                load(&mut connection, number);
                number += 1;
            }
        });
        let response = scope.spawn(|| nginx.connect(Protocol::Http1).get(target)).join();
        done.store(true, Ordering::Relaxed);
        response.expect("an answer")
    })
}

/// A request whose path keeps the filter with regular expressions busy.
fn plain(connection: &mut Connection, _: usize) {
    let _ = connection.get(&format!("/?{}", "a-b/".repeat(500))).expect_status(200);
}

/// One profile of two seconds, taken while the guests are kept busy.
fn profile_of_guests(nginx: &Nginx) -> pprof::Profile {
    let response = under_load(nginx, "/profile?seconds=2&hz=1000", plain).expect_status(200);
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    let mut message = Vec::new();
    GzDecoder::new(&response.body[..]).read_to_end(&mut message).expect("gzip");
    let profile = <pprof::Profile as prost::Message>::decode(&message[..]).expect("a profile");
    assert!(profile.duration >= 2_000_000_000, "{}", profile.duration);
    profile
}

#[test]
fn a_worker_tells_where_its_time_goes_through_guests() {
    let nginx = Nginx::start(profiled());
    let has = |stack: &[(&str, &str)], name: &str| stack.iter().any(|(function, _)| function.contains(name));
    // A worker that gets little of a busy machine has few samples: what is seen seldom may take more than one profile.
    let (mut inner, mut hostcall, mut samples, mut whole) = (false, false, 0, 0);
    let seen = wait::poll(|| {
        let profile = profile_of_guests(&nginx);
        let stacks: Vec<_> = profile.samples.iter().map(|sample| profile.stack(sample)).collect();
        let in_guest = |stack: &&Vec<(&str, &str)>| stack.iter().any(|(_, file)| *file == "guests");
        let through: Vec<_> = stacks.iter().filter(in_guest).collect();
        // From main() to us, to the guest, and to what it calls, in one stack, whatever the callback.
        let is_whole = |stack: &&&Vec<(&str, &str)>| {
            let names = ["weir_core::", "ngx_http_weir_module::", "ngx_worker_process_cycle", "main"];
            names.iter().all(|name| has(stack, name))
        };
        samples += through.len();
        whole += through.iter().filter(is_whole).count();
        let of_request = |stack: &&&Vec<(&str, &str)>| has(stack, "proxy_on_request_headers");
        inner |= through.iter().filter(of_request).any(|stack| has(stack, "regex"));
        hostcall |= through.iter().any(|stack| has(stack, "HostFunc") || has(stack, "abi::"));
        (inner && hostcall && samples >= 20).then_some(())
    });
    assert!(
        seen.is_some(),
        "guests' functions: {inner}, ours that they call: {hostcall}, samples: {samples}"
    );
    // The first instructions of a function have no frame yet: a sample there has no more than that function.
    assert!(whole * 4 >= samples * 3, "{whole} of {samples}");
}

#[test]
fn stacks_are_text_for_other_tools_and_a_picture() {
    let nginx = Nginx::start(profiled());
    let response = under_load(&nginx, "/profile?seconds=1&hz=1000&format=folded", plain).expect_status(200);
    let text = response.text();
    let line = text.lines().find(|line| line.contains("proxy_on_request_headers_[j]"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.rsplit_once(' ').is_some_and(|(_, time)| time.parse::<u64>().is_ok()), "{line}");

    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://{}/profile", nginx.address());
    let weir = |name: &str, pid: u32| {
        let mut command = Command::new(paths::weir());
        command.args(["profile", &url, "--seconds", "1", "--hz", "1000", "--pid", &pid.to_string(), "--out"]);
        command.arg(folder.path().join(name));
        command.stderr(Stdio::piped()).spawn().expect("weir runs")
    };
    for (name, begins) in [("a.svg", &b"<?xml"[..]), ("a.pb.gz", &[0x1f, 0x8b]), ("a.folded", b"")] {
        let mut child = weir(name, nginx.worker_pid());
        let mut connection = nginx.connect(Protocol::Http1);
        while child.try_wait().expect("a child").is_none() {
            plain(&mut connection, 0);
        }
        let output = child.wait_with_output().expect("a child");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let written = fs::read(folder.path().join(name)).expect("a file");
        assert!(written.starts_with(begins) && !written.is_empty(), "{name}");
        if name.ends_with(".svg") {
            assert!(String::from_utf8_lossy(&written).contains("proxy_on_request_headers"));
        }
    }
}

#[test]
fn a_location_with_tls_is_asked_when_its_certificate_is_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.issue(&["127.0.0.1"]);
    let nginx = Nginx::start(
        Conf::new()
            .workers(1)
            .tls_server(&Certificate::new("unused"), "location = /profile { weir_profile; }")
            .file("cert0.pem", issued.certificate)
            .file("key0.pem", issued.key),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("https://{}/profile", nginx.address());
    let weir = |ca: &Authority| {
        let file = folder.path().join("ca.pem");
        fs::write(&file, ca.pem()).expect("written");
        let mut command = Command::new(paths::weir());
        command.args(["profile", &url, "--seconds", "1", "--ca"]).arg(file);
        command.arg("--out").arg(folder.path().join("a.folded")).output().expect("weir runs")
    };
    let good = weir(&authority);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(folder.path().join("a.folded").exists());
    let bad = weir(&other);
    let said = String::from_utf8_lossy(&bad.stderr);
    assert!(!bad.status.success() && said.contains("invalid peer certificate"), "{said}");
}

/// As `openssl req -x509` makes them: an authority, too.
#[test]
fn a_certificate_that_signs_itself_is_trusted_for_its_own_names() {
    let good = Certificate::with_names("localhost", &["IP:127.0.0.1"]);
    let (again, elsewhere) = (
        Certificate::with_names("localhost", &["IP:127.0.0.1"]),
        Certificate::with_names("localhost", &["DNS:localhost"]),
    );
    let folder = tempfile::tempdir().expect("a folder");
    for (certificate, trusted, refusal) in [
        (&good, &good, None),
        (&again, &good, Some("invalid peer certificate")),
        (&elsewhere, &elsewhere, Some("certificate not valid for name")),
    ] {
        let location = "location = /profile { weir_profile; }";
        let nginx = Nginx::start(Conf::new().workers(1).tls_server(certificate, location));
        let file = folder.path().join("trusted.pem");
        fs::write(&file, trusted.pem()).expect("written");
        let url = format!("https://{}/profile", nginx.address());
        let mut command = Command::new(paths::weir());
        command.args(["profile", &url, "--seconds", "1", "--ca"]).arg(file);
        // No picture could be drawn of a worker that rests.
        let ended = command.arg("--out").arg(folder.path().join("a.folded")).output().expect("weir runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.success(), refusal.is_none(), "{said}");
        assert!(refusal.is_none_or(|refusal| said.contains(refusal)), "{said}");
    }
}

/// The names of its functions are those that the compiler has made.
#[test]
fn functions_of_cpp_have_readable_names() {
    let nginx =
        Nginx::start(Conf::new().guest("busy_cpp").workers(1).timeout("callback_timeout 10s;").server(
            "keepalive_requests 1000000000; location = / { proxy_wasm busy_cpp; return 200 ok; }
             location = /profile { weir_profile; }",
        ));
    let get = |connection: &mut Connection, _: usize| {
        let _ = connection.get("/").expect_status(200);
    };
    let response = under_load(&nginx, "/profile?seconds=1&hz=1000&format=folded", get).expect_status(200);
    let text = response.text();
    let names = ["proxy_on_request_headers_[j]", "bakery::Oven::bake(unsigned int)_[j]"];
    assert!(text.lines().any(|line| names.iter().all(|name| line.contains(name))), "{text}");
}

#[test]
fn a_worker_makes_one_profile_at_a_time() {
    let nginx = Nginx::start(profiled());
    let mut first = nginx.raw();
    first.write("GET /profile?seconds=300 HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = nginx.wait_for_log("this worker is profiled for 300 s, 99 times a second");
    let _ = nginx.get("/profile?seconds=1").expect_status(409);
    // It goes on with its work.
    let _ = nginx.get("/").expect_status(200);
    // Nobody waits for the first any more.
    drop(first);
    let next = wait::poll(|| Some(nginx.get("/profile?seconds=1")).filter(|response| response.status != 409));
    assert_eq!(next.expect("an end").status, 200);

    for (request, status) in [
        (Request::get("/profile?seconds=301"), 400),
        (Request::get("/profile?other=1"), 400),
        (Request::get(&format!("/profile?pid={}", nginx.master_pid())), 421),
        (Request::head("/profile"), 405),
        (Request::post("/profile", "x"), 405),
    ] {
        let _ = nginx.send(request).expect_status(status);
    }
    let ended = Nginx::check(&Conf::new().server("location / { weir_metrics; weir_profile; }"));
    assert!(
        ended.stderr.contains("\"weir_profile\" stands in a location that has a handler"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_worker_that_ends_answers_with_what_it_has() {
    let nginx = Nginx::start(profiled());
    let mut raw = nginx.raw();
    raw.write("GET /profile?seconds=300 HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = nginx.wait_for_log("this worker is profiled");
    nginx.begin_to_stop();
    let response = raw.response().expect_status(200);
    assert!(response.body.starts_with(&[0x1f, 0x8b]));
}

#[test]
fn faults_traps_and_samples_meet() {
    let nginx = Nginx::start(profiled().wasm("failure_limit off; log_limit off;"));
    let worker = nginx.worker_pid();
    let response = under_load(&nginx, "/profile?seconds=3&hz=1000&format=folded", |connection, number| {
        // Most leave an instance that is thrown away: the next one's writes fault.
        let fault = ["unreachable", "panic", "stack", "oom", "none"][number % 5];
        let request = Request::get("/faults").header("x-fault", fault);
        let response = nginx.connect(Protocol::Http1).send(request);
        assert_eq!(response.status, if fault == "none" { 200 } else { 500 }, "{fault}");
        plain(connection, number);
    });
    let text = response.expect_status(200).text();
    assert!(text.contains("faults") && text.contains("_[j]"), "{text}");
    assert_eq!(nginx.worker_pid(), worker);
    let _ = nginx.get("/").expect_status(200);
}
