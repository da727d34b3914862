//! Sessions of TLS, which spare later connections to the same peer half of the handshake.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    ptr::NonNull,
    rc::{Rc, Weak},
};

use nginx_sys::{SSL, SSL_SESSION, SSL_SESSION_free, SSL_set_session, ngx_connection_t, ngx_ssl_get_session};

use crate::ngx::net::{address::Address, socket::Inner};

/// Most sessions that are kept. One more begins anew.
const MOST: usize = 256;

/// The last session with each peer, of each name.
#[derive(Debug, Default)]
pub(crate) struct Sessions(RefCell<HashMap<(Address, Rc<str>), Session>>);

/// A session of OpenSSL's, counted.
struct Session(NonNull<SSL_SESSION>);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the reference is ours.
        unsafe { SSL_SESSION_free(self.0.as_ptr()) };
    }
}

/// Where the sessions of one connection are kept.
#[derive(Debug)]
pub(crate) struct Saved {
    sessions: Weak<Sessions>,
    key: (Address, Rc<str>),
}

impl Saved {
    /// Those of connections to `name` at `address`.
    pub(crate) fn new(sessions: &Rc<Sessions>, address: Address, name: &Rc<str>) -> Self {
        Self { sessions: Rc::downgrade(sessions), key: (address, Rc::clone(name)) }
    }

    /// Offers the last one to the other side of a new connection, if there is one.
    pub(super) fn offer(&self, ssl: NonNull<SSL>) {
        let Some(sessions) = self.sessions.upgrade() else { return };
        let sessions = sessions.0.borrow();
        if let Some(session) = sessions.get(&self.key) {
            // SAFETY: both live; the layer counts its own reference. One that does not fit is not used.
            unsafe { SSL_set_session(ssl.as_ptr(), session.0.as_ptr()) };
        }
    }

    fn keep(&self, session: Session) {
        let Some(sessions) = self.sessions.upgrade() else { return };
        let mut sessions = sessions.0.borrow_mut();
        if sessions.len() >= MOST {
            sessions.clear();
        }
        sessions.insert(self.key.clone(), session);
    }
}

/// The other side of a connection has given a session (`ngx_ssl_new_client_session()`).
pub(super) unsafe extern "C" fn save(connection: *mut ngx_connection_t) {
    let Some(raw) = NonNull::new(connection) else { return };
    // SAFETY: nginx calls this with a connection whose TLS layer `encrypt` has made, while it is read from.
    let data = unsafe { raw.as_ref() }.data;
    let Some(inner) = NonNull::new(data.cast::<Inner>()) else { return };
    // SAFETY: `Socket::own` has put it there, and it ends the layer before it is dropped.
    let inner = unsafe { inner.as_ref() };
    // SAFETY: the connection has a TLS layer; the reference that it answers is ours.
    let session = NonNull::new(unsafe { ngx_ssl_get_session(connection) }).map(Session);
    crate::ngx::cycle::Cycle::with_current(|cycle| {
        crate::ngx::guard::guard("a session of TLS", cycle.log(), (), || {
            if let (Some(session), Some(saved)) = (session, inner.saved()) {
                saved.keep(session);
            }
        });
    });
}
