//! A connection that speaks HTTP/1.1: one request and its response after the other, each by hyper.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http_body_util::BodyExt;
use hyper::{
    Request,
    body::Body as _,
    client::conn::http1::{Builder, Connection, SendRequest},
};
use weir_core::host::calls::Response;

use super::{
    fault::Fault,
    message::{Arriving, Outgoing, Undone},
};
use crate::ngx::net::socket::Socket;

/// Bytes that hyper buffers at least.
const LEAST_BUFFER: usize = 8192;

/// Fields of a response at most: as many as guests are given of any map.
const MOST_FIELDS: usize = weir_core::engine::limits::MAX_PAIRS;

/// A connection, and what hyper keeps of it from one request to the next: its buffers, and where it stands. They stay
/// together while it rests, or it would be made anew for each call.
pub(crate) struct Session {
    socket: Socket,
    sender: SendRequest<Outgoing>,
    driven: Driven,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Session {
    /// HTTP/1.1 over `socket`, with responses of at most `most` bytes of headers.
    ///
    /// # Errors
    /// What hyper says. It looks at a connection only when a request is there, so what is wrong with one shows then.
    pub(crate) async fn begin(socket: Socket, most: usize) -> Result<Box<Self>, Fault> {
        let mut builder = Builder::new();
        builder.max_buf_size(most.max(LEAST_BUFFER)).max_headers(MOST_FIELDS);
        let begun = builder.handshake(socket.clone()).await;
        let (sender, connection) = begun.map_err(|error| Fault::of_hyper(&error, most))?;
        let driven = Driven { connection: Some(connection), error: None };
        Ok(Box::new(Self { socket, sender, driven }))
    }

    /// The connection.
    pub(crate) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether another request can be sent: the last response has ended, and its sender has neither closed the
    /// connection nor sent more.
    pub(crate) fn can_go_on(&self) -> bool {
        self.driven.connection.is_some() && self.sender.is_ready()
    }

    /// Sends `request` and reads the response, of at most `most` bytes of headers and as many of the body.
    ///
    /// # Errors
    /// When there is no response, or none that is allowed. The connection is of no more use then.
    pub(crate) async fn exchange(
        &mut self,
        request: Box<Request<Outgoing>>,
        most: usize,
    ) -> Result<Response, Undone> {
        let Self { sender, driven, .. } = self;
        let answer = driven.drive(pin!(sender.try_send_request(*request))).await;
        let answer = answer.map_err(|mut error| Undone {
            request: error.take_message().map(Box::new),
            fault: Fault::of_hyper(driven.error.as_ref().unwrap_or(error.error()), most),
        })?;
        let (head, mut body) = answer.into_parts();
        let mut arriving = Arriving::new(&head, &body, most)?;
        if !body.is_end_stream() {
            while let Some(frame) = driven.drive_again(pin!(body.frame())).await {
                arriving.add(frame)?;
            }
        }
        if !sender.is_ready() {
            // The connection asks for the next request if there can be one.
            poll_fn(|context| {
                driven.poll(context);
                Poll::Ready(())
            })
            .await;
        }
        Ok(arriving.response)
    }
}

/// A connection that is polled along with what waits for it.
struct Driven {
    /// `None` once it has ended.
    connection: Option<Connection<Socket, Outgoing>>,
    /// Why it has.
    error: Option<hyper::Error>,
}

impl Driven {
    /// Waits for `future`, for which the connection has all that it needs already.
    fn drive<F: Future>(&mut self, mut future: Pin<&mut F>) -> impl Future<Output = F::Output> {
        poll_fn(move |context| {
            self.poll(context);
            future.as_mut().poll(context)
        })
    }

    /// Waits for `future`, which makes work for the connection when it is polled.
    fn drive_again<F: Future>(&mut self, mut future: Pin<&mut F>) -> impl Future<Output = F::Output> {
        poll_fn(move |context| {
            let answer = future.as_mut().poll(context);
            if answer.is_ready() {
                return answer;
            }
            // The connection is told of its work by its waker, too; looking at once spares a turn.
            self.poll(context);
            future.as_mut().poll(context)
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        let Some(connection) = self.connection.as_mut() else { return };
        if let Poll::Ready(ended) = Pin::new(connection).poll(context) {
            self.error = ended.err();
            self.connection = None;
        }
    }
}
