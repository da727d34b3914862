//! `weir dashboard` in a real browser, beside a real nginx: what is shown is what was counted.
#![allow(missing_docs, reason = "a test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use weir_tests::{Conf, Connection, Nginx, Protocol, Request, browser::Browser, paths, wait};

mod records;

use records::leave_records;

/// A running dashboard.
struct Dashboard {
    child: Child,
    address: SocketAddr,
}

impl Dashboard {
    /// Starts one that looks at `file` several times a second; `folder` has `history`, `loads` and `flamegraphs`.
    fn start(file: &Path, folder: &Path, listen: &str) -> Self {
        let mut child = Command::new(paths::weir())
            .arg("dashboard")
            .arg(file)
            .args(["--listen", listen, "--interval", "0.2"])
            .args(
                ["history", "loads", "flamegraphs"]
                    .map(|name| format!("--{name}={}", folder.join(name).display())),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run weir");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let address =
            line.trim().strip_prefix("the dashboard is at http://").expect(&line).trim_end_matches('/');
        Self { address: address.parse().expect("an address"), child }
    }

    fn url(&self, page: &str) -> String {
        format!("http://{}/#{page}", self.address)
    }

    fn get(&self, request: Request) -> weir_tests::Response {
        Connection::open(self.address, Protocol::Http1).send(request)
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // It runs until it is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An nginx whose metrics are in `file`: two filters at `/`, one that fails at `/trap`.
fn nginx(file: &Path) -> Nginx {
    Nginx::start(
        Conf::new()
            .guest("counts")
            .guest("add_headers")
            .guest("faults")
            .wasm(&format!("metrics {{ path {}; }}", file.display()))
            .server(
                "location / { proxy_wasm add_headers; proxy_wasm counts my_; return 200 ok; }
                 location = /trap { proxy_wasm faults; return 200 ok; }",
            ),
    )
}

/// Does `work` while somebody sends requests to `nginx`.
fn under_load(nginx: &Nginx, work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // However `work` ends: the scope waits for its threads.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut connection = nginx.connect(Protocol::Http1);
                for _ in 0..20 {
                    let _ = connection.get("/").expect_status(200);
                }
            }
        });
        work();
    });
}

/// How often each callback of each filter was called, as the metrics file says.
fn counted(file: &Path) -> BTreeMap<(String, String), u64> {
    let output = Command::new(paths::weir())
        .args(["metrics", "--format", "json"])
        .arg(file)
        .output()
        .expect("run weir");
    let metrics: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let metrics = metrics["metrics"].as_array().expect("a list").iter();
    let times = metrics.filter(|metric| metric["name"] == "weir_callback_duration_seconds");
    let label = |metric: &Value, name: &str| metric["labels"][name].as_str().expect("a label").to_owned();
    times
        .map(|metric| {
            let count = metric["value"]["count"].as_u64().expect("a number");
            ((label(metric, "filter"), label(metric, "callback")), count)
        })
        .collect()
}

/// The same, as the page shows it.
fn shown(browser: &Browser) -> BTreeMap<(String, String), u64> {
    let rows = browser.run(
        "return [...document.querySelectorAll('[aria-label=Callbacks] tbody tr')]
             .map((row) => [...row.cells].map((cell) => cell.textContent));",
    );
    let rows = rows.as_array().expect("rows").iter();
    let text = |row: &Value, at: usize| row[at].as_str().expect("text").to_owned();
    rows.map(|row| {
        let count = text(row, 7).replace(',', "").parse().expect("a number");
        ((text(row, 0), text(row, 2)), count)
    })
    .collect()
}

/// A folder for the metrics file and for what benches, load tests and profilers leave.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("metrics");
    (folder, file)
}

#[test]
fn numbers_are_those_of_the_metrics_file_while_nginx_serves() {
    let (folder, file) = folder();
    let nginx = nginx(&file);
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    browser.open(&dashboard.url("live"));
    let requests = |counts: &BTreeMap<_, _>| {
        counts.get(&("counts".to_owned(), "on_request_headers".to_owned())).copied().unwrap_or(0)
    };
    under_load(&nginx, || {
        // Whatever the page shows lies between what the file said before and after.
        let found = wait::poll(|| {
            let before = requests(&counted(&file));
            let page = requests(&shown(&browser));
            (before > 0 && page >= before).then_some(page)
        });
        let after = requests(&counted(&file));
        let page = found.unwrap_or_else(|| panic!("the page lags behind: {}", browser.text("body")));
        assert!(page <= after, "{page} is more than {after}");
        // What happens now: each second, how long, for both filters.
        browser.wait_for(
            "[...document.querySelectorAll('[aria-label=Callbacks] tbody tr')].filter((row) =>
                 row.cells[2].textContent === 'on_request_headers' && parseFloat(row.cells[3].textContent) > 0
                 && /[nµm]?s$/.test(row.cells[5].textContent)).length === 2",
        );
        for chart in ["Requests", "Latency", "Time in filters"] {
            browser.wait_for(&format!(
                "[...document.querySelectorAll('figure')].some((figure) =>
                     figure.querySelector('h2').textContent === '{chart}' && figure.querySelector('canvas')
                     && figure.querySelector('.legend button .value').textContent !== '–')"
            ));
        }
    });
    // All of it, once nothing happens any more.
    let same = wait::poll(|| (shown(&browser) == counted(&file)).then_some(()));
    assert!(same.is_some(), "{:?} is shown, {:?} was counted", shown(&browser), counted(&file));

    // What a filter counts itself can be drawn, and a filter be picked.
    browser.run("[...document.querySelectorAll('tbody button')].find((b) => b.textContent.startsWith('my_requests')).click();");
    browser.wait_for(
        "[...document.querySelectorAll('figure h2')].some((h) => h.textContent.startsWith('my_requests'))",
    );
    browser.run("const s = document.querySelector('#filter'); s.value = 'counts'; s.dispatchEvent(new Event('change'));");
    browser.wait_for(
        "[...document.querySelectorAll('[aria-label=Callbacks] tbody tr')].every((row) => row.cells[0].textContent === 'counts')",
    );

    // A failure, by its cause.
    let _ = nginx.send(Request::get("/trap").header("x-fault", "panic"));
    browser.run(
        "const s = document.querySelector('#filter'); s.value = ''; s.dispatchEvent(new Event('change'));",
    );
    browser.wait_for(
        "[...document.querySelectorAll('figure')].some((figure) =>
             figure.querySelector('h2').textContent.startsWith('Failures') && /trap\\/s/.test(figure.querySelector('.legend').textContent))",
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_banner_says_what_is_gone_until_it_is_back() {
    let (folder, file) = folder();
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    browser.open(&dashboard.url("live"));
    let banner = |text: &str| {
        browser.wait_for(&format!("document.querySelector('#banner').innerText.includes({text:?})"));
    };
    let all_is_well = || browser.wait_for("document.querySelector('#banner').hidden");
    banner("There are no metrics: cannot read");
    let first = nginx(&file);
    all_is_well();
    let _ = first.get("/").expect_status(200);
    browser.wait_for("document.querySelectorAll('[aria-label=Callbacks] tbody tr').length > 3");
    let _ = first.stop();
    banner("No worker of nginx lives");
    browser.picture("dashboard/banner");
    fs::remove_file(&file).expect("removed");
    banner("There are no metrics");
    let second = nginx(&file);
    all_is_well();
    let _ = second.get("/").expect_status(200);
    let same = wait::poll(|| (!counted(&file).is_empty() && shown(&browser) == counted(&file)).then_some(()));
    assert!(same.is_some(), "{:?} is shown, {:?} was counted", shown(&browser), counted(&file));
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // The dashboard itself.
    let listen = dashboard.address.to_string();
    drop(dashboard);
    banner("The dashboard does not answer");
    let _again = Dashboard::start(&file, folder.path(), &listen);
    all_is_well();
}

/// Pages, and what is so when one is complete.
const PAGES: [(&str, &str); 4] = [
    (
        "live",
        "document.querySelectorAll('canvas').length >= 3 && document.querySelector('[aria-label=Callbacks] tbody tr')",
    ),
    ("benches", "document.querySelector('tr[data-name]')"),
    ("loads", "document.querySelector('canvas')"),
    ("flamegraphs", "document.querySelector('iframe')"),
];

#[test]
fn benches_that_have_become_slower_are_marked_and_lead_to_their_numbers() {
    let (folder, file) = folder();
    leave_records(folder.path());
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    browser.open(&dashboard.url("benches"));
    browser.wait_for(
        "document.body.innerText.includes('1 of 3 benches are slower than in the run before; over their budgets: 1.')",
    );
    let row = browser.text("tr[data-name='instructions/request/noop']");
    assert!(row.contains("over its budget") && row.contains("8,000"), "{row}");
    let row = browser.text("tr[data-name='pairs/decode/10']");
    for text in ["slower", "980 ns", "707 ns", "× 1.386", "cccccccc"] {
        assert!(row.contains(text), "{row}");
    }
    assert!(!browser.text("tr[data-name='requests/noop/own']").contains("slower"));
    browser.click("tr[data-name='pairs/decode/10'] button");
    browser.wait_for("document.querySelector('figure canvas')");
    let runs = browser.text("[aria-label='Runs of pairs/decode/10']");
    for text in ["bbbbbbbb22", "2026-09-23 16:13 UTC", "2 × a processor", "1000 ns"] {
        assert!(runs.contains(text), "{text} is not in {runs}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn load_tests_are_shown_and_compared() {
    let (folder, file) = folder();
    leave_records(folder.path());
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    browser.screen(1280, 900, false);
    browser.open(&dashboard.url("loads"));
    browser.wait_for("document.querySelector('figure canvas')");
    let rows = ["later.json", "smoke.json"].map(|name| browser.text(&format!("tr[data-name='{name}']")));
    assert!(rows[0].contains("beyond its budgets") && rows[0].contains("× 1.600"), "{rows:?}");
    assert!(
        !rows[1].contains("beyond") && rows[1].contains("× 1.200") && rows[1].contains("12.5 MiB"),
        "{rows:?}"
    );
    let text = browser.text("main");
    for text_of in ["what an edge node sees", "16 µs × 1.600", "Errors: reset", "1.6 times that of nginx"] {
        assert!(
            text.replace('\u{a0}', " ").replace("  ", " ").contains(text_of),
            "{text_of} is not in {text}"
        );
    }
    assert_eq!(browser.run("return document.querySelectorAll('.legend button').length;"), 2);
    browser.run("const s = document.querySelector('#beside'); s.value = 'smoke.json'; s.dispatchEvent(new Event('change'));");
    assert_eq!(browser.run("return document.querySelectorAll('.legend button').length;"), 4);
    assert!(browser.text("main").contains("12 µs"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn flame_graphs_run_their_own_script_and_reach_nothing_else() {
    let (folder, file) = folder();
    leave_records(folder.path());
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    browser.open(&dashboard.url("benches"));
    browser.run("addEventListener('message', (event) => { window.said = [event.data, event.origin]; });");
    browser.click("a[href='#flamegraphs']");
    browser.wait_for("window.said");
    assert_eq!(browser.run("return window.said;"), json!(["alone", "null"]));
    let facts = browser.text("dl.facts");
    assert!(facts.contains("perf record") && facts.contains("abc123"), "{facts}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn pages_fit_their_screens_in_both_themes() {
    let (folder, file) = folder();
    leave_records(folder.path());
    let nginx = nginx(&file);
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    under_load(&nginx, || {
        let mut grounds = Vec::new();
        for (width, height) in [(1280, 900), (390, 844)] {
            for dark in [false, true] {
                browser.screen(width, height, dark);
                for (page, ready) in PAGES {
                    browser.open(&dashboard.url(page));
                    browser.wait_for(ready);
                    let widths = browser
                        .run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth];");
                    assert_eq!(widths[0], widths[1], "{page}: something is cut off at {width}");
                    let theme = if dark { "dark" } else { "light" };
                    browser.picture(&format!("dashboard/{page}-{theme}-{width}"));
                }
                grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor;"));
            }
        }
        assert_ne!(grounds[0], grounds[1]);
        // The switch has the last word.
        browser.run("const s = document.querySelector('#theme'); s.value = 'light'; s.dispatchEvent(new Event('change'));");
        assert_eq!(browser.run("return getComputedStyle(document.body).backgroundColor;"), grounds[0]);
    });
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn everything_can_be_reached_with_the_keyboard() {
    const TAB: char = '\u{e004}';
    let (folder, file) = folder();
    let nginx = nginx(&file);
    let _ = nginx.get("/").expect_status(200);
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    let browser = Browser::start();
    browser.screen(1280, 900, false);
    browser.open(&dashboard.url("live"));
    browser.wait_for("document.querySelector('tbody button') && document.querySelector('canvas')");
    let mut reached = Vec::new();
    for _ in 0..16 {
        browser.press(TAB);
        let name = browser.run(
            "const e = document.activeElement;
             return e.id || e.getAttribute('aria-label')?.split(':')[0] || e.textContent;",
        );
        reached.push(name.as_str().expect("text").to_owned());
    }
    for name in [
        "Skip to the content",
        "Live",
        "Benches",
        "Load tests",
        "Flame graphs",
        "theme",
        "filter",
        "minutes",
        "Requests",
    ] {
        assert!(reached.iter().any(|found| found == name), "{name} is not among {reached:?}");
    }
    // The arrows move along a chart.
    browser
        .run("[...document.querySelectorAll('.plot')].find((plot) => plot.querySelector('canvas')).focus();");
    browser.press('\u{e012}');
    browser.wait_for("/^.*, \\d\\d:\\d\\d:\\d\\d: /.test(document.activeElement.getAttribute('aria-label'))");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn others_are_told_nothing() {
    let (folder, file) = folder();
    fs::write(folder.path().join("secret.svg"), "secret").expect("written");
    let pictures = folder.path().join("flamegraphs");
    fs::create_dir(&pictures).expect("a folder");
    fs::write(pictures.join("a b.svg"), "<svg xmlns='http://www.w3.org/2000/svg'/>").expect("written");
    let dashboard = Dashboard::start(&file, folder.path(), "127.0.0.1:0");
    for host in ["evil.example", "localhost.evil.example:80", "192.0.2.1"] {
        let response = dashboard.get(Request::get("/api/benches").header("host", host)).expect_status(403);
        assert!(response.text().contains("not to other names"), "{}", response.text());
    }
    let page = dashboard.get(Request::get("/").header("host", "localhost")).expect_status(200);
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("access-control-allow-origin"), None);
    for request in
        [Request::post("/api/live", "x"), Request::new("DELETE", "/"), Request::new("OPTIONS", "/")]
    {
        let response = dashboard.get(request).expect_status(405);
        assert_eq!(response.header("allow"), Some("GET, HEAD"));
    }
    for path in [
        "/flamegraphs/..%2Fsecret.svg",
        "/flamegraphs/../secret.svg",
        "/assets/..%2Findex.html",
        "/secret.svg",
    ] {
        let _ = dashboard.get(Request::get(path)).expect_status(404);
    }
    let picture = dashboard.get(Request::get("/flamegraphs/a%20b.svg")).expect_status(200);
    let policy = picture.header("content-security-policy").expect("a policy");
    assert!(policy.contains("sandbox allow-scripts") && policy.contains("default-src 'none'"), "{policy}");
}
