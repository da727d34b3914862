//! Bodies that filters hold: who sees what, what goes on when, and that no byte is lost, doubled or overtaken.

use weir_core::{
    abi::types::{BufferType, MapType},
    chain::{Chain, Direction, Verdict},
    filter::Callback,
    host::Hold,
    plan::Isolation,
    testing::{Memory, Request},
};

mod model;

use crate::support::{Bench, Guest, HIGH, OUT, SIZE, call, pairs, param, plugin, returns, show, value, wat};

/// What a filter does when it is shown a part of a body: whether it pauses, and which edit it makes before, from
/// where, how many bytes, by how many new ones.
type Act = [u8; 4];

const GO: Act = [0; 4];
const PAUSE: Act = [1, 0, 0, 0];

/// What a filter inserts: enough of its own name.
const INSERTED: usize = 16;

fn buffer(direction: Direction) -> i64 {
    match direction {
        Direction::Request => 0,
        Direction::Response => 1,
    }
}

fn body(direction: Direction) -> Callback {
    match direction {
        Direction::Request => Callback::RequestBody,
        Direction::Response => Callback::ResponseBody,
    }
}

/// A filter that acts on one body callback after the other as `acts` says, and lets everything go after that. It logs
/// what it is shown if `logs`, and whether that is the end.
fn acting(name: &str, direction: Direction, acts: &[Act], logs: bool) -> Guest {
    let get = "proxy_get_buffer_bytes";
    let log = [call(get, [buffer(direction), 0, HIGH, OUT, SIZE]), value(OUT), param(2)];
    let act = format!(
        "(drop (call $edit (i32.const {})
            (i32.load8_u offset=1 (global.get $at)) (i32.load8_u offset=2 (global.get $at))
            (i32.const 2900) (i32.load8_u offset=3 (global.get $at))))
        (global.set $at (i32.add (global.get $at) (i32.const 4)))
        (return (i32.load8_u (i32.sub (global.get $at) (i32.const 4))))",
        buffer(direction)
    );
    Guest::new()
        .named(name)
        .import(
            r#"(import "env" "proxy_set_buffer_bytes"
                (func $edit (param i32 i32 i32 i32 i32) (result i32)))"#,
        )
        .plus("(global $at (mut i32) (i32.const 3000))")
        .data(2900, name.repeat(INSERTED))
        .data(3000, acts.concat())
        .on(body(direction), log.into_iter().filter(|_| logs))
        .on(body(direction), [wat(act)])
}

fn bench(guests: impl IntoIterator<Item = Guest>) -> Bench {
    let bench =
        Bench::new(guests.into_iter().map(|guest| plugin(&guest.load(), "", Isolation::Stream)).collect());
    bench.rehearse().expect("accepted");
    bench.log();
    bench
}

/// `StopIterationNoBuffer` keeps nothing of what the callback has seen; the end is still to come.
#[test]
fn what_a_filter_drops_does_not_come_again() {
    for direction in [Direction::Request, Direction::Response] {
        let drops: Act = [3, 0, 0, 0];
        let bench = bench([acting("a", direction, &[drops, PAUSE, drops, GO], true)]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        chain.headers(direction, false);
        for (part, end, verdict, shown) in [
            ("one", false, Verdict::Pause, "a:one"),
            ("two", false, Verdict::Pause, "a:two"),
            ("three", false, Verdict::Pause, "a:twothree"),
            ("four", true, Verdict::Continue, "a:four."),
        ] {
            let buffer = match direction {
                Direction::Request => BufferType::HttpRequestBody,
                Direction::Response => BufferType::HttpResponseBody,
            };
            request.edit().buffers.insert(buffer, vec![part.into()]);
            assert_eq!(chain.body(direction, end), verdict, "{direction:?} {part}");
            assert_eq!(seen(&bench), [shown]);
        }
        assert!(chain.ended(direction));
    }
}

/// Headers are held alone with 1, which shows the body where the proxy wants that, and in a module of Higress's always; with
/// more, all that follows is held with them.
#[test]
fn a_filter_may_ask_for_the_body_before_the_headers_go_on() {
    let higress = "(func (export \"proxy_abi_version_0_2_100\"))";
    for (mark, action, first) in [
        (higress, 1, [true, true]),
        (higress, 4, [false, false]),
        ("", 1, [false, true]),
        ("", 3, [false, false]),
        ("", 4, [false, false]),
    ] {
        let guest = Guest::new().plus(mark).on(Callback::RequestHeaders, [returns(action)]);
        let shown = |chain: &Chain<Memory>| [false, true].map(|asked| chain.shows_body_first(DOWN, asked));
        let blind = bench([guest.clone()]);
        let mut chain = blind.begin(&blind.request());
        assert_eq!(chain.headers(DOWN, false), Verdict::Pause);
        assert!(!chain.shows_body_first(DOWN, false), "it would not see the body");
        let bench = bench([guest.on(Callback::RequestBody, [])]);
        let mut chain = bench.begin(&bench.request());
        assert_eq!(chain.headers(DOWN, false), Verdict::Pause);
        assert_eq!(shown(&chain), first, "{mark} {action}");
        assert_eq!(chain.resume(DOWN, 0), Verdict::Continue);
        assert_eq!(shown(&chain), [false, true]);
    }
}

/// What was shown to whom since the last time: the filter's name, the bytes, a full stop behind the last ones.
fn seen(bench: &Bench) -> Vec<String> {
    let lines = bench.worker.take_log();
    let shown = lines.chunks(3).map(|lines| match lines {
        [_, text, end] => {
            format!("{}:{}{}", text.filter, text.message, if end.message == "1" { "." } else { "" })
        }
        _ => format!("{lines:?}"),
    });
    shown.collect()
}

/// Takes what has got past the filters, as a proxy does.
fn passed(request: &Request, direction: Direction) -> String {
    let parts = request.edit().buffers.insert(direction.buffer(), Vec::new());
    String::from_utf8(parts.unwrap_or_default().concat()).expect("text")
}

/// Shows one more part, and takes what goes on.
fn feed(
    chain: &mut Chain<Memory>,
    request: &Request,
    direction: Direction,
    bytes: &str,
    end: bool,
) -> (Verdict, String) {
    show(request, direction, bytes);
    let verdict = chain.body(direction, end);
    (verdict, passed(request, direction))
}

fn resume(
    chain: &mut Chain<Memory>,
    request: &Request,
    direction: Direction,
    at: usize,
) -> (Verdict, String) {
    let verdict = chain.resume(direction, at);
    (verdict, passed(request, direction))
}

fn going(text: &str) -> (Verdict, String) {
    (Verdict::Continue, text.to_owned())
}

fn held() -> (Verdict, String) {
    (Verdict::Pause, String::new())
}

const DOWN: Direction = Direction::Request;

#[test]
fn who_holds_sees_all_of_it_and_who_does_not_sees_the_new_part() {
    let bench = bench([acting("a", DOWN, &[], true), acting("b", DOWN, &[PAUSE, PAUSE], true)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.headers(DOWN, false);
    assert_eq!(feed(&mut chain, &request, DOWN, "one", false), held());
    assert_eq!(seen(&bench), ["a:one", "b:one"]);
    assert_eq!(feed(&mut chain, &request, DOWN, "two", false), held());
    assert_eq!(seen(&bench), ["a:two", "b:onetwo"]);
    assert_eq!(feed(&mut chain, &request, DOWN, "", true), going("onetwo"));
    assert_eq!(seen(&bench), ["a:.", "b:onetwo."]);
    assert!(chain.ended(DOWN));
}

#[test]
fn a_resumption_goes_on_with_the_next_filter_and_its_end() {
    for end in [false, true] {
        let stop = if end { "." } else { "" };
        let bench = bench([
            acting("a", DOWN, &[PAUSE], true),
            acting("b", DOWN, &[PAUSE], true),
            acting("c", DOWN, &[], true),
        ]);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        chain.headers(DOWN, false);
        assert_eq!(feed(&mut chain, &request, DOWN, "one", end), held());
        assert_eq!(seen(&bench), [format!("a:one{stop}")]);
        assert_eq!(resume(&mut chain, &request, DOWN, 0), held());
        assert_eq!(seen(&bench), [format!("b:one{stop}")]);
        assert!(!chain.ended(DOWN), "the last part is held, not past");
        assert_eq!(resume(&mut chain, &request, DOWN, 0), going(""), "it holds nothing any more");
        assert!(!chain.ended(DOWN));
        assert_eq!(resume(&mut chain, &request, DOWN, 1), going("one"));
        assert_eq!(seen(&bench), [format!("c:one{stop}")]);
        assert_eq!(chain.ended(DOWN), end);
    }
}

/// Where the proxy cannot wait, what filters hold goes on through all of them, in their order, whatever they want to hold
/// of it; and what they say later of what they held finds nothing.
#[test]
fn all_that_is_held_goes_on_at_once() {
    for direction in [DOWN, Direction::Response] {
        let bench = bench(["a", "b", "c"].map(|name| acting(name, direction, &[PAUSE, PAUSE], true)));
        let request = bench.request();
        let mut chain = bench.begin(&request);
        chain.headers(direction, false);
        assert_eq!(feed(&mut chain, &request, direction, "one", true), held());
        assert_eq!(chain.resume_all(direction), Verdict::Continue);
        assert_eq!(passed(&request, direction), "one");
        let names = if direction == DOWN { ["a", "b", "c"] } else { ["c", "b", "a"] };
        assert_eq!(seen(&bench), names.map(|name| format!("{name}:one.")));
        assert!(chain.ended(direction));
        for at in 0..3 {
            assert_eq!(resume(&mut chain, &request, direction, at), going(""));
        }
    }
}

/// Where one of them answers meanwhile, that is what becomes of it.
#[test]
fn all_that_is_held_goes_on_until_a_filter_answers() {
    let local = call("proxy_send_local_response", [418, 0, 0, 0, 0, 0, 0, -1]);
    let sends = Guest::new().on(Callback::RequestBody, [local]);
    let bench = bench([acting("a", DOWN, &[PAUSE], true), sends, acting("c", DOWN, &[], true)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.headers(DOWN, false);
    assert_eq!(feed(&mut chain, &request, DOWN, "one", true), held());
    assert_eq!(seen(&bench), ["a:one."]);
    assert_eq!(chain.resume_all(DOWN), Verdict::LocalResponse);
    assert_eq!(bench.log(), ["0"], "the answer's status alone: the filter behind it sees nothing");
}

#[test]
fn two_may_hold_at_once() {
    let bench = bench([acting("a", DOWN, &[GO, PAUSE], true), acting("b", DOWN, &[PAUSE, PAUSE], true)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.headers(DOWN, false);
    assert_eq!(feed(&mut chain, &request, DOWN, "one", false), held());
    assert_eq!(feed(&mut chain, &request, DOWN, "two", false), held());
    assert_eq!(seen(&bench), ["a:one", "b:one", "a:two"]);
    assert_eq!(resume(&mut chain, &request, DOWN, 1), going("one"));
    assert_eq!(resume(&mut chain, &request, DOWN, 0), held());
    assert_eq!(seen(&bench), ["b:two"]);
    assert_eq!(feed(&mut chain, &request, DOWN, "three", true), going("twothree"));
    assert_eq!(seen(&bench), ["a:three.", "b:twothree."]);
}

#[test]
fn responses_are_held_the_other_way_round() {
    let up = Direction::Response;
    let bench = bench([acting("a", up, &[], true), acting("b", up, &[PAUSE], true)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    chain.headers(up, false);
    assert_eq!(feed(&mut chain, &request, up, "one", true), held());
    assert_eq!(seen(&bench), ["b:one."]);
    assert_eq!(resume(&mut chain, &request, up, 1), going("one"));
    assert_eq!(seen(&bench), ["a:one."]);
}

#[test]
fn more_than_may_be_held_fails_or_streams_through() {
    for (beyond, end) in [(Hold::TooLarge, Verdict::TooLarge), (Hold::StreamThrough, Verdict::Continue)] {
        let bench = bench([acting("a", DOWN, &[PAUSE, PAUSE], false), acting("b", DOWN, &[], true)]);
        let request = bench.request();
        request.edit().hold_limit = Some((5, beyond));
        let mut chain = bench.begin(&request);
        chain.headers(DOWN, false);
        assert_eq!(feed(&mut chain, &request, DOWN, "12345", false), held());
        assert_eq!(feed(&mut chain, &request, DOWN, "6", false).0, end);
        let expected: &[&str] = if end == Verdict::Continue { &["b:123456"] } else { &[] };
        assert_eq!(seen(&bench), expected, "what is held counts too");
    }
}

/// What a proxy answers with then is another response than the filters have seen: its body does not follow that one's.
#[test]
fn the_answer_to_a_response_that_is_too_large_passes_filters_by_that_have_seen_it() {
    let up = Direction::Response;
    let bench = bench([acting("a", up, &[], true), acting("b", up, &[PAUSE, PAUSE, PAUSE], true)]);
    let request = bench.request();
    request.edit().hold_limit = Some((5, Hold::TooLarge));
    let mut chain = bench.begin(&request);
    chain.headers(up, false);
    assert_eq!(feed(&mut chain, &request, up, "123456", false).0, Verdict::TooLarge);
    assert_eq!(seen(&bench), ["b:123456"]);
    assert_eq!(chain.headers(up, false), Verdict::Continue);
    assert_eq!(feed(&mut chain, &request, up, "a page", true), going("a page"));
    assert!(seen(&bench).is_empty());
}

/// In whatever callback a filter asks for the body: what it holds of it is what it reads and changes.
#[test]
fn what_is_held_is_read_and_changed_in_other_callbacks() {
    for (direction, trailers) in
        [(DOWN, Callback::RequestTrailers), (Direction::Response, Callback::ResponseTrailers)]
    {
        let number = buffer(direction);
        let read = [call("proxy_get_buffer_bytes", [number, 0, HIGH, OUT, SIZE]), value(OUT)];
        let change = call("proxy_set_buffer_bytes", [number, 2, 2, 2900, 3]);
        let first = Guest::new()
            .named("a")
            .data(2900, "new")
            .on(body(direction), [returns(1)])
            .on(trailers, read.into_iter().chain([change]));
        let second = acting("b", direction, &[], true);
        let order = if direction == DOWN { [first, second] } else { [second, first] };
        let bench = bench(order);
        let request = bench.request();
        let mut chain = bench.begin(&request);
        chain.headers(direction, false);
        assert_eq!(feed(&mut chain, &request, direction, "12345", true), held());
        // Another parcel is not what it holds.
        show(&request, direction, "!");
        assert_eq!(chain.trailers(direction), Verdict::Continue);
        assert_eq!(seen(&bench), ["a:12345", "b:12new5!"], "{direction:?}");
    }
}

/// A filter that lets the trailers go lets the body go before them; one that holds them holds the body too.
#[test]
fn trailers_come_behind_the_body() {
    for pauses in [0, 1] {
        let first = acting("a", DOWN, &[PAUSE], false).on(Callback::RequestTrailers, [returns(pauses)]);
        let bench = bench([first, acting("b", DOWN, &[PAUSE], true)]);
        let request = bench.request();
        request.edit().maps.insert(MapType::HttpRequestTrailers, pairs(&[("t", "1")]));
        let mut chain = bench.begin(&request);
        chain.headers(DOWN, false);
        assert_eq!(feed(&mut chain, &request, DOWN, "one", false), held());
        let mut verdict = chain.trailers(DOWN);
        if pauses == 1 {
            assert_eq!((verdict, chain.trailers_passed(DOWN)), (Verdict::Pause, false));
            assert_eq!(seen(&bench), Vec::<String>::new());
            verdict = chain.resume(DOWN, 0);
        }
        // The second filter paused the body; it has no callback for trailers, so they let it go.
        assert_eq!((verdict, passed(&request, DOWN)), going("one"));
        assert_eq!(seen(&bench), ["b:one"]);
        assert!(chain.trailers_passed(DOWN));
    }
}

#[test]
fn a_body_reaches_the_filters_up_to_the_one_that_holds_the_headers() {
    let pauses = acting("b", DOWN, &[PAUSE], true).on(Callback::RequestHeaders, [returns(1)]);
    let bench = bench([acting("a", DOWN, &[], true), pauses, acting("c", DOWN, &[], true)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(DOWN, false), Verdict::Pause);
    assert_eq!(feed(&mut chain, &request, DOWN, "", false), held(), "nothing has come");
    assert_eq!(feed(&mut chain, &request, DOWN, "one", false), held());
    assert_eq!(seen(&bench), ["a:one", "b:one"]);
    assert!(!chain.headers_passed(DOWN));
    assert_eq!(feed(&mut chain, &request, DOWN, "two", true), going("onetwo"));
    assert_eq!(seen(&bench), ["a:two.", "b:onetwo.", "c:onetwo."]);
    assert!(chain.headers_passed(DOWN), "its going on with the body lets the headers go");
}

/// Neither a body nor trailers let headers go that a filter holds which does not see them.
#[test]
fn a_filter_without_callbacks_for_bodies_holds_headers_until_it_is_resumed() {
    let pauses = Guest::new().on(Callback::RequestHeaders, [returns(1)]);
    let bench = bench([pauses, acting("b", DOWN, &[], true)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(DOWN, false), Verdict::Pause);
    assert_eq!(feed(&mut chain, &request, DOWN, "one", false), held());
    assert_eq!(feed(&mut chain, &request, DOWN, "two", false), held());
    assert_eq!(chain.trailers(DOWN), Verdict::Pause);
    assert_eq!((chain.headers_passed(DOWN), seen(&bench)), (false, Vec::new()));
    assert_eq!(resume(&mut chain, &request, DOWN, 0), going("onetwo"));
    assert!(chain.headers_passed(DOWN) && chain.trailers_passed(DOWN));
    assert_eq!(seen(&bench), ["b:onetwo"]);
}

/// What was held of a response is not held of the one that takes its place.
#[test]
fn a_response_that_is_replaced_leaves_nothing_held() {
    let local = call("proxy_send_local_response", [502, 0, 0, 0, 0, 0, 0, -1]);
    let up = Direction::Response;
    let sends = Guest::new().on(Callback::ResponseHeaders, [returns(1)]).on(Callback::ResponseBody, [local]);
    let bench = bench([acting("a", up, &[], true), sends, acting("c", up, &[], false)]);
    let request = bench.request();
    let mut chain = bench.begin(&request);
    assert_eq!(chain.headers(up, false), Verdict::Pause);
    assert_eq!(feed(&mut chain, &request, up, "one", true).0, Verdict::LocalResponse);
    bench.log();
    assert_eq!(chain.headers(up, false), Verdict::Continue);
    assert_eq!(feed(&mut chain, &request, up, "sorry", true), going("sorry"));
    assert_eq!(seen(&bench), ["a:sorry."]);
}
