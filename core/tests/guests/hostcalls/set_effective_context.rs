//! `proxy_set_effective_context`.

use weir_core::{
    abi::{Status, types::MapType},
    chain::{Direction, Verdict},
    filter::Callback,
    plan::Isolation,
};

use crate::support::{Guest, OUT, call, case, check, for_context, value};

const SET: &str = "proxy_set_effective_context";
const GET: &str = "proxy_get_header_map_value";

#[test]
fn only_contexts_that_live_are_known() {
    let known = [1, 2].map(|id| case(SET, [id], Status::Ok));
    let unknown = [0, 3, -1, i64::from(i32::MIN)].map(|id| case(SET, [id], Status::BadArgument));
    check(Guest::new(), |_| (), &[&known[..], &unknown].concat());
}

/// What is read and logged afterwards is the other context's; the next callback is its own context's again.
#[test]
fn it_moves_until_the_callback_returns() {
    let read = || [call(GET, [0, 8, 5, OUT, OUT + 4]), value(OUT)];
    let guest = Guest::new()
        .data(8, ":path")
        .on(Callback::RequestHeaders, [for_context(3, [call(SET, [2])]), for_context(3, read())])
        .on(Callback::ResponseHeaders, [for_context(3, read())]);
    let bench = guest.bench_with(Isolation::None);
    let requests = ["/first", "/second"].map(|path| {
        let request = bench.request();
        let maps = &mut request.edit().maps;
        let headers = maps.get_mut(&MapType::HttpRequestHeaders).expect("headers");
        headers.iter_mut().filter(|(name, _)| name == b":path").for_each(|(_, value)| *value = path.into());
        request.clone()
    });
    let mut chains = requests.each_ref().map(|request| bench.begin(request));
    for chain in &mut chains {
        chain.headers(Direction::Request, true);
        chain.headers(Direction::Response, true);
    }
    assert_eq!(bench.log(), ["0", "0", "/first", "0", "/second"]);
}

/// A request that is answered in another one's callback is told to the proxy through its own handle; the callback's
/// own request goes on.
#[test]
fn what_is_asked_for_another_request_is_not_done_to_this_one() {
    let respond = call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1]);
    let guest = Guest::new()
        .on(Callback::RequestHeaders, [for_context(3, [call(SET, [2]), respond])])
        .on(Callback::ResponseHeaders, [for_context(3, [call(SET, [2]), call("proxy_close_stream", [1])])]);
    let bench = guest.bench_with(Isolation::None);
    let [first, second] = [(); 2].map(|()| bench.request());
    let [mut one, mut two] = [&first, &second].map(|request| bench.begin(request));
    assert_eq!(one.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(two.headers(Direction::Request, true), Verdict::Continue);
    assert_eq!(two.headers(Direction::Response, true), Verdict::Continue);
    assert_eq!(bench.log(), ["0", "0", "0", "0"]);
    assert_eq!(first.edit().sent.as_ref().map(|sent| sent.status), Some(403));
    assert_eq!(first.edit().closed.len(), 1);
    assert!(second.edit().sent.is_none());
    assert_eq!(one.answer(), Verdict::LocalResponse);
    assert_eq!(one.headers(Direction::Response, true), Verdict::Continue);
}

/// Two filters of one module in one request: either one's context answers the request.
#[test]
fn what_is_asked_for_a_sibling_is_done_to_the_request() {
    let respond = call("proxy_send_local_response", [403, 0, 0, 0, 0, 0, 0, -1]);
    let filter =
        Guest::new().on(Callback::RequestHeaders, [for_context(4, [call(SET, [3]), respond])]).load();
    let plugins = (0..2).map(|_| crate::support::plugin(&filter, "", Isolation::Stream)).collect();
    let bench = crate::support::Bench::new(plugins);
    assert_eq!(bench.begin(&bench.request()).headers(Direction::Request, true), Verdict::LocalResponse);
}
