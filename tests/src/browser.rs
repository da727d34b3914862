//! A real browser: Debian's Chromium without a window, driven by its ChromeDriver, which `scripts/setup` installs.
//!
//! The commands are those of the WebDriver standard, and three of ChromeDriver's own: the console, and two that set
//! what a page is shown on.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::{Connection, Protocol},
    http::Request,
    paths, ports, wait,
};

/// What Chromium is started with: no window, nothing of its own in the network, nothing kept.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser with one page. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    /// Where it listens. Each command has a connection of its own: one that rests may be closed as the next is sent.
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts it.
    ///
    /// # Panics
    /// When there is no such program, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        let port = ports::free();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run chromedriver: scripts/setup tests installs it");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let ready = wait::poll(|| std::net::TcpStream::connect(address).ok());
        assert!(ready.is_some(), "chromedriver does not listen");
        let profile = tempfile::tempdir().expect("a folder");
        let mut arguments: Vec<_> = ARGUMENTS.iter().map(ToString::to_string).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        });
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let body = json!({"capabilities": {"alwaysMatch": capabilities}});
        let made = browser.call("POST", "/session", &body);
        made["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser
    }

    /// Calls the driver, with a body if that is not null, and gives what it answers.
    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = match body {
            Value::Null => Request::new(method, path),
            body => Request::post(path, body.to_string()).header("content-type", "application/json"),
        };
        let response = Connection::open(self.address, Protocol::Http1).send(request);
        let answer: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(response.status, 200, "{path}: {answer}");
        answer["value"].clone()
    }

    /// Calls the driver for this page.
    #[track_caller]
    fn page(&self, command: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{command}", self.session), body)
    }

    /// Goes to `url`, and waits until the page is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.page("url", &json!({"url": url}));
    }

    /// What the body of a function in JavaScript returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.page("execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until what the expression `wanted` in JavaScript gives is true.
    ///
    /// # Panics
    /// When it never is; the text of the page is shown.
    #[track_caller]
    pub fn wait_for(&self, wanted: &str) {
        let script = format!("return Boolean({wanted});");
        let found = wait::poll(|| (self.run(&script) == true).then_some(()));
        assert!(found.is_some(), "never so: {wanted}\n{}", self.text("body"));
    }

    /// The text that is visible in the first element that `selector` finds; empty when there is none.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({})?.innerText ?? '';", json!(selector)));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks the first element that `selector` finds.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let found = self.page("element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str()).expect("an element");
        self.page(&format!("element/{id}/click"), &json!({}));
    }

    /// Presses and releases a key; those without a character have one in the standard, such as `\u{e004}` for Tab.
    #[track_caller]
    pub fn press(&self, key: char) {
        let actions = ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}));
        self.page("actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]}));
    }

    /// Shows the page as on a screen of that size in CSS pixels, where the system likes dark pages or does not.
    #[track_caller]
    pub fn screen(&self, width: u32, height: u32, dark: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) {
        self.page("goog/cdp/execute", &json!({"cmd": command, "params": parameters}));
    }

    /// Writes what is on the screen to `NAME.png` in [`paths::artifacts`], and gives its path.
    ///
    /// # Panics
    /// When that cannot be written.
    #[track_caller]
    pub fn picture(&self, name: &str) -> PathBuf {
        let picture = self.call("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let bytes = STANDARD.decode(picture.as_str().expect("a picture")).expect("base64");
        let path = paths::artifacts().join(name).with_extension("png");
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// Warnings and errors that the console has had since it was asked last.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.page("se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().expect("a list").iter();
        let bad = entries.filter(|entry| matches!(entry["level"].as_str(), Some("WARNING" | "SEVERE")));
        bad.map(ToString::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session. A driver that is gone is not asked, and one that does not answer is ended.
        if std::net::TcpStream::connect(self.address).is_ok() {
            let path = format!("/session/{}", self.session);
            let _ = Connection::open(self.address, Protocol::Http1).try_send(Request::new("DELETE", &path));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
