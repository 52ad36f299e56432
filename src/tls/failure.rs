//! Why a handshake failed: a code for counters, and a line that says what to do.
//!
//! It holds no name, certificate or key.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Says why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The other end's certificate was not issued by one that the configuration names.
    NotTrusted,
    /// The other end's certificate is for another name.
    WrongName,
    /// The other end's certificate has expired, or is not valid yet.
    Expired,
    /// One end requires a certificate of the other, and got none.
    CertificateRequired,
    /// The other end does not accept this site's certificate.
    CertificateRefused,
    /// The other end speaks nothing newer than TLS 1.1.
    TooOld,
    /// The other end does not speak TLS.
    NotTls,
    /// The handshake took too long.
    TimedOut,
    /// The other end left before the handshake was done.
    Gone,
    /// Anything else.
    Other,
}

impl Failure {
    /// Lists them all.
    pub const ALL: [Self; 10] = [
        Self::NotTrusted,
        Self::WrongName,
        Self::Expired,
        Self::CertificateRequired,
        Self::CertificateRefused,
        Self::TooOld,
        Self::NotTls,
        Self::TimedOut,
        Self::Gone,
        Self::Other,
    ];

    /// Returns the stable code that metrics show.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotTrusted => "tls_not_trusted",
            Self::WrongName => "tls_wrong_name",
            Self::Expired => "tls_expired",
            Self::CertificateRequired => "tls_certificate_required",
            Self::CertificateRefused => "tls_certificate_refused",
            Self::TooOld => "tls_too_old",
            Self::NotTls => "tls_not_spoken",
            Self::TimedOut => "tls_timeout",
            Self::Gone => "tls_gone",
            Self::Other => "tls_failed",
        }
    }

    /// Says what is the matter with a sender, and what to do.
    pub fn of_sender(self) -> &'static str {
        match self {
            Self::NotTrusted => "its certificate was not issued by one in client_ca_file; add its issuer there",
            Self::Expired => "its certificate has expired or is not valid yet; have it issued anew, or set its clock",
            Self::CertificateRequired => "it shows no certificate, which client_ca_file requires; give it one",
            Self::CertificateRefused | Self::WrongName => {
                "it does not accept this site's certificate; make its issuer known to the sender, and the name for which \
                 it was issued the one that the sender connects to"
            }
            Self::TooOld => "it speaks nothing newer than TLS 1.1; turn TLS 1.2 on there",
            Self::NotTls => "it speaks plain MLLP; turn TLS on there, or use a forward without tls: for it",
            Self::TimedOut => "it did not finish the handshake in time; look whether it waits for plain MLLP",
            Self::Gone => "it left before the handshake was done; look at the sender's log",
            Self::Other => "the two sides do not agree; look at the sender's log",
        }
    }

    /// Reads what the library says.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::NoCertificatesPresented => Self::CertificateRequired,
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion)
            | Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                // what a sender of TLS 1.2 says, and none of an older one
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            ) => Self::TooOld,
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            _ => Self::NotTrusted,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => Self::CertificateRequired,
            AlertDescription::ProtocolVersion => Self::TooOld,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => Self::CertificateRefused,
            _ => Self::Other,
        }
    }

    /// Reads what came of moving bytes.
    pub(super) fn of_io(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        inner.copied().unwrap_or(Self::Gone)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTrusted => "its certificate was not issued by one that is trusted here",
            Self::WrongName => "its certificate is for another name",
            Self::Expired => "its certificate has expired or is not valid yet",
            Self::CertificateRequired => "a certificate is required and was not shown",
            Self::CertificateRefused => "it does not accept this site's certificate",
            Self::TooOld => "it speaks nothing newer than TLS 1.1",
            Self::NotTls => "it does not speak TLS",
            Self::TimedOut => "the TLS handshake took too long, as where the other end speaks plain MLLP",
            Self::Gone => "it left before the TLS handshake was done",
            Self::Other => "the TLS handshake failed",
        })
    }
}

impl std::error::Error for Failure {}
