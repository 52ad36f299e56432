//! Certificates for tests, made anew in each: an authority, and what it issues.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{Anchors, Identity, Listener, Receiver};

/// Is an authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Is a certificate and its key, in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for a name that ends so far from now.
    pub(crate) fn issue(&self, name: &str, ends_in_days: i64) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, ends_in_days).signed_by(&key, &self.0).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Makes a certificate that a system made for itself, marked as an authority's.
    pub(crate) fn own(name: &str, ends_in_days: i64) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, ends_in_days);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Issued { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    pub(crate) fn anchors(&self) -> (PathBuf, Anchors) {
        ("ca.pem".into(), Anchors::new(self.pem().as_bytes()).unwrap())
    }
}

fn params(name: &str, ends_in_days: i64) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
    params.not_before = (now - 400 * day).into();
    let distance = day * u32::try_from(ends_in_days.unsigned_abs()).unwrap();
    params.not_after = if ends_in_days < 0 { now - distance } else { now + distance }.into();
    params
}

impl Issued {
    pub(crate) fn identity(&self) -> (PathBuf, Identity) {
        let chain = Identity::certificates(self.certificate.as_bytes()).unwrap();
        ("site.pem".into(), Identity::new(chain, self.key.as_bytes()).unwrap())
    }
}

/// Makes a listener with a certificate for `localhost`.
pub(crate) fn listener(authority: &Authority, issuers: Option<&Authority>) -> Arc<Listener> {
    Listener::new(authority.issue("localhost", 90).identity(), issuers.map(Authority::anchors)).unwrap()
}

/// Makes what a receiver named `localhost` is met with.
pub(crate) fn receiver(authority: &Authority, shown: Option<&Issued>) -> Arc<Receiver> {
    Receiver::new(authority.anchors(), "localhost", shown.map(Issued::identity)).unwrap()
}
