//! A real Prometheus that scrapes an nginx: the one of Debian's package, which `scripts/setup` installs.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{nginx::Nginx, ports, wait};

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Prometheus {
    /// Starts Prometheus, which scrapes `/metrics` of `nginx` several times a second and has the rules in the file
    /// `rules`, and waits until it has scraped twice.
    ///
    /// # Panics
    /// When there is no such program, or it does not get that far; its own words are shown.
    #[must_use]
    pub fn start(nginx: &Nginx, rules: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let conf = format!(
            "global: {{ scrape_interval: 250ms, evaluation_interval: 250ms }}\n\
             rule_files: [\"{}\"]\n\
             scrape_configs:\n- job_name: weir\n  static_configs: [{{ targets: [\"{}\"] }}]\n",
            rules.display(),
            nginx.address()
        );
        fs::write(folder.path().join("prometheus.yml"), conf).expect("a configuration");
        let stderr = fs::File::create(folder.path().join("stderr")).expect("a file for stderr");
        let port = ports::free();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("run prometheus: scripts/setup tests installs it");
        let prometheus = Self { folder, port, child };
        let ready =
            wait::poll(|| (prometheus.try_query("count_over_time(up[1m]) >= 2")?.len() > 2).then_some(()));
        assert!(ready.is_some(), "Prometheus has not scraped: {}", prometheus.words());
        prometheus
    }

    /// What the query `promql` gives now: the JSON of the result, `[]` for nothing.
    ///
    /// # Panics
    /// When Prometheus refuses it.
    #[must_use]
    #[track_caller]
    pub fn query(&self, promql: &str) -> String {
        self.try_query(promql).unwrap_or_else(|| panic!("{promql}: {}", self.words()))
    }

    /// What `api`, a path below `/api/v1/`, answers.
    #[must_use]
    pub fn api(&self, api: &str, arguments: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["--silent", "--get", "--max-time", "10"])
            .args(arguments.iter().flat_map(|argument| ["--data-urlencode", argument]))
            .arg(format!("http://127.0.0.1:{}/api/v1/{api}", self.port))
            .output()
            .expect("run curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn try_query(&self, promql: &str) -> Option<String> {
        let answer = self.api("query", &[&format!("query={promql}")]);
        let result = answer.strip_prefix(r#"{"status":"success","data":{"resultType":"vector","result":"#)?;
        result.strip_suffix("}}").map(str::to_owned)
    }

    /// What it has said.
    #[must_use]
    pub fn words(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, which is no harm here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
