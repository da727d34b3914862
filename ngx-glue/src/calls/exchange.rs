//! A call from its first peer to its response.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use hyper::Request;
use weir_core::host::calls::{CallFailure, Response};

use super::{
    Client,
    allow::Rules,
    fault::Fault,
    http1,
    idle::PeerKey,
    message::{self, Outgoing},
    peers::{Peer, Peers},
};
use crate::ngx::net::{
    address::Address,
    connect::connect,
    lookup::{Lookup, Resolver, Unresolved},
    sleep::Sleep,
    socket::Socket,
    tls::{Inside, sessions::Saved},
};

/// How the other side is reached.
#[derive(Debug)]
pub(crate) enum Way {
    /// Through these peers.
    Peers(Peers),
    /// Through the addresses of a host.
    Host {
        /// Who is asked for them.
        resolver: Resolver,
        /// The host, in lower case.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// A call that was begun.
#[derive(Debug)]
pub(crate) struct Order {
    /// How the other side is reached.
    pub(crate) way: Way,
    /// The name that it has to prove; `None` where nothing is encrypted.
    pub(crate) name: Option<Rc<str>>,
    /// What is sent.
    pub(crate) request: Request<Outgoing>,
    /// Most bytes of the response: of its headers, and of its body.
    pub(crate) most: usize,
    /// What may be called.
    pub(crate) rules: Rc<Rules>,
}

/// The end of a call's time.
pub(crate) struct Deadline {
    sleep: Sleep,
    end: Instant,
}

impl Deadline {
    /// It is over when `time` has passed.
    pub(crate) fn new(time: Duration) -> Self {
        Self { sleep: Sleep::new(time), end: Instant::now() + time }
    }

    /// What remains.
    fn rest(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits for `step`, until the time is over.
    pub(crate) async fn within<T>(&mut self, step: impl Future<Output = T>) -> Result<T, Fault> {
        let mut step = pin!(step);
        poll_fn(|context| {
            if let Poll::Ready(answer) = step.as_mut().poll(context) {
                return Poll::Ready(Ok(answer));
            }
            Pin::new(&mut self.sleep).poll(context).map(|()| Err(Fault::timeout()))
        })
        .await
    }
}

/// Makes the call: tries one peer after the other, as long as that can do no harm.
pub(crate) async fn run(client: &Client, order: Order, time: Duration) -> Result<Response, Fault> {
    let Order { way, name, mut request, most, rules } = order;
    let mut deadline = Deadline::new(time);
    let mut peers = match way {
        Way::Peers(peers) => peers,
        Way::Host { resolver, host, port } => {
            let found = look_up(client, &mut deadline, resolver, &host, port, &rules).await?;
            Peers::listed(found)
        }
    };
    let is_idempotent = message::is_idempotent(request.method());
    let mut last = Fault::new(CallFailure::Unavailable, "no peer of the upstream is in service");
    while let Some(peer) = peers.next() {
        let address = peer.address;
        let again = is_idempotent.then(|| request.clone());
        match attempt(client, &mut deadline, &mut peers, peer, name.as_ref(), request, most).await {
            Ok(done) => {
                finish(client, peers, address, name, done.socket);
                return Ok(done.response);
            }
            Err(failed) => {
                peers.failed(address, failed.was_kept);
                last = failed.fault;
                let can_go_on = last.failure != CallFailure::Timeout || !deadline.rest().is_zero();
                let unsent = failed.request.or(again).filter(|_| last.is_harmless && can_go_on);
                match unsent.filter(|_| peers.has_more()) {
                    Some(unsent) => request = unsent,
                    None => return Err(last),
                }
            }
        }
    }
    Err(last)
}

/// Looks up the addresses of a host that may be called.
async fn look_up(
    client: &Client,
    deadline: &mut Deadline,
    resolver: Resolver,
    host: &str,
    port: u16,
    rules: &Rules,
) -> Result<Vec<Address>, Fault> {
    let lookup = Lookup::new(resolver, host.as_bytes(), client.settings.resolver_time);
    let found = deadline.within(lookup).await?.map_err(|unresolved| {
        let detail = match unresolved {
            Unresolved::TimedOut => "no resolver has said where the host is",
            Unresolved::Unknown => "the host has no address",
        };
        Fault::new(CallFailure::Resolve, detail)
    })?;
    let by_name = rules.allows_name(host.as_bytes());
    let is_allowed = |address: &Address| address.ip().is_some_and(|ip| rules.allows_address(ip, by_name));
    let (allowed, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(is_allowed);
    match (allowed.is_empty(), refused.first()) {
        (false, _) => Ok(allowed.into_iter().map(|address| address.with_port(port)).collect()),
        (true, Some(address)) => {
            let ip = address.ip().map(|ip| ip.to_string()).unwrap_or_default();
            let detail = format!(
                "the host has address {ip}, which this filter may not call; add it to \"proxy_wasm_allow_calls\" if it \
                 should"
            );
            Err(Fault::new(CallFailure::Refused, detail))
        }
        (true, None) => Err(Fault::new(CallFailure::Resolve, "the host has no address")),
    }
}

/// What has gone wrong with one peer.
struct Failed {
    fault: Fault,
    /// The request, if nothing of it was sent.
    request: Option<Request<Outgoing>>,
    /// Whether the connection had carried others before.
    was_kept: bool,
}

/// Sends the request to one peer.
async fn attempt(
    client: &Client,
    deadline: &mut Deadline,
    peers: &mut Peers,
    peer: Peer,
    name: Option<&Rc<str>>,
    request: Request<Outgoing>,
    most: usize,
) -> Result<http1::Done, Failed> {
    let address = peer.address;
    // One that nginx has kept for plain requests, or encrypted by other settings, is of no use for an encrypted call,
    // nor the other way round: it is closed.
    let kept = peer.kept.filter(|kept| name.is_none() && !kept.is_encrypted());
    let kept = kept.or_else(|| client.idle.take(&PeerKey { address, name: name.cloned() }));
    let was_kept = kept.is_some();
    let socket = match kept {
        Some(socket) => socket,
        None => match open(client, deadline, peers, address, name).await {
            Ok(socket) => socket,
            Err(fault) => return Err(Failed { fault, request: Some(request), was_kept: false }),
        },
    };
    let probe = socket.probe();
    let done = deadline.within(http1::exchange(socket, request, most)).await;
    let (mut fault, request) = match done {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(undone)) => (undone.fault, undone.request),
        Err(fault) => (fault, None),
    };
    fault.detail = format!("{address}: {}", fault.detail);
    // The peer may have begun with a request that it has not answered; what was not sent, it has not.
    let is_unanswered = fault.failure == CallFailure::Reset && !probe.has_received();
    fault.is_harmless = is_unanswered;
    let was_kept = was_kept && is_unanswered;
    Err(Failed { fault, request, was_kept })
}

/// Connects to a peer.
async fn open(
    client: &Client,
    deadline: &mut Deadline,
    peers: &mut Peers,
    address: Address,
    name: Option<&Rc<str>>,
) -> Result<Socket, Fault> {
    let failed = |failure, error: io::Error| Fault::harmless(failure, format!("{address}: {error}"));
    // Where others could be tried, a peer that does not answer leaves them half of the time.
    let share = if peers.has_others() { deadline.rest() / 2 } else { deadline.rest() };
    let mut own = Deadline::new(share);
    let in_time = |fault: Fault| Fault {
        is_harmless: true,
        detail: format!("{address}: connecting takes too long"),
        ..fault
    };
    let socket = connect(&address).map_err(|error| failed(CallFailure::Connect, error))?;
    let connected = own.within(poll_fn(|context| socket.poll_connected(context))).await.map_err(in_time)?;
    connected.map_err(|error| failed(CallFailure::Connect, error))?;
    let (Some(name), Some(tls)) = (name, client.settings.tls.as_ref()) else { return Ok(socket) };
    let saved = Rc::new(Saved::new(&client.sessions, address, name));
    socket.encrypt(tls, name, Inside::Http1, saved).map_err(|error| failed(CallFailure::Tls, error))?;
    let encrypted =
        own.within(poll_fn(|context| socket.poll_encrypted(tls, name, context))).await.map_err(in_time)?;
    encrypted.map_err(|error| failed(CallFailure::Tls, error))?;
    if !socket.speaks(Inside::Http1) {
        let detail = format!("{address}: the other side does not speak HTTP/1.1");
        return Err(Fault::harmless(CallFailure::Protocol, detail));
    }
    Ok(socket)
}

/// Gives a connection that can be used again to whom it may be of use.
fn finish(client: &Client, peers: Peers, address: Address, name: Option<Rc<str>>, socket: Option<Socket>) {
    // Without a connection the peer is given back all the same, when `peers` goes.
    let Some(socket) = socket else { return };
    let used = socket.count_request();
    if let Some(socket) = peers.keep(socket) {
        client.idle.keep(PeerKey { address, name }, socket, used);
    }
}
