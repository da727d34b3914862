//! TLS of a connection: the version, and what certificates say (OpenSSL, through nginx's own copy of it).
//!
//! nginx is linked with libssl and libcrypto, so their functions are there when the module is loaded. Only functions
//! that nginx's own code or OpenSSL's host name check pull in are used: a static libcrypto has them too.

use std::{ffi::CStr, marker::PhantomData, ptr::NonNull, slice};

use nginx_sys::{
    ASN1_STRING_get0_data, ASN1_STRING_length, BIO, BIO_ctrl_pending, BIO_free, BIO_new, BIO_read, BIO_s_mem,
    ERR_clear_error, EVP_sha256, GEN_DNS, GEN_URI, GENERAL_NAME, GENERAL_NAMES, GENERAL_NAMES_free,
    NID_subject_alt_name, OPENSSL_sk_num, OPENSSL_sk_value, SSL, SSL_SESSION_get0_peer, SSL_get_certificate,
    SSL_get_session, SSL_get_version, X509, X509_NAME_print_ex, X509_digest, X509_get_ext_d2i,
    X509_get_subject_name, XN_FLAG_RFC2253,
};

use super::{connection::Connection, request::Request};

/// Bytes of a SHA-256.
const SHA256: usize = 32;

/// The TLS layer of a connection that is there as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tls<'a> {
    raw: NonNull<SSL>,
    owner: PhantomData<&'a SSL>,
}

impl<'a> Tls<'a> {
    /// The TLS layer of `connection`; `None` where it is not encrypted.
    pub(crate) fn of(connection: Connection<'a>) -> Option<Self> {
        let layer = NonNull::new(connection.peek(|c| c.ssl))?;
        // SAFETY: a connection's record of its TLS layer is in the connection's pool.
        let raw = NonNull::new(unsafe { layer.as_ref() }.connection)?;
        Some(Self { raw, owner: PhantomData })
    }

    /// The version, as OpenSSL and Envoy call it: `TLSv1.3`.
    pub(crate) fn version(self) -> &'static [u8] {
        // SAFETY: nginx frees the layer only with its connection (`ngx_ssl_shutdown()`).
        let name = unsafe { SSL_get_version(self.raw.as_ptr()) };
        if name.is_null() {
            return &[];
        }
        // SAFETY: the function answers a static string.
        unsafe { CStr::from_ptr(name) }.to_bytes()
    }

    /// The certificate that we have shown, if one was chosen.
    pub(crate) fn local(self) -> Option<Certificate<'a>> {
        // SAFETY: as in `version`; the certificate stays the layer's.
        let raw = NonNull::new(unsafe { SSL_get_certificate(self.raw.as_ptr()) })?;
        Some(Certificate { raw, owner: PhantomData })
    }

    /// The certificate that the peer has shown, verified or not.
    pub(crate) fn peer(self) -> Option<Certificate<'a>> {
        // SAFETY: as in `version`; the session stays the layer's.
        let session = NonNull::new(unsafe { SSL_get_session(self.raw.as_ptr()) })?;
        // SAFETY: the session lives as long as the layer uses it; the certificate stays the session's.
        let raw = NonNull::new(unsafe { SSL_SESSION_get0_peer(session.as_ptr()) })?;
        Some(Certificate { raw, owner: PhantomData })
    }
}

/// A certificate that lives as long as `'a`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Certificate<'a> {
    raw: NonNull<X509>,
    owner: PhantomData<&'a X509>,
}

impl<'a> Certificate<'a> {
    /// Whom it was issued to, as RFC 2253 writes names, in the pool of `request`.
    pub(crate) fn subject(self, request: Request<'a>) -> Option<&'a [u8]> {
        let _errors = Errors;
        // SAFETY: the certificate lives as long as `'a`; the name stays its.
        let name = NonNull::new(unsafe { X509_get_subject_name(self.raw.as_ptr()) })?;
        let text = Text::new()?;
        let flags = u64::from(XN_FLAG_RFC2253);
        // SAFETY: both live; the function only appends to the text.
        let printed = unsafe { X509_NAME_print_ex(text.0.as_ptr(), name.as_ptr(), 0, flags) };
        if printed < 0 { None } else { text.read(request) }
    }

    /// The first DNS name among its alternative names, in the pool of `request`.
    pub(crate) fn dns_name(self, request: Request<'a>) -> Option<&'a [u8]> {
        self.alternative_name(GEN_DNS, request)
    }

    /// The first URI among its alternative names, in the pool of `request`.
    pub(crate) fn uri(self, request: Request<'a>) -> Option<&'a [u8]> {
        self.alternative_name(GEN_URI, request)
    }

    /// Its SHA-256 in hexadecimal, in the pool of `request`.
    pub(crate) fn digest(self, request: Request<'a>) -> Option<&'a [u8]> {
        let _errors = Errors;
        let mut digest = [0; SHA256];
        // SAFETY: the function answers a static description.
        let sha256 = unsafe { EVP_sha256() };
        let (place, length) = (digest.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the certificate lives, and a SHA-256 has as many bytes as `digest`.
        let done = unsafe { X509_digest(self.raw.as_ptr(), sha256, place, length) };
        if done != 1 {
            return None;
        }
        let text = request.allocate(2 * SHA256)?;
        hexadecimal(&digest, text);
        Some(text)
    }

    fn alternative_name(self, kind: u32, request: Request<'a>) -> Option<&'a [u8]> {
        let _errors = Errors;
        let names = Names::of(self)?;
        names.iter().find_map(|name| name.of_kind(kind).and_then(|text| request.keep(text)))
    }
}

/// Forgets the errors that a question has left in OpenSSL's queue, which nginx would report as somebody else's
/// (`ngx_ssl_clear_error()`).
pub(super) struct Errors;

impl Drop for Errors {
    fn drop(&mut self) {
        // SAFETY: the function empties this thread's queue.
        unsafe { ERR_clear_error() };
    }
}

/// A text that OpenSSL writes.
struct Text(NonNull<BIO>);

impl Text {
    fn new() -> Option<Self> {
        // SAFETY: the function answers a static description.
        let method = unsafe { BIO_s_mem() };
        // SAFETY: a description of OpenSSL's.
        NonNull::new(unsafe { BIO_new(method) }).map(Self)
    }

    fn read(self, request: Request<'_>) -> Option<&[u8]> {
        // SAFETY: the text is ours.
        let pending = unsafe { BIO_ctrl_pending(self.0.as_ptr()) };
        let bytes = request.allocate(pending)?;
        let wanted = i32::try_from(pending).ok().filter(|wanted| *wanted > 0);
        let Some(wanted) = wanted else { return Some(&[]) };
        // SAFETY: the text is ours, and there are as many bytes as are asked for.
        let read = unsafe { BIO_read(self.0.as_ptr(), bytes.as_mut_ptr().cast(), wanted) };
        bytes.get(..usize::try_from(read).ok()?)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: the text is ours, and nobody uses it any more.
        unsafe { BIO_free(self.0.as_ptr()) };
    }
}

/// The alternative names of a certificate, taken out of it.
struct Names(NonNull<GENERAL_NAMES>);

/// One of them.
struct Name<'n>(&'n GENERAL_NAME);

impl Names {
    fn of(certificate: Certificate<'_>) -> Option<Self> {
        let (certificate, none) = (certificate.raw.as_ptr(), std::ptr::null_mut());
        let extension = NID_subject_alt_name.cast_signed();
        // SAFETY: the certificate lives. The function answers a list that is the caller's, or null.
        let names = unsafe { X509_get_ext_d2i(certificate, extension, none, none) };
        NonNull::new(names.cast()).map(Self)
    }

    fn iter(&self) -> impl Iterator<Item = Name<'_>> {
        let list = self.0.cast();
        // SAFETY: lists of all types are such stacks.
        let count = unsafe { OPENSSL_sk_num(list.as_ptr()) };
        (0..count).filter_map(move |index| {
            // SAFETY: the stack has that many elements.
            let name = NonNull::new(unsafe { OPENSSL_sk_value(list.as_ptr(), index) })?;
            // SAFETY: the elements of this list are such names, which live as long as the list.
            Some(Name(unsafe { name.cast().as_ref() }))
        })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: the list is ours, and nobody uses it any more.
        unsafe { GENERAL_NAMES_free(self.0.as_ptr()) };
    }
}

impl Name<'_> {
    /// Its text, if it is of that kind, which is one of those that are a text ([`GEN_DNS`], [`GEN_URI`]).
    fn of_kind(&self, kind: u32) -> Option<&[u8]> {
        if !matches!(kind, GEN_DNS | GEN_URI) || u32::try_from(self.0.type_) != Ok(kind) {
            return None;
        }
        // SAFETY: names of these kinds have this member.
        let text = NonNull::new(unsafe { self.0.d.ia5 })?;
        // SAFETY: the text lives as long as the name.
        let length = usize::try_from(unsafe { ASN1_STRING_length(text.as_ptr()) }).ok()?;
        // SAFETY: as above.
        let data = NonNull::new(unsafe { ASN1_STRING_get0_data(text.as_ptr()) }.cast_mut())?;
        // SAFETY: the text has that many bytes there, which stay as they are as long as the name.
        Some(unsafe { slice::from_raw_parts(data.as_ptr(), length) })
    }
}

/// Writes `bytes` into `text`, which is twice as long, in hexadecimal.
fn hexadecimal(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::hexadecimal;

    #[test]
    fn digests_are_written_in_lower_case() {
        let mut text = [0; 6];
        hexadecimal(&[0x00, 0x9f, 0xab], &mut text);
        assert_eq!(&text, b"009fab");
    }
}
