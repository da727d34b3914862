//! Connections to peers: made in time, and encrypted where they have to be.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use weir_core::host::calls::CallFailure;

use super::{Client, fault::Fault};
use crate::ngx::net::{
    address::Address,
    connect::connect,
    sleep::Sleep,
    socket::{self, Socket},
    tls::{Inside, Offer, sessions::Saved},
};

/// The end of a call's time.
#[derive(Debug)]
pub(crate) struct Deadline {
    /// `None` for a call that lasts until one side ends it.
    sleep: Option<Sleep>,
    /// By nginx's clock, as its timers go, which costs no look at the system's.
    end: usize,
}

/// How long is left where there is no end: for connecting, as long as nginx takes (`proxy_connect_timeout`).
const ENDLESS: Duration = Duration::from_secs(60);

impl Deadline {
    /// It is over when `time` has passed; `None` for never.
    pub(crate) fn new(time: Option<Duration>) -> Self {
        let lasts = usize::try_from(time.unwrap_or(ENDLESS).as_millis()).unwrap_or(usize::MAX);
        Self { sleep: time.map(Sleep::new), end: socket::now().saturating_add(lasts) }
    }

    /// What remains.
    pub(crate) fn rest(&self) -> Duration {
        match &self.sleep {
            Some(_) => Duration::from_millis(self.end.saturating_sub(socket::now()) as u64),
            None => ENDLESS,
        }
    }

    /// Waits for `step`, until the time is over. A step that is not `Unpin` is pinned by the caller: an `async fn` would
    /// have room for it twice.
    pub(crate) fn within<F: Future + Unpin>(
        &mut self,
        mut step: F,
    ) -> impl Future<Output = Result<F::Output, Fault>> {
        poll_fn(move |context| {
            if let Poll::Ready(answer) = Pin::new(&mut step).poll(context) {
                return Poll::Ready(Ok(answer));
            }
            match self.sleep.as_mut() {
                Some(sleep) => Pin::new(sleep).poll(context).map(|()| Err(Fault::timeout())),
                None => Poll::Pending,
            }
        })
    }
}

/// Connects to the peer at `address`, in `time`; encrypted, if it has to prove to be `name`. Answers what is spoken then,
/// which only TLS lets the other side choose.
pub(crate) async fn open(
    client: &Client,
    time: Duration,
    address: Address,
    name: Option<&Rc<str>>,
    offer: Offer,
) -> Result<(Socket, Inside), Fault> {
    let failed = |failure, error: io::Error| Fault::harmless(failure, format!("{address}: {error}"));
    let late = |_| Fault::harmless(CallFailure::Timeout, format!("{address}: connecting takes too long"));
    let mut deadline = Deadline::new(Some(time));
    let socket = connect(&address).map_err(|error| failed(CallFailure::Connect, error))?;
    let connected = deadline.within(poll_fn(|context| socket.poll_connected(context))).await.map_err(late)?;
    connected.map_err(|error| failed(CallFailure::Connect, error))?;
    let (Some(name), Some(tls)) = (name, client.settings.tls.as_ref()) else {
        // In clear text the other side has to expect it.
        let inside = if offer == Offer::Http2 { Inside::Http2 } else { Inside::Http1 };
        return Ok((socket, inside));
    };
    let saved = Rc::new(Saved::new(&client.sessions, address, name));
    socket.encrypt(tls, name, offer, saved).map_err(|error| failed(CallFailure::Tls, error))?;
    let encrypted = poll_fn(|context| socket.poll_encrypted(tls, name, context));
    let encrypted = deadline.within(encrypted).await.map_err(late)?;
    encrypted.map_err(|error| failed(CallFailure::Tls, error))?;
    match socket.inside() {
        Inside::Http1 if offer == Offer::Http2 => {
            let detail = format!("{address}: the other side does not speak HTTP/2");
            Err(Fault::harmless(CallFailure::Protocol, detail))
        }
        inside => Ok((socket, inside)),
    }
}
