//! Whom `weir profile` believes that it is nginx: servers with a certificate that is in a file, or that one of those there
//! has signed.

use std::{error::Error, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

/// TLS that believes a server with the certificates in the file `ca`, in PEM.
///
/// A certificate that signs itself, as `openssl req -x509` makes them, is both authority and server; by RFC 5280 an
/// authority is no server. Here what is in the file is good as it is, if it has the server's name.
pub(crate) fn config(ca: &Path) -> Result<ClientConfig, Box<dyn Error>> {
    let wrong = |error: &dyn Error| format!("{}: {error}", ca.display());
    let known: Vec<_> =
        CertificateDer::pem_file_iter(ca).and_then(Iterator::collect).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in &known {
        roots.add(certificate.clone()).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(format!("{}: there is no certificate in it", ca.display()).into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let others =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Verifier { known, others });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct Verifier {
    /// What is in the file.
    known: Vec<CertificateDer<'static>>,
    /// Verifies what is signed by that.
    others: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.known.iter().any(|known| known == server) {
            verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.others.verify_server_cert(server, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.others.verify_tls12_signature(message, server, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.others.verify_tls13_signature(message, server, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.others.supported_verify_schemes()
    }
}
