//! Certificates, and curl as a client: of the tools that `scripts/setup` installs, so that no TLS stack is built for tests.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use crate::http::{self, Response};

/// A certificate that signs itself, and its key.
#[derive(Debug)]
pub struct Certificate {
    folder: TempDir,
    name: String,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Certificate {
    /// Makes a certificate for the host `name`, with the tool `openssl`.
    ///
    /// # Panics
    /// When there is no such tool, or it fails.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(folder.path())
            .output()
            .expect("the tool openssl; scripts/setup installs it");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let read = |file| fs::read(folder.path().join(file)).expect("what openssl has made");
        let (certificate, key) = (read("cert.pem"), read("key.pem"));
        Self { folder, name: name.to_owned(), certificate, key }
    }

    /// The host that it is for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Requests `target` over HTTPS by curl, which knows this certificate; `arguments` are curl's own, such as `--http2`.
    ///
    /// # Panics
    /// When there is no such tool, or it fails.
    #[must_use]
    pub fn curl(&self, address: SocketAddr, target: &str, arguments: &[&str]) -> Response {
        let port = address.port();
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--dump-header",
                "headers",
                "--output",
                "body",
            ])
            .args(["--cacert", "cert.pem", "--resolve", &format!("{}:{port}:{}", self.name, address.ip())])
            .args(arguments)
            .arg(format!("https://{}:{port}{target}", self.name))
            .current_dir(self.folder.path())
            .output()
            .expect("the tool curl; scripts/setup installs it");
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        let body = fs::read(self.folder.path().join("body")).unwrap_or_default();
        let head = fs::read(self.folder.path().join("headers")).expect("what curl has received");
        let mut response = http::parse_head(&http::latin1(&head));
        response.body = body;
        response
    }
}
