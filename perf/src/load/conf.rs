//! The configurations of the servers that a profile needs.

use std::{fmt::Write as _, path::Path};

use super::profile::Profile;

/// What all servers of a run have in common.
const COMMON: &str = "\
daemon off;
error_log error.log error;
pid nginx.pid;
events { worker_connections 4096; }
";

/// What a configuration names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// Weir's module.
    pub(super) module: &'a Path,
    /// The folder of built filters.
    pub(super) guests: &'a Path,
    /// The folder of static files, of the certificate, and of compiled filters.
    pub(super) shared: &'a Path,
    /// Port of the origin.
    pub(super) origin: u16,
    /// Ports without TLS and with it.
    pub(super) ports: [u16; 2],
}

/// nginx as it is measured, with the profile's filters or without. Weir's module is there both times.
pub(super) fn measured(profile: &Profile, names: &Names<'_>, filters: bool) -> String {
    let Names { module, guests, shared, origin, ports: [plain, tls] } = names;
    let (module, guests, shared) = (module.display(), guests.display(), shared.display());
    let mut text = format!("load_module {module};\n{COMMON}worker_processes {};\n", profile.workers);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "wasm {{\n    cache {shared}/cache;\n    {}", profile.wasm);
    for name in profile.modules.iter().filter(|_| filters) {
        let _ = writeln!(text, "    module {name} {guests}/{name}.wasm;");
    }
    let _ = write!(
        text,
        "}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 16m;
    proxy_http_version 1.1;
    proxy_set_header Connection '';
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
        http2 on;
        ssl_certificate {shared}/certificate.pem;
        ssl_certificate_key {shared}/key.pem;
"
    );
    for traffic in &profile.traffic {
        let location = traffic.location.replace("FILES", &format!("{shared}/files"));
        let on = if filters { traffic.filters.as_str() } else { "" };
        let _ = writeln!(text, "        location = /{} {{ {on} {location} }}", traffic.name);
    }
    text + "    }\n}\n"
}

/// The origin: files, and a place that takes any body.
pub(super) fn origin(names: &Names<'_>) -> String {
    let (origin, shared) = (names.origin, names.shared.display());
    format!(
        "{COMMON}worker_processes 1;
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 16m;
    server {{
        listen 127.0.0.1:{origin};
        root {shared}/files;
        location = /sink {{ return 200 taken; }}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Names, measured};
    use crate::load::profile::Profile;

    #[test]
    fn without_filters_only_they_are_missing() {
        let profile = Profile::find("edge-mix").expect("well-formed");
        let path = Path::new("/x");
        let names = Names { module: path, guests: path, shared: path, origin: 1, ports: [2, 3] };
        let (on, off) = (measured(&profile, &names, true), measured(&profile, &names, false));
        assert!(on.contains("proxy_wasm add_headers") && !off.contains("proxy_wasm"), "{on}{off}");
        assert_eq!(on.matches("location = /").count(), off.matches("location = /").count());
        assert!(!on.contains("FILES"), "{on}");
    }
}
