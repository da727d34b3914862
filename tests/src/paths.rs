//! Where `scripts/build` has left nginx, the module and the guests.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::readable::readable;

/// The relocatable nginx prefix: `target/edge`, or `WEIR_EDGE`; a copy of it where workers could not read that.
///
/// # Panics
/// When it cannot be copied.
#[must_use]
pub fn edge() -> PathBuf {
    static EDGE: LazyLock<PathBuf> = LazyLock::new(|| {
        let edge = from_env("WEIR_EDGE").unwrap_or_else(|| target().join("edge"));
        readable(edge.clone()).unwrap_or_else(|error| panic!("{} is not copied: {error}", edge.display()))
    });
    EDGE.clone()
}

/// The nginx binary.
///
/// # Panics
/// When nothing has been built.
#[must_use]
pub fn nginx() -> PathBuf {
    built(edge().join("sbin/nginx"))
}

/// Weir as a dynamic module.
///
/// # Panics
/// When nothing has been built.
#[must_use]
pub fn module() -> PathBuf {
    built(edge().join("modules/ngx_http_weir_module.so"))
}

/// The command `weir`.
///
/// # Panics
/// When nothing has been built.
#[must_use]
pub fn weir() -> PathBuf {
    built(edge().join("bin/weir"))
}

/// The built filter `name`: `NAME.wasm` in [`guests`].
///
/// # Panics
/// When nothing has been built.
pub fn guest(name: &str) -> PathBuf {
    built(guests().join(name).with_extension("wasm"))
}

/// The folder of the built filters: `target/guests`, or `WEIR_GUESTS`.
#[must_use]
pub fn guests() -> PathBuf {
    from_env("WEIR_GUESTS").unwrap_or_else(|| target().join("guests"))
}

/// A folder of this repository, such as `examples/headers`.
///
/// # Panics
/// When there is no such folder.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compiled artefacts that all tests share, so that each guest is compiled once: `target/weir-tests-cache`, or
/// `WEIR_TESTS_CACHE`.
#[must_use]
pub fn shared_cache() -> PathBuf {
    from_env("WEIR_TESTS_CACHE").unwrap_or_else(|| target().join("weir-tests-cache"))
}

/// The folder for what tests leave for people to look at: `target/test-artifacts`.
#[must_use]
pub fn artifacts() -> PathBuf {
    target().join("test-artifacts")
}

fn target() -> PathBuf {
    repository(".").join("target")
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn built(path: PathBuf) -> PathBuf {
    match path.canonicalize() {
        Ok(path) => path,
        Err(error) => panic!("{}: {error}. Run scripts/build first.", path.display()),
    }
}
