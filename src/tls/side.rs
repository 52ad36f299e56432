//! The two sides of TLS: what senders meet, and what a receiver is met with.
//!
//! Who trusts whom is decided here, from the files of the configuration alone.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::expiry::{Certificate, Role};
use super::files::{Anchors, Identity, provider};
use super::listed::{Receivers, Senders};

/// Is what senders meet. Two that are equal have the same certificates and keys.
pub struct Listener {
    config: Arc<ServerConfig>,
    own: Option<CertificateDer<'static>>,
    certificates: Vec<Certificate>,
    digest: [u8; 32],
}

impl Listener {
    /// Shows `identity` to senders, and requires of them a certificate that one of `issuers` issued, or that is listed there
    /// itself, where there are any.
    ///
    /// # Errors
    /// Says what the library has against the certificates.
    pub fn new(identity: (PathBuf, Identity), issuers: Option<(PathBuf, Anchors)>) -> Result<Arc<Self>, String> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(text)?;
        let (digest, certificates) = describe(Some(&identity), issuers.as_ref(), b"");
        let builder = match issuers {
            None => builder.with_no_client_auth(),
            Some((_, issuers)) => builder.with_client_cert_verifier(Arc::new(Senders::new(issuers)?)),
        };
        let own = identity.1.key.cert.first().cloned();
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.1.key)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(Self { config: Arc::new(config), own, certificates, digest }))
    }

    /// Lists the files with their ends.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Tells whether its certificate is for a name, or an address.
    pub fn is_for(&self, name: &str) -> bool {
        let parsed = self.own.as_ref().and_then(|own| webpki::EndEntityCert::try_from(own).ok());
        let name = ServerName::try_from(name.strip_suffix('.').unwrap_or(name)).ok();
        parsed.zip(name).is_some_and(|(own, name)| own.verify_is_valid_for_subject_name(&name).is_ok())
    }

    pub(super) fn connection(&self) -> Result<ServerConnection, Error> {
        ServerConnection::new(Arc::clone(&self.config))
    }
}

/// Is what a receiver is met with. Two that are equal have the same certificates, key and name.
pub struct Receiver {
    config: ClientConfig,
    identity: Option<Arc<CertifiedKey>>,
    name: ServerName<'static>,
    certificates: Vec<Certificate>,
    digest: [u8; 32],
}

impl Receiver {
    /// Takes the receiver for the one that is meant where its certificate is for `name`, and one of `issuers` issued it or
    /// it is listed there itself; shows it `identity`, where it asks.
    ///
    /// # Errors
    /// Says what the library has against the certificates or the name.
    pub fn new(
        issuers: (PathBuf, Anchors),
        name: &str,
        identity: Option<(PathBuf, Identity)>,
    ) -> Result<Arc<Self>, String> {
        let name = ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned());
        let name = name.map_err(|_| "is no name that a certificate can be for".to_owned())?;
        let (digest, certificates) = describe(identity.as_ref(), Some(&issuers), name.to_str().as_bytes());
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(text)?;
        let verifier = Arc::new(Receivers::new(issuers.1)?);
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.resumption = Resumption::disabled();
        let identity = identity.map(|(_, identity)| identity.key);
        Ok(Arc::new(Self { config, identity, name, certificates, digest }))
    }

    /// Lists the files with their ends.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Begins a connection; the flag turns true where the receiver asks for a certificate.
    pub(super) fn connection(&self) -> Result<(ClientConnection, Arc<AtomicBool>), Error> {
        let asked = Arc::new(AtomicBool::new(false));
        let mut config = self.config.clone();
        config.client_auth_cert_resolver =
            Arc::new(Shown { identity: self.identity.clone(), asked: Arc::clone(&asked) });
        Ok((ClientConnection::new(Arc::new(config), self.name.clone())?, asked))
    }
}

/// Shows a certificate, and notes that it was asked for.
#[derive(Debug)]
struct Shown {
    identity: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        true // else nobody asks, and what was asked is not noted
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

fn describe(
    identity: Option<&(PathBuf, Identity)>,
    issuers: Option<&(PathBuf, Anchors)>,
    name: &[u8],
) -> ([u8; 32], Vec<Certificate>) {
    let mut digest = Sha256::new();
    let mut certificates = Vec::new();
    if let Some((file, identity)) = identity {
        digest.update(b"identity");
        digest.update(identity.digest);
        certificates.push(Certificate { role: Role::Certificate, file: file.clone(), expires: identity.expires });
    }
    if let Some((file, issuers)) = issuers {
        digest.update(b"issuers");
        digest.update(issuers.digest);
        let expires = issuers.expires;
        certificates.extend(expires.map(|expires| Certificate { role: Role::Issuer, file: file.clone(), expires }));
    }
    digest.update(name);
    (digest.finalize().into(), certificates)
}

impl PartialEq for Listener {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.certificates == other.certificates
    }
}

impl Eq for Listener {}

impl PartialEq for Receiver {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.certificates == other.certificates
    }
}

impl Eq for Receiver {}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}
