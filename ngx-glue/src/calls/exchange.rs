//! A call from its first peer to its response.

use std::{pin::pin, rc::Rc, time::Duration};

use hyper::Request;
use weir_core::host::calls::{CallFailure, Response};

use super::{
    Client,
    allow::Rules,
    fault::Fault,
    http1::Session,
    idle::PeerKey,
    link::{Deadline, open},
    message::{self, Outgoing},
    peers::{Kept, Peer, Peers},
    way::{Way, look_up},
};
use crate::ngx::net::{address::Address, tls::Inside};

/// A call that was begun.
#[derive(Debug)]
pub(crate) struct Order {
    /// How the other side is reached.
    pub(crate) way: Way,
    /// The name that it has to prove; `None` where nothing is encrypted.
    pub(crate) name: Option<Rc<str>>,
    /// What is sent.
    pub(crate) request: Box<Request<Outgoing>>,
    /// Most bytes of the response: of its headers, and of its body.
    pub(crate) most: usize,
    /// What may be called.
    pub(crate) rules: Rc<Rules>,
}

/// Makes the call: tries one peer after the other, as long as that can do no harm.
pub(crate) async fn run(client: &Client, order: Order, time: Duration) -> Result<Response, Fault> {
    let Order { way, name, mut request, most, rules } = order;
    let mut deadline = Deadline::new(Some(time));
    let mut peers = match way {
        Way::Peers(peers) => peers,
        Way::Host(host) => Peers::listed(Box::pin(look_up(client, &mut deadline, &host, &rules)).await?),
    };
    let is_idempotent = message::is_idempotent(request.method());
    let mut last = Fault::new(CallFailure::Unavailable, "no peer of the upstream is in service");
    while let Some(peer) = peers.next() {
        let address = peer.address;
        let again = is_idempotent.then(|| request.clone());
        match attempt(client, &mut deadline, &mut peers, peer, name.as_ref(), request, most).await {
            Ok((response, session)) => {
                finish(client, peers, address, name, session);
                return Ok(response);
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

/// What has gone wrong with one peer.
struct Failed {
    fault: Fault,
    /// The request, if nothing of it was sent.
    request: Option<Box<Request<Outgoing>>>,
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
    request: Box<Request<Outgoing>>,
    most: usize,
) -> Result<(Response, Box<Session>), Failed> {
    let address = peer.address;
    let kept = match peer.kept {
        // One that nginx has kept for plain requests, or encrypted by other settings, is of no use for an encrypted call,
        // nor the other way round: it is closed.
        Some(Kept::Session(session)) if name.is_none() => Some(session),
        Some(Kept::Socket(socket)) if name.is_none() && !socket.is_encrypted() => {
            Session::begin(socket, most).await.ok()
        }
        Some(_) | None => None,
    };
    let kept = kept.or_else(|| client.idle.take(&PeerKey { address, name: name.cloned() }));
    let was_kept = kept.is_some();
    let mut session = match kept {
        Some(session) => session,
        None => match Box::pin(connect(client, peers.share(deadline), address, name, most)).await {
            Ok(session) => session,
            Err(fault) => return Err(Failed { fault, request: Some(request), was_kept: false }),
        },
    };
    let done = deadline.within(pin!(session.exchange(request, most))).await;
    let (mut fault, request) = match done {
        Ok(Ok(response)) => return Ok((response, session)),
        Ok(Err(undone)) => (undone.fault, undone.request),
        Err(fault) => (fault, None),
    };
    fault.detail = format!("{address}: {}", fault.detail);
    // The peer may have begun with a request that it has not answered; what was not sent, it has not.
    let is_unanswered = fault.failure == CallFailure::Reset && !session.socket().has_received();
    fault.is_harmless = is_unanswered;
    let was_kept = was_kept && is_unanswered;
    Err(Failed { fault, request, was_kept })
}

/// A new connection to the peer at `address`.
async fn connect(
    client: &Client,
    time: Duration,
    address: Address,
    name: Option<&Rc<str>>,
    most: usize,
) -> Result<Box<Session>, Fault> {
    let socket = open(client, time, address, name, Inside::Http1).await?;
    Session::begin(socket, most).await
}

/// Gives a connection that can be used again to whom it may be of use.
fn finish(client: &Client, peers: Peers, address: Address, name: Option<Rc<str>>, session: Box<Session>) {
    // The peer is given back all the same, when `peers` goes.
    if !session.can_go_on() {
        return;
    }
    let used = session.socket().count_request();
    if let Some(session) = peers.keep(session) {
        client.idle.keep(PeerKey { address, name }, session, used);
    }
}
