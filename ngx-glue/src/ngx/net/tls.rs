//! TLS as a client (`src/event/ngx_event_openssl.c`): the settings of a configuration, and the handshake.

use std::{
    ffi::{CStr, CString},
    io,
    net::IpAddr,
    ptr::NonNull,
    rc::Rc,
    slice,
    task::{Context, Poll},
};

use nginx_sys::{
    NGX_AGAIN, NGX_OK, NGX_SSL_CLIENT, NGX_SSL_TLSv1_2, NGX_SSL_TLSv1_3, SSL, SSL_CTRL_SET_TLSEXT_HOSTNAME,
    SSL_ctrl, SSL_get_verify_result, SSL_get0_alpn_selected, SSL_get1_peer_certificate, SSL_set_alpn_protos,
    TLSEXT_NAMETYPE_host_name, X509_check_ip_asc, X509_free, X509_verify_cert_error_string, ngx_connection_t,
    ngx_int_t, ngx_ssl_certificate, ngx_ssl_check_host, ngx_ssl_cleanup_ctx, ngx_ssl_client_session_cache,
    ngx_ssl_connection_t, ngx_ssl_create, ngx_ssl_create_connection, ngx_ssl_handshake, ngx_ssl_shutdown,
    ngx_ssl_t, ngx_ssl_trusted_certificate, ngx_str_t, ngx_uint_t,
};

mod authorities;
pub(crate) mod sessions;

use self::sessions::Saved;
use super::{
    quiet,
    socket::{Inner, Socket},
};
use crate::ngx::conf::Conf;

/// Whom calls trust, and by what they are known themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Whether the other side has to prove its name.
    pub(crate) verify: bool,
    /// File of certificates that are trusted; the system's where there is none.
    pub(crate) trusted: Option<Vec<u8>>,
    /// Longest chain of certificates.
    pub(crate) depth: u8,
    /// Files of our own certificate and its key.
    pub(crate) certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// The settings of one configuration, as OpenSSL has them.
#[derive(Debug)]
pub(crate) struct Tls {
    raw: NonNull<ngx_ssl_t>,
    verify: bool,
}

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

impl Offer {
    /// The list of protocols: the one that is wanted most first, each with its length before it.
    const fn protocols(self) -> &'static [u8] {
        match self {
            Self::Any => b"\x02h2\x08http/1.1",
            Self::Http2 => b"\x02h2",
        }
    }
}

impl Tls {
    /// Reads what `trust` names, while the configuration is read. `None`, and logged by nginx, when something is wrong.
    pub(crate) fn new(conf: &mut Conf<'_>, trust: &Trust) -> Option<Self> {
        // SAFETY: pointers, integers and arrays, for all of which zeros are valid.
        let mut settings = unsafe { std::mem::zeroed::<ngx_ssl_t>() };
        settings.log = conf.log().as_ptr();
        let raw = NonNull::from(Box::leak(Box::new(settings)));
        let protocols = (NGX_SSL_TLSv1_2 | NGX_SSL_TLSv1_3) as ngx_uint_t;
        // SAFETY: the record is ours, zeroed but for its log, as nginx's own modules make it.
        let code = unsafe { ngx_ssl_create(raw.as_ptr(), protocols, std::ptr::null_mut()) };
        if code != OK {
            // SAFETY: it was leaked above, and nobody has it.
            drop(unsafe { Box::from_raw(raw.as_ptr()) });
            return None;
        }
        // From here on it is freed when this is dropped.
        let tls = Self { raw, verify: trust.verify };
        let (cf, ssl) = (conf.as_ptr(), raw.as_ptr());
        if let Some((certificate, key)) = &trust.certificate {
            let (mut certificate, mut key) = (text(conf, certificate)?, text(conf, key)?);
            let (certificate, key) = (&raw mut certificate, &raw mut key);
            // SAFETY: the configuration that is being read, and strings in its pool that end with NUL.
            let code = unsafe { ngx_ssl_certificate(cf, ssl, certificate, key, std::ptr::null_mut()) };
            if code != OK {
                return None;
            }
        }
        // Without a file only the depth is set.
        let mut trusted = text(conf, trust.trusted.as_deref().unwrap_or_default())?;
        let depth = ngx_int_t::from(trust.depth);
        // SAFETY: as above.
        let code = unsafe { ngx_ssl_trusted_certificate(cf, ssl, &raw mut trusted, depth) };
        if code != OK {
            return None;
        }
        if trust.trusted.is_none() && trust.verify {
            // SAFETY: `ngx_ssl_create()` has made the context.
            let context = unsafe { (*ssl).ctx };
            // SAFETY: as above; nobody has it yet.
            unsafe { authorities::trust_system(context) };
        }
        // SAFETY: as above.
        let code = unsafe { ngx_ssl_client_session_cache(cf, ssl, 1) };
        (code == OK).then_some(tls)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // SAFETY: `ngx_ssl_create()` has made its context, and connections hold references of their own.
        unsafe { ngx_ssl_cleanup_ctx(self.raw.as_ptr().cast()) };
        // SAFETY: `new` has leaked it, and nobody else has it.
        drop(unsafe { Box::from_raw(self.raw.as_ptr()) });
    }
}

/// A copy of `bytes` in the configuration's pool, with a NUL behind it.
fn text(conf: &Conf<'_>, bytes: &[u8]) -> Option<ngx_str_t> {
    let copy = conf.pool().copy(&[bytes, b"\0"].concat())?;
    Some(ngx_str_t { len: bytes.len(), data: copy.as_mut_ptr() })
}

const OK: ngx_int_t = NGX_OK as ngx_int_t;

impl Socket {
    /// Makes the connection an encrypted one, to `name`. [`poll_encrypted`](Self::poll_encrypted) says when it is.
    ///
    /// # Errors
    /// When there is no memory, or `name` cannot be one.
    pub(crate) fn encrypt(&self, tls: &Tls, name: &str, offer: Offer, saved: Rc<Saved>) -> io::Result<()> {
        let none = || io::Error::from(io::ErrorKind::OutOfMemory);
        let raw = self.inner().raw().as_ptr();
        // SAFETY: the connection is ours, with a pool, and has no TLS layer yet. Nothing is buffered in one without
        // NGX_SSL_BUFFER.
        let code = unsafe { ngx_ssl_create_connection(tls.raw.as_ptr(), raw, NGX_SSL_CLIENT as ngx_uint_t) };
        if code != OK {
            return Err(none());
        }
        let ssl = self.inner().ssl().ok_or_else(none)?;
        let offer = offer.protocols();
        let length = u32::try_from(offer.len()).unwrap_or_default();
        // SAFETY: the layer is the connection's; the list is copied.
        unsafe { SSL_set_alpn_protos(ssl.as_ptr(), offer.as_ptr(), length) };
        // Names of hosts only (RFC 6066, 3).
        if name.parse::<IpAddr>().is_err() {
            let host = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let (command, kind) =
                (SSL_CTRL_SET_TLSEXT_HOSTNAME.cast_signed(), TLSEXT_NAMETYPE_host_name.into());
            // SAFETY: the layer is the connection's; the name is copied.
            unsafe { SSL_ctrl(ssl.as_ptr(), command, kind, host.as_ptr().cast_mut().cast()) };
        }
        saved.offer(ssl);
        self.inner().layer(|layer| layer.save_session = Some(sessions::save));
        self.inner().set_saved(saved);
        Ok(())
    }

    /// Waits until the handshake has been made, and `name` proved where it has to be.
    ///
    /// # Errors
    /// When either fails; the text says how.
    pub(crate) fn poll_encrypted(
        &self,
        tls: &Tls,
        name: &str,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = self.inner();
        quiet::last_words();
        // SAFETY: the connection is ours, and `encrypt` has given it its layer.
        let code = unsafe { ngx_ssl_handshake(inner.raw().as_ptr()) };
        // nginx has taken the events for its own handler, which would do the same as this.
        inner.take_events();
        if code == NGX_AGAIN as ngx_int_t {
            return match inner.wait_for_both(context) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        if code != OK {
            let words = quiet::last_words().unwrap_or_else(|| "the TLS handshake failed".to_owned());
            return Poll::Ready(Err(io::Error::other(words)));
        }
        Poll::Ready(if tls.verify { inner.verify(name) } else { Ok(()) })
    }

    /// What the other side has chosen to speak. One that knows no ALPN speaks HTTP/1.1.
    pub(crate) fn inside(&self) -> Inside {
        let Some(ssl) = self.inner().ssl() else { return Inside::Http1 };
        let (mut protocol, mut length) = (std::ptr::null(), 0);
        // SAFETY: the layer is the connection's; both places are there.
        unsafe { SSL_get0_alpn_selected(ssl.as_ptr(), &raw mut protocol, &raw mut length) };
        let length = usize::try_from(length).unwrap_or_default();
        if protocol.is_null() || length == 0 {
            return Inside::Http1;
        }
        // SAFETY: the layer keeps as many bytes there.
        let chosen = unsafe { slice::from_raw_parts(protocol, length) };
        if chosen == b"h2" { Inside::Http2 } else { Inside::Http1 }
    }
}

impl Inner {
    /// OpenSSL's side of the TLS layer.
    pub(super) fn ssl(&self) -> Option<NonNull<SSL>> {
        let layer = NonNull::new(self.peek(|c| c.ssl))?;
        // SAFETY: a connection's record of its TLS layer is in the connection's pool.
        NonNull::new(unsafe { layer.as_ref() }.connection)
    }

    /// Writes fields of nginx's record of the TLS layer, if there is one.
    fn layer(&self, write: impl FnOnce(&mut ngx_ssl_connection_t)) {
        if let Some(layer) = NonNull::new(self.peek(|c| c.ssl)) {
            // SAFETY: it is in the connection's pool; nobody else has a reference while `write` runs.
            write(unsafe { &mut *layer.as_ptr() });
        }
    }

    /// Whether the certificate is good, and `name`'s.
    fn verify(&self, name: &str) -> io::Result<()> {
        let Some(ssl) = self.ssl() else { return Err(io::ErrorKind::NotConnected.into()) };
        // SAFETY: the layer is the connection's.
        let result = unsafe { SSL_get_verify_result(ssl.as_ptr()) };
        if result != 0 {
            // SAFETY: the function answers a static string for any number.
            let words = unsafe { X509_verify_cert_error_string(result) };
            // SAFETY: as above; it ends with NUL.
            let words = unsafe { CStr::from_ptr(words) };
            let words = words.to_string_lossy();
            return Err(io::Error::other(format!("its certificate is not trusted: {words}")));
        }
        if self.is_of(ssl, name) {
            Ok(())
        } else {
            Err(io::Error::other(format!("its certificate is not for \"{name}\"")))
        }
    }

    /// Whether the certificate names `name`, a host or an address.
    fn is_of(&self, ssl: NonNull<SSL>, name: &str) -> bool {
        if let Ok(address) = name.parse::<IpAddr>() {
            let Ok(text) = CString::new(address.to_string()) else { return false };
            // SAFETY: the layer is the connection's.
            let Some(certificate) = NonNull::new(unsafe { SSL_get1_peer_certificate(ssl.as_ptr()) }) else {
                return false;
            };
            // SAFETY: the certificate is ours to read; the text ends with NUL.
            let matches = unsafe { X509_check_ip_asc(certificate.as_ptr(), text.as_ptr(), 0) };
            // SAFETY: the reference is ours, and not used after this.
            unsafe { X509_free(certificate.as_ptr()) };
            return matches == 1;
        }
        let mut host = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
        // SAFETY: the connection has its layer; the name is only read.
        let code = unsafe { ngx_ssl_check_host(self.raw().as_ptr(), &raw mut host) };
        code == OK
    }
}

/// Ends the TLS layer of a connection that is being closed, without a word to the other side
/// (`ngx_http_upstream_keepalive_close()`).
pub(super) fn end(inner: &Inner) {
    if inner.ssl().is_none() {
        return;
    }
    inner.layer(|layer| {
        layer.set_no_wait_shutdown(1);
        layer.set_no_send_shutdown(1);
        layer.save_session = None;
    });
    let raw: *mut ngx_connection_t = inner.raw().as_ptr();
    // SAFETY: the connection is open and has a TLS layer. Nothing is sent or awaited, so it ends at once.
    unsafe { ngx_ssl_shutdown(raw) };
}

/// A connection that was somebody else's has a TLS layer that tells that one of new sessions: no more.
pub(super) fn forget_owner(inner: &Inner) {
    inner.layer(|layer| layer.save_session = None);
}
