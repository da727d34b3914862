//! A gRPC call from its first peer to its status: unary or a stream, over HTTP/2.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Either;
use hyper::{
    HeaderMap, Request, Uri, Version,
    body::{Body, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT},
    http::{self, response},
};
use weir_core::host::calls::{CallEvent, CallFailure, CallToken, Closed, Fields, GrpcCall};

use super::{
    Client,
    allow::Rules,
    fault::Fault,
    frames::{self, Misframed, Unframer},
    http2::{self, Link},
    idle::PeerKey,
    link::{Deadline, open},
    message,
    outbox::Outbox,
    peers::{Peer, Peers},
    way::{Way, look_up},
};
use crate::{grpc_status as status, ngx::net::tls::Offer};

/// A call that was begun.
#[derive(Debug)]
pub(crate) struct Order {
    /// How the other side is reached.
    pub(crate) way: Way,
    /// The name that it has to prove; `None` where nothing is encrypted.
    pub(crate) name: Option<Rc<str>>,
    /// What is sent.
    pub(crate) request: Request<Outbox>,
    /// Most bytes of a message, and of metadata.
    pub(crate) most: usize,
    /// What may be called.
    pub(crate) rules: Rc<Rules>,
}

/// The request that begins `call`, whose messages are those of `outbox`.
///
/// # Errors
/// A sentence that says what of it cannot be sent.
pub(crate) fn request(
    call: &GrpcCall<'_>,
    authority: &str,
    is_tls: bool,
    outbox: Outbox,
) -> Result<Request<Outbox>, String> {
    let path = [b"/", call.service, b"/", call.method].concat();
    let uri = http::uri::PathAndQuery::try_from(&*path).ok().and_then(|path| {
        let scheme = if is_tls { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
    });
    let uri = uri.ok_or_else(|| {
        format!("\"{}\" cannot be called at \"{authority}\"", String::from_utf8_lossy(&path))
    })?;
    let mut headers = message::map(call.metadata)?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if !headers.contains_key(USER_AGENT) {
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("grpc-weir/", env!("CARGO_PKG_VERSION"))));
    }
    if let Some(time) = call.timeout {
        let value = HeaderValue::from_str(&frames::timeout(time)).map_err(|error| error.to_string())?;
        headers.insert("grpc-timeout", value);
    }
    let mut request = Request::new(outbox);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Why a call is told of no more.
pub(crate) enum Stop {
    /// Nobody waits for it.
    Unwanted,
    /// It has failed.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Makes the call, and tells core of what comes back, but for its end.
pub(crate) async fn run(
    client: &Rc<Client>,
    token: CallToken,
    order: Order,
    time: Option<Duration>,
) -> Result<Closed, Stop> {
    let Order { way, name, mut request, most, rules } = order;
    let outbox = request.body().clone();
    let mut deadline = Deadline::new(time);
    let mut peers = match way {
        Way::Peers(peers) => peers,
        Way::Host(host) => Peers::listed(Box::pin(look_up(&mut deadline, &host, &rules)).await?),
    };
    let mut last = Fault::new(CallFailure::Unavailable, "no peer of the upstream is in service");
    while let Some(peer) = peers.next() {
        let address = peer.address;
        let link = match reach(client, &mut deadline, &mut peers, peer, name.as_ref(), most).await {
            Ok(link) => link,
            Err(fault) => {
                peers.failed(address, false);
                let is_over = deadline.rest().is_zero() || !peers.has_more();
                last = fault;
                if is_over {
                    break;
                }
                continue;
            }
        };
        let using = link.begin();
        let Link { mut sender, .. } = link;
        match deadline.within(pin!(sender.try_send_request(request.map(Either::Right)))).await? {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let told = Teller { client, token, most }.tell_all(&mut deadline, head, body).await;
                if told.is_ok() {
                    using.answered();
                }
                return told;
            }
            Err(mut error) => {
                last = Fault::of_hyper(error.error());
                last.detail = format!("{address}: {}", last.detail).into();
                // A connection that was ending when the request came has not taken it, and is no fault of the peer's.
                match error.take_message().filter(|_| peers.has_more() || last.failure == CallFailure::Reset)
                {
                    Some(unsent) => {
                        peers.failed(address, true);
                        request = unsent.map(|_| outbox.clone());
                    }
                    None => {
                        peers.failed(address, false);
                        break;
                    }
                }
            }
        }
    }
    Err(last.into())
}

/// A connection to `peer`: one that is there, or a new one.
async fn reach(
    client: &Rc<Client>,
    deadline: &mut Deadline,
    peers: &mut Peers,
    peer: Peer,
    name: Option<&Rc<str>>,
    most: usize,
) -> Result<Link, Fault> {
    // One that `keepalive` of the upstream has kept speaks HTTP/1.1: it is of no use here, and closed.
    let Peer { address, kept } = peer;
    drop(kept);
    let key = PeerKey { address, name: name.cloned() };
    if let Some(link) = client.shared.get(&key, &client.settings.keeping) {
        return Ok(link);
    }
    let (socket, _) = Box::pin(open(client, peers.share(deadline), address, name, Offer::Http2)).await?;
    deadline.within(Box::pin(http2::begin(client, key, socket, most))).await?
}

/// Tells core of what comes back.
struct Teller<'c> {
    client: &'c Client,
    token: CallToken,
    most: usize,
}

impl Teller<'_> {
    fn tell(&self, event: CallEvent) -> Result<(), Stop> {
        if self.client.tell(self.token, event) { Ok(()) } else { Err(Stop::Unwanted) }
    }

    async fn tell_all(
        &self,
        deadline: &mut Deadline,
        head: response::Parts,
        mut body: Incoming,
    ) -> Result<Closed, Stop> {
        let most = self.most;
        if body.is_end_stream() {
            // Trailers alone.
            self.tell(CallEvent::InitialMetadata(Fields::new()))?;
            self.tell(CallEvent::TrailingMetadata(message::fields(&head.headers, most)?))?;
            return Ok(closed(&head.headers, &head));
        }
        self.tell(CallEvent::InitialMetadata(message::head(&head, most)?))?;
        if head.status != http::StatusCode::OK || !is_grpc(&head.headers) {
            return Ok(closed(&head.headers, &head));
        }
        let mut unframer = Unframer::default();
        let mut trailers = HeaderMap::new();
        while let Some(frame) = deadline.within(pin!(next(&mut body))).await? {
            let frame = frame.map_err(|error| Fault::of_hyper(&error))?;
            match frame.into_data() {
                Ok(data) => {
                    unframer.push(&data);
                    while let Some(message) = unframer.next(most).map_err(|wrong| misframed(wrong, most))? {
                        self.tell(CallEvent::Message(message))?;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        unframer.finish().map_err(|wrong| misframed(wrong, most))?;
        self.tell(CallEvent::TrailingMetadata(message::fields(&trailers, most)?))?;
        Ok(closed(&trailers, &head))
    }
}

/// The next frame of `body`. The other side may send more only when this is called.
async fn next(body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// Whether a response says that it is gRPC's.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    status::is_grpc(kind)
}

/// The end that `fields`, in which a status is looked for, and `head` say.
fn closed(fields: &HeaderMap, head: &response::Parts) -> Closed {
    if let Some((status, message)) = frames::status_of(fields) {
        return Closed { status, message, failure: None };
    }
    let (status, message) = if head.status != http::StatusCode::OK {
        (status::of_http(head.status.as_u16()), format!("the HTTP status is {}", head.status.as_u16()))
    } else if is_grpc(&head.headers) {
        (status::UNKNOWN, "the response has no status".to_owned())
    } else {
        (status::UNKNOWN, "the response is not gRPC's".to_owned())
    };
    Closed { status, message: message.into_bytes(), failure: Some(CallFailure::Protocol) }
}

fn misframed(wrong: Misframed, most: usize) -> Fault {
    match wrong {
        Misframed::TooLarge => Fault::too_large(most),
        Misframed::Compressed => {
            Fault::new(CallFailure::Protocol, "a message is compressed, which was not offered")
        }
        Misframed::Cut => Fault::new(CallFailure::Protocol, "the response ends within a message"),
    }
}

/// How a call ends that has failed.
pub(crate) fn closed_by(fault: &Fault) -> Closed {
    let status = match (fault.failure, fault.reset) {
        (_, Some(reason)) => frames::status_of_reset(reason),
        (CallFailure::Timeout, None) => status::DEADLINE_EXCEEDED,
        (CallFailure::TooLarge, None) => status::RESOURCE_EXHAUSTED,
        (CallFailure::Protocol, None) => status::INTERNAL,
        (CallFailure::Cancelled, None) => status::CANCELLED,
        (CallFailure::Refused, None) => status::PERMISSION_DENIED,
        (
            CallFailure::Connect
            | CallFailure::Reset
            | CallFailure::Resolve
            | CallFailure::Tls
            | CallFailure::Unavailable,
            None,
        ) => status::UNAVAILABLE,
    };
    Closed { status, message: fault.detail.as_bytes().to_vec(), failure: Some(fault.failure) }
}
