//! TLS for an nginx that was built without it: no connection has any.

use std::{convert::Infallible, marker::PhantomData};

use super::{connection::Connection, request::Request};

/// The TLS layer of a connection: there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tls<'a> {
    never: Infallible,
    of: PhantomData<Connection<'a>>,
}

/// A certificate: there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Certificate<'a> {
    never: Infallible,
    of: PhantomData<Connection<'a>>,
}

impl<'a> Tls<'a> {
    /// The TLS layer of a connection.
    pub(crate) const fn of(_: Connection<'a>) -> Option<Self> {
        None
    }

    /// The version.
    pub(crate) const fn version(self) -> &'static [u8] {
        match self.never {}
    }

    /// The certificate that we have shown.
    pub(crate) const fn local(self) -> Option<Certificate<'a>> {
        match self.never {}
    }

    /// The certificate that the peer has shown.
    pub(crate) const fn peer(self) -> Option<Certificate<'a>> {
        match self.never {}
    }
}

impl<'a> Certificate<'a> {
    /// Whom it was issued to.
    pub(crate) const fn subject(self, _: Request<'a>) -> Option<&'a [u8]> {
        match self.never {}
    }

    /// The first DNS name among its alternative names.
    pub(crate) const fn dns_name(self, _: Request<'a>) -> Option<&'a [u8]> {
        match self.never {}
    }

    /// The first URI among its alternative names.
    pub(crate) const fn uri(self, _: Request<'a>) -> Option<&'a [u8]> {
        match self.never {}
    }

    /// Its SHA-256 in hexadecimal.
    pub(crate) const fn digest(self, _: Request<'a>) -> Option<&'a [u8]> {
        match self.never {}
    }
}
