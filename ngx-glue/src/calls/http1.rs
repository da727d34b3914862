//! One request and its response over one connection, by HTTP/1.1.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body as _, Incoming},
    client::conn::http1::{Builder, Connection},
};
use weir_core::host::calls::{Fields, Response};

use super::{fault::Fault, message, message::Outgoing};
use crate::ngx::net::socket::Socket;

/// Bytes that hyper buffers at least.
const LEAST_BUFFER: usize = 8192;

/// What has come of it.
#[derive(Debug)]
pub(crate) struct Done {
    /// The response.
    pub(crate) response: Response,
    /// The connection, if it can be used again.
    pub(crate) socket: Option<Socket>,
}

/// What has gone wrong with it.
#[derive(Debug)]
pub(crate) struct Undone {
    pub(crate) fault: Fault,
    /// The request, if nothing of it was sent.
    pub(crate) request: Option<Request<Outgoing>>,
}

impl From<Fault> for Undone {
    fn from(fault: Fault) -> Self {
        Self { fault, request: None }
    }
}

/// Sends `request` and reads the response, of at most `most` bytes of headers and as many of the body.
pub(crate) async fn exchange(
    socket: Socket,
    request: Request<Outgoing>,
    most: usize,
) -> Result<Done, Undone> {
    let mut builder = Builder::new();
    builder.max_buf_size(most.max(LEAST_BUFFER));
    let (mut sender, connection) =
        builder.handshake(socket).await.map_err(|error| Fault::of_hyper(&error, most))?;
    let mut driven = Driven { connection: Some(connection), error: None };
    // The connection asks for a request when it is polled first.
    let ready = driven.drive(sender.ready()).await;
    if let Err(error) = ready {
        let error = driven.error.as_ref().unwrap_or(&error);
        return Err(Undone { fault: Fault::of_hyper(error, most), request: Some(request) });
    }
    let answer = driven.drive(sender.try_send_request(request)).await;
    let answer = answer.map_err(|mut error| Undone {
        request: error.take_message(),
        fault: Fault::of_hyper(driven.error.as_ref().unwrap_or(error.error()), most),
    })?;
    let (head, body) = answer.into_parts();
    let mut response =
        Response { headers: message::head(&head, most)?, body: Vec::new(), trailers: Fields::new() };
    driven.drive(collect(body, &mut response, most)).await?;
    // The connection asks for the next request if there can be one.
    let is_idle = driven.drive(poll_fn(|context| Poll::Ready(sender.poll_ready(context).is_ready()))).await;
    let is_ready = is_idle && sender.is_ready();
    let socket = driven.connection.filter(|_| is_ready).and_then(|connection| {
        let parts = connection.into_parts();
        parts.read_buf.is_empty().then_some(parts.io)
    });
    Ok(Done { response, socket })
}

/// Reads the whole of `body` into `response`.
async fn collect(mut body: Incoming, response: &mut Response, most: usize) -> Result<(), Fault> {
    if body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX) {
        return Err(Fault::too_large(most));
    }
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::of_hyper(&error, most))?;
        match frame.into_data() {
            Ok(data) => {
                length = length.saturating_add(data.len());
                if length > most {
                    return Err(Fault::too_large(most));
                }
                if !data.is_empty() {
                    response.body.push(data);
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    response.trailers = message::fields(&trailers, most)?;
                }
            }
        }
    }
    Ok(())
}

/// A connection that is polled along with what waits for it.
struct Driven {
    /// `None` once it has ended.
    connection: Option<Connection<Socket, Outgoing>>,
    /// Why it has.
    error: Option<hyper::Error>,
}

impl Driven {
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.poll(context);
            let answer = future.as_mut().poll(context);
            if answer.is_pending() {
                // What the future has done may have made work for the connection, of which it is told by its waker;
                // looking at once spares a turn.
                self.poll(context);
                return future.as_mut().poll(context);
            }
            answer
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        let Some(connection) = self.connection.as_mut() else { return };
        if let Poll::Ready(ended) = Pin::new(connection).poll(context) {
            self.error = ended.err();
            self.connection = None;
        }
    }
}
