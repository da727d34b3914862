//! TLS in an nginx that is built without it: there is none.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll},
};

use self::sessions::Saved;
use super::socket::{Inner, Socket};
use crate::ngx::conf::Conf;

/// Whom calls trust, and by what they are known themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Whether the other side has to prove its name.
    pub(crate) verify: bool,
    /// File of certificates that are trusted.
    pub(crate) trusted: Option<Vec<u8>>,
    /// Longest chain of certificates.
    pub(crate) depth: u8,
    /// Files of our own certificate and its key.
    pub(crate) certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// No settings.
#[derive(Debug)]
pub(crate) enum Tls {}

/// What the other side may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// HTTP/2, else HTTP/1.1.
    Any,
    /// HTTP/2 alone.
    Http2,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Tls {
    /// There is none.
    pub(crate) fn new(_conf: &mut Conf<'_>, _trust: &Trust) -> Option<Self> {
        None
    }
}

impl Socket {
    /// Never called: there are no settings.
    pub(crate) fn encrypt(&self, tls: &Tls, _name: &str, _offer: Offer, _saved: Rc<Saved>) -> io::Result<()> {
        match *tls {}
    }

    /// Never called: there are no settings.
    pub(crate) fn poll_encrypted(&self, tls: &Tls, _: &str, _: &Context<'_>) -> Poll<io::Result<()>> {
        match *tls {}
    }

    /// Never asked for: nothing is encrypted.
    pub(crate) fn inside(&self) -> Inside {
        Inside::Http1
    }
}

pub(super) fn end(_inner: &Inner) {}

pub(super) fn forget_owner(_inner: &Inner) {}

/// Sessions, of which there are none.
pub(crate) mod sessions {
    use std::rc::Rc;

    use crate::ngx::net::address::Address;

    /// No sessions.
    #[derive(Debug, Default)]
    pub(crate) struct Sessions;

    /// Nothing that is kept.
    #[derive(Debug)]
    pub(crate) struct Saved;

    impl Saved {
        /// Keeps nothing.
        pub(crate) fn new(_sessions: &Rc<Sessions>, _address: Address, _name: &Rc<str>) -> Self {
            Self
        }
    }
}
