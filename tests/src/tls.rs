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
        Self::with_names(name, &[&format!("DNS:{name}")])
    }

    /// The same with other alternative names, as openssl writes them: `DNS:x.example`, `URI:spiffe://x`.
    ///
    /// # Panics
    /// When there is no such tool, or it fails.
    #[must_use]
    pub fn with_names(name: &str, names: &[&str]) -> Self {
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
            .args(["-subj", &format!("/O=Weir/CN={name}")])
            .args(["-addext", &format!("subjectAltName={}", names.join(","))])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(folder.path())
            .output()
            .expect("the tool openssl; scripts/setup installs it");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let read = |file| fs::read(folder.path().join(file)).expect("what openssl has made");
        let (certificate, key) = (read("cert.pem"), read("key.pem"));
        Self { folder, name: name.to_owned(), certificate, key }
    }

    /// The certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.certificate
    }

    /// Its key, in PEM.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Arguments for curl to show this certificate to the server.
    #[must_use]
    pub fn as_client(&self) -> [String; 4] {
        let path = |file| self.folder.path().join(file).display().to_string();
        ["--cert".into(), path("cert.pem"), "--key".into(), path("key.pem")]
    }

    /// SHA-256 of the certificate, in lower-case hexadecimal, as the tool `openssl` has it.
    ///
    /// # Panics
    /// When there is no such tool, or it fails.
    #[must_use]
    pub fn digest(&self) -> String {
        let output = Command::new("openssl")
            .args(["x509", "-in", "cert.pem", "-noout", "-fingerprint", "-sha256"])
            .current_dir(self.folder.path())
            .output()
            .expect("the tool openssl; scripts/setup installs it");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_ascii_lowercase();
        text.rsplit('=').next().expect("a fingerprint").replace(':', "")
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
