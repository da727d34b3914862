//! HTTP/3: the half of [`Connection`](super::Connection) that speaks QUIC.

use std::{future::poll_fn, net::SocketAddr, sync::Arc};

use h3::client::{RequestStream, SendRequest};
use h3_quinn::OpenStreams;
use hyper::body::{Buf, Bytes};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::Broken;
use crate::{
    http::{self, Payload, Response},
    tls::Certificate,
};

/// A connection over QUIC.
#[derive(Clone)]
pub(super) struct Quic {
    endpoint: Endpoint,
    sender: SendRequest<OpenStreams, Bytes>,
}

impl std::fmt::Debug for Quic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quic").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Quic {
    /// Connects to a server that has exactly this certificate.
    pub(super) async fn open(address: SocketAddr, certificate: &Certificate) -> Self {
        let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a UDP socket");
        endpoint.set_default_client_config(config(certificate));
        let connecting = endpoint.connect(address, certificate.name()).expect("an address for QUIC");
        let connection = h3_quinn::Connection::new(connecting.await.expect("a QUIC connection"));
        // nginx takes the end of a stream behind a frame of an unknown type for the middle of one.
        let mut builder = h3::client::builder();
        let built = builder.send_grease(false).build(connection).await;
        let (mut driver, sender) = built.expect("an HTTP/3 connection");
        tokio::spawn(async move { poll_fn(|context| driver.poll_close(context)).await });
        Self { endpoint, sender }
    }

    /// Sends a request and reads the whole response, which may come before all of the body has been sent.
    pub(super) async fn send(&self, request: hyper::Request<Payload>) -> Result<Response, Broken> {
        let (head, body) = request.into_parts();
        let stream = self.sender.clone().send_request(hyper::Request::from_parts(head, ())).await?;
        let (mut send, receive) = stream.split();
        // A server that has answered may refuse the rest of the body.
        tokio::spawn(async move {
            for chunk in body.into_chunks() {
                if send.send_data(chunk).await.is_err() {
                    return;
                }
            }
            let _ = send.finish().await;
        });
        receive_all(receive).await
    }

    /// Says that the connection is over, and waits until the server has been told.
    pub(super) async fn close(self) {
        self.endpoint.close(0_u32.into(), b"");
        self.endpoint.wait_idle().await;
    }
}

async fn receive_all<S>(mut stream: RequestStream<S, Bytes>) -> Result<Response, Broken>
where
    S: h3::quic::RecvStream,
{
    let (head, ()) = stream.recv_response().await?.into_parts();
    let mut body = Vec::new();
    while let Some(mut chunk) = stream.recv_data().await? {
        body.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
    }
    let trailers = stream.recv_trailers().await?.map(|map| http::from_map(&map)).unwrap_or_default();
    Ok(Response {
        status: head.status.as_u16(),
        version: http::version(hyper::Version::HTTP_3),
        headers: http::from_map(&head.headers),
        body,
        trailers,
    })
}

fn config(certificate: &Certificate) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let pinned = CertificateDer::from_pem_slice(&certificate.certificate).expect("a certificate");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { certificate: pinned, provider }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS for QUIC")))
}

/// Trusts one certificate: no authority has signed those of tests.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("the server has another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
