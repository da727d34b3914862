//! A whole guest that calls any host function with any arguments in any callback, while its proxy does anything.

use std::{cell::OnceCell, sync::Arc};

use weir_core::{
    abi::types::MapType,
    chain::{Chain, Direction},
    filter::{AbiVersion, Filter},
    host::{
        Attribute, Hold, Value,
        calls::{CallEvent, CallFailure, Closed, Response},
    },
    plan::Isolation,
    shard::Shard,
    testing::{Memory, Request, Worker},
};

use crate::{
    input::Input,
    program::{interpreter, load, plugin, witness, worker},
};

/// Versions and languages: a guest for each pair.
const KINDS: usize = AbiVersion::MARKERS.len() * 2;

thread_local! {
    static GUESTS: [OnceCell<Arc<Filter<Memory>>>; KINDS] = const { [const { OnceCell::new() }; KINDS] };
}

fn guest(kind: usize) -> Arc<Filter<Memory>> {
    let (version, _) = AbiVersion::MARKERS[kind / 2];
    let language = ["Rust", "Go"][kind % 2];
    GUESTS.with(|guests| {
        Arc::clone(guests[kind].get_or_init(|| load("guest", &interpreter(version, language))))
    })
}

/// Tries one input: what the proxy does, then the guest's program.
///
/// # Panics
/// When the host panics, when the witness beside the guest is harmed, or when a later request finds a trace of an
/// earlier one in an instance of its own.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.below(KINDS);
    let shared = input.byte().is_multiple_of(4);
    let len = usize::from(input.byte() % 64);
    let events = input.bytes(len);
    let program = input.rest();
    let isolation = if shared { Isolation::None } else { Isolation::Stream };
    let (guest, witness) = (guest(kind), witness());
    let filters = vec![plugin(&witness, b"", Isolation::Stream), plugin(&guest, program, isolation)];
    let (worker, shard, id) = worker(filters);

    let mut calls = 0;
    let mut serve = || {
        let request = request(&worker);
        let mut chain = shard.begin(id, &request);
        drive(&mut chain, &request, Input::new(events));
        calls += answer(&worker, &shard, Input::new(events));
        chain.finish();
        calls += answer(&worker, &shard, Input::new(events));
        end(&worker)
    };
    let first = serve();
    let second = serve();
    let third = serve();
    for lines in [&first, &second, &third] {
        let letters: String = lines.iter().filter_map(|line| line.strip_prefix("witness ")).collect();
        assert_eq!(letters, "DLX");
    }
    // Each call has a number of its own.
    if !shared && calls == 0 {
        assert_eq!(second, third, "an instance that was reset is like any other");
    }
    twice(&worker, &shard, id, events);
    if !shared {
        // Those that were begun by what calls themselves have told.
        while answer(&worker, &shard, Input::new(events)) > 0 {}
        assert_eq!(shard.calls(), 0, "nothing waits for what does not come");
    }
}

/// Tells guests something of each call that they have begun, ends it, and answers how many there were. Whether it is
/// something that can come of such a call does not matter.
fn answer(worker: &Worker, shard: &Shard<Memory>, mut events: Input<'_>) -> usize {
    let calls = worker.take_calls();
    for call in &calls {
        let count = events.below(4);
        for _ in 0..count {
            let fields = || [(&b"x-b"[..], &b"1"[..])].into_iter().collect();
            let event = match events.below(4) {
                0 => CallEvent::InitialMetadata(fields()),
                1 => CallEvent::TrailingMetadata(fields()),
                _ => CallEvent::Message(vec![b'm'; events.below(64)].into()),
            };
            shard.called(call.token, event);
        }
        let last = match events.below(4) {
            0 => CallEvent::Failed(CallFailure::Reset),
            1 => CallEvent::Response(Response {
                headers: [(&b":status"[..], &b"200"[..]), (b"x-b", b"2")].into_iter().collect(),
                body: vec![vec![b'b'; events.below(64)].into()],
                ..Response::default()
            }),
            2 => CallEvent::Closed(Closed { status: 0, message: b"done".to_vec(), failure: None }),
            _ => CallEvent::Resolved(vec![std::net::Ipv4Addr::LOCALHOST.into()]),
        };
        shard.called(call.token, last);
        assert!(!shard.called(call.token, CallEvent::Failed(CallFailure::Reset)), "it has ended");
    }
    calls.len()
}

/// Two requests at once, one of which goes away.
fn twice(worker: &Worker, shard: &Shard<Memory>, id: weir_core::plan::ChainId, events: &[u8]) {
    let requests = [request(worker), request(worker)];
    let mut chains = requests.each_ref().map(|request| shard.begin(id, request));
    for (chain, request) in chains.iter_mut().zip(&requests) {
        drive(chain, request, Input::new(events));
    }
    requests[0].edit().gone = true;
    for (chain, request) in chains.iter_mut().zip(&requests) {
        drive(chain, request, Input::new(events));
        chain.finish();
    }
    let letters = end(worker).iter().filter(|line| line.starts_with("witness ")).count();
    assert_eq!(letters, 6);
}

/// What has been logged, each line behind its filter's name.
fn end(worker: &Worker) -> Vec<String> {
    let lines = worker.take_log().into_iter();
    lines.map(|line| format!("{} {}", line.filter, line.message)).collect()
}

fn request(worker: &Worker) -> Request {
    let request = Request::new(worker);
    let mut parts = request.edit();
    parts.native.insert(b"variable".to_vec(), b"value".to_vec());
    parts.attributes.insert(Attribute::RequestPath, Value::Bytes(b"/path"[..].into()));
    parts.attributes.insert(Attribute::ResponseCode, Value::Int(200));
    drop(parts);
    request
}

/// What a proxy might do, whatever the verdicts were: one that goes on is the harder case.
fn drive(chain: &mut Chain<Memory>, request: &Request, mut events: Input<'_>) {
    while !events.is_empty() {
        let event = events.byte();
        let direction = if event & 1 == 0 { Direction::Request } else { Direction::Response };
        let end = event & 2 != 0;
        match event >> 2 & 7 {
            0 | 1 => drop(chain.headers(direction, end)),
            2 | 3 => {
                let part = vec![b'b'; events.below(64)];
                request.edit().buffers.insert(direction.buffer(), vec![part.clone(), Vec::new(), part]);
                chain.body(direction, end);
            }
            4 => {
                let map = match direction {
                    Direction::Request => MapType::HttpRequestTrailers,
                    Direction::Response => MapType::HttpResponseTrailers,
                };
                request.edit().maps.insert(map, vec![(b"T".to_vec(), b"1".to_vec())]);
                chain.trailers(direction);
            }
            5 => drop(chain.resume(direction, events.below(4))),
            6 => {
                let mut parts = request.edit();
                let beyond = if end { Hold::TooLarge } else { Hold::StreamThrough };
                parts.hold_limit = Some((events.below(32), beyond));
            }
            _ => {
                let mut parts = request.edit();
                match events.byte() % 4 {
                    0 => parts.headers_sent = true,
                    1 => parts.exhausted = !parts.exhausted,
                    2 => parts.gone = true,
                    _ => parts.buffers.clear(),
                }
            }
        }
    }
}
