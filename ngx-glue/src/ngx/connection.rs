//! A connection (`src/core/ngx_connection.h`): addresses, TLS, what has been sent.

use std::{marker::PhantomData, ptr::NonNull};

use nginx_sys::{
    NGX_OK, ngx_connection_local_sockaddr, ngx_connection_t, ngx_inet_get_port, ngx_int_t, ngx_sock_ntop,
    sockaddr, socklen_t,
};

use super::{log::Log, request::Request};

/// Longest text of an address: a Unix socket's path (`NGX_SOCKADDR_STRLEN`).
const MAX_ADDRESS: usize = 128;

/// The connection of a client, or to an upstream, there as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection<'a> {
    raw: NonNull<ngx_connection_t>,
    owner: PhantomData<&'a ngx_connection_t>,
}

/// An address that nginx holds.
#[derive(Debug, Clone, Copy)]
struct Address {
    raw: NonNull<sockaddr>,
    length: socklen_t,
}

impl<'a> Connection<'a> {
    /// The connection at `raw`.
    ///
    /// # Safety
    /// `raw` points to a connection that is open, or being closed, as long as `'a`.
    pub(crate) const unsafe fn new(raw: NonNull<ngx_connection_t>) -> Self {
        Self { raw, owner: PhantomData }
    }

    /// nginx's pointer to it.
    pub(super) const fn as_ptr(self) -> *mut ngx_connection_t {
        self.raw.as_ptr()
    }

    pub(super) fn peek<T>(self, read: impl FnOnce(&ngx_connection_t) -> T) -> T {
        // SAFETY: the connection is there by the promise made to `new`, and nobody writes while `read` runs: this is
        // nginx's one thread, and `read` only picks fields.
        read(unsafe { self.raw.as_ref() })
    }

    /// Its log.
    pub(crate) fn log(self) -> Log<'a> {
        // SAFETY: a connection that serves a request has a log (`ngx_event_accept()`, `ngx_http_v2_create_stream()`).
        let log = unsafe { NonNull::new_unchecked(self.peek(|c| c.log)) };
        // SAFETY: the log lives in the connection's pool.
        unsafe { Log::new(log) }
    }

    /// Its number, of all connections this worker has had and will have none other has it.
    pub(crate) fn number(self) -> u64 {
        self.peek(|c| c.number)
    }

    /// Whether it is encrypted.
    #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
    pub(crate) fn is_tls(self) -> bool {
        self.peek(|c| !c.ssl.is_null())
    }

    /// Whether it is encrypted: never, by an nginx without TLS.
    #[cfg(not(any(ngx_feature = "ssl", ngx_feature = "compat")))]
    pub(crate) fn is_tls(self) -> bool {
        false
    }

    /// Whether parts of files are sent by the system, not from memory.
    pub(super) fn uses_sendfile(self) -> bool {
        self.peek(|c| c.sendfile() != 0)
    }

    /// Bytes sent so far: over HTTP/2 and later, of this request's stream.
    pub(crate) fn sent(self) -> i64 {
        self.peek(|c| c.sent)
    }

    /// Whether the peer has closed it, with nothing left to read. Says nothing of streams of HTTP/2 and later, whose
    /// readers find that out themselves.
    pub(super) fn is_closed_by_peer(self) -> bool {
        let descriptor = self.peek(|c| c.fd);
        let mut byte = 0_u8;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: the descriptor of an open connection; one byte is looked at, and stays to be read.
        let read = unsafe { libc::recv(descriptor, (&raw mut byte).cast(), 1, flags) };
        read == 0
    }

    /// Whether the peer has gone, or a socket error has been seen.
    pub(crate) fn is_broken(self) -> bool {
        self.peek(|c| c.error() != 0)
    }

    /// Whether output waits for the peer.
    pub(super) fn has_pending_output(self) -> bool {
        self.peek(|c| c.buffered() != 0)
    }

    fn remote(self) -> Option<Address> {
        let (raw, length) = self.peek(|c| (c.sockaddr, c.socklen));
        Some(Address { raw: NonNull::new(raw)?, length })
    }

    fn local(self) -> Option<Address> {
        if self.peek(|c| c.pool.is_null()) {
            return None;
        }
        // SAFETY: the connection is open and has the pool that the address is kept in; without a string to fill, the address is only looked up.
        let found = unsafe { ngx_connection_local_sockaddr(self.as_ptr(), std::ptr::null_mut(), 0) };
        if found != NGX_OK as ngx_int_t {
            return None;
        }
        let (raw, length) = self.peek(|c| (c.local_sockaddr, c.local_socklen));
        Some(Address { raw: NonNull::new(raw)?, length })
    }

    /// The peer's address, `address:port`, in the pool of `request`.
    pub(crate) fn remote_text(self, request: Request<'a>) -> Option<&'a [u8]> {
        self.remote()?.text(request)
    }

    /// The peer's port; `None` for a Unix socket.
    pub(crate) fn remote_port(self) -> Option<u16> {
        self.remote()?.port()
    }

    /// Our address on it, `address:port`, in the pool of `request`.
    pub(crate) fn local_text(self, request: Request<'a>) -> Option<&'a [u8]> {
        self.local()?.text(request)
    }

    /// Our port on it; `None` for a Unix socket.
    pub(crate) fn local_port(self) -> Option<u16> {
        self.local()?.port()
    }
}

impl Address {
    fn text(self, request: Request<'_>) -> Option<&[u8]> {
        let mut text = [0; MAX_ADDRESS];
        let (address, place, room) = (self.raw.as_ptr(), text.as_mut_ptr(), text.len());
        // SAFETY: the address is the connection's, of that length, and `text` has as many bytes as it says; 1 asks for
        // the port.
        let written = unsafe { ngx_sock_ntop(address, self.length, place, room, 1) };
        let text = text.get(..written).filter(|text| !text.is_empty())?;
        request.keep(text)
    }

    fn port(self) -> Option<u16> {
        // SAFETY: the address is the connection's; the function tells families apart itself (src/core/ngx_inet.c).
        let port = unsafe { ngx_inet_get_port(self.raw.as_ptr()) };
        (port != 0).then_some(port)
    }
}
