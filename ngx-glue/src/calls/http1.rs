//! A request and its response over a connection of their own: HTTP/1.1.
//!
//! Nothing is kept for a call that waits but what is left of its request: bytes are received into a buffer that all
//! calls of a worker use, one after the other.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    io,
    task::{Context, Poll, ready},
};

use weir_core::host::calls::Response;

use super::{fault::Fault, letter::Letter, reading::Reading};
use crate::ngx::net::socket::Socket;

/// Bytes that are received at once: as many as a record of TLS has.
const ROOM: usize = 16 << 10;

/// Where bytes are received.
pub(crate) struct Received(RefCell<Box<[u8]>>);

impl Default for Received {
    fn default() -> Self {
        Self(RefCell::new(vec![0; ROOM].into()))
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received")
    }
}

/// What has come of a request.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response,
    /// Whether the connection can be used for another one.
    pub(crate) goes_on: bool,
}

/// What has gone wrong with it. The connection is of no more use.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) fault: Fault,
    /// Whether nothing of the request was sent.
    pub(crate) is_unsent: bool,
}

/// Sends `letter` over `socket` and reads the response, of at most `most` bytes of headers and as many of the body.
///
/// # Errors
/// When there is no response, or none that is allowed.
pub(crate) fn exchange<'a>(
    room: &'a Received,
    socket: &'a Socket,
    letter: &'a Letter,
    most: usize,
) -> impl Future<Output = Result<Answered, Unanswered>> + use<'a> {
    let mut sending = Sending { unsent: letter.text(), is_untouched: true, is_broken: false };
    let mut reading = Reading::new(most, letter.is_head);
    poll_fn(move |context| {
        if let Err(error) = sending.go_on(socket, context) {
            return Poll::Ready(Err(Unanswered { fault: Fault::of_io(&error), is_unsent: true }));
        }
        // What is answered before all has been sent is an answer; the connection is not used again then.
        Poll::Ready(match ready!(receive(room, socket, &mut reading, context)) {
            Ok(nothing_follows) => {
                let goes_on = nothing_follows && sending.unsent.is_empty() && reading.goes_on();
                Ok(Answered { response: reading.take_response(), goes_on })
            }
            Err(fault) => Err(Unanswered { fault, is_unsent: false }),
        })
    })
}

/// A message on its way.
#[derive(Debug)]
struct Sending<'a> {
    unsent: &'a [u8],
    /// Whether nothing has been sent.
    is_untouched: bool,
    /// Whether the other side takes no more.
    is_broken: bool,
}

impl Sending<'_> {
    /// Sends what the connection takes now.
    ///
    /// # Errors
    /// It takes nothing at all. One that has taken something may have been answered.
    fn go_on(&mut self, socket: &Socket, context: &Context<'_>) -> io::Result<()> {
        while !self.unsent.is_empty() && !self.is_broken {
            match socket.poll_send(self.unsent, context) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.unsent = self.unsent.get(count..).unwrap_or_default();
                    self.is_untouched = false;
                }
                Poll::Ready(Err(error)) if self.is_untouched => return Err(error),
                Poll::Ready(Ok(_) | Err(_)) => self.is_broken = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Receives until all of a response is there. Answers whether nothing follows it, not even the end of the connection.
fn receive(
    room: &Received,
    socket: &Socket,
    reading: &mut Reading,
    context: &Context<'_>,
) -> Poll<Result<bool, Fault>> {
    let mut room = room.0.borrow_mut();
    loop {
        let count = match ready!(socket.poll_receive(&mut room, context)) {
            Ok(count) => count,
            Err(error) => return Poll::Ready(Err(Fault::of_io(&error))),
        };
        let Some(bytes) = room.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Poll::Ready(reading.end().map(|()| false));
        };
        let used = match reading.take(bytes) {
            Ok(used) => used,
            Err(fault) => return Poll::Ready(Err(fault)),
        };
        if reading.is_over() {
            return Poll::Ready(Ok(used == count));
        }
    }
}
