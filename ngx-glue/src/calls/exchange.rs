//! A call from its first peer to its response: over HTTP/1.1, or HTTP/2 where TLS has agreed on it.

use std::{pin::pin, rc::Rc, time::Duration};

use hyper::Request;
use weir_core::host::calls::{CallFailure, Response};

use super::{
    Client,
    allow::Rules,
    fault::Fault,
    http1::Session,
    http2::{self, Link},
    idle::PeerKey,
    link::{Deadline, open},
    message::{self, Outgoing, Undone},
    peers::{Kept, Peer, Peers},
    way::{Way, look_up},
};
use crate::ngx::net::{
    address::Address,
    tls::{Inside, Offer},
};

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
pub(crate) async fn run(client: &Rc<Client>, order: Order, time: Duration) -> Result<Response, Fault> {
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
                if let Some(session) = session {
                    finish(client, peers, address, name, session);
                }
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

/// How a peer is spoken to.
enum Spoken {
    /// HTTP/1.1, over a connection of the call's own until it has ended.
    Http1(Box<Session>),
    /// HTTP/2, over a connection that others use, too.
    Http2(Link),
}

/// Sends the request to one peer. Answers its response, and the connection that can be kept.
async fn attempt(
    client: &Rc<Client>,
    deadline: &mut Deadline,
    peers: &mut Peers,
    peer: Peer,
    name: Option<&Rc<str>>,
    request: Box<Request<Outgoing>>,
    most: usize,
) -> Result<(Response, Option<Box<Session>>), Failed> {
    let address = peer.address;
    let kept = kept(client, peer, name, most).await;
    let mut was_kept = kept.is_some();
    let spoken = match kept {
        Some(spoken) => spoken,
        None => match Box::pin(connect(client, peers.share(deadline), address, name, most)).await {
            Ok(spoken) => spoken,
            Err(fault) => return Err(Failed { fault, request: Some(request), was_kept: false }),
        },
    };
    let mut undone: Undone = match spoken {
        Spoken::Http1(mut session) => {
            let done = {
                let exchange = pin!(session.exchange(request, most));
                deadline.within(exchange).await
            };
            match done {
                Ok(Ok(response)) => return Ok((response, Some(session))),
                Ok(Err(mut undone)) => {
                    let is_reset = undone.fault.failure == CallFailure::Reset;
                    undone.fault.is_harmless = is_reset && !session.socket().has_received();
                    undone
                }
                Err(late) => late.into(),
            }
        }
        Spoken::Http2(mut link) => {
            let exchange = Box::pin(http2::exchange(&mut link, request, most));
            let undone = match deadline.within(exchange).await {
                Ok(Ok(response)) => return Ok((response, None)),
                Ok(Err(undone)) => undone,
                Err(late) => late.into(),
            };
            // One that goes on was not at fault.
            was_kept &= link.sender.is_closed();
            undone
        }
    };
    undone.fault.detail = format!("{address}: {}", undone.fault.detail);
    // The peer may have begun with a request that it has not answered; what was not sent, it has not.
    let was_kept = was_kept && undone.fault.is_harmless;
    Err(Failed { fault: undone.fault, request: undone.request, was_kept })
}

/// A connection to `peer` that is there already.
async fn kept(client: &Client, peer: Peer, name: Option<&Rc<str>>, most: usize) -> Option<Spoken> {
    let key = PeerKey { address: peer.address, name: name.cloned() };
    if name.is_some() {
        // One that nginx has kept is plain, or encrypted by other settings: it is of no use, and closed.
        if let Some(link) = client.shared.get(&key) {
            return Some(Spoken::Http2(link));
        }
        return client.idle.take(&key).map(Spoken::Http1);
    }
    match peer.kept {
        Some(Kept::Session(session)) => Some(Spoken::Http1(session)),
        Some(Kept::Socket(socket)) if !socket.is_encrypted() => {
            Session::begin(socket, most).await.ok().map(Spoken::Http1)
        }
        Some(Kept::Socket(_)) | None => client.idle.take(&key).map(Spoken::Http1),
    }
}

/// A new connection to the peer at `address`.
async fn connect(
    client: &Rc<Client>,
    time: Duration,
    address: Address,
    name: Option<&Rc<str>>,
    most: usize,
) -> Result<Spoken, Fault> {
    let mut deadline = Deadline::new(Some(time));
    let (socket, inside) = open(client, time, address, name, Offer::Any).await?;
    match inside {
        Inside::Http1 => Session::begin(socket, most).await.map(Spoken::Http1),
        Inside::Http2 => {
            let key = PeerKey { address, name: name.cloned() };
            deadline.within(pin!(http2::begin(client, key, socket, most))).await?.map(Spoken::Http2)
        }
    }
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
