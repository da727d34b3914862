//! Compiled artefacts on disk, as a filter is loaded. What the cache itself refuses is tested where it is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use weir_core::{
    engine::{Engine, Settings, cache::Cache},
    filter::{Callback, Filter},
    plan::Isolation,
    testing::{Memory, Worker},
};

use crate::support::{Bench, Guest, engine, load, plugin, say, settings};

/// A module that no other test has: those that are in use are shared, and not looked for in any cache.
fn guest(word: &'static str) -> Guest {
    Guest::new().on(Callback::RequestHeaders, [say(word)])
}

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(directory.path()).expect("a cache");
    (directory, cache)
}

/// Loads the guest in `engine`, and returns what was logged about its compiled form.
fn load_in(engine: &Arc<Engine>, cache: &Cache, guest: &Guest) -> (Arc<Filter<Memory>>, Vec<String>) {
    let worker = Worker::default();
    let filter = load(engine, cache, &guest.spec(), &guest.wasm(), &worker).expect("loads");
    let log = worker.take_log().into_iter().map(|line| line.message);
    let about = ["module compiled", "compiled module", "stored artefact"];
    (filter, log.filter(|line| about.iter().any(|start| line.starts_with(start))).collect())
}

/// What is logged when the guest is loaded once more, after nothing used it any longer. It works, however it came.
fn load_again(cache: &Cache, guest: &Guest, word: &str) -> Vec<String> {
    let (filter, log) = load_in(engine(), cache, guest);
    assert_eq!(Bench::new(vec![plugin(&filter, "", Isolation::Auto)]).run(), [word]);
    log
}

/// The one artefact in the directory.
fn artefact(directory: &Path) -> PathBuf {
    let entries: Vec<_> =
        fs::read_dir(directory).expect("readable").map(|entry| entry.expect("an entry")).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries[0].path()
}

fn compiled(log: &[String]) -> bool {
    log.iter().any(|line| line.starts_with("module compiled in "))
}

#[test]
fn what_was_compiled_once_is_taken_from_the_cache() {
    let (directory, cache) = cache();
    let guest = guest("a hit");
    let log = load_again(&cache, &guest, "a hit");
    assert!(log.len() == 1 && compiled(&log), "{log:?}");
    let path = artefact(directory.path());
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    for _ in 0..2 {
        assert_eq!(load_again(&cache, &guest, "a hit"), ["compiled module taken from the cache"]);
    }
    assert_eq!(artefact(directory.path()), path);
}

#[test]
fn what_is_in_use_is_shared() {
    let guest = guest("in use");
    let (first, log) = load_in(engine(), &Cache::disabled(), &guest);
    assert!(compiled(&log), "{log:?}");
    let log = load_again(&Cache::disabled(), &guest, "in use");
    assert_eq!(log, ["compiled module is in use already and is shared"]);
    // Settings that shape code differ: so do module and artefact.
    let other = Engine::shared(&Settings { instances: 6, ..settings() }).expect("an engine");
    assert!(compiled(&load_in(&other, &Cache::disabled(), &guest).1));
    drop(first);
    assert!(compiled(&load_again(&Cache::disabled(), &guest, "in use")), "forgotten with its last user");
}

/// Whatever is wrong with it, the artefact is replaced by a good one, and the filter loads.
#[test]
fn what_is_not_right_is_made_anew() {
    let (directory, cache) = cache();
    let guest = guest("damaged");
    load_again(&cache, &guest, "damaged");
    let path = artefact(directory.path());
    let good = fs::read(&path).expect("readable");
    let with_payload = |payload: &[u8]| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(payload);
        [&good[..48], &digest, payload].concat()
    };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, mode, said) in [
        (&flipped[..], 0o600, "was thrown away and is made anew: it is damaged"),
        (&good[..good.len() - 1], 0o600, "it is damaged"),
        (b"", 0o600, "it is damaged"),
        (&good, 0o666, "only its owner"),
        // Signed off by the cache, but by another wasmtime,
        (&with_payload(b"\0\0\0\0\0\0\0\0\0\0\0\0no native code"), 0o600, "does not fit this wasmtime"),
        (&with_payload(&[0; 12]), 0o600, "does not fit this wasmtime"),
        // or without what is known of the module.
        (&with_payload(b"\x7fELF, once upon a time"), 0o600, "none of this Weir's"),
        (&with_payload(b""), 0o600, "none of this Weir's"),
    ] {
        fs::write(&path, bytes).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let log = load_again(&cache, &guest, "damaged");
        assert!(log.len() == 2 && log[0].contains(said) && compiled(&log), "{log:?}");
        assert!(fs::read(artefact(directory.path())).expect("readable") == good, "the same artefact again");
        assert_eq!(load_again(&cache, &guest, "damaged"), ["compiled module taken from the cache"]);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_no_obstacle() {
    let (directory, cache) = cache();
    directory.close().expect("removed");
    let log = load_again(&cache, &guest("no cache"), "no cache");
    assert!(log.len() == 2 && log[1].contains("could not be stored"), "{log:?}");
}

/// Modules and settings each have an artefact of their own.
#[test]
fn artefacts_do_not_get_in_each_other_s_way() {
    let (directory, cache) = cache();
    // Their code differs; data is none of it.
    let (one, two) = (guest("one"), guest("two").on(Callback::Log, [crate::support::wat("nop")]));
    load_again(&cache, &one, "one");
    load_again(&cache, &two, "two");
    let other = Engine::shared(&Settings { instances: 5, ..settings() }).expect("an engine");
    assert!(compiled(&load_in(&other, &cache, &one).1));
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 3);
    assert_eq!(load_again(&cache, &two, "two"), ["compiled module taken from the cache"]);
}
