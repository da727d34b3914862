//! TLS for an nginx that was built without it: no connection has any.

use super::{connection::Connection, request::Request};

/// The TLS layer of a connection: there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tls {}

/// A certificate: there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Certificate {}

impl Tls {
    /// The TLS layer of a connection.
    pub(crate) const fn of(_: Connection<'_>) -> Option<Self> {
        None
    }

    /// The version.
    pub(crate) const fn version(self) -> &'static [u8] {
        match self {}
    }

    /// The certificate that we have shown.
    pub(crate) const fn local(self) -> Option<Certificate> {
        match self {}
    }

    /// The certificate that the peer has shown.
    pub(crate) const fn peer(self) -> Option<Certificate> {
        match self {}
    }
}

impl Certificate {
    /// Whom it was issued to.
    pub(crate) const fn subject(self, _: Request<'_>) -> Option<&[u8]> {
        match self {}
    }

    /// The first DNS name among its alternative names.
    pub(crate) const fn dns_name(self, _: Request<'_>) -> Option<&[u8]> {
        match self {}
    }

    /// The first URI among its alternative names.
    pub(crate) const fn uri(self, _: Request<'_>) -> Option<&[u8]> {
        match self {}
    }

    /// Its SHA-256 in hexadecimal.
    pub(crate) const fn digest(self, _: Request<'_>) -> Option<&[u8]> {
        match self {}
    }
}
