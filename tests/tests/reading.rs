//! The command `weir` and a file of metrics that something happens to: it is left behind, cut short, written by another
//! version, or grows and is replaced while it is read.
#![allow(missing_docs, reason = "a test")]

use std::{fs, path::Path, process::Command};

use weir_tests::{Conf, Nginx, Protocol, paths};

fn conf(metrics: &str) -> Conf {
    Conf::new().guest("counts").wasm(metrics).server("location / { proxy_wasm counts my_; return 200 ok; }")
}

const REQUESTS: &str = r#"my_requests_total{filter="counts",kind="http"}"#;

/// What `weir metrics` prints, or complains of.
fn weir(file: &Path) -> Result<String, String> {
    let output = Command::new(paths::weir()).arg("metrics").arg(file).output().expect("run weir");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    assert!(output.status.code().is_some_and(|code| code < 2), "{:?}", output.status);
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn count(nginx: &Nginx, count: usize) {
    for _ in 0..count {
        let _ = nginx.connect(Protocol::Http1).get("/").expect_status(200);
    }
}

#[test]
fn a_file_that_was_left_behind_says_what_was_counted() {
    let mut nginx = Nginx::start(conf(""));
    let file = nginx.prefix().join("weir-metrics");
    count(&nginx, 3);
    nginx.begin_to_stop();
    assert!(nginx.wait_for_end().success());
    let text = weir(&file).expect("the file of a server that has stopped");
    assert!(text.contains(&format!("{REQUESTS} 3\n")), "{text}");
    assert!(!text.contains("worker=\""), "no worker has anything any more: {text}");
}

#[test]
fn a_file_that_is_damaged_is_told_of() {
    let nginx = Nginx::start(conf(""));
    let whole = fs::read(nginx.prefix().join("weir-metrics")).expect("the file");
    let copy = nginx.prefix().join("copy");
    let read = |bytes: &[u8]| {
        fs::write(&copy, bytes).expect("written");
        weir(&copy).expect_err("it is damaged")
    };
    for size in [0, 7, 63] {
        assert!(read(&whole[..size]).contains("is no metrics file"), "{size}");
    }
    for size in [64, 4096, 20_000] {
        assert!(read(&whole[..size]).contains("it has been cut short"), "{size}");
    }
    let mut other = whole.clone();
    // The second word tells layouts apart.
    other[8] ^= 1;
    assert!(read(&other).contains("was written by another version of Weir"));
    // The whole of it can be read.
    fs::write(&copy, &whole).expect("written");
    assert!(weir(&copy).is_ok());
}

/// Reads all the while; each time there is a whole file, and no count is less than before.
#[test]
fn a_file_can_be_read_while_reloads_let_it_grow() {
    let mut nginx = Nginx::start(conf("metrics { slab_size 1m; }"));
    let file = nginx.prefix().join("weir-metrics");
    count(&nginx, 1);
    let (mut before, mut reads) = (0, 0);
    std::thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for size in [2, 4, 8] {
                nginx.reload(conf(&format!("metrics {{ slab_size {size}m; }}")));
                count(&nginx, 2);
            }
        });
        while !reloads.is_finished() {
            let text = weir(&file).unwrap_or_else(|error| panic!("{error}"));
            let line = text.lines().find_map(|line| line.strip_prefix(REQUESTS)).expect("a count");
            let now: u64 = line.trim().parse().expect("a number");
            assert!(now >= before, "{now} after {before}");
            (before, reads) = (now, reads + 1);
        }
    });
    assert!(reads > 3, "{reads}");
    let text = weir(&file).expect("the file");
    assert!(text.contains(&format!("{REQUESTS} 7\n")), "{text}");
}
