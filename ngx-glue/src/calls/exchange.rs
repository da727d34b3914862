//! A call from its first peer to its response: over HTTP/1.1, or HTTP/2 where TLS has agreed on it.

use std::{pin::pin, rc::Rc, time::Duration};

use weir_core::host::calls::{CallFailure, Response};

use super::{
    Client,
    allow::Rules,
    fault::Fault,
    http1::{self, Answered, Unanswered},
    http2::{self, Link},
    idle::PeerKey,
    letter::Letter,
    link::{Deadline, open},
    peers::{Peer, Peers},
    way::{Way, look_up},
};
use crate::ngx::net::{
    address::Address,
    socket::Socket,
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
    pub(crate) letter: Letter,
    /// Most bytes of the response: of its headers, and of its body.
    pub(crate) most: usize,
    /// What may be called.
    pub(crate) rules: Rc<Rules>,
}

/// Makes the call: tries one peer after the other, as long as that can do no harm.
pub(crate) async fn run(client: &Rc<Client>, order: Order, time: Duration) -> Result<Response, Fault> {
    let Order { way, name, letter, most, rules } = order;
    let mut deadline = Deadline::new(Some(time));
    let mut peers = match way {
        Way::Peers(peers) => peers,
        Way::Host(host) => Peers::listed(Box::pin(look_up(&mut deadline, &host, &rules)).await?),
    };
    let mut last = Fault::new(CallFailure::Unavailable, "no peer of the upstream is in service");
    while let Some(peer) = peers.next() {
        let address = peer.address;
        match attempt(client, &mut deadline, &mut peers, peer, name.as_ref(), &letter, most).await {
            Ok((response, socket)) => {
                if let Some(socket) = socket {
                    finish(client, peers, address, name, socket);
                }
                return Ok(response);
            }
            Err(failed) => {
                peers.failed(address, failed.was_kept);
                last = failed.fault;
                let can_go_on = last.failure != CallFailure::Timeout || !deadline.rest().is_zero();
                let does_no_harm = last.is_harmless && (failed.is_unsent || letter.is_idempotent);
                if !does_no_harm || !can_go_on || !peers.has_more() {
                    return Err(last);
                }
            }
        }
    }
    Err(last)
}

/// What has gone wrong with one peer.
struct Failed {
    fault: Fault,
    /// Whether nothing of the request was sent.
    is_unsent: bool,
    /// Whether the connection had carried others before.
    was_kept: bool,
}

/// How a peer is spoken to.
enum Spoken {
    /// HTTP/1.1, over a connection of the call's own until it has ended.
    Http1(Socket),
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
    letter: &Letter,
    most: usize,
) -> Result<(Response, Option<Socket>), Failed> {
    let address = peer.address;
    let kept = kept(client, peer, name);
    let mut was_kept = kept.is_some();
    let spoken = match kept {
        Some(spoken) => spoken,
        None => match Box::pin(connect(client, peers.share(deadline), address, name, most)).await {
            Ok(spoken) => spoken,
            Err(fault) => return Err(Failed { fault, is_unsent: true, was_kept: false }),
        },
    };
    let late = |fault| Unanswered { fault, is_unsent: false };
    let mut unanswered = match spoken {
        Spoken::Http1(socket) => {
            let done = {
                let exchange = pin!(http1::exchange(&client.received, &socket, letter, most));
                deadline.within(exchange).await.unwrap_or_else(|fault| Err(late(fault)))
            };
            match done {
                Ok(Answered { response, goes_on }) => return Ok((response, goes_on.then_some(socket))),
                Err(mut unanswered) => {
                    let is_reset = unanswered.fault.failure == CallFailure::Reset;
                    unanswered.fault.is_harmless = is_reset && !socket.has_received();
                    unanswered
                }
            }
        }
        Spoken::Http2(mut link) => {
            let Some(request) = letter.for_http2() else {
                let fault = Fault::new(CallFailure::Protocol, "HTTP/2 is spoken only over TLS");
                return Err(Failed { fault, is_unsent: true, was_kept: false });
            };
            let exchange = Box::pin(http2::exchange(&mut link, request, most));
            let done = deadline.within(exchange).await.unwrap_or_else(|fault| Err(late(fault)));
            // One that goes on was not at fault.
            was_kept &= link.sender.is_closed();
            match done {
                Ok(response) => return Ok((response, None)),
                Err(unanswered) => unanswered,
            }
        }
    };
    unanswered.fault.detail = format!("{address}: {}", unanswered.fault.detail).into();
    let Unanswered { fault, is_unsent } = unanswered;
    // The peer may have begun with a request that it has not answered; what was not sent, it has not.
    let was_kept = was_kept && fault.is_harmless;
    Err(Failed { fault, is_unsent, was_kept })
}

/// A connection to `peer` that is there already.
fn kept(client: &Client, peer: Peer, name: Option<&Rc<str>>) -> Option<Spoken> {
    let Peer { address, kept } = peer;
    if name.is_none()
        && let Some(socket) = kept.filter(|socket| !socket.is_encrypted() && !socket.is_stale())
    {
        return Some(Spoken::Http1(socket));
    }
    // One that nginx has kept and that is encrypted, or is to be, is of no use, and closed.
    let key = PeerKey { address, name: name.cloned() };
    if name.is_some()
        && let Some(link) = client.shared.get(&key, &client.settings.keeping)
    {
        return Some(Spoken::Http2(link));
    }
    client.idle.take(&key).map(Spoken::Http1)
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
        Inside::Http1 => Ok(Spoken::Http1(socket)),
        Inside::Http2 => {
            let key = PeerKey { address, name: name.cloned() };
            deadline.within(pin!(http2::begin(client, key, socket, most))).await?.map(Spoken::Http2)
        }
    }
}

/// Gives a connection that can be used again to whom it may be of use.
fn finish(client: &Client, peers: Peers, address: Address, name: Option<Rc<str>>, socket: Socket) {
    let used = socket.count_request();
    if let Some(socket) = peers.keep(socket) {
        client.idle.keep(PeerKey { address, name }, socket, used);
    }
}
