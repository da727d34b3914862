//! Compiled filters on disk: used when they are right, thrown away when anything about them is not.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use weir_tests::{Conf, Nginx, wasm::Minimal};

/// A folder for a cache, and the configuration that uses it.
struct Cache {
    folder: tempfile::TempDir,
}

impl Cache {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn conf(&self) -> Conf {
        Conf::new()
            .guest("add_headers")
            .cache(&format!("cache {};", self.path().display()))
            .server("location / { proxy_wasm add_headers; return 200 x; }")
    }

    /// Starts nginx and checks that the filter works.
    fn run(&self) -> Run {
        self.run_with(self.conf(), |nginx| assert_eq!(nginx.get("/").headers("x-weir"), ["response"]))
    }

    fn run_with(&self, conf: Conf, check: impl FnOnce(&Nginx)) -> Run {
        let identities = || -> Vec<Identity> {
            if self.path().is_dir() {
                self.artefacts().iter().map(|path| identity(path)).collect()
            } else {
                Vec::new()
            }
        };
        let before = identities();
        let nginx = Nginx::start(conf);
        check(&nginx);
        let log = nginx.stop();
        let made = identities().into_iter().filter(|identity| !before.contains(identity)).count();
        Run { log, made }
    }

    /// The artefacts that are there.
    fn artefacts(&self) -> Vec<PathBuf> {
        artefacts(&self.path())
    }

    fn artefact(&self) -> PathBuf {
        let mut all = self.artefacts();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

fn artefacts(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the cache");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    all
}

/// One start of nginx.
struct Run {
    log: String,
    /// Artefacts that it has made.
    made: usize,
}

/// What tells two artefacts of one name apart: a new one is another file, written later.
type Identity = (u64, i64, i64);

fn identity(path: &Path) -> Identity {
    let metadata = fs::symlink_metadata(path).expect("an artefact");
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

#[track_caller]
fn assert_compiled(run: &Run) {
    assert_eq!(run.made, 1, "{}", run.log);
    assert!(!run.log.contains("taken from the cache"), "{}", run.log);
}

#[track_caller]
fn assert_taken(run: &Run) {
    assert_eq!(run.made, 0, "{}", run.log);
    assert!(!run.log.contains("module compiled in"), "{}", run.log);
}

/// What an administrator looks for who wonders why a start takes long.
#[test]
fn the_log_says_what_was_compiled_and_what_was_not() {
    let cache = Cache::new();
    let first = cache.run();
    assert!(first.log.contains("module compiled in"), "{}", first.log);
    let second = cache.run();
    assert!(second.log.contains("taken from the cache"), "{}", second.log);
}

#[test]
fn the_second_start_compiles_nothing() {
    let cache = Cache::new();
    assert_compiled(&cache.run());
    let artefact = cache.artefact();
    let before = fs::read(&artefact).expect("an artefact");
    assert_taken(&cache.run());
    assert!(Nginx::check(&cache.conf()).status.success());
    assert_eq!(fs::read(cache.artefact()).expect("an artefact"), before);
    let mode = |path: &Path| fs::metadata(path).expect("it exists").mode() & 0o777;
    assert_eq!((mode(&cache.path()), mode(&artefact)), (0o700, 0o600));
}

#[test]
fn a_check_fills_the_cache_too() {
    let cache = Cache::new();
    assert!(Nginx::check(&cache.conf()).status.success());
    assert_taken(&cache.run());
}

#[test]
fn damaged_artefacts_are_replaced() {
    let cache = Cache::new();
    assert_compiled(&cache.run());
    let path = cache.artefact();
    let good = fs::read(&path).expect("an artefact");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let damaged = [
        ("cut", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("longer", [&good[..], b"x"].concat()),
        ("first byte", flipped(0)),
        ("in the middle", flipped(good.len() / 2)),
        ("last byte", flipped(good.len() - 1)),
        ("something else", b"#!/bin/sh\n".to_vec()),
    ];
    for (what, bytes) in damaged {
        fs::write(&path, bytes).expect("the artefact can be written");
        let run = cache.run();
        assert_compiled(&run);
        let log = run.log;
        assert!(
            log.lines().any(|line| line.contains("[warn]") && line.contains("thrown away")),
            "{what}: {log}"
        );
        assert_taken(&cache.run());
    }
}

/// The artefact of another filter, whole and right in itself, under this one's name.
#[test]
fn artefacts_of_others_are_replaced() {
    let cache = Cache::new();
    assert_compiled(&cache.run());
    let own = cache.artefact();
    assert!(Nginx::check(&cache.conf().guest("noop")).status.success());
    let other = cache.artefacts().into_iter().find(|path| *path != own).expect("a second artefact");
    fs::copy(&other, &own).expect("a copy");
    let run = cache.run();
    assert_compiled(&run);
    assert!(run.log.contains("thrown away"), "{}", run.log);
}

#[test]
fn artefacts_that_others_could_have_made_are_replaced() {
    let cache = Cache::new();
    assert_compiled(&cache.run());
    let path = cache.artefact();
    let assert_replaced = |what: &str, attack: &dyn Fn()| {
        attack();
        let run = cache.run();
        assert_compiled(&run);
        assert!(run.log.contains("thrown away"), "{what}: {}", run.log);
        assert!(fs::symlink_metadata(&path).expect("the new one").is_file(), "{what}");
        assert_taken(&cache.run());
    };
    assert_replaced("writable by all", &|| {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
    });
    assert_replaced("a link", &|| {
        let elsewhere = cache.folder.path().join("elsewhere");
        fs::copy(&path, &elsewhere).expect("a copy");
        fs::remove_file(&path).expect("removed");
        symlink(elsewhere, &path).expect("a link");
    });
    if rustix::process::geteuid().is_root() {
        assert_replaced("another owner's", &|| chown(&path, Some(65_534), None).expect("chown"));
    }
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    let cache = Cache::new();
    fs::create_dir(cache.path()).expect("the folder");
    let refused = || {
        let ended = Nginx::check(&cache.conf());
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(&ended.place("cache ")), "{}", ended.stderr);
        ended.stderr
    };
    fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    assert!(refused().contains("writable"));
    fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    if rustix::process::geteuid().is_root() {
        chown(cache.path(), Some(65_534), None).expect("chown");
        assert!(refused().contains("belong"));
        chown(cache.path(), Some(0), None).expect("chown");
    }
    assert_compiled(&cache.run());
    fs::remove_dir_all(cache.path()).expect("removed");
    fs::write(cache.path(), "a file").expect("written");
    assert!(refused().contains("cache"));
}

#[test]
fn other_bytes_or_settings_are_other_artefacts() {
    let cache = Cache::new();
    assert_compiled(&cache.run());
    assert_compiled(&cache.run_with(cache.conf().wasm("memory_limit 32m;\nmemory_reservation 64m;"), |_| ()));
    assert_eq!(cache.artefacts().len(), 2);
    assert_taken(&cache.run());

    let module = |n: u32| Minimal {
        more: format!("(func (export \"x\") (result i32) (i32.const {n}))"),
        ..Minimal::default()
    };
    let run = |n: u32| {
        let conf = Conf::new()
            .cache(&format!("cache {};", cache.path().display()))
            .file("x.wasm", module(n).assemble())
            .wasm("module x x.wasm;")
            .server("location / { proxy_wasm x; return 200 x; }");
        cache.run_with(conf, |nginx| assert_eq!(nginx.get("/").text(), "x"))
    };
    assert_compiled(&run(1));
    assert_compiled(&run(2));
    assert_taken(&run(1));
}

#[test]
fn the_default_is_in_the_prefix() {
    let nginx = Nginx::start(
        Conf::new()
            .guest("add_headers")
            .cache("")
            .server("location / { proxy_wasm add_headers; return 200 x; }"),
    );
    let folder = nginx.prefix().join("weir-cache");
    assert_eq!(artefacts(&folder).len(), 1);
    assert_eq!(fs::metadata(folder).expect("the folder").mode() & 0o777, 0o700);
}

/// That the default cannot be used is no reason not to start.
#[test]
fn a_default_that_cannot_be_used_is_a_warning() {
    let conf = Conf::new()
        .guest("add_headers")
        .cache("")
        .file("weir-cache", "in the way")
        .server("location / { proxy_wasm add_headers; return 200 x; }");
    let nginx = Nginx::start(conf);
    assert_eq!(nginx.get("/").headers("x-weir"), ["response"]);
    let log = nginx.stop();
    assert!(log.lines().any(|line| line.contains("[warn]") && line.contains("weir-cache")), "{log}");
}

#[test]
fn off_writes_nothing() {
    let conf = Conf::new()
        .guest("add_headers")
        .cache("cache off;")
        .server("location / { proxy_wasm add_headers; return 200 x; }");
    let nginx = Nginx::start(conf);
    assert_eq!(nginx.get("/").headers("x-weir"), ["response"]);
    assert!(!nginx.prefix().join("weir-cache").exists());
}

#[test]
fn several_that_start_at_once_do_not_disturb_each_other() {
    let cache = Cache::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| cache.run());
        }
    });
    // Temporary files are gone.
    let _ = cache.artefact();
    assert_taken(&cache.run());
}
