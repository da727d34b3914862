//! Shared data and queues: between workers, through reloads, restarts and killed workers.

use std::{fs, process::Command};

use weir_tests::{Conf, Nginx, wait};

/// Every location asks the guest `shared` for something: the path says what. Its root context registers queue `jobs`.
fn conf(isolation: &str, zones: &str) -> Conf {
    Conf::new().guest("shared").wasm(zones).server(&format!(
        "location / {{ proxy_wasm shared jobs; proxy_wasm_isolation {isolation}; return 200; }}"
    ))
}

fn ask(nginx: &Nginx, path: &str) -> String {
    let response = nginx.get(path);
    assert_eq!(response.status, 200, "{path}: {}", nginx.log());
    response.text()
}

fn kill(nginx: &Nginx, worker: u32) {
    let killed = Command::new("kill").args(["-KILL", &worker.to_string()]).status().expect("kill");
    assert!(killed.success());
    let replaced = wait::poll(|| {
        let now = nginx.worker_pids();
        (now.len() == 2 && !now.contains(&worker)).then_some(())
    });
    assert!(replaced.is_some(), "{}", nginx.log());
}

/// Waits until queue `jobs` has told its root context of `count` messages.
fn assert_told(nginx: &Nginx, count: u32) {
    let told = wait::poll(|| (ask(nginx, "/get/told") == count.to_string()).then_some(()));
    assert!(told.is_some(), "{} of {count}: {}", ask(nginx, "/get/told"), nginx.log());
}

#[test]
fn workers_share_what_they_set_and_lose_no_addition() {
    for isolation in ["auto", "stream", "filter", "none"] {
        let nginx = Nginx::start(conf(isolation, ""));
        assert_eq!(ask(&nginx, "/get/a"), "none");
        assert_eq!(ask(&nginx, "/set/a/1"), "Ok(())");
        for _ in 0..10 {
            assert_eq!(ask(&nginx, "/get/a"), "1", "in whichever worker");
        }
        // There is no number to compare with before there is a value: two that both make it would count one.
        assert_eq!(ask(&nginx, "/set/n/0"), "Ok(())");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| drop(ask(&nginx, "/add/n"))));
            }
        });
        assert_eq!(ask(&nginx, "/get/n"), "100");
    }
}

/// Modules share by their vm_id, which is their name where nothing else is said.
#[test]
fn modules_of_one_vm_id_share() {
    let module = |name: &str, rest: &str| format!("module {name} guests/shared.wasm {rest};");
    let wasm = [module("one", "'' vm_id=both"), module("two", "'' vm_id=both"), module("third", "")].concat();
    let server = |name: &str| format!("location / {{ proxy_wasm {name} jobs; return 200; }}");
    let conf = Conf::new().guest("shared").wasm(&wasm);
    let conf =
        ["one", "two", "third", "shared"].into_iter().fold(conf, |conf, name| conf.server(&server(name)));
    let nginx = Nginx::start(conf);
    let ask = |server: usize, path: &str| {
        weir_tests::Connection::open(nginx.address_of(server), weir_tests::Protocol::Http1).get(path).text()
    };
    assert_eq!(ask(0, "/set/a/1"), "Ok(())");
    assert_eq!([0, 1, 2, 3].map(|server| ask(server, "/get/a")), ["1", "1", "none", "none"]);
    // Its own queue is the other's.
    assert_eq!(ask(1, "/put/jobs/x"), "Ok(())");
    let told = wait::poll(|| (ask(0, "/get/last") == "x").then_some(()));
    assert!(told.is_some(), "{}", nginx.log());
    assert_eq!(ask(2, "/get/last"), "none");
}

#[test]
fn a_root_context_is_told_of_messages_at_once_through_reloads_and_killed_workers() {
    let mut nginx = Nginx::start(conf("none", ""));
    nginx.tolerate("exited on signal 9");
    nginx.tolerate("sendmsg() failed");
    for message in ["one", "two", "three"] {
        assert_eq!(ask(&nginx, &format!("/put/jobs/{message}")), "Ok(())");
    }
    assert_told(&nginx, 3);
    assert_eq!(ask(&nginx, "/get/last"), "three");
    assert_eq!(ask(&nginx, "/take/jobs"), "Ok(None)");
    nginx.reload(conf("none", "").guest("noop"));
    assert_eq!(ask(&nginx, "/put/jobs/four"), "Ok(())");
    assert_told(&nginx, 4);
    let mut count = 4;
    for _ in 0..2 {
        for worker in nginx.worker_pids() {
            kill(&nginx, worker);
            assert_eq!(ask(&nginx, "/put/jobs/x"), "Ok(())");
            count += 1;
            assert_told(&nginx, count);
        }
    }
    nginx.wait_for_old_workers();
    assert_eq!(ask(&nginx, "/put/jobs/last"), "Ok(())");
    assert_told(&nginx, count + 1);
}

#[test]
fn zones_survive_reloads_and_changes_of_their_size() {
    let mut nginx = Nginx::start(conf("auto", "shm_kv * 1m; shm_kv named 64k eviction=none;"));
    assert_eq!(ask(&nginx, "/set/a/1"), "Ok(())");
    assert_eq!(ask(&nginx, "/fill/big/100000"), "Ok(())");
    for zones in [
        "shm_kv * 1m; shm_kv named 64k eviction=none;",
        "shm_kv * 2m;",
        "shm_kv * 512k eviction=lru; shm_queue * 512k;",
        "shm_kv other 20k; shm_kv * 512k eviction=lru;",
    ] {
        nginx.reload(conf("auto", zones));
        assert_eq!(ask(&nginx, "/get/a"), "1", "{zones}");
        assert_eq!(ask(&nginx, "/get/big").len(), 100_000, "{zones}");
    }
    nginx.reload_refused(conf("auto", "shm_kv * 2m; shm_kv * 1m;"));
    assert_eq!(ask(&nginx, "/get/a"), "1", "a configuration that is refused moves nothing");
    let mark = nginx.mark();
    nginx.reload(conf("auto", "shm_kv * 15k eviction=none;"));
    assert_eq!(ask(&nginx, "/get/big"), "none");
    let log = nginx.log_since(mark);
    assert!(log.contains("zone \"*\" has no room for 1 entries or messages"), "{log}");
}

#[test]
fn a_kept_zone_survives_a_stop_and_a_kill_and_its_file_is_checked() {
    let zones = "shm_kv * 1m persist=@PREFIX@/kept.zone;";
    let mut nginx = Nginx::start(conf("auto", zones));
    assert_eq!(ask(&nginx, "/set/a/1"), "Ok(())");
    nginx.reload(conf("auto", "shm_kv * 2m persist=@PREFIX@/kept.zone;"));
    assert_eq!(ask(&nginx, "/get/a"), "1");
    assert_eq!(ask(&nginx, "/set/b/2"), "Ok(())");
    let file = nginx.prefix().join("kept.zone");
    let kept = fs::read(&file).expect("the zone's file");
    assert_eq!(ask(&nginx, "/set/a/3"), "Ok(())");
    drop(nginx.stop());

    // As it was while the server ran: members are there that have died.
    let with = |bytes: Vec<u8>, zones: &str| conf("auto", zones).file("kept.zone", bytes);
    for zones in ["shm_kv * 2m persist=@PREFIX@/kept.zone;", "shm_kv * 1m persist=@PREFIX@/kept.zone;"] {
        let nginx = Nginx::start(with(kept.clone(), zones));
        assert_eq!(
            (ask(&nginx, "/get/a"), ask(&nginx, "/get/b")),
            ("1".to_owned(), "2".to_owned()),
            "{zones}"
        );
    }
    // What has become of it otherwise is dropped, or found out.
    let mut torn = kept.clone();
    torn.iter_mut().skip(60_000).step_by(7).for_each(|byte| *byte ^= 0x5a);
    let nginx = Nginx::start(with(torn, "shm_kv * 2m persist=@PREFIX@/kept.zone;"));
    assert_eq!(ask(&nginx, "/set/a/1"), "Ok(())");
    assert_eq!(ask(&nginx, "/get/a"), "1");
    drop(nginx);
    let refused = Nginx::try_start(with(b"notes".to_vec(), zones)).expect_err("a file of something else");
    assert!(refused.log.contains("it is no shared data of this version"), "{}", refused.log);
}
