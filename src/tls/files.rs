//! What is in the files of TLS: certificates and keys in PEM, and what is wrong with them.
//!
//! It opens no file, and never shows what is in one.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::expiry::expires;

/// Says what is wrong with a file, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no certificate in it.
    NoCertificate,
    /// One of its certificates, counted from 1, cannot be read.
    BadCertificate(usize),
    /// There is no private key in it.
    NoKey,
    /// The private key is encrypted.
    EncryptedKey,
    /// The private key is of a kind that is not known here.
    UnknownKey,
    /// The private key belongs to another certificate.
    OtherKey,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str(
                "holds no certificate in PEM; its text must have a line BEGIN CERTIFICATE (of DER: openssl x509 -inform \
                 DER)",
            ),
            Self::BadCertificate(number) => write!(
                f,
                "holds a certificate, number {number}, that cannot be read; write X.509 version 3 certificates in PEM"
            ),
            Self::NoKey => {
                f.write_str("holds no private key in PEM; its text must have a line BEGIN PRIVATE KEY")
            }
            Self::EncryptedKey => f.write_str(
                "holds an encrypted private key, whose passphrase nobody types here; decrypt it into a file of mode \
                 0600: (umask 077; openssl pkey -in FILE -out NEW)",
            ),
            Self::UnknownKey => f.write_str(
                "holds a private key that cannot be used; write one of RSA with 2048 to 8192 bits, of ECDSA on P-256 \
                 or P-384, or of Ed25519",
            ),
            Self::OtherKey => f.write_str(
                "holds the private key of another certificate than certificate_file; write the key that this one was \
                 issued for, and put the site's own certificate first in certificate_file",
            ),
        }
    }
}

/// Is a certificate with its chain and its key.
pub struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) expires: SystemTime,
    /// Tells one from another.
    pub(super) digest: [u8; 32],
}

impl Identity {
    /// Reads a certificate, this site's own first.
    ///
    /// # Errors
    /// There is none, or one that cannot be read.
    pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
        certificates(pem)
    }

    /// Reads the key that belongs to them.
    ///
    /// # Errors
    /// There is none, or one that cannot be used.
    pub fn new(chain: Vec<CertificateDer<'static>>, key_pem: &[u8]) -> Result<Self, Problem> {
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| {
            let is_encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"];
            let is_encrypted = is_encrypted.iter().any(|mark| memchr::memmem::find(key_pem, mark).is_some());
            if is_encrypted { Problem::EncryptedKey } else { Problem::NoKey }
        })?;
        if memchr::memmem::find(key_pem, b"Proc-Type: 4,ENCRYPTED").is_some() {
            return Err(Problem::EncryptedKey);
        }
        let mut digest = Sha256::new();
        chain.iter().for_each(|certificate| digest.update(certificate));
        digest.update(key.secret_der());
        let certificates = chain.iter().enumerate();
        let ends = certificates.map(|(index, one)| expires(one).ok_or(Problem::BadCertificate(index + 1)));
        let ends = ends.collect::<Result<Vec<_>, _>>()?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Problem::OtherKey,
            rustls::Error::InvalidCertificate(_) => Problem::BadCertificate(1),
            _ => Problem::UnknownKey,
        })?;
        let expires = ends.into_iter().min().ok_or(Problem::NoCertificate)?;
        Ok(Self { key: Arc::new(key), expires, digest: digest.finalize().into() })
    }

    /// Says when the first of its certificates expires.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }
}

/// Is who may have issued the other end's certificate.
pub struct Anchors {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) expires: Option<SystemTime>,
    pub(super) digest: [u8; 32],
}

impl Anchors {
    /// Reads certificates of issuers.
    ///
    /// # Errors
    /// There is none, or one that cannot be read.
    pub fn new(pem: &[u8]) -> Result<Self, Problem> {
        let certificates = certificates(pem)?;
        let mut roots = RootCertStore::empty();
        let mut digest = Sha256::new();
        for (index, one) in certificates.iter().enumerate() {
            digest.update(one);
            roots.add(one.clone()).map_err(|_| Problem::BadCertificate(index + 1))?;
        }
        let expires = certificates.iter().filter_map(expires).max();
        Ok(Self { roots: Arc::new(roots), certificates, expires, digest: digest.finalize().into() })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let mut found = Vec::new();
    for one in CertificateDer::pem_slice_iter(pem) {
        found.push(one.map_err(|_| Problem::BadCertificate(found.len() + 1))?);
    }
    if found.is_empty() { Err(Problem::NoCertificate) } else { Ok(found) }
}

/// Returns the primitives: ring's, as the tunnel has them.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
