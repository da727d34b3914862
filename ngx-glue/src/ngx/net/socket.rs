//! A connection to a peer: read and written straight from and into buffers of the call's or of hyper's, woken by nginx's
//! events.

use std::{
    cell::Cell,
    fmt, io,
    pin::Pin,
    ptr::NonNull,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use nginx_sys::{
    NGX_AGAIN, NGX_OK, ngx_close_connection, ngx_connection_t, ngx_destroy_pool, ngx_event_t,
    ngx_handle_read_event, ngx_handle_write_event, ngx_int_t, socklen_t,
};

#[cfg(ngx_feature = "ssl")]
use super::tls::sessions::Saved;
use super::{quiet, tls};
use crate::ngx::{cycle::Cycle, guard::guard};

/// A connection that is ours. Clones are the same one; dropping the last of them closes it.
#[derive(Clone)]
pub(crate) struct Socket(Rc<Inner>);

/// What the connection's `data` points to.
pub(super) struct Inner {
    raw: NonNull<ngx_connection_t>,
    /// False while others have it.
    is_ours: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
    has_received: Cell<bool>,
    /// Where its sessions of TLS are kept.
    #[cfg(ngx_feature = "ssl")]
    saved: Cell<Option<Rc<Saved>>>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("has_received", &self.has_received()).finish_non_exhaustive()
    }
}

impl Socket {
    /// The connection at `raw`, which is ours from here on.
    ///
    /// # Safety
    /// It is open, has a pool of its own, and nobody else has it.
    pub(super) unsafe fn new(raw: NonNull<ngx_connection_t>) -> Self {
        let inner = Rc::new(Inner {
            raw,
            is_ours: Cell::new(true),
            reader: Cell::default(),
            writer: Cell::default(),
            has_received: Cell::default(),
            #[cfg(ngx_feature = "ssl")]
            saved: Cell::default(),
        });
        inner.edit(|c| {
            c.data = Rc::as_ptr(&inner).cast_mut().cast();
            c.log = quiet::log();
        });
        inner.take_events();
        tls::forget_owner(&inner);
        Self(inner)
    }

    /// The connection is no longer ours: whoever has it may close it at any time.
    pub(super) fn lend(self) -> NonNull<ngx_connection_t> {
        self.0.is_ours.set(false);
        self.0.raw
    }

    #[cfg(ngx_feature = "ssl")]
    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Whether anything has been received since it was made or has rested.
    pub(crate) fn has_received(&self) -> bool {
        self.0.has_received.get()
    }

    /// Sends the beginning of `bytes`; answers how many.
    ///
    /// # Errors
    /// What the system, or TLS, says.
    pub(crate) fn poll_send(&self, bytes: &[u8], context: &Context<'_>) -> Poll<io::Result<usize>> {
        self.0.write(bytes, context)
    }

    /// Receives bytes into `room`; answers how many, 0 for the end.
    ///
    /// # Errors
    /// What the system, or TLS, says.
    pub(crate) fn poll_receive(&self, room: &mut [u8], context: &Context<'_>) -> Poll<io::Result<usize>> {
        // SAFETY: it is as long as it says, and borrowed until this returns.
        unsafe { self.0.read(room.as_mut_ptr(), room.len(), context) }
    }

    /// Waits until the connection is made.
    ///
    /// # Errors
    /// When the peer refuses.
    pub(crate) fn poll_connected(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_writable(context))?;
        Poll::Ready(match self.0.pending_error() {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        })
    }

    /// Whether it is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.0.is_encrypted()
    }

    /// How many requests it has carried, this one included.
    pub(crate) fn count_request(&self) -> usize {
        self.0.edit(|c| {
            c.requests = c.requests.saturating_add(1);
            c.requests
        })
    }

    /// Milliseconds since it was made.
    pub(crate) fn age(&self) -> usize {
        now().saturating_sub(self.0.peek(|c| c.start_time))
    }

    /// It rests: nginx closes it when the worker shuts down, and `waker` is woken when anything comes.
    pub(crate) fn rest(&self, waker: Waker) {
        self.0.reader.set(Some(waker));
        self.0.writer.take();
        self.0.edit(|c| c.set_idle(1));
    }

    /// It is used again.
    pub(crate) fn wake_up(&self) {
        self.0.has_received.set(false);
        self.0.edit(|c| c.set_idle(0));
    }

    /// Whether a resting connection is of no use: the peer has closed it, or sent what nobody asked for, or the worker
    /// shuts down.
    pub(crate) fn is_stale(&self) -> bool {
        let closing = self.0.peek(|c| c.close() != 0 || c.error() != 0);
        closing || self.0.read_event(|event| event.ready() != 0 || event.eof() != 0 || event.error() != 0)
    }
}

impl Inner {
    #[cfg(ngx_feature = "ssl")]
    pub(super) const fn raw(&self) -> NonNull<ngx_connection_t> {
        self.raw
    }

    /// Picks fields of the connection.
    pub(super) fn peek<T>(&self, read: impl FnOnce(&ngx_connection_t) -> T) -> T {
        // SAFETY: the connection is open while it is ours, by the promise made to `new`, and nobody comes here while it
        // is not; this is nginx's one thread, and `read` only picks fields.
        read(unsafe { self.raw.as_ref() })
    }

    /// Writes fields of the connection.
    pub(super) fn edit<T>(&self, write: impl FnOnce(&mut ngx_connection_t) -> T) -> T {
        // SAFETY: as in `peek`; nobody else has a reference while `write` runs, which only writes fields.
        write(unsafe { &mut *self.raw.as_ptr() })
    }

    /// Picks fields of the event of reading.
    fn read_event<T>(&self, read: impl FnOnce(&ngx_event_t) -> T) -> T {
        let event = self.peek(|c| c.read);
        // SAFETY: a connection's events live as long as it does; `read` only picks fields.
        read(unsafe { &*event })
    }

    /// Picks fields of the event of writing.
    fn write_event<T>(&self, read: impl FnOnce(&ngx_event_t) -> T) -> T {
        let event = self.peek(|c| c.write);
        // SAFETY: as in `read_event`.
        read(unsafe { &*event })
    }

    /// The error that the system keeps for the socket (`ngx_http_upstream_test_connect()`); 0 for none.
    fn pending_error(&self) -> i32 {
        let (mut error, mut length) = (0_i32, socklen_t::try_from(size_of::<i32>()).unwrap_or_default());
        let (descriptor, place) = (self.peek(|c| c.fd), (&raw mut error).cast());
        let (level, option) = (libc::SOL_SOCKET, libc::SO_ERROR);
        // SAFETY: the descriptor is open, and there is room for the answer, of the length that is said.
        let code = unsafe { libc::getsockopt(descriptor, level, option, place, &raw mut length) };
        if code == 0 { error } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) }
    }

    /// Events of the connection come to us.
    pub(super) fn take_events(&self) {
        let (read, write) = self.peek(|c| (c.read, c.write));
        for event in [read, write] {
            // SAFETY: a connection's events live as long as it does; the reference ends with these lines.
            let event = unsafe { &mut *event };
            event.handler = Some(happened);
            event.log = quiet::log();
        }
    }

    #[cfg(ngx_feature = "ssl")]
    pub(super) fn set_saved(&self, saved: Rc<Saved>) {
        self.saved.set(Some(saved));
    }

    #[cfg(ngx_feature = "ssl")]
    pub(super) fn saved(&self) -> Option<Rc<Saved>> {
        let saved = self.saved.take();
        self.saved.set(saved.clone());
        saved
    }

    pub(super) fn wake(&self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// The peer's side of what is being waited for is told to `context`.
    fn wait_to_read(&self, context: &Context<'_>) -> io::Result<()> {
        self.reader.set(Some(context.waker().clone()));
        let event = self.peek(|c| c.read);
        // SAFETY: the event of an open connection.
        arranged(unsafe { ngx_handle_read_event(event, 0) })
    }

    /// Whatever happens next is told to `context`; nginx watches the connection already.
    #[cfg(ngx_feature = "ssl")]
    pub(super) fn wait_for_both(&self, context: &Context<'_>) -> io::Result<()> {
        self.wait_to_read(context)?;
        self.wait_to_write(context)
    }

    fn wait_to_write(&self, context: &Context<'_>) -> io::Result<()> {
        self.writer.set(Some(context.waker().clone()));
        let event = self.peek(|c| c.write);
        // SAFETY: the event of an open connection.
        arranged(unsafe { ngx_handle_write_event(event, 0) })
    }

    pub(super) fn poll_writable(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.write_event(|event| event.ready() != 0) {
            return Poll::Ready(Ok(()));
        }
        match self.wait_to_write(context) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Why nginx's function for reading or writing has just failed.
    fn failure(&self) -> io::Error {
        let system = io::Error::last_os_error();
        let words = quiet::last_words();
        if self.is_encrypted() {
            // OpenSSL has told nginx; errno says nothing of it.
            let words = words.unwrap_or_else(|| "the TLS connection failed".to_owned());
            io::Error::new(io::ErrorKind::ConnectionReset, words)
        } else {
            system
        }
    }

    #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
    pub(super) fn is_encrypted(&self) -> bool {
        self.peek(|c| !c.ssl.is_null())
    }

    #[cfg(not(any(ngx_feature = "ssl", ngx_feature = "compat")))]
    pub(super) fn is_encrypted(&self) -> bool {
        false
    }

    /// Reads into the `length` bytes at `room`.
    ///
    /// # Safety
    /// There are as many, and nobody else uses them.
    unsafe fn read(&self, room: *mut u8, length: usize, context: &Context<'_>) -> Poll<io::Result<usize>> {
        if !self.read_event(|event| event.ready() != 0) {
            return self
                .wait_to_read(context)
                .map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending);
        }
        let Some(receive) = self.peek(|c| c.recv) else { return Poll::Ready(Err(self.failure())) };
        // SAFETY: the connection is open, and the room is as the caller promises.
        let count = unsafe { receive(self.raw.as_ptr(), room, length) };
        if count == AGAIN {
            return self
                .wait_to_read(context)
                .map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending);
        }
        Poll::Ready(usize::try_from(count).map_err(|_| self.failure()).inspect(|count| {
            if *count > 0 {
                self.has_received.set(true);
            }
        }))
    }

    fn write(&self, bytes: &[u8], context: &Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable(context))?;
        let Some(send) = self.peek(|c| c.send) else { return Poll::Ready(Err(self.failure())) };
        // SAFETY: the connection is open, and the function only reads that many bytes.
        let count = unsafe { send(self.raw.as_ptr(), bytes.as_ptr().cast_mut(), bytes.len()) };
        if count == AGAIN {
            return self
                .wait_to_write(context)
                .map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending);
        }
        Poll::Ready(usize::try_from(count).map_err(|_| self.failure()))
    }
}

/// nginx's answer of functions that read and write: there is nothing to do now.
const AGAIN: isize = NGX_AGAIN as isize;

/// Whether nginx watches a connection as it was told to.
fn arranged(code: ngx_int_t) -> io::Result<()> {
    if code == NGX_OK as ngx_int_t {
        Ok(())
    } else {
        Err(io::Error::other("nginx cannot watch the connection"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.is_ours.get() {
            return;
        }
        let raw = self.raw.as_ptr();
        tls::end(self);
        let pool = self.peek(|c| c.pool);
        // SAFETY: the pool is the connection's own, and only its own data is in it.
        unsafe { ngx_destroy_pool(pool) };
        // SAFETY: the connection is ours since `new`, and nobody has closed it. This takes its events away and closes
        // its descriptor.
        unsafe { ngx_close_connection(raw) };
    }
}

impl Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: the room is only written to, never made uninitialized.
        let room = unsafe { buffer.as_mut() };
        let (begin, length) = (room.as_mut_ptr().cast::<u8>(), room.len());
        // SAFETY: it is as long as it says, and borrowed from hyper until this returns.
        let count = ready!(unsafe { self.0.read(begin, length, context) })?;
        // SAFETY: as many have just been written.
        unsafe { buffer.advance(count) };
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.write(bytes, context)
    }

    /// nginx keeps nothing back that it has taken: where its TLS layer does, it is flushed with the next write.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection is closed when it is dropped, both ways at once.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Something has happened to a connection of ours.
unsafe extern "C" fn happened(event: *mut ngx_event_t) {
    let Some(event) = NonNull::new(event) else { return };
    // SAFETY: nginx calls this with an event of a connection that `take_events` was called for.
    let data = unsafe { event.as_ref() }.data;
    let Some(connection) = NonNull::new(data.cast::<ngx_connection_t>()) else { return };
    // SAFETY: the data of a connection's event is the connection (`ngx_get_connection()`).
    let data = unsafe { connection.as_ref() }.data;
    let Some(inner) = NonNull::new(data.cast::<Inner>()) else { return };
    // SAFETY: `Socket::new` has put it there, and it closes the connection, or gives its events away, before it is
    // dropped. Waking only posts an event, so nothing is dropped below this.
    let inner = unsafe { inner.as_ref() };
    Cycle::with_current(|cycle| guard("an event of a call", cycle.log(), (), || inner.wake()));
}

/// nginx's clock, in milliseconds since some time: that of the last turn of the event loop.
pub(crate) fn now() -> usize {
    // SAFETY: nginx writes its clock in its one thread, which is the one that runs.
    unsafe { nginx_sys::ngx_current_msec }
}
