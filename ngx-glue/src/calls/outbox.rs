//! Messages of a gRPC stream that wait to be sent: what a guest puts in, hyper takes out as HTTP/2 lets it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};

/// Bytes that wait on one stream at most, but for one message: more is refused.
const MOST: usize = 1 << 20;

/// What waits on one stream. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Bytes>,
    bytes: usize,
    is_closed: bool,
    is_aborted: bool,
    waker: Option<Waker>,
}

/// Ends a stream when it is dropped, unless that has ended before: the other side is told that nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Hangup(pub(crate) Outbox);

impl Drop for Hangup {
    fn drop(&mut self) {
        let mut inner = self.0.0.borrow_mut();
        inner.is_aborted = true;
        inner.frames.clear();
        wake(inner.waker.take());
    }
}

impl Outbox {
    /// Adds a frame; false when too much waits already.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut inner = self.0.borrow_mut();
        if !inner.frames.is_empty() && inner.bytes + frame.len() > MOST {
            return false;
        }
        inner.bytes += frame.len();
        inner.frames.push_back(frame);
        wake(inner.waker.take());
        true
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        let mut inner = self.0.borrow_mut();
        inner.is_closed = true;
        wake(inner.waker.take());
    }
}

/// Waking only posts an event.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Body for Outbox {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut inner = self.0.borrow_mut();
        if inner.is_aborted {
            // hyper resets the stream with that reason.
            return Poll::Ready(Some(Err(h2::Reason::CANCEL.into())));
        }
        match inner.frames.pop_front() {
            Some(frame) => {
                inner.bytes -= frame.len();
                Poll::Ready(Some(Ok(Frame::data(frame))))
            }
            None if inner.is_closed => Poll::Ready(None),
            None => {
                inner.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.0.borrow();
        inner.is_closed && inner.frames.is_empty() && !inner.is_aborted
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{MOST, Outbox};

    #[test]
    fn what_waits_has_a_bound() {
        let outbox = Outbox::default();
        assert!(outbox.push(Bytes::from(vec![0; MOST + 1])), "one message of any size");
        assert!(!outbox.push(Bytes::from_static(b"x")));
    }
}
