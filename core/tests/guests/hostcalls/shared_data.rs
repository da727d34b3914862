//! `proxy_get_shared_data`, `proxy_set_shared_data`.

use weir_core::{
    abi::Status,
    filter::Callback,
    plan::Isolation,
    shared::{
        Eviction, Shared, Zones, ZonesSpec,
        regions::TableSpec,
        table::{MAX_KEY, MAX_VALUE},
    },
};

use crate::support::{
    Bench, Case, Guest, OUT, SIZE, bad_pointers, call, case, number, plugin, u32_at, value, zones,
};

const GET: &str = "proxy_get_shared_data";
const SET: &str = "proxy_set_shared_data";

/// Where the number is put.
const CAS: i64 = OUT + 8;

/// What `cases` answer in one request of a guest that shares the default zones.
fn check(guest: Guest, cases: &[Case]) -> Vec<String> {
    let calls = cases.iter().map(|(name, args, _)| call(name, args));
    let bench = guest.on(Callback::RequestHeaders, calls).bench().sharing(&zones());
    bench.serve(&bench.request());
    let (answers, warnings) = bench.spoken();
    assert_eq!(answers.len(), cases.len(), "{answers:?} {warnings:?}");
    for (answer, (name, args, status)) in answers.iter().zip(cases) {
        assert_eq!(*answer, status.raw().to_string(), "{name}{args:?} should answer {status:?}");
    }
    warnings
}

#[test]
fn what_one_worker_sets_another_gets() {
    let guest = || Guest::new().named("seen").data(8, "key").data(32, "a value");
    let zones = zones();
    let sets = guest().on(Callback::RequestHeaders, [call(SET, [8, 3, 32, 7, 0])]).bench().sharing(&zones);
    let gets = guest()
        .on(Callback::RequestHeaders, [call(GET, [8, 3, OUT, SIZE, CAS]), value(OUT)])
        .bench()
        .sharing(&zones);
    assert_eq!(gets.run(), ["1", ""], "not there yet");
    assert_eq!(sets.run(), ["0"]);
    assert_eq!(gets.run(), ["0", "a value"]);
}

#[test]
fn data_is_a_vm_s_own() {
    let zones = zones();
    let steps = [call(GET, [8, 3, OUT, SIZE, CAS])];
    let other = Guest::new().named("other").data(8, "key").on(Callback::RequestHeaders, steps);
    let set = [call(SET, [8, 3, 8, 3, 0])];
    let own = Guest::new().named("own").data(8, "key").on(Callback::RequestHeaders, set);
    assert_eq!(own.bench().sharing(&zones).run(), ["0"]);
    assert_eq!(other.bench().sharing(&zones).run(), ["1"]);
}

#[test]
fn a_number_that_is_not_the_entry_s_is_a_mismatch() {
    let steps = [
        call(SET, [8, 3, 32, 1, 0]),
        call(GET, [8, 3, OUT, SIZE, CAS]),
        // With the number that was read, twice: the second time it is an old one.
        number(
            "(i64.extend_i32_u (call $proxy_set_shared_data (i32.const 8) (i32.const 3) (i32.const 33) \
                (i32.const 1) (i32.load (i32.const 4104))))",
        ),
        number(
            "(i64.extend_i32_u (call $proxy_set_shared_data (i32.const 8) (i32.const 3) (i32.const 34) \
                (i32.const 1) (i32.load (i32.const 4104))))",
        ),
        call(GET, [8, 3, OUT, SIZE, CAS]),
        value(OUT),
        // An entry that is not there has no number that could be another one.
        call(SET, [8, 2, 32, 1, 7]),
        call(SET, [8, 2, 32, 1, 7]),
        call(SET, [8, 3, 34, 1, 0]),
        call(GET, [8, 3, OUT, SIZE, CAS]),
        value(OUT),
    ];
    let guest = Guest::new().named("cas").data(8, "key").data(32, "abc").on(Callback::RequestHeaders, steps);
    let bench = guest.bench().sharing(&zones());
    assert_eq!(bench.run(), ["0", "0", "0", "8", "0", "b", "0", "8", "0", "0", "c"]);
}

#[test]
fn an_empty_value_is_one_and_a_null_one_is_empty() {
    let steps = [
        call(SET, [8, 3, 1, 0, 0]),
        call(GET, [8, 3, OUT, SIZE, CAS]),
        u32_at(OUT),
        u32_at(SIZE),
        call(SET, [8, 3, 0, 0, 0]),
        call(GET, [8, 3, OUT, SIZE, CAS]),
        u32_at(SIZE),
    ];
    let guest = Guest::new().named("empty").data(8, "key").on(Callback::RequestHeaders, steps);
    assert_eq!(guest.bench().sharing(&zones()).run(), ["0", "0", "0", "0", "0", "0", "0"]);
}

#[test]
fn pointers_that_lead_nowhere() {
    let mut cases = vec![case(SET, [8, 3, 32, 1, 0], Status::Ok)];
    cases.extend(bad_pointers(SET, &[8, 3, 32, 1, 0], &[(0, 1), (2, 3)], &[]));
    cases.extend(bad_pointers(GET, &[8, 3, OUT, SIZE, CAS], &[(0, 1)], &[(2, 4), (3, 4), (4, 4)]));
    assert_eq!(check(Guest::new().named("nowhere").data(8, "key"), &cases), [""; 0]);
}

#[test]
fn what_is_too_large_is_refused() {
    /// Where nothing is logged from or allocated.
    const FAR: i64 = 2 * 65536;
    let key = i64::try_from(MAX_KEY).expect("small");
    let large = i64::try_from(MAX_VALUE).expect("small");
    let guest = |name: &str| {
        let memory = "(func $grow (drop (memory.grow (i32.const 40)))) (start $grow)";
        Guest::new().named(name).plus(memory)
    };
    let cases = |refused| {
        [
            case(SET, [FAR, key, 8, 1, 0], Status::Ok),
            case(GET, [FAR, key, OUT, SIZE, CAS], Status::Ok),
            case(SET, [FAR, key + 1, 8, 1, 0], refused),
            case(GET, [FAR, key + 1, OUT, SIZE, CAS], Status::NotFound),
            case(SET, [8, 1, 0, large, 0], Status::Ok),
            case(SET, [8, 1, 0, large + 1, 0], refused),
        ]
    };
    let said = check(guest("large").language("C"), &cases(Status::BadArgument));
    assert_eq!(said.len(), 1, "once: {said:?}");
    assert!(said[0].contains("a key has at most 64 KiB, a value 1 MiB"), "{said:?}");
    // The Rust SDK would panic at BAD_ARGUMENT.
    check(guest("large-rust"), &cases(Status::CasMismatch));
}

#[test]
fn a_full_zone_refuses_or_evicts_as_it_is_told() {
    let zones = |eviction| {
        let table = TableSpec { name: "full".to_owned(), size: 16 << 10, eviction, persist: None };
        Zones::open(&ZonesSpec { tables: vec![table], queues: Vec::new() }).expect("memory")
    };
    let guest = |name: &str| {
        let loops = "(local $n i32) (loop $next \
            (i32.store (i32.const 16) (local.get $n)) \
            (local.set $status (call $proxy_set_shared_data (i32.const 8) (i32.const 12) (i32.const 64) \
                (i32.const 500) (i32.const 0))) \
            (local.set $n (i32.add (local.get $n) (i32.const 1))) \
            (br_if $next (i32.and (i32.eqz (local.get $status)) (i32.lt_u (local.get $n) (i32.const 1000)))))";
        let function = format!("(func $fill (result i32) (local $status i32) {loops} (local.get $status))");
        let import = call(SET, [8, 5, 0, 0, 0]);
        Guest::new()
            .named(name)
            .data(8, "full/key")
            .plus(&function)
            .on(Callback::RequestHeaders, [import, number("(i64.extend_i32_u (call $fill))")])
    };
    let run = |guest: Guest, zones: &std::sync::Arc<Zones>| {
        let bench = guest.bench().sharing(zones);
        bench.serve(&bench.request());
        bench.spoken()
    };
    let full = zones(Eviction::None);
    let (answers, warnings) = run(guest("c").language("C"), &full);
    assert_eq!(answers, ["0", "10"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("zone \"full\": the zone is full"), "{warnings:?}");
    let answers = run(guest("rust"), &full).0;
    assert_eq!(answers.last().map(String::as_str), Some("8"), "its SDK would panic at INTERNAL_FAILURE");
    drop(full);
    for eviction in [Eviction::Lru, Eviction::Slru] {
        assert_eq!(run(guest("c").language("C"), &zones(eviction)), (vec!["0".into(), "0".into()], vec![]));
    }
}

#[test]
fn without_zones_nothing_is_found_or_kept() {
    let steps = [call(SET, [8, 1, 8, 1, 0]), call(GET, [8, 1, OUT, SIZE, CAS])];
    let guest = Guest::new().on(Callback::RequestHeaders, steps);
    assert_eq!(guest.bench().run(), ["10", "1"]);
}

#[test]
fn zones_stay_from_one_configuration_to_the_next() {
    let spec = |size| ZonesSpec {
        tables: vec![TableSpec { name: "kept".to_owned(), size, eviction: Eviction::None, persist: None }],
        queues: Vec::new(),
    };
    let zones = Zones::open(&spec(64 << 10)).expect("memory");
    let shared = Shared::new(&zones);
    shared.set(b"vm", b"kept/a", Some(b"1"), 0).expect("room");
    let mut found = Vec::new();
    let cas = shared.get(b"vm", b"kept/a", &mut found).expect("there");
    // The same size: the same memory.
    let same = Shared::new(&Zones::open(&spec(64 << 10)).expect("memory"));
    same.set(b"vm", b"kept/b", Some(b"2"), 0).expect("room");
    assert!(shared.get(b"vm", b"kept/b", &mut found).is_some());
    // Another size: nothing moves before the configuration is known to be good.
    let larger = Zones::open(&spec(128 << 10)).expect("memory");
    let next = Shared::new(&larger);
    assert_eq!(next.get(b"vm", b"kept/a", &mut found), None);
    assert_eq!(larger.take_over(), []);
    assert_eq!(next.get(b"vm", b"kept/a", &mut found), Some(cas), "its number is the same");
    assert_eq!(found, b"1");
    next.set(b"vm", b"kept/a", Some(b"3"), cas).expect("the number is still good");
    assert_ne!(next.get(b"vm", b"kept/a", &mut found), Some(cas));
    assert!(next.get(b"vm", b"kept/b", &mut found).is_some());
}

#[test]
fn two_directives_of_one_module_share() {
    let sets = Guest::new().named("both").data(8, "k");
    let steps = [call(SET, [8, 1, 8, 1, 0]), call(GET, [8, 1, OUT, SIZE, CAS]), value(OUT)];
    let filter = sets.on(Callback::RequestHeaders, steps).load();
    let bench =
        Bench::new(vec![plugin(&filter, "a", Isolation::Filter), plugin(&filter, "b", Isolation::Filter)]);
    assert_eq!(bench.sharing(&zones()).run(), ["0", "0", "k", "0", "0", "k"]);
}
