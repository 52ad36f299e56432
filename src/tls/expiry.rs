//! When certificates expire.
//!
//! It looks at no clock by itself.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};

/// Is how long before its end a certificate is warned of: an authority of a hospital takes weeks to issue another.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);

/// Is the last second that a certificate can name, 9999-12-31T23:59:59Z (RFC 5280, 4.1.2.5), in seconds since 1970: one
/// that names it never expires.
const NEVER: u64 = 253_402_300_799;

/// Says what a file of certificates is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// This site shows it.
    Certificate,
    /// Who issued the other end's.
    Issuer,
}

impl Role {
    /// Returns the stable word that metrics and status show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Issuer => "issuer",
        }
    }
}

/// Is a file of certificates and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Says what it is for.
    pub role: Role,
    /// Is the file.
    pub file: PathBuf,
    /// Says when it expires: of a chain the first of its certificates to do so, of issuers the last.
    pub expires: SystemTime,
}

impl Certificate {
    /// Tells whether it has expired.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires < now
    }

    /// Tells how long it has left, where that is so little that somebody should know.
    pub fn expires_soon(&self, now: SystemTime) -> Option<Duration> {
        let left = self.expires.duration_since(now).unwrap_or_default();
        (left < EXPIRY_WARNING).then_some(left)
    }
}

/// Says when a certificate expires; `None` where it cannot be read.
pub(super) fn expires(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    // The validity is what is looked at first: long after all of them it says where that ended.
    let late = UnixTime::since_unix_epoch(Duration::from_secs(NEVER));
    let usage = webpki::KeyUsage::server_auth();
    let seconds = match parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[], &[], late, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
        Err(webpki::Error::InvalidCertValidity | webpki::Error::BadDer | webpki::Error::BadDerTime) => return None,
        _ => NEVER,
    };
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
