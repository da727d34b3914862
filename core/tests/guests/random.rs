//! Guests that call any host function with any argument, anywhere: the host neither panics nor hangs.

use proptest::{prelude::*, test_runner::RngSeed};
use weir_core::{
    abi::{Entry, Support, Versions, table},
    chain::{Chain, Direction, Verdict},
    filter::{AbiVersion, Callback},
    plan::Isolation,
    testing::Memory,
};

use crate::support::{Bench, END, Guest, HEAP, Step, len, plugin, serialized};

/// Callbacks of a request, and those before it.
const CALLBACKS: [Callback; 13] = [
    Callback::Initialize,
    Callback::ContextCreate,
    Callback::VmStart,
    Callback::Configure,
    Callback::RequestHeaders,
    Callback::RequestBody,
    Callback::RequestTrailers,
    Callback::ResponseHeaders,
    Callback::ResponseBody,
    Callback::ResponseTrailers,
    Callback::Done,
    Callback::Log,
    Callback::Delete,
];

/// Where the guest keeps texts that mean something: names, paths, pairs.
const TEXTS: &[(i64, &str)] = &[
    (8, "accept"),
    (32, ":path"),
    (64, "request.path"),
    (96, "mem.variable"),
    (128, "request.headers.accept"),
    (160, "my.own"),
    (192, "bad name\r\n"),
];

/// Where it keeps [`pairs`].
const PAIRS: i64 = 512;

fn pairs() -> Vec<u8> {
    serialized(&[("accept", "a"), (":path", "/new"), ("bad name", "b"), ("x", "c\r\nd")])
}

/// A number: mostly one that means something, since others are refused early.
fn argument() -> impl Strategy<Value = i64> {
    let edges = [-1, -4, 200, 404, 600, 4096, HEAP, 1 << 20, i64::from(i32::MAX), i64::from(i32::MIN)];
    prop_oneof![
        8 => 0..9_i64,
        2 => 0..END,
        1 => END - 16..END + 16,
        2 => prop::sample::select(edges.to_vec()),
        1 => any::<i32>().prop_map(i64::from),
    ]
}

/// One or two arguments: a number, or the address and the size of something that the guest keeps.
fn arguments() -> impl Strategy<Value = Vec<i64>> {
    let texts = TEXTS.iter().map(|(at, text)| vec![*at, len(text)]);
    let kept: Vec<_> = texts.chain([vec![PAIRS, len(pairs())], vec![PAIRS, 0]]).collect();
    prop_oneof![argument().prop_map(|number| vec![number]), prop::sample::select(kept)]
}

/// The functions of the table that `wanted` says, with how many parameters they have.
fn functions(wanted: fn(&Entry<Memory>) -> bool) -> impl Strategy<Value = (&'static str, usize)> {
    let rows: Vec<_> = table::<Memory>().into_iter().filter(wanted).collect();
    prop::sample::select(rows.iter().map(|row| (row.name, row.params.len())).collect::<Vec<_>>())
}

/// A call of any host function; mostly of those that do something, and seldom of those that end the guest.
fn any_call() -> impl Strategy<Value = Step> {
    fn ends(row: &Entry<Memory>) -> bool {
        ["abort", "proc_exit"].contains(&row.name)
    }
    let function = prop_oneof![
        60 => functions(|row| row.name.starts_with("proxy_") && row.support == Support::Full),
        20 => functions(|row| row.versions == Versions::Wasi && row.support == Support::Full && !ends(row)),
        5 => functions(|row| row.support != Support::Full),
        1 => functions(ends),
    ];
    (function, prop::collection::vec(arguments(), 12)).prop_map(|((name, params), args)| {
        Step::Call(name, args.into_iter().flatten().take(params).collect())
    })
}

/// What the allocator answers with.
fn allocator() -> impl Strategy<Value = String> {
    let honest = r#"(global.get $heap) (global.set $heap (i32.add (global.get $heap) (local.get 0)))"#;
    prop_oneof![
        6 => Just(honest.to_owned()),
        1 => Just("(i32.const 0)".to_owned()),
        1 => argument().prop_map(|at| format!("(i32.const {at})")),
        1 => Just("(i32.mul (memory.grow (i32.const 1)) (i32.const 65536))".to_owned()),
        1 => Just("unreachable".to_owned()),
    ]
}

/// A guest that makes calls in any callback.
fn any_guest() -> impl Strategy<Value = Guest> {
    let bodies = prop::collection::vec(
        (prop::sample::select(CALLBACKS.to_vec()), prop::collection::vec(any_call(), 0..8)),
        1..8,
    );
    let version = prop::sample::select(AbiVersion::MARKERS.map(|(version, _)| version).to_vec());
    let language = prop::sample::select(vec!["Rust", "Go"]);
    let noise = prop::collection::vec(any::<u8>(), 64);
    (bodies, version, language, allocator(), noise).prop_map(
        |(bodies, version, language, allocator, noise)| {
            let guest = Guest::new().version(version).language(language).allocating(&allocator);
            let guest = TEXTS.iter().fold(guest, |guest, (at, text)| guest.data(*at, text));
            let guest = guest.data(PAIRS, pairs()).data(1024, noise);
            bodies.into_iter().fold(guest, |guest, (callback, calls)| guest.on(callback, calls))
        },
    )
}

/// Every callback of a request, whatever the verdicts were: a proxy that goes on is the harder case.
fn drive(chain: &mut Chain<Memory>) -> [Verdict; 7] {
    [
        chain.headers(Direction::Request, false),
        chain.resume(Direction::Request, 0),
        chain.body(Direction::Request, true),
        chain.trailers(Direction::Request),
        chain.headers(Direction::Response, false),
        chain.body(Direction::Response, true),
        chain.trailers(Direction::Response),
    ]
}

proptest! {
    // The same guests in every run; `PROPTEST_CASES` makes more of them.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(0x7e1a),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Two requests at once, in instances of their own and in a shared one, beside a filter that does nothing wrong.
    #[test]
    fn no_guest_harms_the_host(guest in any_guest()) {
        let (good, guest) = (Guest::tracer().named("good").load(), guest.load());
        for isolation in [Isolation::Stream, Isolation::None] {
            let bench = Bench::new(vec![plugin(&good, "", Isolation::Stream), plugin(&guest, "", isolation)]);
            let requests = [bench.request(), bench.request()];
            let mut chains = requests.each_ref().map(|request| bench.begin(request));
            for chain in &mut chains {
                drive(chain);
            }
            requests[0].edit().gone = true;
            for chain in &mut chains {
                drive(chain);
                chain.finish();
            }
            let lines = bench.worker.take_log();
            let good = lines.iter().filter(|line| line.filter == "good");
            let letters: String = good.filter_map(|line| line.message.chars().next()).collect();
            prop_assert_eq!(letters.matches("DLX").count(), 2, "{}", letters);
        }
    }
}
