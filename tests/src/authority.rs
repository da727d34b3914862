//! A certificate authority, and what it issues: for TLS between services.

use std::fmt;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority with a key of its own.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names are good names");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

impl Authority {
    /// One that nobody has vouched for.
    ///
    /// # Panics
    /// Never, in practice: keys can be made.
    #[must_use]
    pub fn new() -> Self {
        let (parameters, key) = (parameters("Weir test root"), KeyPair::generate().expect("a key"));
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// One that this one vouches for.
    ///
    /// # Panics
    /// Never, in practice: keys can be made.
    #[must_use]
    pub fn subordinate(&self) -> Self {
        let (parameters, key) = (parameters("Weir test issuer"), KeyPair::generate().expect("a key"));
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for `names`, hosts or addresses.
    ///
    /// # Panics
    /// When one of them can be neither.
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (parameters, key) =
            (CertificateParams::new(names).expect("good names"), KeyPair::generate().expect("a key"));
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}
