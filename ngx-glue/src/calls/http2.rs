//! Connections that many streams share, by HTTP/2: of this worker, one for each peer and name.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::Poll,
};

use http_body_util::{BodyExt, Either};
use hyper::{
    Request,
    client::conn::http2::{Builder, SendRequest},
    rt::Executor,
};
use weir_core::{
    engine::limits::MAX_PAIRS,
    host::calls::{CallFailure, Response},
};

use super::{
    Client,
    fault::Fault,
    http1::Unanswered,
    idle::{Keeping, OLDEST, PeerKey},
    message::{Arriving, Outgoing},
    outbox::Outbox,
    room::Room,
};
use crate::ngx::net::{
    sleep::Sleep,
    socket::{self, Socket},
};

/// Bytes that the other side may send ahead, on a stream and on a connection.
const WINDOW: u32 = 1 << 20;

/// The same on a connection. h2 allows half of it to be lost to the framing of small frames whose streams nobody reads any
/// more, in all of a connection's life.
const WINDOW_OF_ALL: u32 = 4 << 20;

/// After so many calls that were given up before their response had come, a connection takes no other: what still comes for
/// them is held against it in h2, which in the end would close it with all the calls that it carries.
const GIVEN_UP: usize = 100;

/// Streams of a connection that have been reset, and whose frames may still come: as many are remembered. Frames of others
/// are taken for the peer's mistakes, of which h2 allows 1024 in a connection's life.
const RESETS: usize = 4 * GIVEN_UP;

/// The connections that can take another stream.
#[derive(Debug, Default)]
pub(crate) struct Shared(RefCell<HashMap<PeerKey, Link>>);

/// A connection, as long as this or another clone of it is there.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// By which requests are sent.
    pub(crate) sender: SendRequest<Sent>,
    uses: Rc<Uses>,
}

/// What becomes of a connection.
#[derive(Debug)]
struct Uses {
    /// Streams that use it.
    live: Cell<usize>,
    /// Whether one has ended since it was looked at last.
    recent: Cell<bool>,
    /// Streams that have begun.
    begun: Cell<usize>,
    /// Those that have ended before their response had.
    given_up: Cell<usize>,
    /// When it was made, by nginx's clock.
    since: usize,
}

/// The body of a request: there as a whole (left), or made by a guest piece by piece (right).
pub(crate) type Sent = Either<Outgoing, Outbox>;

/// One stream's use of a connection.
#[derive(Debug)]
pub(crate) struct Use {
    uses: Rc<Uses>,
    is_answered: bool,
}

impl Use {
    /// All of the response has come.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let Self { uses, is_answered } = self;
        uses.live.set(uses.live.get().saturating_sub(1));
        uses.recent.set(true);
        uses.given_up.set(uses.given_up.get() + usize::from(!*is_answered));
    }
}

impl Link {
    /// A stream uses it, as long as the answer is there.
    pub(crate) fn begin(&self) -> Use {
        self.uses.live.set(self.uses.live.get() + 1);
        self.uses.begun.set(self.uses.begun.get().saturating_add(1));
        Use { uses: Rc::clone(&self.uses), is_answered: false }
    }

    /// Whether no stream uses it, and none has since this was asked before.
    fn is_forgotten(&self) -> bool {
        let was_used = self.uses.recent.replace(false);
        self.uses.live.get() == 0 && !was_used
    }

    /// Whether it has done enough: no other stream begins on it.
    fn has_served(&self, keeping: &Keeping) -> bool {
        let Uses { begun, given_up, since, .. } = &*self.uses;
        let age = socket::now().saturating_sub(*since);
        begun.get() >= keeping.requests || given_up.get() >= GIVEN_UP || age >= OLDEST
    }
}

impl Shared {
    /// One that leads there. One that has done enough is forgotten, and ends with the streams that it has.
    pub(crate) fn get(&self, key: &PeerKey, keeping: &Keeping) -> Option<Link> {
        let mut links = self.0.borrow_mut();
        let link = links.get(key)?;
        if !link.sender.is_closed() && !link.has_served(keeping) {
            return Some(link.clone());
        }
        let link = links.remove(key);
        // Its end may look at the others.
        drop(links);
        drop(link);
        None
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Forgets all: each ends when its streams have.
    pub(crate) fn clear(&self) {
        let all = self.0.take();
        drop(all);
    }
}

/// Sends `request` over `link` and reads the response, of at most `most` bytes of headers and as many of the body.
///
/// # Errors
/// When there is no response, or none that is allowed. Dropping this resets the stream.
pub(crate) async fn exchange(
    link: &mut Link,
    request: Request<Outgoing>,
    most: usize,
) -> Result<Response, Unanswered> {
    let using = link.begin();
    let answer = link.sender.try_send_request(request.map(Either::Left)).await;
    let answer = answer.map_err(|mut error| Unanswered {
        fault: unanswered(Fault::of_hyper(error.error())),
        is_unsent: error.take_message().is_some(),
    })?;
    let (head, mut body) = answer.into_parts();
    let broken = |fault| Unanswered { fault, is_unsent: false };
    let mut arriving = Arriving::new(&head, &body, most).map_err(broken)?;
    while let Some(frame) = body.frame().await {
        arriving.add(frame).map_err(broken)?;
    }
    using.answered();
    Ok(arriving.response)
}

/// A fault before there was a response.
fn unanswered(fault: Fault) -> Fault {
    Fault { is_harmless: fault.failure == CallFailure::Reset, ..fault }
}

/// Begins HTTP/2 over `socket`, which leads to `key`, with responses of at most `most` bytes of headers. Others may use the
/// connection as well from here on.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn begin(
    client: &Rc<Client>,
    key: PeerKey,
    socket: Socket,
    most: usize,
) -> Result<Link, Fault> {
    let mut builder = Builder::new(Spawner(Rc::downgrade(&client.room)));
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW_OF_ALL);
    builder.max_concurrent_reset_streams(RESETS);
    // As HTTP/2 counts it, with 32 bytes more for each field (RFC 9113, 10.5.1).
    let most = most.saturating_add(32 * MAX_PAIRS);
    builder.max_header_list_size(u32::try_from(most).unwrap_or(u32::MAX));
    let begun = builder.handshake(socket).await;
    let (sender, connection) = begun.map_err(|error| Fault::of_hyper(&error))?;
    let uses = Rc::new(Uses {
        live: Cell::default(),
        recent: Cell::default(),
        begun: Cell::default(),
        given_up: Cell::default(),
        since: socket::now(),
    });
    let link = Link { sender, uses: Rc::clone(&uses) };
    // Several calls may have connected at the same time: the first one's is shared.
    let is_shared = {
        let mut links = client.shared.0.borrow_mut();
        let is_first = !links.contains_key(&key);
        if is_first {
            links.insert(key.clone(), link.clone());
        }
        is_first
    };
    let (weak, time) = (Rc::downgrade(client), client.settings.keeping.time);
    client.room.spawn(Box::pin(async move {
        let mut connection = pin!(connection);
        let mut sleep = Sleep::idly(time);
        poll_fn(|context| {
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            while is_shared && Pin::new(&mut sleep).poll(context).is_ready() {
                sleep = Sleep::idly(time);
                rest(&weak, &key, &uses);
            }
            Poll::Pending
        })
        .await;
        if is_shared {
            forget(&weak, &key);
        }
    }));
    Ok(link)
}

/// Forgets a connection that no stream has used for a while; not one that has followed it.
fn rest(client: &Weak<Client>, key: &PeerKey, uses: &Rc<Uses>) {
    let Some(client) = client.upgrade() else { return };
    let is_forgotten = client
        .shared
        .0
        .borrow()
        .get(key)
        .is_some_and(|link| Rc::ptr_eq(&link.uses, uses) && link.is_forgotten());
    if is_forgotten {
        let link = client.shared.0.borrow_mut().remove(key);
        drop(link);
    }
}

/// Forgets a connection that has ended.
fn forget(client: &Weak<Client>, key: &PeerKey) {
    let Some(client) = client.upgrade() else { return };
    let is_closed = client.shared.0.borrow().get(key).is_some_and(|link| link.sender.is_closed());
    if is_closed {
        let link = client.shared.0.borrow_mut().remove(key);
        drop(link);
    }
}

/// Runs what hyper wants to have run beside a connection.
#[derive(Debug, Clone)]
struct Spawner(Weak<Room>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        if let Some(room) = self.0.upgrade() {
            room.spawn(Box::pin(future));
        }
    }
}
