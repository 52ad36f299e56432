//! Who is trusted: whose certificate one of the listed issuers issued, or whose certificate is itself listed.
//!
//! ITI-19 knows both. What is listed itself may be self-signed and marked as an authority's, as the certificates are that
//! systems make for themselves; it must be current and for the right name all the same.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::files::{Anchors, provider};

/// Judges the certificates of receivers.
#[derive(Debug)]
pub(super) struct Receivers {
    issued: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

/// Judges the certificates of senders.
#[derive(Debug)]
pub(super) struct Senders {
    issued: Arc<dyn ClientCertVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl Receivers {
    pub(super) fn new(anchors: Anchors) -> Result<Self, String> {
        let issued = WebPkiServerVerifier::builder_with_provider(anchors.roots, provider()).build();
        Ok(Self { issued: issued.map_err(|error| error.to_string())?, listed: anchors.certificates })
    }
}

impl Senders {
    pub(super) fn new(anchors: Anchors) -> Result<Self, String> {
        let issued = WebPkiClientVerifier::builder_with_provider(anchors.roots, provider()).build();
        Ok(Self { issued: issued.map_err(|error| error.to_string())?, listed: anchors.certificates })
    }
}

/// Tells whether a certificate is in use now; an error where it is not.
fn is_current(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let usage = webpki::KeyUsage::server_auth();
    // Its time is judged first; that no issuer is asked for is what comes after.
    match parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[], &[], now, usage, None, None) {
        Err(webpki::Error::CertExpired { .. }) => Err(CertificateError::Expired.into()),
        Err(webpki::Error::CertNotValidYet { .. }) => Err(CertificateError::NotValidYet.into()),
        Err(webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::InvalidCertValidity) => {
            Err(CertificateError::BadEncoding.into())
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

impl ServerCertVerifier for Receivers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.listed.contains(end_entity) {
            return self.issued.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        is_current(end_entity, now)?;
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Senders {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.issued.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.listed.contains(end_entity) {
            return self.issued.verify_client_cert(end_entity, intermediates, now);
        }
        is_current(end_entity, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.issued.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.issued.supported_verify_schemes()
    }
}
