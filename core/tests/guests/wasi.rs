//! WASI preview 1: what works, what refuses, under both names of the module.

use weir_core::{
    abi::{Support, Versions, table, types::LogLevel},
    chain::{Direction, Verdict},
    engine::limits::{MAX_IOVECS, MAX_LOG_LINE, MAX_RANDOM, MAX_SUBSCRIPTIONS},
    filter::Callback,
    testing::{Memory, NOW_NS},
};

use crate::support::{
    Bench, END, Guest, HIGH, OUT, SIZE, Step, bad_pointers, bytes, call, number, say, u32_at, u64_at, wat,
};

const BADF: &str = "8";
const FAULT: &str = "21";
const INVAL: &str = "28";
const NOSYS: &str = "52";
const NOTSUP: &str = "58";
const SPIPE: &str = "70";

/// What `guest` logs when it does `steps` in `proxy_on_request_headers`.
fn run(guest: Guest, steps: impl IntoIterator<Item = Step>) -> Vec<String> {
    guest.on(Callback::RequestHeaders, steps).bench().run()
}

/// Every way to give the call memory that is not there is a fault.
fn faults(
    guest: Guest,
    name: &'static str,
    good: &[i64],
    inputs: &[(usize, usize)],
    outputs: &[(usize, i64)],
) {
    let cases = bad_pointers(name, good, inputs, outputs);
    let answers = run(guest, cases.iter().map(|(name, args, _)| call(name, args)));
    assert_eq!(answers.len(), cases.len());
    for (answer, (_, args, _)) in answers.iter().zip(&cases) {
        assert_eq!(answer, FAULT, "{name}{args:?}");
    }
}

/// A list of buffers: addresses and sizes.
fn iovecs(list: &[(i64, i64)]) -> Vec<u8> {
    let word = |number: &i64| u32::try_from(*number & 0xffff_ffff).expect("32 bits").to_le_bytes();
    list.iter().flat_map(|(at, len)| [word(at), word(len)].concat()).collect()
}

#[test]
fn both_names_of_the_module_have_everything() {
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        let rows = table::<Memory>();
        let imports: String = rows
            .iter()
            .filter(|row| row.versions == Versions::Wasi)
            .map(|row| {
                let result = if row.returns { "(result i32)" } else { "" };
                let params = row.params.join(" ");
                format!(r#"(import "{module}" "{}" (func (param {params}) {result}))"#, row.name)
            })
            .collect();
        let steps = [call("random_get", [0, 0]), call("fd_close", [3])];
        assert_eq!(run(Guest::new().wasi(module).import(&imports), steps), ["0", BADF]);
    }
}

#[test]
fn there_is_nothing_but_standard_descriptors() {
    let rows = table::<Memory>();
    let refusing =
        rows.iter().filter(|row| row.versions == Versions::Wasi && row.support == Support::Refuses);
    for row in refusing {
        let expected = if row.name == "proc_raise" { NOSYS } else { BADF };
        for arg in [3, 99, -1] {
            let answer = run(Guest::new(), [call(row.name, vec![arg; row.params.len()])]);
            assert_eq!(answer, [expected], "{}({arg}, ...)", row.name);
        }
    }
}

#[test]
fn standard_descriptors_are_streams() {
    for fd in 0..=2 {
        let steps = [
            call("fd_close", [fd]),
            call("fd_fdstat_set_flags", [fd, 4]),
            call("fd_seek", [fd, 0, 1, OUT]),
            call("fd_tell", [fd, OUT]),
            call("fd_prestat_get", [fd, OUT]),
        ];
        assert_eq!(run(Guest::new(), steps), [NOTSUP, NOTSUP, SPIPE, SPIPE, BADF], "{fd}");
    }
}

#[test]
fn there_are_no_arguments() {
    let steps = [call("args_sizes_get", [OUT, SIZE]), u64_at(OUT), call("args_get", [HIGH, HIGH])];
    assert_eq!(run(Guest::new().data(OUT, [0xff; 8]), steps), ["0", "0", "0"]);
    faults(Guest::new(), "args_sizes_get", &[OUT, SIZE], &[], &[(0, 4), (1, 4)]);
}

#[test]
fn only_granted_variables_are_seen() {
    let text = "GRANTED=yes\0EMPTY=\0";
    let steps = [
        call("environ_sizes_get", [OUT, SIZE]),
        u32_at(OUT),
        u32_at(SIZE),
        call("environ_get", [8, 64]),
        u32_at(8),
        u32_at(12),
        u32_at(16),
        bytes(64, 19),
        // The last place where both fit.
        call("environ_get", [END - 8, END - 27]),
        bytes(END - 27, 19),
    ];
    assert_eq!(run(Guest::new(), steps), ["0", "2", "19", "0", "64", "76", "0", text, "0", &text[..19]]);
    faults(Guest::new(), "environ_sizes_get", &[OUT, SIZE], &[], &[(0, 4), (1, 4)]);
    faults(Guest::new(), "environ_get", &[8, 64], &[], &[(0, 8), (1, 19)]);
}

#[test]
fn clocks() {
    let now = NOW_NS.to_string();
    let steps = [
        call("clock_time_get", [0, 0, OUT]),
        u64_at(OUT),
        call("clock_time_get", [1, -1, END - 8]),
        u64_at(END - 8),
        call("clock_res_get", [0, OUT]),
        u64_at(OUT),
        call("clock_res_get", [1, OUT]),
    ];
    assert_eq!(run(Guest::new(), steps), ["0", &now, "0", &now, "0", "1", "0"]);
    // Those of the process and the thread are nothing a guest should see. The errno of `clock_time_get` is
    // Proxy-Wasm's own, that of `clock_res_get` WASI's.
    for id in [2, 3, 4, -1] {
        let steps = [call("clock_time_get", [id, 0, OUT]), call("clock_res_get", [id, OUT])];
        assert_eq!(run(Guest::new(), steps), [NOTSUP, INVAL], "{id}");
    }
    faults(Guest::new(), "clock_time_get", &[0, 0, OUT], &[], &[(2, 8)]);
    faults(Guest::new(), "clock_res_get", &[0, OUT], &[], &[(1, 8)]);
}

#[test]
fn descriptors_are_character_devices() {
    let byte = |at: i64| number(format!("(i64.load8_u (i32.const {at}))"));
    for (fd, flags, rights) in [(0, "0", "2"), (1, "1", "64"), (2, "1", "64")] {
        let steps = [
            call("fd_fdstat_get", [fd, OUT]),
            byte(OUT),
            byte(OUT + 2),
            u64_at(OUT + 8),
            u64_at(OUT + 16),
            call("fd_filestat_get", [fd, OUT]),
            byte(OUT + 16),
            u64_at(OUT + 56),
        ];
        let log = run(Guest::new().data(OUT, [0xff; 64]), steps);
        assert_eq!(log, ["0", "2", flags, rights, "0", "0", "2", "0"], "{fd}");
    }
    let none = [call("fd_fdstat_get", [3, OUT]), call("fd_filestat_get", [-1, OUT])];
    assert_eq!(run(Guest::new(), none), [BADF, BADF]);
    faults(Guest::new(), "fd_fdstat_get", &[1, OUT], &[], &[(1, 24)]);
    faults(Guest::new(), "fd_filestat_get", &[1, OUT], &[], &[(1, 64)]);
}

#[test]
fn standard_input_is_at_its_end() {
    let steps = [call("fd_read", [0, 0, 1, OUT]), u32_at(OUT), call("fd_read", [1, 0, 1, OUT])];
    assert_eq!(run(Guest::new().data(OUT, [0xff; 4]), steps), ["0", "0", BADF]);
    faults(Guest::new(), "fd_read", &[0, 0, 0, OUT], &[], &[(3, 4)]);
}

#[test]
fn output_is_logged() {
    let vectors = iovecs(&[(64, 5), (HIGH, 0), (69, 7)]);
    let steps = [1, 2].map(|fd| call("fd_write", [fd, 8, 3, OUT]));
    let guest = Guest::new().data(8, vectors).data(64, "hello world\n");
    let bench = guest.on(Callback::RequestHeaders, steps).on(Callback::RequestHeaders, [u32_at(OUT)]).bench();
    bench.serve(&bench.request());
    let lines = bench.worker.take_log();
    let said: Vec<_> = lines.iter().map(|line| (line.level, &*line.message)).collect();
    let done = |text| (LogLevel::Critical, text);
    let expected =
        [(LogLevel::Info, "hello world"), done("0"), (LogLevel::Error, "hello world"), done("0"), done("12")];
    assert_eq!(said, expected);
}

#[test]
fn one_newline_is_cut_and_nothing_is_no_line() {
    let write = |text: &str| {
        let size = i64::try_from(text.len()).expect("short");
        let guest = Guest::new().data(8, iovecs(&[(64, size)])).data(64, text);
        run(guest, [call("fd_write", [1, 8, 1, OUT]), u32_at(OUT)])
    };
    assert_eq!(write("a\n\n"), ["a\n", "0", "3"]);
    assert_eq!(write("\n"), ["0", "1"]);
    assert_eq!(write(""), ["0", "0"]);
    assert_eq!(run(Guest::new(), [call("fd_write", [1, HIGH, 0, OUT])]), ["0"], "no buffers at all");
}

/// As runtimes report a panic: a line in many pieces.
#[test]
fn pieces_of_a_line_are_one_line() {
    let guest = || {
        let pieces = [(64, 7), (71, 4), (75, 1), (76, 7), (83, 1), (84, 5)];
        let guest = Guest::new().data(64, "panic: oops\n\n\tmore:\nrest!");
        pieces.iter().enumerate().fold(guest, |guest, (at, piece)| {
            guest.data(8 * (i64::try_from(at).expect("small") + 1), iovecs(&[*piece]))
        })
    };
    let lines = |pieces: &[i64]| {
        // What a hostcall answers is logged as well, which would end a line: only that of the first one is.
        let write = |at: &i64| {
            wat(format!(
                "(drop (call $fd_write (i32.const 2) (i32.const {}) (i32.const 1) (i32.const {OUT})))",
                8 * (at + 1)
            ))
        };
        let first = guest().on(Callback::RequestHeaders, [call("fd_write", [1, HIGH, 0, OUT])]);
        let log = first.on(Callback::RequestHeaders, pieces.iter().map(write)).bench().run();
        assert_eq!(log.first().map(String::as_str), Some("0"));
        log[1..].to_vec()
    };
    assert_eq!(lines(&[0, 1, 2]), ["panic: oops"]);
    assert_eq!(lines(&[0, 1, 2, 3, 4, 5]), ["panic: oops", "\tmore:", "rest!"]);
    assert_eq!(lines(&[0, 1]), ["panic: oops"], "the callback ends it");
    assert_eq!(lines(&[5, 2, 2, 5]), ["rest!", "rest!"]);
}

#[test]
fn output_is_bounded() {
    let whole = iovecs(&vec![(0, 60000); MAX_IOVECS]);
    let many = i64::try_from(MAX_IOVECS).expect("small");
    let steps =
        [call("fd_write", [1, 65536, many, OUT]), u32_at(OUT), call("fd_write", [1, 0, many + 1, OUT])];
    let log = run(Guest::new().data(65536, whole), steps);
    assert_eq!(log[0].len(), MAX_LOG_LINE);
    assert_eq!(log[1..], ["0", &(60000 * many).to_string(), INVAL]);
    // More bytes than a size can say: each buffer is the whole memory, which has grown to 64 MiB.
    let endless = iovecs(&vec![(0, 64 << 20); 64]);
    let grow = "(func $grow (drop (memory.grow (i32.const 1020)))) (start $grow)";
    let log = run(Guest::new().data(65536, endless).plus(grow), [call("fd_write", [1, 65536, 64, OUT])]);
    assert_eq!(log.last().map(String::as_str), Some(INVAL));
}

#[test]
fn output_below_the_log_s_level_is_dropped() {
    let guest = Guest::new().data(8, iovecs(&[(64, 1)])).data(64, "a");
    let bench = guest.on(Callback::RequestHeaders, [call("fd_write", [1, 8, 1, OUT]), u32_at(OUT)]).bench();
    bench.worker.set_log_level(LogLevel::Warn);
    assert_eq!(bench.run(), ["0", "1"]);
}

#[test]
fn output_from_nowhere_is_a_fault() {
    let good = [1, 8, 1, OUT];
    faults(Guest::new(), "fd_write", &[1, 8, 0, OUT], &[], &[(3, 4)]);
    let list = [call("fd_write", [1, END - 7, 1, OUT]), call("fd_write", [2, HIGH, 1, OUT])];
    assert_eq!(run(Guest::new(), list), [FAULT; 2]);
    for vector in [(END, 1), (END - 1, 2), (HIGH, 1), (2, HIGH), (HIGH, HIGH)] {
        let log = run(Guest::new().data(8, iovecs(&[vector])), [call("fd_write", good)]);
        assert_eq!(log, [FAULT], "{vector:?}");
    }
    let other = [0, 3, -1].map(|fd| call("fd_write", [fd, 8, 1, OUT]));
    assert_eq!(run(Guest::new(), other), [BADF; 3]);
}

#[test]
fn random_bytes() {
    let most = i64::try_from(MAX_RANDOM).expect("small");
    let steps = [
        call("random_get", [0, 32]),
        call("random_get", [END - most, most]),
        call("random_get", [0, most + 1]),
        call("random_get", [0, HIGH]),
        call("random_get", [END, 0]),
        call("random_get", [END - 1, 2]),
        call("random_get", [HIGH, 1]),
        number("(i64.or (i64.load (i32.const 0)) (i64.load (i32.const 8)))"),
        number("(i64.load (i32.const 32))"),
    ];
    let log = run(Guest::new(), steps);
    assert_eq!(log[..7], ["0", "0", INVAL, INVAL, "0", FAULT, FAULT]);
    assert_ne!(log[7], "0", "128 zero bits in a row do not happen");
    assert_eq!(log[8], "0", "no more than was asked for");
}

/// A subscription: what it is known by, its kind, and the descriptor.
fn subscription(user: u64, kind: u8, fd: u32) -> Vec<u8> {
    let mut bytes = [user.to_le_bytes(), [0; 8]].concat();
    bytes[8] = kind;
    bytes.extend(fd.to_le_bytes());
    bytes.resize(48, 0);
    bytes
}

#[test]
fn polling_never_waits() {
    let asked = [
        subscription(7, 0, 1),
        subscription(8, 1, 0),
        subscription(9, 2, 2),
        subscription(10, 1, 3),
        subscription(11, 2, 0x100),
    ];
    let event = |at: i64| {
        let half =
            move |offset: i64| number(format!("(i64.load16_u (i32.const {}))", OUT + at * 32 + offset));
        [u64_at(OUT + at * 32), half(8), half(10), u64_at(OUT + at * 32 + 24)]
    };
    let steps =
        [vec![call("poll_oneoff", [8, OUT, 5, 1024]), u32_at(1024)], (0..5).flat_map(event).collect()];
    let log = run(Guest::new().data(8, asked.concat()).data(OUT, [0xff; 160]), steps.concat());
    assert_eq!(log[..2], ["0", "5"]);
    let events: Vec<_> = log[2..].chunks(4).collect();
    assert_eq!(events[0], ["7", "0", "0", "0"]);
    assert_eq!(events[1], ["8", "0", "1", "0"]);
    assert_eq!(events[2], ["9", "0", "2", "0"]);
    assert_eq!(events[3], ["10", BADF, "1", "0"]);
    assert_eq!(events[4], ["11", BADF, "2", "0"]);
}

#[test]
fn polling_checks_what_it_is_given() {
    let most = i64::try_from(MAX_SUBSCRIPTIONS).expect("small");
    let calls = [0, most + 1, HIGH].map(|count| call("poll_oneoff", [0, OUT, count, 1024]));
    assert_eq!(run(Guest::new(), calls), [INVAL; 3]);
    assert_eq!(run(Guest::new(), [call("poll_oneoff", [0, 65536, most, 60000])]), ["0"]);
    faults(Guest::new(), "poll_oneoff", &[0, OUT, 1, 1024], &[], &[(0, 48), (1, 32), (3, 4)]);
    // The second one is not there.
    let over = [call("poll_oneoff", [END - 48, OUT, 2, 1024]), call("poll_oneoff", [0, END - 32, 2, 1024])];
    assert_eq!(run(Guest::new(), over), [FAULT; 2]);
}

#[test]
fn yielding_does_nothing() {
    assert_eq!(run(Guest::new(), [call("sched_yield", [])]), ["0"]);
}

/// A program that is done when it has started is no filter: what to do about that is said.
#[test]
fn a_start_that_exits_is_told_how_to_build_a_filter() {
    let guest = Guest::new().on(Callback::Start, [call("proc_exit", [0])]);
    let refusal = guest.bench().rehearse().expect_err("refused").to_string();
    assert!(refusal.contains("_start ended the guest: proc_exit(0)"), "{refusal}");
    assert!(refusal.contains("-buildmode=c-shared"), "{refusal}");
}

/// What programs of older versions of emscripten import of a library of threads.
#[test]
fn threads_are_the_same_where_their_numbers_are() {
    for (left, right, same) in [(1, 1, "1"), (1, 2, "0"), (-1, -1, "1")] {
        assert_eq!(run(Guest::new(), [call("pthread_equal", [left, right])]), [same]);
    }
}

#[test]
fn exit_ends_the_instance_as_a_failure_whatever_the_code() {
    for (code, module) in
        [(0, "wasi_snapshot_preview1"), (7, "wasi_unstable"), (-1, "wasi_snapshot_preview1")]
    {
        let guest = Guest::new().wasi(module);
        let bench: Bench =
            guest.on(Callback::RequestHeaders, [call("proc_exit", [code]), say("not reached")]).bench();
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(Direction::Request, true), Verdict::Failed { status: 500 });
        drop(chain);
        let log = bench.log();
        assert_eq!(log, [format!("proxy_on_request_headers ended the guest: proc_exit({code})")]);
    }
}
