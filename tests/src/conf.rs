//! The pieces of an nginx.conf, and the placeholders in them.

use std::{
    fmt::{Display, Write as _},
    path::Path,
};

use crate::{Origin, paths, tls::Certificate};

/// A configuration to start nginx with. A plain value: clone it, change it, and reload with it.
///
/// Texts may contain placeholders: `@PREFIX@` (the temporary folder), `@PORT0@`, `@PORT1@` … (of 127.0.0.1, as many as
/// there are servers), `@CACHE@` (the cache of compiled filters that all tests share), and those that [`Conf::set`]
/// defines. Relative paths begin at the prefix, where `modules` and `guests` lead to what `scripts/build` has made.
#[derive(Debug, Clone)]
pub struct Conf {
    module: bool,
    workers: usize,
    log_level: String,
    main: String,
    cache: String,
    timeout: String,
    wasm: String,
    http: String,
    servers: Vec<String>,
    /// Which of the servers speak TLS.
    tls: Vec<usize>,
    /// Which of the servers speak HTTP/3 as well.
    quic: Vec<usize>,
    verbatim: Option<(String, usize)>,
    values: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    open_folders: Vec<String>,
    daemon: bool,
    environment: Vec<(String, String)>,
}

impl Default for Conf {
    fn default() -> Self {
        Self::new()
    }
}

impl Conf {
    /// Weir's module, two workers, no filter and no server yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            module: true,
            workers: 2,
            log_level: "info".to_owned(),
            main: String::new(),
            cache: "cache @CACHE@;".to_owned(),
            timeout: "callback_timeout 2s;".to_owned(),
            wasm: String::new(),
            http: String::new(),
            servers: Vec::new(),
            tls: Vec::new(),
            quic: Vec::new(),
            verbatim: None,
            values: Vec::new(),
            files: Vec::new(),
            open_folders: Vec::new(),
            daemon: false,
            environment: Vec::new(),
        }
    }

    /// nginx without Weir's module.
    #[must_use]
    pub fn without_module() -> Self {
        Self { module: false, ..Self::new() }
    }

    /// A whole nginx.conf as it is, placeholders apart, with `ports` ports.
    #[must_use]
    pub fn verbatim(text: &str, ports: usize) -> Self {
        Self { verbatim: Some((text.to_owned(), ports)), ..Self::new() }
    }

    /// Declares the built filter `name`.
    #[must_use]
    pub fn guest(self, name: &str) -> Self {
        paths::guest(name);
        self.wasm(&format!("module {name} guests/{name}.wasm;"))
    }

    /// Declares the built filter `file` as `name`, with a VM configuration.
    #[must_use]
    pub fn guest_as(self, name: &str, file: &str, vm_configuration: &str) -> Self {
        paths::guest(file);
        self.wasm(&format!("module {name} guests/{file}.wasm '{vm_configuration}';"))
    }

    /// Adds to the `wasm` block.
    #[must_use]
    pub fn wasm(mut self, text: &str) -> Self {
        push_line(&mut self.wasm, text);
        self
    }

    /// Replaces the `cache` directive; by default all tests share a cache, since compiling takes long.
    #[must_use]
    pub fn cache(mut self, directive: &str) -> Self {
        self.cache = directive.to_owned();
        self
    }

    /// Replaces the `callback_timeout` directive. It counts time in which the worker waits for a core as well, and tests
    /// run on busy machines, so it is longer here than by default.
    #[must_use]
    pub fn timeout(mut self, directive: &str) -> Self {
        directive.clone_into(&mut self.timeout);
        self
    }

    /// Adds to the main context.
    #[must_use]
    pub fn main(mut self, text: &str) -> Self {
        push_line(&mut self.main, text);
        self
    }

    /// Adds to the `http` block, before the servers.
    #[must_use]
    pub fn http(mut self, text: &str) -> Self {
        push_line(&mut self.http, text);
        self
    }

    /// Adds a server that listens on a port of its own; `text` is what is in its block.
    #[must_use]
    pub fn server(mut self, text: &str) -> Self {
        self.servers.push(text.to_owned());
        self
    }

    /// Adds a server for HTTPS with a port of its own, as [`Conf::server`] does.
    #[must_use]
    pub fn tls_server(self, certificate: &Certificate, text: &str) -> Self {
        let n = self.servers.len();
        let mut conf = self
            .server(&format!("ssl_certificate cert{n}.pem;\nssl_certificate_key key{n}.pem;\n{text}"))
            .file(&format!("cert{n}.pem"), certificate.certificate.clone())
            .file(&format!("key{n}.pem"), certificate.key.clone());
        conf.tls.push(n);
        conf
    }

    /// Adds a server for HTTPS and HTTP/3 with a port of its own, of TCP and of UDP, as [`Conf::server`] does.
    #[must_use]
    pub fn quic_server(self, certificate: &Certificate, text: &str) -> Self {
        let n = self.servers.len();
        let mut conf = self.tls_server(certificate, text);
        conf.quic.push(n);
        conf
    }

    /// Adds a server with one location that passes requests to `origin`; `text` is what else is in the location.
    #[must_use]
    pub fn proxy(self, origin: &Origin, text: &str) -> Self {
        self.set("ORIGIN", origin.address()).server(&format!(
            "location / {{\n{text}\nproxy_http_version 1.1;\nproxy_pass http://@ORIGIN@;\n}}"
        ))
    }

    /// Sets the number of worker processes.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the least severe level of the error log, which is `info`.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// Defines the placeholder `@NAME@`; a later definition replaces an earlier one.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Display) -> Self {
        self.values.retain(|(n, _)| n != name);
        self.values.push((name.to_owned(), value.to_string()));
        self
    }

    /// Puts a file into the prefix, readable by the workers; folders are made.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.retain(|(p, _)| p != path);
        self.files.push((path.to_owned(), content.into()));
        self
    }

    /// Lets the workers write into a folder of the prefix, one that a [`file`](Self::file) is in.
    #[must_use]
    pub fn open_folder(mut self, path: &str) -> Self {
        self.open_folders.push(path.to_owned());
        self
    }

    /// Lets nginx go into the background, as it does by default.
    #[must_use]
    pub fn daemon(mut self) -> Self {
        self.daemon = true;
        self
    }

    /// Starts nginx with a variable in its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    pub(crate) fn is_daemon(&self) -> bool {
        self.daemon
    }

    pub(crate) fn open_folders(&self) -> impl Iterator<Item = &str> {
        self.open_folders.iter().map(String::as_str)
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, content)| (path.as_str(), &content[..]))
    }

    pub(crate) fn ports(&self) -> usize {
        self.verbatim.as_ref().map_or(self.servers.len(), |(_, ports)| *ports)
    }

    pub(crate) fn worker_count(&self) -> usize {
        self.workers
    }

    /// The whole nginx.conf.
    ///
    /// # Panics
    /// When a placeholder has no value.
    #[must_use]
    pub fn render(&self, prefix: &Path, ports: &[u16]) -> String {
        let mut text = match &self.verbatim {
            Some((text, _)) => text.clone(),
            None => self.assemble(),
        };
        let mut values = self.values.clone();
        values.push(("PREFIX".to_owned(), prefix.display().to_string()));
        values.push(("CACHE".to_owned(), paths::shared_cache().display().to_string()));
        let ports = ports.iter().enumerate();
        values.extend(ports.map(|(index, port)| (format!("PORT{index}"), port.to_string())));
        for (name, value) in &values {
            text = text.replace(&format!("@{name}@"), value);
        }
        if let Some(missing) = placeholder(&text) {
            panic!("no value for the placeholder {missing} in\n{text}");
        }
        text
    }

    fn assemble(&self) -> String {
        let mut text = String::from("pid nginx.pid;\n");
        push_line(&mut text, &format!("worker_processes {};", self.workers));
        push_line(&mut text, &format!("error_log error.log {};", self.log_level));
        if self.module {
            push_line(&mut text, "load_module modules/ngx_http_weir_module.so;");
        }
        text.push_str(&self.main);
        text.push_str("events { worker_connections 1024; }\n");
        if !self.wasm.is_empty() {
            push_line(&mut text, &format!("wasm {{\n{}\n{}\n{}}}", self.cache, self.timeout, self.wasm));
        }
        text.push_str("http {\naccess_log off;\ndefault_type text/plain;\n");
        text.push_str(&self.http);
        for (index, server) in self.servers.iter().enumerate() {
            let tls = if self.tls.contains(&index) { " ssl" } else { "" };
            let mut listen = format!("listen 127.0.0.1:@PORT{index}@{tls};");
            if self.quic.contains(&index) {
                // Without `reuseport` packets of a connection would reach any worker.
                let _ = write!(listen, "\nlisten 127.0.0.1:@PORT{index}@ quic reuseport;");
            }
            // Writing to a string cannot fail.
            let _ = writeln!(text, "server {{\n{listen}\n{server}\n}}");
        }
        text.push_str("}\n");
        text
    }
}

/// `text` as one argument of a directive.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A `proxy_wasm` directive for the guest `maps`, with its orders.
#[must_use]
pub fn maps(orders: &str) -> String {
    format!("proxy_wasm maps {};", quote(orders))
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// The first `@NAME@` in a text.
fn placeholder(text: &str) -> Option<&str> {
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    text.split('@').skip(1).find(|part| is_name(part))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Conf, quote};

    #[test]
    fn placeholders_are_replaced() {
        let conf = Conf::without_module().set("WHO", "you").server("return 200 '@WHO@ @PORT0@ @PREFIX@';");
        let text = conf.render(Path::new("/tmp/x"), &[4711]);
        assert!(text.contains("return 200 'you 4711 /tmp/x';"), "{text}");
        assert!(text.contains("listen 127.0.0.1:4711;"), "{text}");
        assert!(!text.contains("load_module"), "{text}");
    }

    #[test]
    #[should_panic(expected = "no value for the placeholder NOBODY")]
    fn an_unknown_placeholder_is_refused() {
        let _ = Conf::new().server("return 200 @NOBODY@;").render(Path::new("/"), &[1]);
    }

    #[test]
    fn quotes_are_escaped() {
        assert_eq!(quote(r"it's \n"), r"'it\'s \\n'");
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let text = Conf::new().http("#@A@").set("A", 1).set("A", 2).render(Path::new("/"), &[]);
        assert!(text.contains("#2\n"), "{text}");
    }

    #[test]
    fn a_block_for_filters_is_there_only_if_needed() {
        assert!(!Conf::new().render(Path::new("/"), &[]).contains("wasm {"));
        assert!(Conf::new().wasm("instances 7;").render(Path::new("/"), &[]).contains("instances 7;\n}"));
    }
}
