//! Trailers of requests and of responses: core treats both alike, whatever a proxy has of them.

use weir_core::{
    abi::{Status, types::MapType},
    chain::{Direction, Verdict},
    filter::Callback,
    testing::{Memory, Request},
};

use crate::support::{Bench, Guest, OUT, SIZE, call, pairs, param, plugin, returns, trace, value};

/// Both directions: the callback, the map, and the map's number.
const BOTH: [(Direction, Callback, MapType); 2] = [
    (Direction::Request, Callback::RequestTrailers, MapType::HttpRequestTrailers),
    (Direction::Response, Callback::ResponseTrailers, MapType::HttpResponseTrailers),
];

fn insert(request: &Request, map: MapType) {
    request.edit().maps.insert(map, pairs(&[("X-Sum", "1"), ("gone", "2")]));
}

fn begin(bench: &Bench, request: &Request, direction: Direction) -> weir_core::chain::Chain<Memory> {
    let mut chain = bench.begin(request);
    assert_eq!(chain.headers(direction, false), Verdict::Continue);
    assert_eq!(chain.body(direction, false), Verdict::Continue);
    chain
}

#[test]
fn they_are_counted_read_and_changed() {
    for (direction, callback, map) in BOTH {
        let id = i64::from(map.raw());
        let guest = Guest::new().data(8, "x-sum").data(32, "gone").data(64, "added").on(
            callback,
            [
                param(1),
                call("proxy_get_header_map_value", [id, 8, 5, OUT, SIZE]),
                value(OUT),
                call("proxy_replace_header_map_value", [id, 8, 5, 64, 5]),
                call("proxy_remove_header_map_value", [id, 32, 4]),
                call("proxy_add_header_map_value", [id, 64, 5, 8, 5]),
            ],
        );
        let bench = guest.bench();
        let request = bench.request();
        let mut chain = begin(&bench, &request, direction);
        insert(&request, map);
        assert_eq!(chain.trailers(direction), Verdict::Continue);
        assert!(chain.trailers_passed(direction));
        assert_eq!(bench.log(), ["2", "0", "1", "0", "0", "0"], "{direction:?}");
        assert_eq!(request.edit().maps[&map], pairs(&[("X-Sum", "added"), ("added", "x-sum")]));
    }
}

#[test]
fn before_they_have_come_there_are_none_and_nothing_to_change() {
    for (direction, _, map) in BOTH {
        let id = i64::from(map.raw());
        let headers = if direction == Direction::Request {
            Callback::RequestHeaders
        } else {
            Callback::ResponseHeaders
        };
        let guest = Guest::new().language("Go").data(8, "x-sum").on(
            headers,
            [
                call("proxy_get_header_map_value", [id, 8, 5, OUT, SIZE]),
                call("proxy_add_header_map_value", [id, 8, 5, 8, 5]),
            ],
        );
        let bench = guest.bench();
        drop(begin(&bench, &bench.request(), direction));
        let (answers, warnings) = bench.spoken();
        assert_eq!(answers, [Status::NotFound, Status::BadArgument].map(|status| status.raw().to_string()));
        assert!(warnings.len() == 1 && warnings[0].contains("in this phase"), "{warnings:?}");
    }
}

#[test]
fn a_filter_holds_them_and_lets_them_go_on() {
    for (direction, callback, map) in BOTH {
        let [first, second] = ["T", "t"].map(|letter| {
            let pause = if letter == "T" { 1 } else { 0 };
            plugin(
                &Guest::new().named(letter).on(callback, [trace(letter), returns(pause)]).load(),
                "",
                weir_core::plan::Isolation::Stream,
            )
        });
        // The one that pauses is the first that meets them.
        let order = if direction == Direction::Request { [first, second] } else { [second, first] };
        let bench = Bench::new(order.to_vec());
        let request = bench.request();
        let mut chain = begin(&bench, &request, direction);
        insert(&request, map);
        assert_eq!(chain.trailers(direction), Verdict::Pause);
        assert!(!chain.trailers_passed(direction));
        assert_eq!(bench.log(), ["T2"]);
        let pausing = if direction == Direction::Request { 0 } else { 1 };
        assert_eq!(chain.resume(direction, pausing), Verdict::Continue);
        assert!(chain.trailers_passed(direction));
        assert_eq!(bench.log(), ["t2"]);
    }
}

#[test]
fn a_request_may_be_answered_and_closed_from_there() {
    let respond = call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1]);
    for (direction, callback, map) in BOTH {
        for (step, verdict) in [
            (respond.clone(), Verdict::LocalResponse),
            (call("proxy_close_stream", [i64::from(direction.stream().raw())]), Verdict::Closed),
        ] {
            let bench = Guest::new().on(callback, [step]).bench();
            let request = bench.request();
            let mut chain = begin(&bench, &request, direction);
            insert(&request, map);
            assert_eq!(chain.trailers(direction), verdict, "{direction:?}");
        }
    }
}
