//! A bug of ours, planted in every entry from nginx in turn: it is logged with a backtrace, the worker lives, and what
//! comes afterwards goes as ever.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
};

use rustix::process::geteuid;
use serde_json::json;
use weir_tests::{
    Conf, Nginx, Origin, Protocol, Reply, Request,
    authority::Authority,
    dns::{Answer, Dns},
    paths, wait,
    wasm::faulty,
};

/// nginx with one worker, in whose first run of `entry` a panic is planted.
fn start(entry: &str, conf: Conf) -> Nginx {
    let mut nginx = Nginx::start(conf.workers(1).environment("WEIR_PANIC_IN", entry));
    // A report has many lines; `assert_survived` looks at them.
    nginx.tolerate("[alert]");
    nginx
}

/// Waits for the report of the panic in `entry`, and looks at the log when nginx has been stopped.
#[track_caller]
fn assert_survived(entry: &str, worker: u32, nginx: Nginx) {
    nginx.wait_for_log(&format!("weir: bug in {entry}: "));
    assert_eq!(nginx.worker_pid(), worker, "{entry}: another worker");
    assert_reported(entry, &nginx.stop());
}

/// One bug has been reported, with a backtrace, and no process has crashed.
#[track_caller]
fn assert_reported(entry: &str, log: &str) {
    let reports: Vec<&str> = log.lines().filter(|line| line.contains("weir: bug in ")).collect();
    // The master has the same panic planted, and pools as well.
    let processes: BTreeSet<_> = reports.iter().map(|line| line.split(['#', ']']).nth(1)).collect();
    assert!(!reports.is_empty() && processes.len() == reports.len(), "{entry}: {reports:#?}");
    assert!(reports[0].contains(&format!("weir: bug in {entry}: panicked at ")), "{}", reports[0]);
    for part in ["planted by WEIR_PANIC_IN", "panic_if_planted", "guard.rs:"] {
        assert!(
            log.lines().any(|line| line.contains("[alert]") && line.contains(part)),
            "{entry}: {part}\n{log}"
        );
    }
    assert!(!log.contains("exited on signal"), "{entry}: {log}");
}

/// The status that a request is answered with; `None` if its connection breaks before.
fn status(nginx: &Nginx, request: Request) -> Option<u16> {
    nginx.connect(Protocol::Http1).try_send(request).ok().map(|response| response.status)
}

/// A filter that has every callback.
fn filtered(policy: &str) -> Conf {
    Conf::new().file("faulty.wasm", faulty::module(false)).wasm("module faulty faulty.wasm;").server(&format!(
        "location / {{ proxy_wasm_isolation stream; proxy_wasm_failure {policy}; proxy_wasm faulty; return 200 fine; }}
         location /calm {{ return 200 calm; }}
         location /metrics {{ weir_metrics; }}"
    ))
}

/// Makes a request.
type Make<'m> = &'m dyn Fn() -> Request;

#[test]
fn in_a_request() {
    let get = || Request::get("/");
    let post = || Request::post("/", "a body");
    let metrics = || Request::get("/metrics");
    let calm = || Request::get("/calm");
    // What the client sees of it.
    let cases: &[(&str, &str, Make<'_>, Option<u16>)] = &[
        ("the rewrite phase", "closed", &get, Some(500)),
        ("a filter's callback", "closed", &get, Some(500)),
        ("a filter's callback", "closed status=418", &get, Some(418)),
        ("a filter's callback", "open", &get, Some(200)),
        // The second one is that of the response.
        ("a filter's callback:2", "closed", &get, Some(500)),
        ("a filter's callback:2", "open", &get, Some(200)),
        ("the request body filter", "closed", &post, Some(500)),
        ("the end of a request's body", "closed", &post, Some(500)),
        ("the header filter", "closed", &get, Some(500)),
        ("the header filter", "closed status=418", &post, Some(418)),
        ("the header filter", "open", &get, Some(200)),
        ("the body filter", "closed", &get, Some(500)),
        ("the body filter", "closed status=418", &get, Some(418)),
        ("the body filter", "open", &get, Some(500)),
        // That of nothing that is filtered.
        ("the header filter", "closed", &calm, Some(200)),
        ("the body filter", "closed", &calm, Some(200)),
        ("the log phase", "closed", &get, Some(200)),
        ("the end of a request", "closed", &get, Some(200)),
        ("making an instance", "closed", &get, Some(200)),
        ("writing times down", "closed", &get, Some(200)),
        ("a content handler", "closed", &metrics, Some(500)),
        ("the response of a handler", "closed", &metrics, Some(500)),
        ("a pool's cleanup", "closed", &metrics, Some(200)),
    ];
    for (plant, policy, request, expected) in cases {
        let nginx = start(plant, filtered(policy));
        let worker = nginx.worker_pid();
        assert_eq!(status(&nginx, request()), *expected, "{plant}, {policy}");
        let entry = plant.split(':').next().expect("a name");
        nginx.wait_for_log(&format!("weir: bug in {entry}: "));
        for _ in 0..3 {
            assert_eq!(status(&nginx, request()), Some(200), "{plant}, {policy}: the next one");
            assert_eq!(nginx.get("/calm").text(), "calm", "{plant}, {policy}");
        }
        assert_survived(entry, worker, nginx);
    }
}

/// Instances that requests had are not lost: there would be none left.
#[test]
fn where_a_request_has_the_only_instance() {
    let first = [
        ("a filter's callback", Some(500)),
        ("the header filter", Some(500)),
        ("the body filter", Some(500)),
        ("the log phase", Some(200)),
        ("the end of a request", Some(200)),
    ];
    for (entry, expected) in first {
        let nginx = start(entry, filtered("closed").wasm("instances 1 wait=0;"));
        let worker = nginx.worker_pid();
        assert_eq!(status(&nginx, Request::get("/")), expected, "{entry}");
        nginx.wait_for_log(&format!("weir: bug in {entry}: "));
        for _ in 0..5 {
            assert_eq!(status(&nginx, Request::get("/")), Some(200), "{entry}: the next one");
        }
        assert_survived(entry, worker, nginx);
    }
}

#[test]
fn where_a_body_is_copied_and_where_its_length_changes() {
    let origin = Origin::start(|seen| Reply::text(seen.body.clone()).header("content-type", "text/plain"));
    let conf = || {
        Conf::new().guest("edits").set("ORIGIN", origin.address()).http("gzip on; gzip_proxied any;").server(
            "location / { proxy_wasm edits 'reqb.append=! resb.collect resb.append=?'; gzip_min_length 1; gzip_types text/plain;
                proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://@ORIGIN@; }",
        )
    };
    for entry in ["the copying of a body", "the making of an upstream's request"] {
        let nginx = start(entry, conf());
        let worker = nginx.worker_pid();
        let request = || Request::post("/", "a body").header("accept-encoding", "gzip");
        assert_ne!(status(&nginx, request()), Some(200), "{entry}");
        assert_eq!(status(&nginx, request()), Some(200), "{entry}: the next one");
        assert_survived(entry, worker, nginx);
    }
}

#[test]
fn in_what_a_worker_does_by_itself() {
    let entry = "a tick";
    let nginx = start(
        entry,
        Conf::new()
            .guest("ticks")
            .server("location / { proxy_wasm ticks 10; proxy_wasm_isolation none; return 200; }"),
    );
    let worker = nginx.worker_pid();
    nginx.wait_for_log("weir: bug in a tick");
    let ticks = || nginx.get("/").header("x-ticks").and_then(|ticks| ticks.parse().ok()).unwrap_or(0_u32);
    assert!(wait::poll(|| (ticks() > 2).then_some(())).is_some(), "it ticks on");
    assert_survived(entry, worker, nginx);

    let entry = "telling of messages";
    let nginx = start(
        entry,
        Conf::new()
            .guest("shared")
            .server("location / { proxy_wasm shared jobs; proxy_wasm_isolation none; return 200; }"),
    );
    let worker = nginx.worker_pid();
    assert_eq!(nginx.get("/put/jobs/one").text(), "Ok(())");
    nginx.wait_for_log("weir: bug in telling of messages");
    assert_eq!(nginx.get("/put/jobs/two").text(), "Ok(())");
    let last = wait::poll(|| (nginx.get("/get/last").text() == "two").then_some(()));
    assert!(last.is_some(), "{}", nginx.get("/get/last").text());
    assert_survived(entry, worker, nginx);
}

/// Somebody waits for the only instance, and is not told that it has waited long enough: it gets the instance later.
#[test]
fn while_a_request_waits_for_an_instance() {
    let entry = "the end of a wait";
    let conf = Conf::new().guest("trace").wasm("instances 1 wait=10ms;");
    let nginx = start(entry, conf.server("location / { proxy_wasm trace A; return 200 fine; }"));
    let worker = nginx.worker_pid();
    let mut holder = nginx.raw();
    holder.write("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nx");
    nginx.wait_for_log("A trace: on_request_headers");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| status(&nginx, Request::get("/")));
        nginx.wait_for_log("weir: bug in the end of a wait");
        holder.write("x");
        assert_eq!(holder.response().status, 200);
        assert_eq!(waiting.join().expect("an answer"), Some(200));
    });
    assert_survived(entry, worker, nginx);
}

/// nginx with a filter that calls; `text` is what else is in `wasm`.
fn calling(text: &str) -> Conf {
    Conf::new().guest("calls").wasm(text).server("location / { proxy_wasm calls; return 200 answered; }")
}

/// A request whose filter makes a call.
fn call(order: &serde_json::Value) -> Request {
    Request::get("/").header("x-calls", &json!([order]).to_string()).header("x-when", "reqh")
}

#[test]
fn in_calls() {
    let origin = Origin::start(|_| Reply::text("called"));
    let port = origin.address().port();
    let dns = Dns::start(|_| Answer::addresses([std::net::Ipv4Addr::LOCALHOST.into()]));
    let authority = Authority::new();
    let issued = authority.issue(&["service.test"]);
    let tls = |text| {
        calling(text)
            .file("ca.pem", authority.pem())
            .file("server.pem", issued.certificate.clone())
            .file("server.key", issued.key.clone())
            .server(
                "listen unix:@PREFIX@/tls.sock ssl; ssl_certificate server.pem; ssl_certificate_key server.key;
                 return 200 called;",
            )
            .http("upstream up { server unix:@PREFIX@/tls.sock; }")
    };
    let of_file = tls("call_ssl_trusted_certificate ca.pem;");
    let system = tempfile::NamedTempFile::new().expect("a file");
    fs::write(system.path(), authority.pem()).expect("written");
    let of_system = tls("").environment("SSL_CERT_FILE", &system.path().display().to_string());
    let order = json!({"upstream": origin.address().to_string(), "timeout": 300});
    let by_name = json!({"upstream": format!("host.test:{port}"), "timeout": 300});
    let encrypted = json!({"upstream": "up", "authority": "service.test", "scheme": "https"});
    let resolver = format!("resolver {};", dns.address());
    // The client gets its answer, whatever came of the call; also where resuming fails, since what a filter answers takes the
    // place of an error.
    let cases = [
        ("resuming a request", calling(""), &order),
        ("a call", calling(""), &order),
        ("an event of a call", calling(""), &order),
        ("the answer of a resolver", calling(&resolver), &by_name),
        ("a session of TLS", of_file, &encrypted),
        ("a look at the system's certificates", of_system, &encrypted),
    ];
    for (entry, conf, order) in cases {
        let nginx = start(entry, conf);
        let worker = nginx.worker_pid();
        assert_eq!(status(&nginx, call(order)), Some(200), "{entry}");
        let next = nginx.send(call(order));
        assert!(next.text().contains("\"body\":\"called\""), "{entry}: {next:?}");
        assert_survived(entry, worker, nginx);
    }
}

/// What has not been run or woken waits until something else is, or its client gives up.
#[test]
fn where_calls_are_run_and_woken() {
    let origin = Origin::start(|_| Reply::text("called"));
    let silent = weir_tests::raw::Listener::start();
    let good = json!({"upstream": origin.address().to_string()});
    let waits = json!({"upstream": silent.address().to_string(), "timeout": 50});
    for (entry, order) in [("running calls", &good), ("the end of a call's wait", &waits)] {
        let nginx = start(entry, calling(""));
        let worker = nginx.worker_pid();
        let mut client = nginx.raw();
        client.write(format!(
            "GET / HTTP/1.1\r\nHost: x\r\nx-calls: {}\r\nx-when: reqh\r\nConnection: close\r\n\r\n",
            json!([order])
        ));
        nginx.wait_for_log(&format!("weir: bug in {entry}: "));
        let next = nginx.send(call(&good));
        assert!(next.text().contains("\"body\":\"called\""), "{entry}: {next:?}");
        if entry == "running calls" {
            assert_eq!(client.response().status, 200);
        }
        drop(client);
        assert_survived(entry, worker, nginx);
    }
}

#[test]
fn while_a_configuration_is_read() {
    let entries =
        ["create_conf", "create_loc_conf", "a directive", "merge_loc_conf", "postconfiguration", "init_conf"];
    for entry in entries {
        let conf = filtered("closed").environment("WEIR_PANIC_IN", entry);
        let ended = Nginx::check(&conf);
        assert_eq!(ended.status.code(), Some(1), "{entry}: {ended:?}");
        assert!(
            ended.stderr.contains(&format!("weir: bug in {entry}: panicked at ")),
            "{entry}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains("panic_if_planted"), "{entry}: {}", ended.stderr);
    }
    for entry in ["create_conf", "postconfiguration", "init_conf"] {
        // The second time is the one of the reload.
        let nginx = start(&format!("{entry}:2"), filtered("closed"));
        let worker = nginx.worker_pid();
        assert!(nginx.send_signal("reload").status.success());
        nginx.wait_for_log(&format!("weir: bug in {entry}: "));
        assert_eq!(status(&nginx, Request::get("/")), Some(200), "{entry}: the old configuration serves on");
        assert_survived(entry, worker, nginx);
    }
}

#[test]
fn where_processes_begin_and_end() {
    let entry = "init_module";
    let nginx = start(entry, filtered("closed"));
    assert_eq!(status(&nginx, Request::get("/")), Some(200));
    let worker = nginx.worker_pid();
    assert_survived(entry, worker, nginx);

    let entry = "exit_process";
    let nginx = start(entry, filtered("closed"));
    assert_eq!(status(&nginx, Request::get("/")), Some(200));
    assert_reported(entry, &nginx.stop());

    // nginx would start no other worker in the place of one that ends here.
    let entry = "init_process";
    let nginx = start(entry, filtered("closed"));
    assert_eq!(status(&nginx, Request::get("/")), Some(200));
    let worker = nginx.worker_pid();
    assert_survived(entry, worker, nginx);
}

/// A worker that may not read the module's file tells where in it functions are, instead of their names: in a report,
/// and beside a profile.
#[test]
fn where_a_worker_may_not_read_the_module() {
    if !geteuid().is_root() {
        eprintln!("not tested: only workers that root starts are another user");
        return;
    }
    let entry = "the end of a request";
    let module = fs::read(paths::module()).expect("the module");
    let conf = Conf::without_module()
        .main("load_module private.so;")
        .file("private.so", module)
        .file("faulty.wasm", faulty::module(false))
        .wasm("module faulty faulty.wasm;")
        .server("location / { proxy_wasm faulty; return 200 fine; } location /profile { weir_profile; }");
    let nginx = start(entry, conf);
    let file = nginx.prefix().join("private.so");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("permissions");
    let worker = nginx.worker_pid();
    assert_eq!(status(&nginx, Request::get("/")), Some(200));
    nginx.wait_for_log(&format!("weir: bug in {entry}: "));
    let report = nginx.log();
    let advice = "let the user of nginx's workers read it, or ask 'addr2line -Cfie ";
    assert!(report.contains("private.so cannot be read (Permission denied"), "{report}");
    assert!(report.contains(advice), "{report}");
    let places: Vec<&str> =
        report.lines().filter_map(|line| line.split_once("private.so: 0x")).map(|(_, at)| at).collect();
    assert!(places.len() > 3, "{report}");
    // Which are those of functions.
    let names = Command::new("addr2line").arg("-Cfie").arg(&file).args(&places).output().expect("addr2line");
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    assert!(names.contains("panic_if_planted") && names.contains("guard.rs:"), "{names}");

    assert_eq!(status(&nginx, Request::get("/profile?seconds=1")), Some(200));
    let line = nginx.wait_for_log("have no names in this profile");
    assert!(
        line.contains("[warn]") && line.contains("private.so") && line.contains("(Permission denied"),
        "{line}"
    );
    assert_eq!(nginx.worker_pid(), worker);
    assert!(!nginx.stop().contains("exited on signal"));
}

/// Every entry that the module has is in one of these tests.
#[test]
fn all_entries_are_here() {
    let tests = concat!(include_str!("panics.rs"), include_str!("workers.rs"));
    let mut folders = vec![paths::repository("ngx-glue/src")];
    let mut entries = 0;
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).expect("a folder") {
            let path = item.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            for call in ["guard(", "guard_part(", "enter(", "enter_or("] {
                for rest in text.split(call).skip(1) {
                    let Some(name) = rest.trim_start().strip_prefix('"') else { continue };
                    let name = &name[..name.find('"').expect("the end of a name")];
                    assert!(
                        tests.contains(&format!("\"{name}")),
                        "no test for {name:?} of {}",
                        path.display()
                    );
                    entries += 1;
                }
            }
        }
    }
    assert!(entries > 25, "{entries} entries have been found");
}
